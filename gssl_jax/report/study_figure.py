"""The figure of a study: every setting with its seeds as dots, family by family."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from gssl_jax.knobs import at
from gssl_jax.report.measures import kind
from gssl_jax.report.study_cells import Setting, Study, measure_words
from gssl_jax.report.style import DPI, FAINT, GREY, INK, TERMS, WIDTH, legend_below, quiet, save, shorten

ROW, AROUND = 0.23, 1.5  # inches of a row, and of axis and legend
LONGEST = 30
CONTROLS = {"untrained": ("untrained", (0, (4, 2))), "pixels": ("raw pixels", (0, (1, 2)))}


def draw_study(study: Study, folder: Path) -> Path | None:
    """A row for each setting with a score, best first within its family: a dot for each seed (a cross where the cell
    collapsed or diverged), a bar at the mean; dotted lines where the untrained network and the pixels stand. None
    without scores."""
    rows = ordered(study)
    if not rows:
        return None
    families = list(dict.fromkeys(one.family for one in rows))
    looks = {family: TERMS[k % len(TERMS)].colour for k, family in enumerate(families)}
    figure = Figure(figsize=(WIDTH, AROUND + ROW * len(rows)), dpi=DPI, facecolor="white", layout="constrained")
    axes = figure.subplots()
    quiet(axes)
    axes.grid(visible=False, axis="y")
    axes.grid(axis="x", color=FAINT, linewidth=0.7)
    for place, setting in enumerate(rows):
        scores = {one.cell.seed: one for one in study.of(setting) if study.headline in one.scores}
        values = {seed: 100 * one.scores[study.headline] for seed, one in scores.items()}
        mean = float(np.mean([*values.values()]))
        axes.plot([mean, mean], [place - 0.32, place + 0.32], color=looks[setting.family], linewidth=2.4)
        for seed, value in values.items():
            bad = scores[seed].status in ("collapsed", "diverged")
            colour = INK if bad else looks[setting.family]
            axes.plot(value, place, "x" if bad else "o", color=colour, ms=5, alpha=1.0 if bad else 0.55)
        if place and setting.family != rows[place - 1].family:
            axes.axhline(place - 0.5, color=FAINT, linewidth=0.8)
    for name, (_, dashes) in CONTROLS.items():
        level = control(study, name)
        if level is not None:
            axes.axvline(100 * level, color=GREY, linewidth=1.1, linestyle=dashes, zorder=0)
    axes.set_yticks(range(len(rows)), [shorten(one.words, LONGEST) for one in rows], fontsize=8.5, parse_math=False)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    words = measure_words(study.headline, list(study.config.judged))
    what = words if kind(study.headline) in words else f"{kind(study.headline)}, {words}"
    axes.set_xlabel(f"{what}, times 100", fontsize=9, color=INK)
    handles, names = _legend(study, looks)
    legend_below(figure, handles, names, columns=3)
    return save(figure, folder / "study.png")


def ordered(study: Study) -> list[Setting]:
    """The settings that have a score at the headline's measure, the best first within each family."""
    families = list(dict.fromkeys(one.family for one in study.settings))
    means = {one: np.mean([*found.values()]) for one in study.settings if (found := study.scores(one, study.headline))}
    return sorted(means, key=lambda one: (families.index(one.family), -means[one]))


def control(study: Study, name: str) -> float | None:
    """The mean score over the cells of a backbone that was not trained; None where no cell has it."""
    entries = [at(one.files.results, f"controls.{name}") for one in study.seen]
    found = [at(one[study.headline], "value") for one in entries if one and study.headline in one]
    known = [value for value in found if value is not None]
    return float(np.mean(known)) if known else None


def _legend(study: Study, looks: dict[str, str]) -> tuple[list[Line2D], list[str]]:
    handles = [Line2D([], [], color=colour, marker="o", linestyle="", ms=5) for colour in looks.values()]
    names = list(looks)
    if any(one.status in ("collapsed", "diverged") for one in study.seen):
        handles.append(Line2D([], [], color=INK, marker="x", linestyle="", ms=5))
        names.append("collapsed")
    for name, (words, dashes) in CONTROLS.items():
        if control(study, name) is not None:
            handles.append(Line2D([], [], color=GREY, linestyle=dashes, linewidth=1.1))
            names.append(words)
    return handles, names
