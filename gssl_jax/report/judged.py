"""What `gssl_jax.evaluate` shows: backbones side by side, in the console and as a page that opens offline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table

from gssl_jax.knobs import at
from gssl_jax.report import captions, comparison_figures, pictures
from gssl_jax.report.comparison_figures import short_names
from gssl_jax.report.facts import feature_notes, protocol_of, text_of
from gssl_jax.report.label_free import label_free_lines, label_free_table
from gssl_jax.report.measures import HEADLINES, capital, guess, kind, place, unit, without_kind
from gssl_jax.report.page import attempt, definitions, embedded, opening, paragraph, write_page
from gssl_jax.report.tables import table, text
from gssl_jax.report.verdict import Bar, Verdict, by_difference
from gssl_jax.report.words import (
    Row,
    Score,
    compare,
    comparison_table,
    interval_said,
    interval_words,
    per_cent,
    score,
    signed,
    tables_of,
)
from gssl_jax.runs.archive import read_pictures

HEADINGS = {
    "verdict": "Verdict",
    "table": "Scores",
    "differences": "Differences",
    "health": "Without labels",
    "backbones": "The backbones",
    "pictures": "How they see the test images",
    "protocol": "How it was measured",
    "versions": "Versions",
}
SCORES = "{} times 100, below it the 95 % interval."
ALIKE = "All columns were judged by the same protocols."
DIFFERENCES = (
    "Points by which {first} is above (+) or below (\u2212) each other backbone, with the 95 % interval of the paired "
    "difference: both are measured on the same test images and the same draws of labelled ones, so what these have in "
    "common cancels. Bold where the interval leaves out zero."
)
NOT_PAIRED = "{} saw other images than {}, so only whether the intervals overlap says anything."
FIXED = (
    "The intervals cover the choice of test images, or of labelled ones, and not the luck of a training: each backbone "
    "is taken as it is."
)
MAPS = (
    "t-SNE of test features: clumps of one colour and shape are classes that few labels can separate. Panels have no "
    "common scale or direction."
)
LONGEST_TITLE = 30
"""Letters of a name above a panel."""

MOST_SHEETS = 4
"""Backbones whose neighbours are shown; the first ones."""

NETWORKS = {"run": "of a run", "weights": "weights", "random": "untrained", "pixels": "no network"}


def table_of(results: Mapping[str, Any]) -> RenderableType:
    """The scores for the terminal: a row for each measure, a column for each backbone."""
    names, tables = list(at(results, "run.backbones")), []
    for part in tables_of(comparison_table(results)):
        shown = Table(title=f"{capital(kind(part[0].key))} on test images, times 100 (95 % interval)", show_lines=True)
        for k, name in enumerate(("frozen features", *names)):
            shown.add_column(name, justify="right" if k else "left", overflow="fold")
        for row in part:
            cells = (_lines(one) for one in _scores(row, names))
            shown.add_row(without_kind(row.label), *cells)
        tables.append(shown)
    if lines := label_free_lines(results, names):
        shown = Table(title="Without labels, on training images")
        for k, name in enumerate(("label-free", *names)):
            shown.add_column(name, justify="right" if k else "left", overflow="fold")
        for line in lines:
            shown.add_row(*line)
        tables.append(shown)
    return Group(*tables)


def _lines(one: Score | None) -> str:
    return "-" if one is None else f"{per_cent(one.value)}\n{interval_words(one).replace(' to ', chr(0x2013))}"


def _scores(row: Row, names: Sequence[str]) -> list[Score | None]:
    """The scores of a row in the order of the backbones; the first is what results.json has under `eval`."""
    return [row.trained, *(row.of(name) for name in names[1:])]


def write_judged(results: Mapping[str, Any], folder: Path) -> tuple[Path, Verdict]:
    """Draws the figures and writes `<folder>/report.html`; `results` as `runs.judging.judged` returns them.

    Returns the path of the page, and the verdict at its top."""
    rows = comparison_table(results)
    names = list(at(results, "run.backbones"))
    judged = verdict_of(results, rows, names)
    sections = {
        "table": _table(rows, names),
        "differences": _differences(results, rows, names),
        "health": f'<div class="wide">{found}</div>' if (found := label_free_table(results, names)) else "",
        "backbones": _backbones(results),
        "pictures": _pictures(results, folder),
        "protocol": definitions([(row.label, protocol_of(row)) for row in rows])
        + definitions([(f"feature {name}", words) for name, words in feature_notes(rows)]),
        "versions": _versions(results),
    }
    sections = {name: inside for name, inside in sections.items() if inside}
    headings = {name: HEADINGS[name] for name in sections}
    classes = at(results, "run.data.eval_test.classes") or 0
    sections = {"verdict": opening(judged, classes, headings), **sections}
    title = f"{', '.join(names)}: {judged.badge.lower()}"
    return write_page(folder / "report.html", title, "gssl_jax evaluation", sections, HEADINGS), judged


def against(results: Mapping[str, Any], row: Row, name: str) -> tuple[float, str] | None:
    """Points by which the first backbone is above another, and above, below, unclear or unknown: by the paired
    difference where there is one, else by whether the intervals overlap. None where one of them has no score."""
    one, other = row.trained, row.of(name)
    if one is None or other is None:
        return None
    points, words = compare(one, other)
    found = score(results["differences"].get(name, {}).get(row.key))
    if found is None or found.low is None or found.high is None:
        return points, words
    return points, "above" if found.low > 0 else "below" if found.high < 0 else "unclear"


def verdict_of(results: Mapping[str, Any], rows: Sequence[Row], names: Sequence[str]) -> Verdict:
    """What was found about the first backbone against each other one, by the measure of few labels that all have."""
    first, *others = names
    whole = {row.key: row for row in rows if None not in _scores(row, names)}
    ordered = [whole[key] for key in HEADLINES if key in whole] or list(whole.values())
    if not ordered:
        headline = "No measure is there for all of these backbones, so no number compares them."
        return Verdict("none", "Nothing to compare", headline, (FIXED,), None)
    row = ordered[0]
    scores = [one for one in _scores(row, names) if one is not None]
    start = f"{place(row.key)}, {first} reaches {per_cent(scores[0].value)}{unit(row.key)}"
    numbers = "; ".join(
        f"{name} {per_cent(one.value)}{unit(row.key)} ({interval_said(one)})"
        for name, one in zip(names, scores, strict=True)
    )
    tone, badge, headline = "none", "Judged", f"{start}."
    if others:
        best = max(range(1, len(names)), key=lambda k: scores[k].value)
        points, how = against(results, row, names[best]) or (0.0, "unknown")
        rival = names[best] if len(others) == 1 else f"{names[best]}, the best of the others"
        side = "above" if points > 0 else "below"
        tone, badge = {"above": ("good", "The first is best"), "below": ("bad", f"{names[best]} is better")}.get(
            how, ("unclear", "No clear difference")
        )
        headline = f"{start}, {abs(points):.1f} points {side} {rival}" if points else f"{start}, level with {rival}"
        headline += {"unclear": ": these images do not tell them apart.", "unknown": ", without an interval."}.get(
            how, "."
        )
    sentences = [f"{numbers}."]
    for name in others:
        compared = [(one.label, *found) for one in rows if (found := against(results, one, name))]
        sentences.append(f"{first} against {name}, in points. {by_difference(compared)}")
        if name not in results["differences"]:
            sentences.append(NOT_PAIRED.format(name, first))
    bars = tuple(
        Bar(name, "pixels" if k else "trained", one) for k, (name, one) in enumerate(zip(names, scores, strict=True))
    )
    what = f"{capital(kind(row.key))} on test images, {without_kind(row.label)}"
    return Verdict(tone, badge, headline, (*sentences, FIXED), row, bars, what, guess(row.key))


def _table(rows: Sequence[Row], names: Sequence[str]) -> str:
    parts = [paragraph(ALIKE, "soft")]
    for part in tables_of(rows):
        lines = [_line(row, [_cell(one) for one in _scores(row, names)]) for row in part]
        said = SCORES.format(capital(kind(part[0].key)))
        parts.append(f'{paragraph(said, "soft")}<div class="wide">{table("", ("measure", *names), lines)}</div>')
    return "".join(parts)


def _line(row: Row, cells: Sequence[str]) -> str:
    return f'<tr><th scope="row">{text(row.label)}</th>{"".join(cells)}</tr>'


def _cell(one: Score | None) -> str:
    if one is None:
        return "<td>\u2013</td>"
    return f"<td>{per_cent(one.value)}<small>{interval_words(one).replace(' to ', chr(0x2013))}</small></td>"


def _differences(results: Mapping[str, Any], rows: Sequence[Row], names: Sequence[str]) -> str:
    """The paired differences of the first backbone from each other one; nothing where there are none."""
    others = [name for name in names[1:] if results["differences"].get(name)]
    lines = []
    for row in rows:
        found = [(against(results, row, name), score(results["differences"][name].get(row.key))) for name in others]
        if any(one for _, one in found):
            lines.append(_line(row, [_difference(*both) for both in found]))
    if not lines:
        return ""
    headings = ("measure", *(f"{names[0]} \u2212 {name}" for name in others))
    return (
        f'{paragraph(DIFFERENCES.format(first=names[0]), "soft")}<div class="wide">{table("", headings, lines)}</div>'
    )


def _difference(points: tuple[float, str] | None, one: Score | None) -> str:
    """Points between the printed scores, with the interval of the paired difference."""
    if one is None or points is None:
        return "<td>\u2013</td>"
    said = text(signed(points[0]) if points[0] else "0.0")
    if one.low is None or one.high is None:
        return f"<td>{said}<small>no interval</small></td>"
    words = f"{signed(100 * one.low)} to {signed(100 * one.high)}"
    return f"<td>{f'<b>{said}</b>' if one.low > 0 or one.high < 0 else said}<small>{text(words)}</small></td>"


def _backbones(results: Mapping[str, Any]) -> str:
    """What each of them is, where it came from and how it was shown the images."""
    terms = []
    for name, one in at(results, "run.backbones").items():
        images = one["images"]
        origin = [NETWORKS[one["kind"]], *(str(one[key]) for key in ("model", "path", "layout") if one.get(key))]
        origin += [f"step {one['step']:,}"] if "step" in one else []
        origin += [f"seed {one['seed']}"] if "seed" in one else []
        shown = f"images of {images['image_size']} px from a shorter side of {images['resize']}, "
        shown += "grey" if images["channels"] == 1 else f"{images['channels']} channels"
        if one["kind"] != "pixels":
            shown += f", mean {text_of(images['mean'])}, deviation {text_of(images['std'])}"
            origin += [one["network"], f"{one['parameters']:,} parameters"]
        words = [", ".join(origin), shown, *([] if one["kind"] == "pixels" else [f"digest {one['digest'][:12]}"])]
        words += one["notes"]
        if one["unreadable_images"]:
            words.append(f"{one['unreadable_images']} images could not be read")
        terms.append((name, "; ".join(words) + "."))
    return definitions(terms)


def _pictures(results: Mapping[str, Any], folder: Path) -> str:
    """A map of the test images for each network in one figure, and the neighbours of some by each."""
    kept = {name: one["pictures"] for name, one in at(results, "run.backbones").items() if one["pictures"]}
    held = {name: read_pictures(folder / path) for name, path in kept.items() if (folder / path).is_file()}
    if not held:
        return ""
    classes = next(iter(held.values())).classes
    maps = {name: one.pictures["tsne"] for name, one in held.items() if "tsne" in one.pictures}
    parts = []
    if maps:
        path = attempt(lambda: comparison_figures.draw_maps(maps, classes, folder / "figures"), "The maps are missing.")
        if isinstance(path, Path):
            whole = short_names(list(maps), LONGEST_TITLE) == list(maps)
            said = MAPS if whole else f"{MAPS} From left to right: {', '.join(maps)}."
            alt = "Test images as points in two dimensions, coloured by class, a panel for each backbone"
            parts.append(f'<div class="sheets">{embedded(path, "tsne", said, alt, kind="chart")}</div>')
    sheets = []
    for k, (name, one) in enumerate(list(held.items())[:MOST_SHEETS]):
        arrays: Mapping[str, np.ndarray] = one.pictures["neighbours"]
        place_of = folder / "figures" / f"backbone-{k}"
        drawn = attempt(lambda a=arrays, f=place_of: pictures.draw_neighbours(a, classes, f), "The sheet is missing.")  # type: ignore[misc]
        if isinstance(drawn, Path):
            words = captions.caption("neighbours", arrays, classes)
            sheets.append(
                embedded(drawn, f"neighbours-{k}", words, captions.ALT["neighbours"], f"Neighbours by {name}")
            )
    return "".join(parts) + (f'<div class="pictures">{"".join(sheets)}</div>' if sheets else "")


def _versions(results: Mapping[str, Any]) -> str:
    pairs = {"device": at(results, "run.device"), **at(results, "run.versions")}
    data = [at(results, f"run.data.{part}") for part in ("eval_train", "eval_test")]
    images = [f"{one['name']}, {one['images']:,} images, {one['fingerprint'][:12]}" for one in data]
    return definitions([("images", "; ".join(images)), *((str(name), text_of(value)) for name, value in pairs.items())])
