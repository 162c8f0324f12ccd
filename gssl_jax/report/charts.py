"""The line charts of the report: training curves, evaluation over steps, low-shot accuracy, t-SNE."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from gssl_jax.evals.collapse import ONE_TAKES_ALL, UNIFORM
from gssl_jax.report.labelled_charts import DRAWERS, PRETEXT_LINES, draw_validation
from gssl_jax.report.lines import finish, plot, stack
from gssl_jax.report.measures import KINDS, kind_of, label, without_kind
from gssl_jax.report.progress_charts import draw_contrast, draw_watch
from gssl_jax.report.reading import Metrics
from gssl_jax.report.style import (
    BACKBONES,
    CLASS_COLOURS,
    CLASS_MARKERS,
    GREY,
    INK,
    TERMS,
    chart,
    class_names,
    legend,
    legend_below,
    save,
    start_at_zero,
    title,
)
from gssl_jax.report.words import CONTROLS, Row, Score

SHORT = {"started": "start", "refreshed": "start, refreshed"}  # a legend has little room
LEVELS = {"cls": "class", "patch": "patch"}
LOSSES = {
    "train/loss": "loss, all terms",
    "train/loss_supervised": "loss of the labels",
    "train/loss_consistency": "loss of the unlabelled images",
    "train/loss_cls": "class loss",
    "train/loss_patch": "patch loss",
    "train/loss_reconstruction": "reconstruction loss (l1)",
}


def draw_curves(
    metrics: Metrics, controls: dict[str, float], folder: Path, chosen: int | None = None, continuation: Any = None
) -> dict[str, Path]:
    """Every training curve for which there are numbers.

    Args:
      metrics: the lines of metrics.jsonl.
      controls: name of a control to its k-NN score as a fraction, drawn as level lines in the evaluation chart.
      folder: figures go to `<folder>/<name>.png`.
      chosen: the step of the last stage that validation images chose.
      continuation: what watched the training, as in results.json, or None.

    Returns:
      Name of each figure drawn (loss, contrast, watch, evaluation, validation, gate, alignment, pretexts, features,
      entropy, prototypes, schedule) to its path.
    """
    drawers = {
        "loss": _loss,
        "contrast": draw_contrast,
        "watch": lambda m, path: draw_watch(m, continuation, path),
        "evaluation": lambda m, path: _evaluation(m, controls, path),
        "validation": lambda m, path: draw_validation(m, chosen, path),
        **DRAWERS,
        "features": _features,
        "entropy": _entropy,
        "prototypes": _prototypes,
        "schedule": _schedule,
    }
    drawn = {name: drawer(metrics, folder / f"{name}.png") for name, drawer in drawers.items()}
    return {name: path for name, path in drawn.items() if path is not None}


def _loss(metrics: Metrics, path: Path) -> Path | None:
    others = {key: key.removeprefix("train/").replace("_", " ") for key in metrics.keys("train/memax")}
    names = dict(LOSSES)
    if len(metrics.keys("train/loss_")) == 1:  # one term alone is the loss
        names.pop("train/loss")
    return stack(metrics, names | others, path, smooth=True)


def _features(metrics: Metrics, path: Path) -> Path | None:
    names = {
        "health/feature_std": "standard deviation of the features",
        "health/rankme": "effective rank (RankMe)",
        "health/alignment": "distance of two views of an image (alignment)",
        "health/uniformity": "uniformity (0 = all images alike)",
    }
    return stack(metrics, names, path, from_zero=True)


def _schedule(metrics: Metrics, path: Path) -> Path | None:
    names = {
        "train/learning_rate": "learning rate",
        "train/momentum": "momentum of the teacher",
        "train/gradient_norm": "gradient norm",
        "train/images_per_second": "images a second",
    }
    return stack(metrics, names, path, smooth=True)


def _entropy(metrics: Metrics, path: Path) -> Path | None:
    """Entropy of one target and of the mean target, as shares of ln K, each with its alarm zone in its colour."""
    keys = {"target_entropy": "of one target", "mean_target_entropy": "of the mean target"}
    levels = [level for level in LEVELS if any(len(metrics.series(f"health/{k}_{level}").steps) for k in keys)]
    if not levels:
        return None
    figure, axes = chart(len(levels), 0.75 + 1.6 * len(levels))
    for one, level in zip(axes, levels, strict=True):
        one.axhspan(UNIFORM, 1.02, color=TERMS[0].colour, alpha=0.2, linewidth=0)
        one.axhspan(0.0, ONE_TAKES_ALL, color=TERMS[1].colour, alpha=0.15, linewidth=0)
        for line, (key, words) in zip(TERMS, keys.items(), strict=False):
            if len(metrics.series(f"health/{key}_{level}").steps):
                plot(one, metrics, f"health/{key}_{level}", line, words)
        one.set_ylim(0.0, 1.02)
        title(one, f"entropy, {LEVELS[level]} level (1 = ln K)")
    legend(axes[-1])
    finish(axes, metrics)
    return save(figure, path)


def _prototypes(metrics: Metrics, path: Path) -> Path | None:
    """Prototypes in use, and how often teacher and student choose the same one, in per cent."""
    names = {"prototypes_in_use": "prototypes in use, %", "agreement": "teacher and student agree, %"}
    found = [name for name in names if metrics.keys(f"health/{name}_")]
    if not found:
        return None
    figure, axes = chart(len(found), 0.75 + 1.6 * len(found))
    for one, name in zip(axes, found, strict=True):
        for line, (level, words) in zip(TERMS, LEVELS.items(), strict=False):
            if len(metrics.series(f"health/{name}_{level}").steps):
                plot(one, metrics, f"health/{name}_{level}", line, f"{words} level", factor=100)
        start_at_zero(one)
        title(one, names[name])
    legend(axes[-1])
    finish(axes, metrics)
    return save(figure, path)


IN_COURSE = ("/top1", "/map", "/auroc", "/miou")
"""Measures that are drawn against the steps."""


def _evaluation(metrics: Metrics, controls: dict[str, float], path: Path) -> Path | None:
    """Scores in the course of training, accuracies and areas apart, with the controls as level lines (k-NN); None for
    one evaluation alone."""
    keys = [key for key in metrics.keys("eval/") if key.endswith(IN_COURSE)]
    keys = [key for key in keys if len(metrics.series(key).steps) > 1]
    panels = {
        f"{one.name} on test images, {'%' if one.unit else 'times 100'}": [key for key in keys if kind_of(key) is one]
        for one in KINDS.values()
    }
    panels = {words: part for words, part in panels.items() if part}
    if not panels:
        return None
    figure, axes = chart(len(panels), 3.1 * len(panels))
    for one, (words, part) in zip(axes, panels.items(), strict=True):
        for line, key in zip(PRETEXT_LINES, part, strict=False):
            name = without_kind(label(key.removeprefix("eval/")))
            plot(one, metrics, key, line, name, factor=100)
        title(one, words)
    for name, value in controls.items():  # the first panel has the k-NN that they belong to
        dashes = BACKBONES[name].dashes if name in BACKBONES else "-"
        axes[0].axhline(100 * value, color=GREY, linestyle=dashes, linewidth=1.2,
                        label=f"{SHORT.get(name, CONTROLS.get(name, name))}, k-NN")  # fmt: skip
    for one in axes:
        legend(one)
    finish(axes, metrics)
    return save(figure, path)


def draw_lowshot(rows: Sequence[Row], folder: Path) -> Path | None:
    """Accuracy, or mAP of several labels, against images per class and shares of the labels, with 95 % intervals, for
    every backbone; None without such rows."""
    shots = few_labels(rows)
    if not shots:
        return None
    one = kind_of(next(iter(shots.values())).key)
    figure, (axes,) = chart(1, 3.4)
    order = list(shots)
    names = [name for name in BACKBONES if any(row.of(name) for row in shots.values())]
    for name, shift in zip(names, 0.06 * (np.arange(len(names)) - (len(names) - 1) / 2), strict=True):
        line = BACKBONES[name]
        every = [(place + shift, shots[n].of(name)) for place, n in enumerate(order)]
        scores = [(place, one) for place, one in every if one is not None]
        values = np.asarray([[one.value, *_ends(one)] for _, one in scores]) * 100
        errors = np.abs(values[:, 1:].T - values[:, 0])
        axes.errorbar([place for place, _ in scores], values[:, 0], yerr=errors, color=line.colour, marker=line.marker,
                      linestyle=line.dashes, linewidth=1.7, ms=5.5, elinewidth=1.3, capsize=3,
                      label=SHORT.get(name, CONTROLS.get(name, name)))  # fmt: skip
    axes.set_xticks(range(len(order)), order)
    axes.set_xlim(-0.35, len(order) - 0.65)
    start_at_zero(axes)
    shares = ", or share of the labels" if any("%" in name for name in order) else ""
    axes.set_xlabel(f"labelled images per class{shares}", fontsize=9, color=INK)
    title(axes, f"{one.name} on test images, %")
    legend(axes, columns=1)
    return save(figure, folder / "lowshot.png")


def few_labels(rows: Sequence[Row]) -> dict[str, Row]:
    """The rows of shots and then of shares of the labels, by "5" or "1 %", in ascending order: accuracies, or mAP."""
    for score in ("top1", "map"):
        form = re.compile(rf"lowshot_([\d.]+)(pct)?/{score}")
        known = [(bool(one[2]), float(one[1]), row) for row in rows if (one := form.fullmatch(row.key))]
        if known:
            ordered = sorted(known, key=lambda item: item[:2])
            return {f"{number:g}{' %' if share else ''}": row for share, number, row in ordered}
    return {}


def _ends(one: Score) -> tuple[float, float]:
    return (one.value, one.value) if one.low is None or one.high is None else (one.low, one.high)


def draw_tsne(points: np.ndarray, labels: np.ndarray, classes: tuple[str, ...], folder: Path) -> Path:
    """t-SNE of test features: points [N, 2], labels int [N] (-1 = unlabelled), a colour and a shape for each class.

    The legend stands below and names up to 24 classes; with more, colours repeat and there is none.
    """
    points, labels = np.asarray(points, np.float64), np.asarray(labels)
    if points.ndim != 2 or points.shape[1] != 2 or labels.shape != points.shape[:1]:
        raise ValueError(f"t-SNE needs points [N, 2] and labels [N], got {points.shape} and {labels.shape}")
    present = sorted(set(labels.tolist()))
    figure, (axes,) = chart(1, 4.4 + 0.2 * legend_rows(present))
    scatter_classes(axes, points, labels)
    class_legend(figure, present, classes)
    return save(figure, folder / "tsne.png")


def scatter_classes(axes: Axes, points: np.ndarray, labels: np.ndarray) -> None:
    """Points [N, 2] with a colour and a shape for each class; the axes of such a map mean nothing and go away."""
    for number in sorted(set(np.asarray(labels).tolist())):
        colour, marker = _class_look(number)
        here = points[labels == number]
        axes.scatter(here[:, 0], here[:, 1], s=13, color=colour, marker=marker, alpha=0.85, linewidths=0)
    axes.grid(False)
    axes.spines["bottom"].set_visible(False)
    axes.set_xticks([])
    axes.set_yticks([])


def _class_look(number: int) -> tuple[str, str]:
    """Colour and shape of a class; grey for -1."""
    colour = GREY if number < 0 else CLASS_COLOURS[number % len(CLASS_COLOURS)]
    return colour, CLASS_MARKERS[number // len(CLASS_COLOURS) % len(CLASS_MARKERS)]


def legend_rows(present: Sequence[int], columns: int = 3) -> int:
    """Lines of the legend for these classes; none without labels or with more classes than colours and shapes."""
    named = len(present) <= len(CLASS_COLOURS) * len(CLASS_MARKERS)
    return -(-len(present) // columns) if named and list(present) != [-1] else 0


def class_legend(figure: Figure, present: Sequence[int], classes: tuple[str, ...], columns: int = 3) -> None:
    """A legend of the classes below a figure, where `legend_rows` leaves one."""
    if not legend_rows(present):
        return
    names = class_names(list(present), classes)
    looks = [_class_look(number) for number in present]
    handles = [Line2D([], [], color=colour, marker=marker, linestyle="", ms=5.5) for colour, marker in looks]
    legend_below(figure, handles, [names[number] for number in present], columns)
