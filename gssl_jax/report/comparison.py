"""Writes compare.html: finished runs side by side, from what their folders hold; one file that opens offline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gssl_jax.knobs import at, is_number
from gssl_jax.report import captions, comparison_figures
from gssl_jax.report.chains import chain_of, chain_words
from gssl_jax.report.compared import (
    Compared,
    Measure,
    circumstances,
    last_measures,
    measures,
    same_groups,
    same_images,
    settings,
)
from gssl_jax.report.comparison_figures import short_names
from gssl_jax.report.comparison_verdict import comparison_verdict
from gssl_jax.report.measures import AREA_SUFFIX, is_auroc
from gssl_jax.report.page import attempt, embedded, opening, paragraph, write_page
from gssl_jax.report.tables import table, text
from gssl_jax.report.verdict import Verdict
from gssl_jax.report.words import Score, class_scores, compare, interval_words, labelled, listing, per_cent, signed

HEADINGS = {
    "verdict": "Verdict",
    "table": "Scores",
    "chains": "What each was trained on",
    "settings": "What differs",
    "gradcam": "Where the classifiers look",
    "classes": "Accuracy by class",
    "tsne": "Maps of the test images",
}
OWN = (
    "The methods' own classifiers: accuracy on test images in per cent, below it the 95 % interval, then the points "
    "above or below the first run, bold where the two intervals do not overlap."
)
LAST = "The same at the last step, which is not always the one that validation images chose."
FROZEN = (
    "Accuracy on test images in per cent of small classifiers trained on frozen features, below it the 95 % interval, "
    "then the points above or below the first run, bold where the two intervals do not overlap."
)
AREAS = (
    "Mean AUROC over the classes on test images, times 100 (50 is guessing, and none of this is an accuracy), below it "
    "the 95 % interval, then the points above or below the first run, bold where the two intervals do not overlap."
)
CHAINS = "Every run from its beginning on, then each stage once."
NO_TABLE = "There are no scores: the images came without labels."
OTHER_GROUPS = "The groups are not made of the same classes in all runs, so their rows do not compare."
NO_SETTING = "No setting that may change results differs."
ONLY_CHAINS = "Of what may change results, nothing but the chain of stages differs."
MANY_SETTINGS = 14
"""Rows of settings from which on their table is closed until asked for."""

EVIDENCE = (
    "Grad-CAM: left a test image with its class; then, for every run, what speaks for the class that it predicted "
    "(named below), laid over the image, from dark (nothing) to bright yellow (most), each map on its own scale."
)
FRAMES = " A solid blue frame is a right prediction, a dashed orange one with a cross a wrong one."
MAPS = (
    "t-SNE of test features, one panel for each run: clumps of one colour and shape are classes that few labels can "
    "separate. Panels have no common scale or direction, and distances between clumps mean little."
)
CLASSES = (
    "Accuracy of each class, a colour and a shape for each run; a long line is a class on which the runs disagree.",
    " The class with the most training images of the first run stands at the left; dotted lines part the groups.",
    " The classes have about as many training images as each other and are ordered by their mean accuracy.",
)
ALT = {
    "gradcam": "Test images, each beside the evidence that every run has for its prediction",
    "tsne": "Test images as points in two dimensions, coloured by class, a panel for each run",
    "classes": "Accuracy of each class for every run",
}
WITHOUT = {
    "gradcam": "{} has no evidence maps: its method has no classifier of its own.",
    "tsne": "{} has no map of its test images.",
    "classes": "{} has no accuracy by class.",
}
FEWER = "Fewer than two runs have what belongs here, so there is nothing to lay side by side."


class Side(NamedTuple):
    """The runs that have something, and a sentence for each that does not."""

    runs: list[Compared]
    said: list[str]


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
        "gradcam": _evidence(runs, figures),
        "classes": _classes(runs, figures),
        "tsne": _maps(runs, figures),
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
    """The scores of all runs in up to four tables: own classifiers, their last step, frozen features by
    accuracy and by AUROC."""
    own = [one for one in found if one.own]
    frozen, areas = ([one for one in found if not one.own and is_auroc(one.key) == area] for area in (False, True))
    kinds = ((OWN, own), (LAST, last_measures(runs)), (FROZEN, frozen), (AREAS, areas))
    parts = [_scores(said, runs, rows) for said, rows in kinds if rows]
    if not same_groups(found):
        parts.append(paragraph(OTHER_GROUPS, "soft"))
    return "".join(parts) or paragraph(NO_TABLE)


def _scores(said: str, runs: Sequence[Compared], rows: Sequence[Measure]) -> str:
    lines = []
    for one in rows:
        cells = "".join(_cell(score, one.scores[0] if place else None) for place, score in enumerate(one.scores))
        lines.append(f'<tr><th scope="row">{text(one.label.removesuffix(AREA_SUFFIX))}</th>{cells}</tr>')
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


def _side(runs: Sequence[Compared], kind: str) -> Side:
    """The runs that kept pictures of this kind, under the class names of the first that did."""
    having = [run for run in runs if run.pictures(kind)]
    said = [run.problem or WITHOUT[kind].format(run.name) for run in runs if run not in having]
    other = [run.name for run in having if run.kept and having[0].kept and run.kept.classes != having[0].kept.classes]
    if other:
        said.append(
            f"{listing(other)} knows other classes than {having[0].name}, so pictures cannot stand side by side."
        )
        return Side([], said)
    return Side(having, said if len(having) > 1 else [*said, FEWER])


def _evidence(runs: Sequence[Compared], folder: Path) -> str:
    """The overlays of all runs on the same test images; nothing where no method has a classifier of its own."""
    having, said = _side(runs, "gradcam")
    if not having and not any(labelled(run.files.results) for run in runs):
        return ""
    other = [run.name for run in having[1:] if not _same(having[0], run, "gradcam", ("images", "labels"))]
    if other:
        said.append(
            f"{listing(other)} kept other test images than {having[0].name}, so no overlays are laid side by side."
        )
    if other or len(having) < 2:
        return _sentences(said)
    found = {run.name: run.pictures("gradcam") or {} for run in having}
    classes = _class_names(having[0])
    path = attempt(lambda: comparison_figures.draw_evidence(found, classes, folder), "The overlays are missing.")
    if isinstance(path, str):
        return _sentences([path, *said])
    labels = np.asarray(found[having[0].name]["labels"])
    right = [f"{name} {int((np.asarray(one['predicted']) == labels).sum())}" for name, one in found.items()]
    known = bool((labels >= 0).all())
    caption = f"Right here, of {len(labels)}: {listing(right)}." if known else "These images have no labels."
    caption += _columns(list(found))
    if any(at(run.files.config, "backbone.kind") == "vit" for run in having):
        caption += f" {captions.VIT_EVIDENCE}"
    sheet = embedded(path, "gradcam", caption, ALT["gradcam"])
    how = paragraph(EVIDENCE + (FRAMES if known else ""), "soft")
    return f'{how}<div class="sheets" style="--columns:{1 + len(found)}">{sheet}</div>{_sentences(said)}'


def _maps(runs: Sequence[Compared], folder: Path) -> str:
    """A t-SNE panel for each run."""
    having, said = _side(runs, "tsne")
    if len(having) < 2:
        return _sentences(said)
    found = {run.name: run.pictures("tsne") or {} for run in having}
    classes = _class_names(having[0])
    path = attempt(lambda: comparison_figures.draw_maps(found, classes, folder), "The maps are missing.")
    if isinstance(path, str):
        return _sentences([path, *said])
    same = same_images(having, "eval_test") is not False and all(
        _same(having[0], run, "tsne", ("labels",)) for run in having
    )
    number = len(found[having[0].name]["points"])
    caption = f"The same {number:,} test images in all panels." if same else "The panels do not hold the same images."
    chart = embedded(path, "tsne", caption, ALT["tsne"], kind="chart")
    return f'{paragraph(MAPS, "soft")}<div class="sheets">{chart}</div>{_sentences(said)}'


def _classes(runs: Sequence[Compared], folder: Path) -> str:
    """Accuracy by class of all runs in one chart; nothing where no run has it."""
    found = {run.name: scores for run in runs if (scores := class_scores(run.files.results))}
    if not found:
        return ""
    said = [WITHOUT["classes"].format(run.name) for run in runs if run.name not in found]
    first, *others = found.values()
    if not others or any(one.names != first.names for one in others):
        return _sentences([*said, "The runs do not share their classes." if others else FEWER])
    path = attempt(lambda: comparison_figures.draw_class_scores(found, folder), "The chart is missing.")
    if isinstance(path, str):
        return _sentences([path, *said])
    if any(one.images != first.images for one in others):
        said.append("The runs do not have the same number of training images in each class.")
    caption = CLASSES[0] + (CLASSES[1] if all(one.uneven for one in found.values()) else CLASSES[2])
    chart = embedded(path, "classes", caption, ALT["classes"], kind="chart")
    return f'<div class="sheets">{chart}</div>{_sentences(said)}'


def _same(one: Compared, other: Compared, kind: str, keys: Sequence[str]) -> bool:
    """Whether two runs kept equal arrays under these keys."""
    first, second = one.pictures(kind) or {}, other.pictures(kind) or {}
    return all(key in first and key in second and np.array_equal(first[key], second[key]) for key in keys)


def _class_names(run: Compared) -> tuple[str, ...]:
    return run.kept.classes if run.kept else ()


def _columns(names: list[str]) -> str:
    """The runs by their full names where the sheet has no room for them."""
    return "" if short_names(names) == names else f" The runs from left to right: {listing(names)}."


def _sentences(said: Sequence[Any]) -> str:
    return "".join(paragraph(sentence, "soft") for sentence in said)
