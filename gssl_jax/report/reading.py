"""Reads what a run left in its folder; a file that is missing or broken becomes a sentence and not a crash."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gssl_jax.knobs import is_number

Tree = dict[str, Any]


class Series(NamedTuple):
    """One logged number over the run: `steps` [n] counted through all stages, `values` [n], both float64 and finite."""

    steps: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class Metrics:
    """The lines of metrics.jsonl in order. Stages follow each other on one axis: each starts where the last ended."""

    rows: tuple[Tree, ...] = ()

    @cached_property
    def stages(self) -> dict[str, int]:
        """Name of each stage, in order, with the step of the whole run at which it starts."""
        last: dict[str, int] = {}
        for row in self.rows:
            last[row["stage"]] = max(last[row["stage"]] if row["stage"] in last else 0, row["step"])
        starts, offset = {}, 0
        for stage, steps in last.items():
            starts[stage] = offset
            offset += steps
        return starts

    def series(self, key: str, stage: str | None = None) -> Series:
        """The finite values of `key`; of one stage only (then counted from its own step 0) where `stage` is given."""
        starts = self.stages
        pairs = [
            (row["step"] + (0 if stage else starts[row["stage"]]), float(row[key]))
            for row in self.rows
            if (stage is None or row["stage"] == stage) and is_number(row.get(key))
        ]
        table = np.asarray(pairs, np.float64).reshape(-1, 2)
        return Series(table[:, 0], table[:, 1])

    def keys(self, prefix: str) -> list[str]:
        """Keys that begin with `prefix` and hold at least one finite number, in the order in which they appear."""
        found: dict[str, None] = {}
        for row in self.rows:
            found.update((key, None) for key in row if key.startswith(prefix) and is_number(row[key]))
        return list(found)

    def not_finite(self, prefix: str) -> int:
        """Number of lines on which a value whose key begins with `prefix` is NaN or infinite."""
        return sum(
            any(k.startswith(prefix) and isinstance(v, float) and not math.isfinite(v) for k, v in row.items())
            for row in self.rows
        )

    def alarms(self) -> list[Tree]:
        """The lines that hold an alarm in words: {"stage", "step", "alarm"}."""
        return [row for row in self.rows if isinstance(row.get("alarm"), str)]


@dataclass(frozen=True)
class RunFiles:
    """config.json, results.json, metrics.jsonl and lineage.json of one run; `problems` says in sentences what could not
    be read. Without a lineage (older runs have none) `lineage` is empty."""

    config: Tree
    results: Tree
    metrics: Metrics
    problems: tuple[str, ...] = ()
    lineage: Tree = field(default_factory=dict)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Tree:
    """Leaves of nested mappings by dotted path, in their order; a leaf is everything that is not a mapping."""
    leaves: Tree = {}
    for name, value in tree.items():
        path = f"{prefix}.{name}" if prefix else str(name)
        leaves.update(flatten(value, path) if isinstance(value, Mapping) else {path: value})
    return leaves


def read_run(folder: Path) -> RunFiles:
    """Reads the files of a run folder. Nothing raises: what is missing is empty and named in `problems`."""
    problems: list[str] = []
    config = _read_object(folder / "config.json", problems)
    results = _read_object(folder / "results.json", problems)
    metrics = _read_metrics(folder / "metrics.jsonl", problems)
    lineage = _read_object(folder / "lineage.json", problems) if (folder / "lineage.json").exists() else {}
    return RunFiles(config, results, metrics, tuple(problems), lineage)


def _read_object(path: Path, problems: list[str]) -> Tree:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        problems.append(f"{path.name} is missing.")
        return {}
    except ValueError:
        problems.append(f"{path.name} could not be read as JSON.")
        return {}
    if not isinstance(value, dict):
        problems.append(f"{path.name} does not hold a JSON object.")
        return {}
    return value


def _read_metrics(path: Path, problems: list[str]) -> Metrics:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        problems.append(f"{path.name} is missing.")
        return Metrics()
    rows, broken = [], 0
    for line in filter(str.strip, text.splitlines()):
        row = _metrics_row(line)
        if row is None:
            broken += 1
        else:
            rows.append(row)
    if broken:
        problems.append(f"{broken} line{'s' if broken > 1 else ''} of {path.name} could not be read and were left out.")
    return Metrics(tuple(rows))


def _metrics_row(line: str) -> Tree | None:
    """One line as a dict with a text `stage` and a whole `step`, or None (a run that was killed leaves half a line)."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    if not isinstance(row, dict) or not is_number(row.get("step")):
        return None
    stage = row.get("stage")
    return row | {"stage": "run" if stage is None else str(stage), "step": int(row["step"])}
