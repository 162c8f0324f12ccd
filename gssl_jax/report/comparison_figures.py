"""Figures of several runs side by side: Grad-CAM overlays, attention, patches, t-SNE panels, accuracy by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from gssl_jax.evals.per_class import class_groups
from gssl_jax.report.charts import class_legend, legend_rows, scatter_classes
from gssl_jax.report.labelled_charts import MOST_NAMES, PRETEXT_LINES
from gssl_jax.report.pictures import LONGEST_NAME, coloured, heat, laid_over, put_evidence
from gssl_jax.report.sheet import Sheet, cell_side, displayable
from gssl_jax.report.style import (
    DPI,
    FAINT,
    GREY,
    INK,
    Line,
    class_names,
    drawable,
    legend_below,
    quiet,
    save,
    shorten,
    title,
)
from gssl_jax.report.words import ClassScores

Named = Mapping[str, Mapping[str, np.ndarray]]
RUN_LINES = (*PRETEXT_LINES, Line(GREY, (0, (2, 1)), "h"))
MOST_LOOKS = 6  # images in a sheet of maps
PANEL = 3.1  # inches of a t-SNE panel
ALONE = 5.2  # inches of one that stands alone
BESIDE = 0.014  # of the chart's width: how far the runs stand from each other at a class,
ASIDE = 0.54  # and of the distance between classes: what they all fill at most


def short_names(names: Sequence[str], longest: int = LONGEST_NAME) -> list[str]:
    """Names for a narrow place, cut to `longest` letters; "run 1", "run 2" where that makes two of them alike, or where
    the font cannot write one."""
    cut = [shorten(name, longest) for name in names]
    if len(set(cut)) < len(cut) or not all(map(drawable, cut)):
        return [f"run {k + 1}" for k in range(len(cut))]
    return cut


def draw_evidence(found: Named, classes: tuple[str, ...], folder: Path) -> Path:
    """A row for each test image with its class, and beside it the overlay of every run, as in the report of one run.

    `found` holds for each run the arrays of Grad-CAM ("images", "maps", "predicted", "labels"), of the same images.
    """
    laid = [laid_over(arrays) for arrays in found.values()]
    images, labels = laid[0][0], np.asarray(next(iter(found.values()))["labels"], int)
    predicted = [np.asarray(arrays["predicted"], int) for arrays in found.values()]
    names = class_names(sorted({*labels, *np.concatenate(predicted)}), classes, longest=LONGEST_NAME)
    sheet = Sheet(len(images), 1 + len(found), cell_side(images.shape[1]), top=1, below=1, least=1)
    for row, image in enumerate(images):
        sheet.put(row, 0, image)
        if labels[row] >= 0:
            sheet.below(row, 0, names[labels[row]])
        for k, (_, overlays) in enumerate(laid):
            put_evidence(sheet, row, 1 + k, overlays[row], predicted[k][row], labels[row], names)
    for column, words in enumerate(("image", *short_names(list(found)))):
        sheet.heading(column, words)
    return sheet.save(folder / "gradcam.png")


def draw_looks(found: Named, kind: str, folder: Path) -> Path:
    """A row for each test image, and beside it how every run sees it: the mean of its `attention` heads, or its patches
    in the colours of `pca`.

    `found` holds for each run "images" [n, S, S, C], the same for all, and "maps" as the report of one run has them.
    """
    painted = [_painted(arrays, kind) for arrays in found.values()]
    images = displayable(next(iter(found.values()))["images"])[:MOST_LOOKS]
    sheet = Sheet(len(images), 1 + len(found), cell_side(images.shape[1]), top=1, least=1)
    for row, image in enumerate(images):
        sheet.put(row, 0, image)
        for k, one in enumerate(painted):
            sheet.put(row, 1 + k, one[row])
    for column, words in enumerate(("image", *short_names(list(found)))):
        sheet.heading(column, words)
    return sheet.save(folder / f"{kind}.png")


def _painted(arrays: Mapping[str, np.ndarray], kind: str) -> Sequence[np.ndarray]:
    """Maps of one run as pictures [h, w, 3] in [0, 1], one for each image."""
    if kind == "pca":
        return list(coloured(arrays)[1])
    maps = np.asarray(arrays["maps"], np.float64)
    if maps.ndim != 4 or len(maps) != len(arrays["images"]):
        raise ValueError(f"attention maps need the form [{len(arrays['images'])}, heads, h, w], got {maps.shape}")
    return [heat(one) for one in maps.mean(1)]


def draw_maps(found: Named, classes: tuple[str, ...], folder: Path) -> Path:
    """A t-SNE panel for each run ("points" [N, 2], "labels" int [N]) with one legend of the classes below them all."""
    columns = len(found) if len(found) < 4 else 2 if len(found) == 4 else 3
    lines = -(-len(found) // columns)
    every = [np.asarray(arrays["labels"]) for arrays in found.values()]
    present = sorted(set(np.concatenate(every).tolist()))
    places, side = (2 * columns, PANEL) if len(found) > 1 else (4, ALONE)
    height = side * lines + 0.2 * legend_rows(present, places)
    figure = Figure(figsize=(side * columns, height), dpi=DPI, facecolor="white", layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    for name, arrays, labels, axes in zip(short_names(list(found), 30), found.values(), every, grid, strict=False):
        points = np.asarray(arrays["points"], np.float64)
        if points.ndim != 2 or points.shape[1] != 2 or labels.shape != points.shape[:1]:
            raise ValueError(f"t-SNE needs points [N, 2] and labels [N], got {points.shape} and {labels.shape}")
        quiet(axes)
        scatter_classes(axes, points, labels)
        title(axes, name)
        axes.spines[:].set(visible=True, color=FAINT)
    for axes in grid[len(found) :]:
        axes.set_axis_off()
    class_legend(figure, present, classes, places)
    return save(figure, folder / "tsne.png")


def draw_class_scores(found: Mapping[str, ClassScores], folder: Path) -> Path:
    """Accuracy of every class for every run, one colour and shape each, and a faint line from the worst to the best.

    The class with the most training images (of the first run) stands at the left, with the borders of the groups of
    classes; classes that have about as many images as each other are ordered by their mean accuracy instead. Classes
    without test images are left out. Raises ValueError where that leaves none.
    """
    first = next(iter(found.values()))
    table = 100 * np.asarray([one.accuracies for one in found.values()], np.float64)  # NaN where there is none
    known = np.flatnonzero(~np.isnan(table).all(axis=0))
    if not len(known):
        raise ValueError("no class has test images")
    counts = np.asarray(first.images)[known]
    uneven = all(one.uneven for one in found.values())
    order = np.argsort(-counts if uneven else -np.nanmean(table[:, known], axis=0), kind="stable")
    known, values = known[order], table[:, known[order]]
    figure = Figure(figsize=(7.4, 4.6), dpi=DPI, facecolor="white", layout="constrained")
    axes = figure.subplots()
    quiet(axes)
    places = np.arange(len(known))
    axes.vlines(places, np.nanmin(values, axis=0), np.nanmax(values, axis=0), color=FAINT, linewidth=1.2, zorder=0)
    size = 5.0 if len(known) <= MOST_NAMES else 3.5
    span = min(ASIDE, BESIDE * (len(values) - 1) * len(known))
    handles = [
        axes.plot(places + shift, one, color=line.colour, marker=line.marker, linestyle="", ms=size)[0]
        for line, one, shift in zip(RUN_LINES, values, np.linspace(-span / 2, span / 2, len(values)), strict=False)
    ]
    margin = max(0.7, BESIDE * len(known))
    axes.set_xlim(-margin, len(known) - 1 + margin)
    axes.set_ylim(-3.0, 103.0)
    if uneven:
        _group_borders(axes, np.asarray(first.images), known)
    names = class_names(known.tolist(), first.names, 14)
    if len(known) <= MOST_NAMES:
        axes.set_xticks(places, [names[k] for k in known.tolist()], rotation=90, fontsize=8.5, parse_math=False)
    else:
        axes.xaxis.set_major_locator(NullLocator())
        words = "the one with the most training images first" if uneven else "the best recognised first"
        axes.set_xlabel(f"classes, {words}", fontsize=9, color=INK)
    axes.set_ylabel("accuracy on test images, %", fontsize=9, color=INK)
    legend_below(figure, handles, short_names(list(found), 30), columns=4)
    return save(figure, folder / "classes.png")


def _group_borders(axes: Axes, images: np.ndarray, known: np.ndarray) -> None:
    """Thin lines between groups of classes in their order, each group named above."""
    for name, members in class_groups(images).items():
        here = np.flatnonzero(members[known])
        if not len(here):
            continue
        if here[0]:
            axes.axvline(here[0] - 0.5, color=GREY, linewidth=0.8, linestyle=":")
        axes.annotate(name, (here.mean(), 1.0), (0, 3), xycoords=axes.get_xaxis_transform(),
                      textcoords="offset points", ha="center", va="bottom", fontsize=8.5, color=INK)  # fmt: skip
