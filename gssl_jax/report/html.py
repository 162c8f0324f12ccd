"""Writes report.html: one file that opens offline, the verdict first, every picture inside it."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from gssl_jax import __version__
from gssl_jax.knobs import at, is_number
from gssl_jax.report import captions, charts, labelled_charts, pictures, template
from gssl_jax.report.facts import facts, feature_notes, protocol_of, summary, text_of
from gssl_jax.report.health import Finding, findings
from gssl_jax.report.reading import RunFiles, read_run
from gssl_jax.report.tables import class_table, score_tables, text
from gssl_jax.report.verdict import Verdict, verdict
from gssl_jax.report.words import Row, class_scores, comparison_table, frozen_rows, labelled, own_rows, per_cent

Pictures = Mapping[str, Mapping[str, np.ndarray]]
LEVEL_WORDS = {"alarm": "\u25b2 alarm", "hint": "\u25cf worth a look", "good": "\u2713 in order"}


def write_report(folder: Path, pictures_by_name: Pictures, classes: Sequence[str]) -> Path:
    """Draws the figures of a run and writes `<folder>/report.html`, at once and whole.

    Args:
      folder: run folder with config.json, metrics.jsonl and results.json; what is missing is left out with a sentence.
      pictures_by_name: arrays for `reconstruction`, `clusters`, `attention`, `gradcam`, `neighbours`, `tsne`, any of
        them absent:
        {"reconstruction": {"input", "corrupted", "reconstructed": float [n, S, S, C] in [0, 1]},
         "clusters": {"images": [n, S, S, C], "maps": int [n, h, w]},
         "attention": {"images": [n, S, S, C], "maps": float [n, heads, h, w], optionally "rollout": [n, h, w]},
         "gradcam": {"images": [n, S, S, C], "maps": float [n, S, S] in [0, 1], "predicted", "labels": int [n]},
         "neighbours": {"queries": [n, S, S, C], "neighbours": [n, k, S, S, C], "query_labels": int [n],
                        "neighbour_labels": int [n, k]},
         "tsne": {"points": [N, 2], "labels": int [N]}}; C is 1, 3 or N, labels are -1 where unknown.
      classes: class names by label, empty for unlabelled images.

    Returns:
      The path of the report. Figures stay in `<folder>/figures/<name>.png`.
    """
    folder, classes = Path(folder), tuple(classes)
    run = read_run(folder)
    rows, found = comparison_table(run.results), findings(run)
    alarms = sum(one.level == "alarm" for one in found)
    judged = verdict(run.results, alarms, validated=bool(run.metrics.keys("eval/validation")))
    figures = folder / "figures"
    sections = {
        "table": _table(run.results, rows),
        "run": _run(run),
        "lowshot": _lowshot(run, rows, figures),
        "classes": _classes(run, figures),
        "curves": _curves(run, rows, figures),
        "health": _health(found, run),
        "pictures": _pictures(run, pictures_by_name, classes, figures),
        "protocol": _protocol(rows),
        "versions": _versions(run),
        "config": _config(run),
    }
    sections = {name: inside for name, inside in sections.items() if inside}
    sections = {"verdict": _verdict(judged, len(classes), list(sections)), **sections}
    body = "\n".join(
        template.SECTION.substitute(id=name, heading=captions.HEADINGS[name], body=inside)
        for name, inside in sections.items()
    )
    recipe = at(run.results, "run.config")
    recipe = recipe if isinstance(recipe, str) and recipe else folder.resolve().name
    page = template.PAGE.substitute(
        title=escape(f"{recipe}: {judged.badge.lower()}"), css=template.CSS, sections=body,
        name=f"gssl_jax report \u00b7 {escape(recipe)}", footer=f"<p>Written by gssl_jax {escape(__version__)}.</p>",
    )  # fmt: skip
    return _write(folder / "report.html", page)


def _write(path: Path, page: str) -> Path:
    """Writes beside the target and renames: a reader sees the old page or the new one, never a half."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(page, encoding="utf-8")
    os.replace(beside, path)
    return path


def _paragraph(words: str, kind: str = "") -> str:
    return f'<p class="{kind}">{text(words)}</p>' if kind else f"<p>{text(words)}</p>"


def _figure(path: Path, name: str, caption: str, kind: str = "picture") -> str:
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    alt = text(captions.ALT[name])
    heading = f"<h3>{captions.PICTURES[name]}</h3>" if name in captions.PICTURES else ""
    return template.FIGURE.substitute(name=name, kind=kind, alt=alt, data=data, heading=heading, caption=text(caption))


def _drawn(draw: Callable[[], Path | None], missing: str) -> Path | str:
    """The path of a figure, or the sentence to print instead. Arrays of the wrong form must not cost the report."""
    try:
        return draw() or missing
    except (KeyError, IndexError, TypeError, ValueError) as error:
        return f"{missing} (It could not be drawn: {type(error).__name__}: {error}.)"


def _verdict(judged: Verdict, classes: int, sections: Sequence[str]) -> str:
    links = "".join(f'<a href="#{name}">{captions.HEADINGS[name]}</a>' for name in sections)
    return "\n".join(
        (
            f'<span class="badge {judged.tone}">{text(judged.badge)}</span>',
            f"<h1>{text(judged.headline)}</h1>",
            "" if judged.row is None else _bars(judged, classes),
            *(_paragraph(sentence) for sentence in judged.sentences),
            f"<nav>{links}</nav>",
        )
    )


def _bars(judged: Verdict, classes: int) -> str:
    """The headline and what it is compared with as bars from 0 to 100 per cent with their intervals, and a dotted
    line at chance."""
    chance = f'<span class="chance" style="left:{100 / classes:.2f}%"></span>' if classes > 1 else ""
    lines = []
    for who, kind, one in judged.bars:
        value = min(max(100 * one.value, 0.0), 100.0)
        span = ""
        if one.low is not None and one.high is not None:
            place = f"left:{100 * one.low:.2f}%;width:{100 * (one.high - one.low):.2f}%"
            span = f'<span class="span" style="{place}"></span>'
        bar = f'<span class="bar {kind}" style="width:{value:.2f}%"></span>'
        lines.append(f'<span class="who">{text(who)}</span><b>{per_cent(one.value)} %</b>'
                     f'<span class="track">{bar}{span}{chance}</span>')  # fmt: skip
    note = f" Dotted: guessing among {classes} classes, {100 / classes:.1f} %." if classes > 1 else ""
    caption = f"{judged.measure}, from 0 to 100 %; the thin line is the 95 % interval.{note}"
    return f'<div class="bars" aria-hidden="true">{"".join(lines)}</div>{_paragraph(caption, "soft")}'


def _table(results: Mapping[str, Any], rows: list[Row]) -> str:
    return score_tables(results, rows) if rows else _paragraph(captions.NO_TABLE)


def _run(run: RunFiles) -> str:
    problems = "".join(_paragraph(sentence, "soft") for sentence in run.problems)
    return f"{_paragraph(summary(run))}{problems}{_pairs(facts(run))}"


def _lowshot(run: RunFiles, rows: list[Row], folder: Path) -> str:
    """Nothing for a labelled method that was not judged with few labels: it had labels."""
    drawn = _drawn(lambda: charts.draw_lowshot(rows, folder), captions.MISSING["lowshot"])
    if isinstance(drawn, str):
        return "" if labelled(run.results) else _paragraph(drawn)
    figure = _figure(drawn, "lowshot", captions.LOWSHOT[0], "chart")
    notes = "".join(_paragraph(sentence) for sentence in captions.LOWSHOT[1:])
    return f'<div class="pair">{figure}<div>{notes}</div></div>'


def _classes(run: RunFiles, folder: Path) -> str:
    """Every class of a labelled method; nothing for any other."""
    if not labelled(run.results):
        return ""
    scores = class_scores(run.results)
    if scores is None:
        return _paragraph(captions.MISSING["classes"])
    drawn = _drawn(lambda: labelled_charts.draw_classes(scores, folder), captions.MISSING["classes"])
    form = 0 if scores.uneven else 1
    notes = _paragraph(captions.CLASSES_NOTES[form]) + class_table(scores)
    if isinstance(drawn, str):
        return _paragraph(drawn) + notes
    figure = _figure(drawn, "classes", captions.CLASSES[form], "chart")
    return f'<div class="pair">{figure}<div>{notes}</div></div>'


def _curves(run: RunFiles, rows: list[Row], folder: Path) -> str:
    knn = next((row for row in rows if row.key == "knn/top1"), None)
    scores = {} if knn is None else {"untrained": knn.untrained, "raw pixels": knn.pixels}
    controls = {name: one.value for name, one in scores.items() if one is not None}
    chosen = at(run.results, "run.selected_step")
    drawn = charts.draw_curves(run.metrics, controls, folder, chosen if is_number(chosen) else None)
    if not drawn:
        return _paragraph(captions.MISSING["curves"])
    figures = "".join(_figure(path, name, captions.CURVES[name], "chart") for name, path in drawn.items())
    return f'<div class="columns">{figures}</div>'


def _finding(one: Finding) -> str:
    knob = f"<p>Try <code>{text(one.knob)}</code></p>" if one.knob else ""
    return (
        f'<li><span class="badge {one.level}">{LEVEL_WORDS[one.level]}</span><b>{text(one.title)}</b>'
        f"<p>{text(one.text)}</p>{knob}</li>"
    )


def _health(found: list[Finding], run: RunFiles) -> str:
    if not found:
        return _paragraph(captions.MISSING["health"])
    stages = run.metrics.stages
    note = captions.OWN_HEALTH if labelled(run.results) else captions.HEALTH
    note += f" Read from the last of {len(stages)} stages." if len(stages) > 1 else ""
    return f'{_paragraph(note, "soft")}<ul class="findings">{"".join(map(_finding, found))}</ul>'


def _pictures(run: RunFiles, given: Pictures, classes: tuple[str, ...], folder: Path) -> str:
    """The picture sheets, each with a sentence on how to read it, or with one that says why it is not there; of a
    labelled method only what it owes."""
    draw: dict[str, Callable[[Any], Path]] = {
        "gradcam": lambda p: pictures.draw_gradcam(p, classes, folder),
        "reconstruction": lambda p: pictures.draw_reconstruction(p, folder),
        "clusters": lambda p: pictures.draw_clusters(p, folder),
        "attention": lambda p: pictures.draw_attention(p, folder),
        "neighbours": lambda p: pictures.draw_neighbours(p, classes, folder),
        "tsne": lambda p: charts.draw_tsne(p["points"], p["labels"], classes, folder),
    }
    owed = set(captions.OWN_SHEETS) if labelled(run.results) else set(draw) - {"gradcam"}
    parts = []
    for name, drawer in draw.items():
        if name not in owed and name not in given:
            continue
        arrays = given[name] if name in given else None
        drawn = _drawn(partial(drawer, arrays), captions.MISSING[name]) if arrays else captions.MISSING[name]
        if arrays is None or isinstance(drawn, str):
            parts.append(f"<div><h3>{captions.PICTURES[name]}</h3>{_paragraph(str(drawn), 'soft')}</div>")
            continue
        caption = captions.caption(name, arrays, classes)
        if name == "gradcam" and at(run.config, "backbone.kind") == "vit":
            caption += f" {captions.VIT_EVIDENCE}"
        parts.append(_figure(drawn, name, caption, "chart" if name == "tsne" else "picture"))
    return f'<div class="pictures">{"".join(parts)}</div>'


def _protocol(rows: list[Row]) -> str:
    if not rows:
        return _paragraph(captions.MISSING["protocol"])
    measures = _pairs([(row.label, protocol_of(row)) for row in rows])
    notes = _pairs([(f"feature {name}", words) for name, words in feature_notes(frozen_rows(rows))])
    said = captions.OWN_PROTOCOL if own_rows(rows) else captions.PROTOCOL
    return "".join(_paragraph(sentence) for sentence in said) + measures + notes


def _pairs(pairs: Sequence[tuple[str, str]]) -> str:
    """Terms and their descriptions as a definition list; nothing for none."""
    inside = "".join(f"<dt>{text(term)}</dt><dd>{text(words)}</dd>" for term, words in pairs)
    return f"<dl>{inside}</dl>" if pairs else ""


def _versions(run: RunFiles) -> str:
    versions = at(run.results, "run.versions")
    pairs = {"device": at(run.results, "run.device"), **(versions if isinstance(versions, Mapping) else {})}
    known = [(str(name), text_of(value)) for name, value in pairs.items() if value]
    if not known:
        return _paragraph(captions.MISSING["versions"])
    return _pairs(known)


def _config(run: RunFiles) -> str:
    if not run.config:
        return _paragraph(captions.MISSING["config"])
    values = text(json.dumps(run.config, indent=2, ensure_ascii=False))
    return f"<details><summary>Show every value of this run</summary><pre>{values}</pre></details>"
