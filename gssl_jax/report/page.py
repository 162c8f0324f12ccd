"""What every page is made of: paragraphs, pairs, figures that stand inside it, the verdict and the whole of it."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path

from gssl_jax import __version__
from gssl_jax.report import template
from gssl_jax.report.tables import text
from gssl_jax.report.verdict import Verdict
from gssl_jax.report.words import per_cent


def paragraph(words: str, kind: str = "") -> str:
    """Plain words as a paragraph of the style `kind`."""
    return f'<p class="{kind}">{text(words)}</p>' if kind else f"<p>{text(words)}</p>"


def definitions(terms: Sequence[tuple[str, str]]) -> str:
    """Terms and their descriptions as a definition list; nothing for none."""
    inside = "".join(f"<dt>{text(term)}</dt><dd>{text(words)}</dd>" for term, words in terms)
    return f"<dl>{inside}</dl>" if terms else ""


def embedded(path: Path, name: str, caption: str, alt: str, heading: str = "", kind: str = "picture") -> str:
    """A PNG inside the page; of the two kinds, `chart` is white and inverted in dark mode, `picture` is left alone."""
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    above = f"<h3>{text(heading)}</h3>" if heading else ""
    return template.FIGURE.substitute(
        name=name, kind=kind, alt=text(alt), data=data, heading=above, caption=text(caption)
    )


def attempt(draw: Callable[[], Path | None], missing: str) -> Path | str:
    """The path of a figure, or the sentence to print instead. Arrays of the wrong form must not cost the page."""
    try:
        return draw() or missing
    except (KeyError, IndexError, TypeError, ValueError) as error:
        return f"{missing} (It could not be drawn: {type(error).__name__}: {error}.)"


def opening(judged: Verdict, classes: int, headings: Mapping[str, str]) -> str:
    """The verdict, with links to the sections that follow, by id; `classes` is 0 where their number is unknown."""
    links = "".join(f'<a href="#{name}">{text(heading)}</a>' for name, heading in headings.items())
    return "\n".join(
        (
            f'<span class="badge {judged.tone}">{text(judged.badge)}</span>',
            f"<h1>{text(judged.headline)}</h1>",
            _bars(judged, classes) if judged.bars else "",
            *(paragraph(sentence) for sentence in judged.sentences),
            f"<nav>{links}</nav>",
        )
    )


def _bars(judged: Verdict, classes: int) -> str:
    """The headline and what it is compared with as bars from 0 to 100 per cent with their intervals, and a dotted
    line at chance."""
    guess = (1 / classes if classes > 1 else 0.0) if judged.guess is None else judged.guess
    chance = f'<span class="chance" style="left:{100 * guess:.2f}%"></span>' if guess else ""
    percent = judged.unit
    lines = []
    for who, kind, one in judged.bars:
        value = min(max(100 * one.value, 0.0), 100.0)
        span = ""
        if one.low is not None and one.high is not None:
            place = f"left:{100 * one.low:.2f}%;width:{100 * (one.high - one.low):.2f}%"
            span = f'<span class="span" style="{place}"></span>'
        bar = f'<span class="bar {kind}" style="width:{value:.2f}%"></span>'
        lines.append(f'<span class="who">{text(who)}</span><b>{per_cent(one.value)}{percent}</b>'
                     f'<span class="track">{bar}{span}{chance}</span>')  # fmt: skip
    among = f" among {classes} classes" if judged.guess is None else ""
    note = f" Dotted: guessing{among}, {100 * guess:.1f}{percent}." if guess else ""
    caption = f"{judged.measure}, from 0 to 100{percent}; the thin line is the 95 % interval.{note}"
    return f'<div class="bars" aria-hidden="true">{"".join(lines)}</div>{paragraph(caption, "soft")}'


def write_page(path: Path, title: str, name: str, sections: Mapping[str, str], headings: Mapping[str, str]) -> Path:
    """Writes a page of `sections` by id, each under its heading, at once and whole."""
    body = "\n".join(
        template.SECTION.substitute(id=one, heading=headings[one], body=inside) for one, inside in sections.items()
    )
    page = template.PAGE.substitute(
        title=escape(title), css=template.CSS, sections=body, name=escape(name),
        footer=f"<p>Written by gssl_jax {escape(__version__)}.</p>",
    )  # fmt: skip
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(page, encoding="utf-8")
    os.replace(beside, path)
    return path
