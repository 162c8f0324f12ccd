"""The pictures of a comparison: what every run kept, beside each other, where the runs kept pictures of one kind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gssl_jax.knobs import at
from gssl_jax.report import captions, comparison_figures
from gssl_jax.report.compared import Compared, same_images
from gssl_jax.report.comparison_figures import short_names
from gssl_jax.report.page import attempt, embedded, paragraph
from gssl_jax.report.words import labelled, listing

EVIDENCE = (
    "Grad-CAM: left a test image with its class; then, for every run, what speaks for the class that it predicted "
    "(named below), laid over the image, from dark (nothing) to bright yellow (most), each map on its own scale."
)
FRAMES = " A solid blue frame is a right prediction, a dashed orange one with a cross a wrong one."
MAPS = (
    "t-SNE of test features, one panel for each run: clumps of one colour and shape are classes that few labels can "
    "separate. Panels have no common scale or direction, and distances between clumps mean little."
)
LOOKS = {
    "attention": "Where the class token of each run looks in the last block, the mean of its heads, dark to bright, "
    "each map on its own scale.",
    "pca": "Patches in the colours of their features: red, green and blue are the three directions in which the "
    "features of a run differ most over these pictures. Like colours are like features within a column; colours of "
    "two columns have nothing to do with each other. Look at which parts a run tells apart.",
}
ALT = {
    "gradcam": "Test images, each beside the evidence that every run has for its prediction",
    "tsne": "Test images as points in two dimensions, coloured by class, a panel for each run",
    "attention": "Test images, each beside the attention map of every run",
    "pca": "Test images, each beside its patches in the colours of every run's features",
}
WITHOUT = {
    "gradcam": "{} has no evidence maps: its method has no classifier of its own.",
    "tsne": "{} has no map of its test images.",
    "attention": "{} has no attention maps: its backbone has no attention.",
    "pca": "{} has no colours of patches.",
}
FEWER = "Fewer than two runs have what belongs here, so there is nothing to lay side by side."


class Side(NamedTuple):
    """The runs that have something, and a sentence for each that does not."""

    runs: list[Compared]
    said: list[str]


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


def evidence(runs: Sequence[Compared], folder: Path) -> str:
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
        return sentences(said)
    found = {run.name: run.pictures("gradcam") or {} for run in having}
    classes = _class_names(having[0])
    path = attempt(lambda: comparison_figures.draw_evidence(found, classes, folder), "The overlays are missing.")
    if isinstance(path, str):
        return sentences([path, *said])
    labels = np.asarray(found[having[0].name]["labels"])
    right = [f"{name} {int((np.asarray(one['predicted']) == labels).sum())}" for name, one in found.items()]
    known = bool((labels >= 0).all())
    caption = f"Right here, of {len(labels)}: {listing(right)}." if known else "These images have no labels."
    caption += _columns(list(found))
    if any(at(run.files.config, "backbone.kind") == "vit" for run in having):
        caption += f" {captions.VIT_EVIDENCE}"
    sheet = embedded(path, "gradcam", caption, ALT["gradcam"])
    how = paragraph(EVIDENCE + (FRAMES if known else ""), "soft")
    return f'{how}<div class="sheets" style="--columns:{1 + len(found)}">{sheet}</div>{sentences(said)}'


def looks(runs: Sequence[Compared], kind: str, folder: Path) -> str:
    """`attention` or `pca` of all runs on the same test images; nothing where no run has any."""
    having, said = _side(runs, kind)
    if not any(run.pictures(kind) for run in runs):
        return ""
    other = [run.name for run in having[1:] if not _same(having[0], run, kind, ("images",))]
    if other:
        said.append(f"{listing(other)} kept other test images than {having[0].name}, so no maps are laid side by side.")
    if other or len(having) < 2:
        return sentences(said)
    found = {run.name: run.pictures(kind) or {} for run in having}
    path = attempt(lambda: comparison_figures.draw_looks(found, kind, folder), "The maps are missing.")
    if isinstance(path, str):
        return sentences([path, *said])
    caption = f"The same test images for all runs.{_columns(list(found))}"
    sheet = embedded(path, kind, caption, ALT[kind])
    how = paragraph(LOOKS[kind], "soft")
    return f'{how}<div class="sheets" style="--columns:{1 + len(found)}">{sheet}</div>{sentences(said)}'


def maps(runs: Sequence[Compared], folder: Path) -> str:
    """A t-SNE panel for each run."""
    having, said = _side(runs, "tsne")
    if len(having) < 2:
        return sentences(said)
    found = {run.name: run.pictures("tsne") or {} for run in having}
    classes = _class_names(having[0])
    path = attempt(lambda: comparison_figures.draw_maps(found, classes, folder), "The maps are missing.")
    if isinstance(path, str):
        return sentences([path, *said])
    same = same_images(having, "eval_test") is not False and all(
        _same(having[0], run, "tsne", ("labels",)) for run in having
    )
    number = len(found[having[0].name]["points"])
    caption = f"The same {number:,} test images in all panels." if same else "The panels do not hold the same images."
    chart = embedded(path, "tsne", caption, ALT["tsne"], kind="chart")
    return f'{paragraph(MAPS, "soft")}<div class="sheets">{chart}</div>{sentences(said)}'


def _same(one: Compared, other: Compared, kind: str, keys: Sequence[str]) -> bool:
    """Whether two runs kept equal arrays under these keys."""
    first, second = one.pictures(kind) or {}, other.pictures(kind) or {}
    return all(key in first and key in second and np.array_equal(first[key], second[key]) for key in keys)


def _class_names(run: Compared) -> tuple[str, ...]:
    return run.kept.classes if run.kept else ()


def _columns(names: list[str]) -> str:
    """The runs by their full names where the sheet has no room for them."""
    return "" if short_names(names) == names else f" The runs from left to right: {listing(names)}."


def sentences(said: Sequence[Any]) -> str:
    return "".join(paragraph(sentence, "soft") for sentence in said)
