"""The tables of a study, each as words that the page and Markdown share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np

from gssl_jax.evals.prediction import rank_correlations
from gssl_jax.report.facts import duration
from gssl_jax.report.measures import kind
from gssl_jax.report.study_cells import LOGGED, STATUS, Seen, Setting, Study, measure_words
from gssl_jax.report.study_verdict import LEVELS, SURE, chance, contrasts, effects, points
from gssl_jax.report.tables import table
from gssl_jax.report.words import listing, per_cent

NONE = "\u2013"
SPREAD = " \u00b1 "
WITH_LABELS = "supervised"
"""The family that trains with labels: an upper reference, out of the competition."""


class Grid(NamedTuple):
    """A table: a sentence on how to read it, its headings, and rows of words; `bold` are cells (row, column)."""

    caption: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    bold: frozenset[tuple[int, int]] = frozenset()


def html(grid: Grid) -> str:
    """As a table that scrolls in a frame of its own; what follows a plus-minus stands small below the number."""
    lines = []
    for r, (first, *rest) in enumerate(grid.rows):
        cells = "".join(_cell(words, (r, c) in grid.bold) for c, words in enumerate(rest, 1))
        name, _, note = first.partition("\n")
        below = f"<small>{escape(note)}</small>" if note else ""
        lines.append(f'<tr><th scope="row">{escape(name)}{below}</th>{cells}</tr>')
    caption = f'<p class="soft">{escape(grid.caption)}</p>' if grid.caption else ""
    return f'{caption}<div class="wide">{table("", grid.headings, lines)}</div>'


def _cell(words: str, bold: bool) -> str:
    number, *more = words.split("\n")
    value, sign, half = number.partition(SPREAD)
    shown = f"<b>{escape(value)}</b>" if bold else escape(value)
    small = [*([f"\u00b1 {half}"] if sign else []), *more]
    below = "".join(f"<small>{escape(line)}</small>" for line in small)
    return f"<td>{shown}{below}</td>"


def markdown(grid: Grid) -> str:
    """As a table in Markdown, the sentence above it."""

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cells)} |"

    rows = []
    for r, row in enumerate(grid.rows):
        cells = (words.replace("\n", "; ").replace("|", "\\|") for words in row)
        rows.append(line([f"**{words}**" if (r, c) in grid.bold else words for c, words in enumerate(cells)]))
    rule = line(["---"] + ["--:"] * (len(grid.headings) - 1))
    above = [grid.caption, ""] if grid.caption else []
    return "\n".join((*above, line(grid.headings), rule, *rows))


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation over seeds, times 100: "48.2 ± 1.1"; the value alone for one seed."""
    if not len(values):
        return NONE
    mean = per_cent(float(np.mean(values)))
    return mean if len(values) < 2 else f"{mean}{SPREAD}{100 * float(np.std(values, ddof=1)):.1f}"


def _names(study: Study) -> tuple[str, ...]:
    return tuple(measure_words(key, list(study.config.judged)) for key in study.measures)


def scores_table(study: Study) -> Grid:
    """Every setting by every measure, with what became of its cells; the best mean of each measure is bold."""
    rows, means = [], []
    for setting in study.settings:
        found = [[*study.scores(setting, key).values()] for key in study.measures]
        rows.append((f"{setting.words}\n{setting.family}{_troubles(study.of(setting))}", *map(spread, found)))
        ranked = setting.family != WITH_LABELS
        means.append([float(np.mean(one)) if one and ranked else -np.inf for one in found])
    table = np.asarray(means).reshape(len(rows), -1)
    bold = {(int(column.argmax()), k + 1) for k, column in enumerate(table.T) if np.isfinite(column.max())}
    others = [one for one in dict.fromkeys(map(kind, study.measures)) if one != "accuracy"]
    said = f" Columns of {listing(others)} are times 100." if others else ""
    caption = (
        "Accuracy on test images in per cent: mean over seeds and standard deviation between them; the highest mean "
        f"without labels is bold in each column.{said}"
    )
    return Grid(caption, ("setting", *_names(study)), tuple(rows), frozenset(bold))


def _troubles(seen: Sequence[Seen]) -> str:
    """What is not in order among the cells of a setting: ", 2 of 3 collapsed"."""
    said = []
    for status, words in STATUS.items():
        number = sum(one.status == status for one in seen)
        if number and status != "finished":
            said.append(f"{number} of {len(seen)} {words}")
    return "".join(f", {words}" for words in said)


def family_table(study: Study) -> Grid:
    """The mean of each family, every method with its first controls, by seed."""
    families = dict.fromkeys(one.family for one in study.settings)
    own: dict[str, Setting] = {}
    for one in study.settings:
        own.setdefault(one.method, one)
    rows = []
    for family in families:
        members = [one for one in own.values() if one.family == family]
        cells = []
        for key in study.measures:
            scores = [study.scores(one, key) for one in members]
            shared = set.intersection(*map(set, scores)) if scores else set()
            cells.append(spread([float(np.mean([one[seed] for one in scores])) for seed in sorted(shared)]))
        rows.append((f"{family}\n{', '.join(one.words for one in members)}", *cells))
    caption = "Families, each the mean of its methods with the controls they are known with; seeds as above."
    return Grid(caption, ("family", *_names(study)), tuple(rows))


def contrast_table(study: Study) -> Grid | None:
    """The method of the question against the best of every family, by measure; None without a comparison."""
    against, bold = list(study.config.report.against), set[tuple[int, int]]()
    rows: list[tuple[str, ...]] = []
    for key, words in zip(study.measures, _names(study), strict=True):
        found = {one.family: one for one in contrasts(study, key) if one.found.n}
        if not found:
            continue
        cells = []
        for column, family in enumerate(against, 1):
            one = found.get(family)
            if one is None:
                cells.append(NONE)
                continue
            p = "" if one.p is None else f"\n{chance(one.p)}"
            cells.append(f"{points(one.found)}\n{one.rival.words}{p}")
            if one.found.clear and one.p is not None and one.p < SURE:
                bold.add((len(rows), column))
        rows.append((words, *cells))
    if not rows:
        return None
    caption = (
        "Points above (+) or below the best setting of each family, paired over seeds, with half the 95 % interval of "
        "that one comparison; p is Holm-adjusted over the families of a row. Bold: told apart after that correction."
    )
    return Grid(caption, ("measure", *against), tuple(rows), frozenset(bold))


def control_tables(study: Study) -> list[tuple[str, list[Grid]]]:
    """For every method with a full layout of controls: means by pair, and each level averaged over the other one."""
    found = []
    for method in dict.fromkeys(one.method for one in study.settings):
        whole = effects(study, method, study.headline) if study.headline else None
        if whole is None:
            continue
        by_pair = {one.controls: one for one in study.settings if one.method == method}
        first, second = list(whole.factors.first), list(whole.factors.second)
        pairs = [
            (a, *(spread([*study.scores(by_pair[f"{a}/{b}"], study.headline).values()]) for b in second)) for a in first
        ]
        words = measure_words(study.headline, list(study.config.judged))
        grid = Grid(f"{words}: class control by row, patch control by column.", ("class", *second), tuple(pairs))
        marginal = tuple(
            (name, *(spread([*(_main(study, method, key, place).get(name, {})).values()]) for key in study.measures))
            for place in range(2) for name in (first, second)[place]
        )  # fmt: skip
        named = tuple(
            (f"{name} at {LEVELS[0 if k < len(first) else 1]} level", *rest) for k, (name, *rest) in enumerate(marginal)
        )
        caption = "Each control averaged over those of the other level; mean and standard deviation over seeds."
        found.append((by_pair[f"{first[0]}/{second[0]}"].words.partition(" ")[0],
                      [grid, Grid(caption, ("control", *_names(study)), named)]))  # fmt: skip
    return found


def _main(study: Study, method: str, key: str, place: int) -> Mapping[str, Mapping[int, float]]:
    found = effects(study, method, key)
    return {} if found is None else found.factors[place]


def prediction_table(study: Study) -> Grid | None:
    """Spearman's correlation of every label-free score with every labelled one over settings; None where too few have
    both."""
    names = list(dict.fromkeys(name for one in study.seen for name in one.health))
    if not names or not study.measures:
        return None
    health = {name: [one.health.get(name) for one in study.seen] for name in names}
    scores = {key: [one.scores.get(key) for one in study.seen] for key in study.measures}
    groups = [f"{one.cell.method} {one.cell.controls}" for one in study.seen]
    rows: dict[str, list[str]] = {name: [] for name in names}
    number = 0
    for one in rank_correlations(health, scores, groups):
        number = max(number, one.n)
        if one.spearman is None or one.spearman_p is None:
            rows[one.health].append(NONE)
        else:
            rows[one.health].append(f"{one.spearman:+.2f}\n{chance(one.spearman_p)}".replace("-", "\u2212"))
    kept = {name: cells for name, cells in rows.items() if set(cells) != {NONE}}
    if not kept:
        return None
    caption = (
        f"Spearman's rank correlation with the labelled scores over {number} settings, seeds averaged, and its p by "
        "permutation, without correction: +1 means that the label-free score puts the settings in the order that "
        "labels would, \u22121 in the reverse one."
    )
    lines = tuple((LOGGED.get(name, name.replace("_", " ")), *cells) for name, cells in kept.items())
    return Grid(caption, ("label-free score", *_names(study)), lines)


def cost_table(study: Study, flops: Mapping[str, float]) -> Grid:
    """What a cell of every method took; `flops` of a step by method."""
    rows = []
    for method in dict.fromkeys(one.method for one in study.settings):
        seen = [one for one in study.seen if one.cell.method == method]
        setting = next(one for one in study.settings if one.method == method)
        seconds = [one.seconds for one in seen if one.seconds is not None]
        steps = sorted({one.steps for one in seen if one.steps is not None})
        counted = flops.get(method, 0.0)
        whole = f"{counted * steps[-1] / 1e12:.2f}" if steps and counted else NONE
        took = duration(float(np.mean(seconds))) if seconds else NONE
        words = setting.words.partition(" ")[0] if setting.controls else setting.words
        rows.append((words, f"{len(seen)}", " or ".join(f"{n:,}" for n in steps) or NONE,
                     f"{counted / 1e9:.2f}" if counted else NONE, whole, took))  # fmt: skip
    caption = (
        "Operations are XLA's count of the training step; the time of a cell holds start, compilation and judging."
    )
    headings = ("method", "cells", "steps", "Gflop a step", "Tflop a cell", "time of a cell")
    return Grid(caption, headings, tuple(rows))


def status_table(study: Study) -> Grid:
    """Every cell with its status, and the sentence about those that are not in order."""
    rows = tuple((one.cell.name, STATUS[one.status], one.said or NONE) for one in study.seen)
    return Grid("", ("cell", "status", "what was seen"), rows)


def protocols(study: Study) -> list[tuple[str, Any]]:
    """For every measure one entry of results.json that has it, for its protocol in words."""
    found = []
    for key in study.measures:
        for one in study.seen:
            entries = one.files.results.get("eval") or {}
            if entries.get(key):
                found.append((key, entries[key]))
                break
    return found
