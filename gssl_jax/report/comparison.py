"""Writes compare.html: finished runs side by side, from what their folders hold; one file that opens offline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gssl_jax.knobs import at, is_number
from gssl_jax.report import comparison_figures
from gssl_jax.report.chains import chain_of, chain_words
from gssl_jax.report.compared import (
    Compared,
    Measure,
    circumstances,
    last_measures,
    measures,
    same_groups,
    settings,
)
from gssl_jax.report.comparison_pictures import FEWER, evidence, looks, maps, sentences
from gssl_jax.report.comparison_verdict import comparison_verdict
from gssl_jax.report.measures import KINDS, kind_of, without_kind
from gssl_jax.report.page import attempt, embedded, opening, paragraph, write_page
from gssl_jax.report.tables import table, text
from gssl_jax.report.verdict import Verdict
from gssl_jax.report.words import Score, class_scores, compare, interval_words, listing, per_cent, signed

HEADINGS = {
    "verdict": "Verdict",
    "table": "Scores",
    "chains": "What each was trained on",
    "settings": "What differs",
    "gradcam": "Where the classifiers look",
    "attention": "Where the networks look",
    "pca": "Patches in colour",
    "classes": "Accuracy by class",
    "tsne": "Maps of the test images",
}
OWN = (
    "The methods' own classifiers: accuracy on test images in per cent, below it the 95 % interval, then the points "
    "above or below the first run, bold where the two intervals do not overlap."
)
LAST = "The same at the last step, which is not always the one that validation images chose."
FROZEN = (
    "{}, of small classifiers trained on frozen features; below each the 95 % interval, "
    "then the points above or below the first run, bold where the two intervals do not overlap."
)
CHAINS = "Every run from its beginning on, then each stage once."
NO_TABLE = "There are no scores: the images came without labels."
OTHER_GROUPS = "The groups are not made of the same classes in all runs, so their rows do not compare."
NO_SETTING = "No setting that may change results differs."
ONLY_CHAINS = "Of what may change results, nothing but the chain of stages differs."
MANY_SETTINGS = 14
"""Rows of settings from which on their table is closed until asked for."""

CLASSES = (
    "Accuracy of each class, a colour and a shape for each run; a long line is a class on which the runs disagree.",
    " The class with the most training images of the first run stands at the left; dotted lines part the groups.",
    " The classes have about as many training images as each other and are ordered by their mean accuracy.",
)
CLASSES_ALT = "Accuracy of each class for every run"
NO_CLASSES = "{} has no accuracy by class."


def write_comparison(runs: Sequence[Compared], folder: Path) -> tuple[Path, Verdict]:
    """Draws the figures and writes `<folder>/compare.html`, at once and whole; nothing is computed anew.

    Args:
      runs: two runs or more, each under a name of its own; the first is what the others are compared with.
      folder: made where it is not there; figures stay in `<folder>/figures/<name>.png`.

    Returns:
      The path of the page, and the verdict at its top.
    """
    folder.mkdir(parents=True, exist_ok=True)
    figures, found = folder / "figures", measures(runs)
    judged = comparison_verdict(runs, found)
    sections = {
        "table": _table(runs, found),
        "chains": (chains := _chains(runs)),
        "settings": _settings(runs, bool(chains)),
        "gradcam": evidence(runs, figures),
        "attention": looks(runs, "attention", figures),
        "pca": looks(runs, "pca", figures),
        "classes": _classes(runs, figures),
        "tsne": maps(runs, figures),
    }
    sections = {name: inside for name, inside in sections.items() if inside}
    counts = {at(run.files.results, "run.data.eval_test.classes") for run in runs}
    classes = next(iter(counts)) if len(counts) == 1 else 0
    headings = {name: HEADINGS[name] for name in sections}
    sections = {"verdict": opening(judged, classes if is_number(classes) else 0, headings), **sections}
    names = listing([run.name for run in runs])
    title, name = f"{names}: {judged.badge.lower()}", f"gssl_jax comparison \u00b7 {names}"
    return write_page(folder / "compare.html", title, name, sections, HEADINGS), judged


def _table(runs: Sequence[Compared], found: Sequence[Measure]) -> str:
    """The scores of all runs in a table each: own classifiers, their last step, frozen features by kind of measure."""
    own = [one for one in found if one.own]
    kinds = [(OWN, own), (LAST, last_measures(runs))]
    for kind in KINDS.values():
        kinds.append((FROZEN.format(kind.caption), [one for one in found if not one.own and kind_of(one.key) is kind]))
    parts = [_scores(said, runs, rows) for said, rows in kinds if rows]
    if not same_groups(found):
        parts.append(paragraph(OTHER_GROUPS, "soft"))
    return "".join(parts) or paragraph(NO_TABLE)


def _scores(said: str, runs: Sequence[Compared], rows: Sequence[Measure]) -> str:
    lines = []
    for one in rows:
        cells = "".join(_cell(score, one.scores[0] if place else None) for place, score in enumerate(one.scores))
        lines.append(f'<tr><th scope="row">{text(without_kind(one.label))}</th>{cells}</tr>')
    inside = table("", ("measure", *(run.name for run in runs)), lines)
    return f'{paragraph(said, "soft")}<div class="wide">{inside}</div>'


def _cell(one: Score | None, reference: Score | None) -> str:
    if one is None:
        return "<td>\u2013</td>"
    interval, difference = interval_words(one).replace(" to ", "\u2013"), ""
    if reference is not None:
        points, kind = compare(one, reference)
        words = f"<b>{signed(points)}</b>" if kind in ("above", "below") else signed(points)
        difference = f"<small>{words}</small>"
    return f"<td>{per_cent(one.value)}<small>{interval}</small>{difference}</td>"


def _chains(runs: Sequence[Compared]) -> str:
    """What led to every run, and what each stage did; nothing where all are one stage from the same beginning."""
    chains = {run.name: chain_of(run.files) for run in runs}
    if all(len(links) < 2 for _, links in chains.values()) and len({chain_words(run.files) for run in runs}) < 2:
        return ""
    lines = [_line(run.name, [chain_words(run.files) or "\u2013"]) for run in runs]
    stages = dict.fromkeys(link._replace(parent="") for _, links in chains.values() for link in links)
    told = [_line(link.stage, [words or "\u2013" for words in (link.method, link.data, link.steps)]) for link in stages]
    first, second = table("", ("run", "chain"), lines), table("", ("stage", "method", "images", "length"), told)
    return f'{paragraph(CHAINS, "soft")}<div class="wide words">{first}{second}</div>'


def _line(name: str, cells: Sequence[str]) -> str:
    inside = "".join(f"<td>{text(words)}</td>" for words in cells)
    return f'<tr><th scope="row">{text(name)}</th>{inside}</tr>'


def _settings(runs: Sequence[Compared], chains: bool) -> str:
    """Settings that differ, and what each run cost; where `chains` are shown, without their names."""
    every = settings(runs)
    changed = [one for one in every if not (chains and one[0] == "stages")]
    inside = _values(runs, "setting", changed) if changed else paragraph(ONLY_CHAINS if every else NO_SETTING)
    if len(changed) > MANY_SETTINGS:
        inside = f"<details><summary>Show the {len(changed)} settings that differ</summary>{inside}</details>"
    return inside + _values(runs, "cost and surroundings", circumstances(runs))


def _values(runs: Sequence[Compared], what: str, rows: Sequence[tuple[str, tuple[str, ...]]]) -> str:
    lines = []
    for key, values in rows:
        cells = "".join(f"<td>{text(value)}</td>" for value in values)
        breakable = text(key).replace(".", ".<wbr>").replace("_", "_<wbr>")
        lines.append(f'<tr><th scope="row">{breakable}</th>{cells}</tr>')
    return f'<div class="wide">{table("", (what, *(run.name for run in runs)), lines)}</div>'


def _classes(runs: Sequence[Compared], folder: Path) -> str:
    """Accuracy by class of all runs in one chart; nothing where no run has it."""
    found = {run.name: scores for run in runs if (scores := class_scores(run.files.results))}
    if not found:
        return ""
    said = [NO_CLASSES.format(run.name) for run in runs if run.name not in found]
    first, *others = found.values()
    if not others or any(one.names != first.names for one in others):
        return sentences([*said, "The runs do not share their classes." if others else FEWER])
    path = attempt(lambda: comparison_figures.draw_class_scores(found, folder), "The chart is missing.")
    if isinstance(path, str):
        return sentences([path, *said])
    if any(one.images != first.images for one in others):
        said.append("The runs do not have the same number of training images in each class.")
    caption = CLASSES[0] + (CLASSES[1] if all(one.uneven for one in found.values()) else CLASSES[2])
    chart = embedded(path, "classes", caption, CLASSES_ALT, kind="chart")
    return f'<div class="sheets">{chart}</div>{sentences(said)}'
