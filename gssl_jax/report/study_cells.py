"""The cells of a study as its report sees them: scores with and without labels, cost, and what went wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from gssl_jax.errors import unknown
from gssl_jax.evals.collapse import THINGS, assignment_signs, features_collapsed, in_words
from gssl_jax.knobs import at, is_number
from gssl_jax.report.health import recent
from gssl_jax.report.measures import label
from gssl_jax.report.method_words import SHORT_METHODS
from gssl_jax.report.reading import Metrics, RunFiles, read_run
from gssl_jax.runs.study import Cell, Folder, cells

SKIPPED = 0.1
"""Share of the steps that were not finite, from which on a training counts as diverged; ours."""

STATUS = {
    "finished": "in order",
    "recovered": "alarm, recovered",
    "collapsed": "collapsed",
    "diverged": "not finite",
    "failed": "failed",
    "interrupted": "stopped halfway",
    "missing": "not run yet",
}
"""What became of a cell, in words, by its name here."""

SCORED = ("finished", "recovered", "collapsed", "diverged")
"""Cells that were trained to their end: their scores count, whatever they are."""


class Setting(NamedTuple):
    """A method with its controls: a row of the table."""

    method: str
    controls: str
    family: str

    @property
    def words(self) -> str:
        """ "MaskCluster sinkhorn/memax"."""
        return " ".join(filter(None, (SHORT_METHODS.get(self.method, self.method), self.controls)))


class Seen(NamedTuple):
    """A cell: its status with a sentence about it (empty for one in order), scores and label-free scores by name,
    seconds over all of its starts, steps, and what it left in its folder."""

    cell: Cell
    status: str
    said: str
    scores: dict[str, float]
    health: dict[str, float]
    seconds: float | None
    steps: int | None
    files: RunFiles


class Study(NamedTuple):
    """The configuration of a study, its rows in order, and every cell."""

    config: ConfigDict
    settings: tuple[Setting, ...]
    seen: tuple[Seen, ...]

    def of(self, setting: Setting) -> list[Seen]:
        """The cells of a row, by seed."""
        return [one for one in self.seen if one.cell[:2] == setting[:2]]

    def scores(self, setting: Setting, key: str) -> dict[int, float]:
        """One measure of a row by seed."""
        return {one.cell.seed: one.scores[key] for one in self.of(setting) if key in one.scores}

    @property
    def measures(self) -> list[str]:
        """The keys of the configuration that some cell has, in its order."""
        return [key for key in self.config.report.measures if any(key in one.scores for one in self.seen)]

    @property
    def headline(self) -> str:
        """The measure of the verdict: the configuration's, else the last that there is; empty without scores."""
        found = self.measures
        return self.config.report.headline if self.config.report.headline in found else (found or [""])[-1]


def read_study(config: ConfigDict, folder: Folder) -> Study:
    """Every cell of the configuration with what is in the folder of it; what is not there yet is missing.

    Raises UserError for a family that `report.families` does not name."""
    methods = config.methods.items()
    settings = [Setting(name, controls, method.family) for name, method in methods for controls in method.controls]
    order = list(config.report.families)
    for one in settings:
        if one.family not in order:
            raise unknown(f"methods.{one.method}.family", one.family, order)
    settings.sort(key=lambda one: order.index(one.family))  # stable: controls stay in their order
    return Study(config, tuple(settings), tuple(_seen(config, folder, cell) for cell in cells(config)))


def _seen(config: ConfigDict, folder: Folder, cell: Cell) -> Seen:
    state, entry = folder.state(cell, list(config.judged)), folder.entry(cell)
    seconds = entry["seconds"] if entry else None
    if not folder.trained(cell):
        said = entry["reason"] if entry else ""
        return Seen(cell, state, said, {}, {}, seconds, None, RunFiles({}, {}, Metrics()))
    files = read_run(folder.run(cell))
    scores = numbers(at(files.results, "eval"))
    for name in config.judged:
        scores |= {f"{name}/{key}": value for key, value in _judged(folder.judged(cell, name)).items()}
    status, said = judged_status(files, state, entry["reason"] if entry else "")
    steps = at(files.results, "run.steps")
    own = {name: value for name, value in (at(files.results, "health.trained") or {}).items() if is_number(value)}
    return Seen(cell, status, said, scores, own or logged(files), seconds, steps, files)


def numbers(entries: Any) -> dict[str, float]:
    """The values of entries of results.json that have one."""
    found = entries if isinstance(entries, Mapping) else {}
    return {key: float(entry["value"]) for key, entry in found.items() if is_number(at(entry, "value"))}


def _judged(path: Path) -> dict[str, float]:
    file = path / "results.json"
    return numbers(json.loads(file.read_text(encoding="utf-8"))["eval"]) if file.exists() else {}


LOGGED = {"rankme": "RankMe", "feature_std_of_start": "feature std, of its start"}


def logged(files: RunFiles) -> dict[str, float]:
    """The label-free scores that a run logged at its end, where its results hold none."""
    found = {name: recent(files.metrics, f"health/{name}") for name in LOGGED}
    return {name: value for name, value in found.items() if value is not None}


def judged_status(files: RunFiles, state: str, reason: str) -> tuple[str, str]:
    """Status of a cell whose training came to its end, and the sentence about it."""
    if state == "failed":
        return "failed", reason
    steps, skipped = (at(files.results, f"run.{name}") for name in ("steps", "skipped_steps"))
    if is_number(steps) and is_number(skipped) and steps and skipped >= SKIPPED * steps:
        return "diverged", f"{skipped:,} of {steps:,} steps were not finite and changed nothing."
    if sign := collapse_at_end(files):
        return "collapsed", sign
    alarms = files.metrics.alarms()
    if alarms:
        return "recovered", f"At step {alarms[0]['step']:,}: {alarms[0]['alarm'].partition(' Try ')[0]}"
    return "finished", ""


def collapse_at_end(files: RunFiles) -> str:
    """The gravest sign of a collapse over the last logged steps, in words; empty where there is none."""
    metrics = files.metrics
    for level in THINGS:
        names = {"one": "mean_target_entropy", "uniform": "target_entropy", "few": "prototypes_in_use"}
        values = {kind: recent(metrics, f"health/{name}_{level}") for kind, name in names.items()}
        for sign in assignment_signs(*values.values()):
            value = values[sign]
            return in_words(sign, level, value=np.nan if value is None else value)
    left, rank = (recent(metrics, f"health/{name}") for name in ("feature_std_of_start", "rankme"))
    if features_collapsed(left, rank):
        return in_words("features", "", left=np.nan if left is None else left, rank=np.nan if rank is None else rank)
    return ""


def measure_words(key: str, judged: Sequence[str]) -> str:
    """The name of a measure for a column: "5 images per class", "mosaics: linear, mean AUROC"."""
    name, _, rest = key.partition("/")
    return f"{name}: {label(rest)}" if name in judged else label(key)
