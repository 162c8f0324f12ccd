"""Charts of what one kind of run has: contrast, the score that is watched, a linear classifier over its iterations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gssl_jax.knobs import at, is_number
from gssl_jax.report.lines import finish, plot
from gssl_jax.report.measures import kind, unit
from gssl_jax.report.reading import Metrics
from gssl_jax.report.style import BACKBONES, GREY, INK, TERMS, chart, legend, save, start_at_zero, title
from gssl_jax.report.words import Row

FRACTIONS = {"knn": ("k-NN accuracy, %", 100.0), "health": ("health of the features", 1.0)}
"""What is watched, in words, and what its score is multiplied by."""


def watched(continuation: Any) -> tuple[str, float]:
    """Name of the watched score and its factor; `continuation` as in results.json, or None."""
    return FRACTIONS.get(str(at(continuation, "watch")), ("watched score", 1.0))


def draw_contrast(metrics: Metrics, path: Path) -> Path | None:
    """How often the own key is told from the others, the cosines behind that, how full the queue is, how far targets
    spread: what was logged of it."""
    panels: dict[str, dict[str, str]] = {
        "own key told from the others, %": {"train/accuracy_contrast": ""},
        "cosine of two views": {
            "health/positive_cosine": "of one image",
            "health/negative_cosine": "of other images",
        },
        "real keys in the queue, %": {"health/queue_filled": ""},
        "spread of the targets (1 = everywhere)": {"health/target_spread": ""},
    }
    found = {words: [key for key in keys if metrics.keys(key)] for words, keys in panels.items()}
    found = {words: keys for words, keys in found.items() if keys}
    if not found:
        return None
    figure, axes = chart(len(found), 0.75 + 1.3 * len(found))
    for one, (words, keys) in zip(axes, found.items(), strict=True):
        for line, key in zip(TERMS, keys, strict=False):
            name = panels[words][key] if len(keys) > 1 else None
            plot(one, metrics, key, line, name, factor=100 if words.endswith("%") else 1.0, smooth=True)
        start_at_zero(one)
        if words.startswith("cosine"):
            one.set_ylim(min(0.0, 1.05 * one.dataLim.y0), 1.05)
        title(one, words)
        if len(keys) > 1:
            legend(one)
    finish(axes, metrics)
    return save(figure, path)


def draw_watch(metrics: Metrics, continuation: Any, path: Path) -> Path | None:
    """The score that decides whether training goes on, its start as a level line, the best one marked."""
    series = metrics.series("watch/score")
    if len(series.steps) < 2:  # the start alone is no course
        return None
    words, factor = watched(continuation)
    figure, (axes,) = chart(1, 3.1)
    plot(axes, metrics, "watch/score", TERMS[0], "while training", factor=factor)
    start, best, step = (at(continuation, name) for name in ("start", "best", "best_step"))
    if is_number(start):
        axes.axhline(factor * start, color=GREY, linestyle="--", linewidth=1.2, label="at the start")
    if is_number(best) and is_number(step):
        place = list(metrics.stages.values())[-1] + step
        axes.plot([place], [factor * best], color=INK, marker="o", ms=11, fillstyle="none", linestyle="",
                  label=f"best, step {step:,}")  # fmt: skip
    title(axes, words)
    legend(axes, columns=1)
    finish([axes], metrics)
    return save(figure, path)


def draw_iterations(rows: Sequence[Row], folder: Path) -> Path | None:
    """Score on validation images over the iterations of a linear classifier, for every backbone whose protocol has
    `curve` = {"steps": [n], "validation": [n] fractions}; of the first measure that has one."""
    for row in rows:
        found = {name: _curve(row, name) for name in BACKBONES}
        curves = {name: one for name, one in found.items() if one is not None}
        if curves:
            break
    else:
        return None
    figure, (axes,) = chart(1, 3.4)
    names = {"started": "start", "refreshed": "start, refreshed", "pixels": "raw pixels"}
    for name, (steps, values) in curves.items():
        line = BACKBONES[name]
        axes.plot(steps, 100 * values, color=line.colour, linestyle=line.dashes, linewidth=1.7,
                  marker=line.marker if len(steps) < 12 else "", ms=4, label=names.get(name, name))  # fmt: skip
    axes.margins(x=0.01)
    axes.set_xlabel("iterations of the classifier", fontsize=9, color=INK)
    measure = f"{kind(row.key)} {'in per cent' if unit(row.key) else 'times 100'}"
    title(axes, f"{measure}, validation images")
    legend(axes)
    return save(figure, folder / "iterations.png")


def _curve(row: Row, name: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Steps and fractions of one backbone, without points that are no numbers; None where there are none."""
    score = row.of(name)
    curve = at(score.protocol, "curve") if score is not None else None
    if not isinstance(curve, Mapping) or not isinstance(at(curve, "steps"), list):
        return None
    values = curve.get("validation")
    pairs = zip(curve["steps"], values if isinstance(values, list) else [], strict=False)
    known = np.asarray([(step, value) for step, value in pairs if is_number(step) and is_number(value)], np.float64)
    return (known[:, 0], known[:, 1]) if len(known) else None
