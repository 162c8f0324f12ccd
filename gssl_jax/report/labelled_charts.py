"""The charts of a method that learns from labels: validation, the gate and its pretexts, accuracy by class."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from gssl_jax.evals.per_class import class_groups
from gssl_jax.report.lines import finish, plot
from gssl_jax.report.measures import GROUPS
from gssl_jax.report.reading import Metrics
from gssl_jax.report.style import (
    BLUE,
    FAINT,
    GREEN,
    GREY,
    INK,
    SKY,
    TERMS,
    VERMILLION,
    Line,
    chart,
    class_names,
    legend,
    save,
    start_at_zero,
    title,
)
from gssl_jax.report.words import ClassScores, pretext_words

PRETEXT_LINES = (*TERMS, Line(SKY, (0, (5, 1, 1, 1)), "P"), Line(INK, (0, (1, 1)), "X"))
MOST_NAMES = 24
"""Classes whose names fit side by side above a chart; of more, the table below it has the names."""

CLOSEST = 0.032
"""Distance of two names as a share of the axis, below which they would touch."""

GROUP_STYLES = ((BLUE, "o"), (GREEN, "^"), (VERMILLION, "s"))  # the richest classes first


def pretexts_of(metrics: Metrics) -> list[str]:
    """Names of the pretexts whose weights were logged, in the order of the log."""
    return [key.removeprefix("gate/weight_") for key in metrics.keys("gate/weight_")]


def draw_validation(metrics: Metrics, chosen: int | None, path: Path) -> Path | None:
    """Accuracy on training batches and on validation images, the `chosen` step of the last stage marked."""
    validation, training = metrics.series("eval/validation"), metrics.series("train/accuracy")
    if not len(training.steps) and not len(validation.steps):
        return None
    figure, (axes,) = chart(1, 3.1)
    if len(training.steps):
        plot(axes, metrics, "train/accuracy", TERMS[1], "training batches", factor=100, smooth=True)
    if len(validation.steps):
        plot(axes, metrics, "eval/validation", TERMS[0], "validation, mean over classes", factor=100)
        if chosen is not None:
            step = list(metrics.stages.values())[-1] + chosen
            value = 100 * validation.values[validation.steps == step][-1:]
            axes.plot([step] * len(value), value, color=INK, marker="o", ms=11, fillstyle="none", linestyle="",
                      label=f"chosen, step {chosen:,}")  # fmt: skip
    start_at_zero(axes)
    title(axes, "accuracy, %")
    legend(axes, columns=1)
    finish([axes], metrics)
    return save(figure, path)


def _by_pretext(axes: Axes, metrics: Metrics, prefix: str, factor: float = 1.0, smooth: bool = True) -> bool:
    """A line for each pretext, the same in all charts; whether there was one. A series of zeros alone is left out:
    the alignment of a pretext that looks at other images says nothing."""
    drawn = False
    for line, name in zip(PRETEXT_LINES, pretexts_of(metrics), strict=False):
        if np.any(metrics.series(f"{prefix}{name}").values):
            plot(axes, metrics, f"{prefix}{name}", line, pretext_words(name), factor=factor, smooth=smooth)
            drawn = True
    return drawn


def _gate(metrics: Metrics, path: Path) -> Path | None:
    """Weights of the pretexts, and how evenly they are shared."""
    names = pretexts_of(metrics)
    if not names:
        return None
    shared = len(names) > 1 and len(metrics.series("gate/entropy").steps) > 0
    figure, axes = chart(1 + shared, 0.75 + 2.2 + 1.3 * shared)
    _by_pretext(axes[0], metrics, "gate/weight_", smooth=False)
    start_at_zero(axes[0])
    title(axes[0], "weight of each pretext")
    legend(axes[0])
    if shared:
        plot(axes[1], metrics, "gate/entropy")
        axes[1].set_ylim(0.0, 1.05)
        title(axes[1], "entropy of the weights (1 = all alike, 0 = one has all)")
    finish(axes, metrics)
    return save(figure, path)


def _alignment(metrics: Metrics, path: Path) -> Path | None:
    """Cosine of each pretext's gradient on the features with that of the labels."""
    figure, (axes,) = chart(1, 3.1)
    if not _by_pretext(axes, metrics, "gate/alignment_"):
        return None
    axes.axhline(0.0, color=GREY, linewidth=0.9)
    title(axes, "agreement with the labels (cosine of gradients)")
    legend(axes)
    finish([axes], metrics)
    return save(figure, path)


def _pretexts(metrics: Metrics, path: Path) -> Path | None:
    """Loss and accuracy of each pretext."""
    panels = {"train/loss_": ("loss of each pretext", 1.0), "train/accuracy_": ("accuracy of each pretext, %", 100.0)}
    names = pretexts_of(metrics)
    found = [prefix for prefix in panels if any(len(metrics.series(f"{prefix}{name}").steps) for name in names)]
    if not found:
        return None
    figure, axes = chart(len(found), 0.75 + 1.9 * len(found))
    for one, prefix in zip(axes, found, strict=True):
        words, factor = panels[prefix]
        _by_pretext(one, metrics, prefix, factor)
        start_at_zero(one)
        title(one, words)
    legend(axes[-1])
    finish(axes, metrics)
    return save(figure, path)


DRAWERS: dict[str, Callable[[Metrics, Path], Path | None]] = {
    "gate": _gate,
    "alignment": _alignment,
    "pretexts": _pretexts,
}
"""Charts that need nothing but the log, in the order of the page."""


def draw_classes(scores: ClassScores, folder: Path) -> Path:
    """Accuracy of every class against its training images on a logarithmic axis; classes that have about as many
    images as each other stand side by side instead, the best recognised first. Classes without test images are left
    out; raises ValueError where that leaves none.
    """
    known = np.asarray([k for k, accuracy in enumerate(scores.accuracies) if accuracy is not None], int)
    if not len(known):
        raise ValueError("no class has test images")
    figure, (axes,) = chart(1, 4.1)
    values = 100 * np.asarray([scores.accuracies[k] for k in known], np.float64)
    order = np.arange(len(known)) if scores.uneven else np.argsort(-values, kind="stable")
    known, values = known[order], values[order]
    place = _by_images if scores.uneven else _by_rank
    places, shares = place(axes, scores, known, values, 6.5 if len(known) <= MOST_NAMES else 4.5)
    axes.axhline(values.mean(), color=GREY, linewidth=1.0, linestyle="--", label="mean over classes")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8.5, labelcolor=INK, handletextpad=0.4)
    axes.set_ylim(-3.0, 103.0)
    axes.set_ylabel("accuracy on test images, %", fontsize=9, color=INK)
    if len(known) <= MOST_NAMES and np.diff(np.sort(shares)).min(initial=1.0) >= CLOSEST:
        names = class_names([int(k) for k in known], scores.names, 14)
        _names_above(axes, places, [names[k] for k in known], values)
    return save(figure, folder / "classes.png")


def _by_images(
    axes: Axes, scores: ClassScores, known: np.ndarray, values: np.ndarray, size: float
) -> tuple[np.ndarray, np.ndarray]:
    """Dots by training images, the richest at the left, a look for each group; places, also as shares of the axis."""
    places = np.asarray([max(1, scores.images[k]) for k in known], np.float64)
    for (name, members), (colour, marker) in zip(
        class_groups(np.asarray(scores.images)).items(), GROUP_STYLES, strict=True
    ):
        here = members[known]
        axes.plot(places[here], values[here], color=colour, marker=marker, linestyle="", ms=size, label=GROUPS[name])
    low, high = places.min() / 1.25, places.max() * 1.25
    axes.set_xscale("log")
    axes.set_xlim(high, low)
    axes.xaxis.set_major_locator(FixedLocator(_round_numbers(low, high)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    axes.set_xlabel("training images of the class", fontsize=9, color=INK)
    return places, np.log(places / low) / np.log(high / low)


def _by_rank(
    axes: Axes, scores: ClassScores, known: np.ndarray, values: np.ndarray, size: float
) -> tuple[np.ndarray, np.ndarray]:
    """Dots side by side in their order; places, also as shares of the axis."""
    places = np.arange(len(known), dtype=np.float64)
    axes.plot(places, values, color=BLUE, marker="o", linestyle="", ms=size)
    axes.set_xlim(-0.7, len(known) - 0.3)
    axes.xaxis.set_major_locator(NullLocator())
    axes.set_xlabel("classes, the best recognised first", fontsize=9, color=INK)
    return places, places / len(known)


def _names_above(axes: Axes, places: np.ndarray, names: list[str], values: np.ndarray) -> None:
    """Names upright above the chart, each with a faint line down to its dot."""
    for place, name, value in zip(places, names, values, strict=True):
        axes.plot([place, place], [value, 103.0], color=FAINT, linewidth=0.7, zorder=0)
        axes.annotate(name, (place, 1.0), (0, 3), xycoords=axes.get_xaxis_transform(), textcoords="offset points",
                      rotation=90, ha="center", va="bottom", fontsize=8, color=INK, parse_math=False)  # fmt: skip


def _round_numbers(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten between two numbers."""
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    return [m * 10.0**p for p in powers for m in (1, 2, 5) if low <= m * 10.0**p <= high]
