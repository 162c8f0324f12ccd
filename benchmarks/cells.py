"""What the studies share: cells run side by side in processes of their own, and what is said of their differences."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gssl_jax.evals.intervals import t_interval
from gssl_jax.runs.cells import Ended, Work, side_by_side

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 100.0  # minutes of a study; no cell is begun where the rest would take longer


class Cell(NamedTuple):
    """One run: its command after `python`, its run folder, and what it takes at most, in seconds on a core."""

    command: tuple[str, ...]
    folder: Path
    expected: float


def finished(path: Path) -> dict[str, Any] | None:
    """The results of a run that is over, or None."""
    if not (path / "report.html").exists():
        return None
    return json.loads((path / "results.json").read_text(encoding="utf-8"))


def missing(cells: Sequence[Cell]) -> list[Cell]:
    """The cells that are not over."""
    return [cell for cell in cells if finished(cell.folder) is None]


def minutes(cells: Sequence[Cell], jobs: int) -> float:
    """What the cells take at most."""
    return sum(cell.expected for cell in cells) / jobs / 60


def run(cells: Sequence[Cell], compiled: Path, jobs: int, before: float = 0.0) -> float:
    """Runs the cells that are missing, `jobs` at a time, each on a core of its own where there are several; says after
    each what the rest will take, and exits where a cell fails or the rest would pass `LIMIT`.

    Args:
      compiled: where programs are kept once compiled: cells of one kind have the same.
      before: minutes that the study has taken already.

    Returns the minutes that it has taken now.
    """
    waiting = {str(cell.folder): cell for cell in missing(cells)}
    took: dict[Path, float] = {}
    problems: list[str] = []
    begun = time.perf_counter()

    def ended(work: Work, how: Ended) -> bool:
        folder = waiting[work.name].folder
        if how.code:
            problems.append(f"{folder} failed with {how.code}:\n{how.said}")
            return False
        took[folder] = how.seconds
        left = (len(waiting) - len(took)) * statistics.mean(took.values()) / jobs / 60
        print(f"{len(took)}/{len(waiting)} {folder.name}: {how.seconds:.0f} s, about {left:.0f} min left", flush=True)
        if before + (time.perf_counter() - begun) / 60 + left > LIMIT and len(took) >= jobs:
            problems.append(f"the study would take more than {LIMIT:.0f} min: cells of {how.seconds:.0f} s")
        return not problems

    works = [Work(name, (cell.command,), cell.folder.with_suffix(".log")) for name, cell in waiting.items()]
    stopped = side_by_side(works, jobs, compiled, ended, cwd=ROOT)
    if problems or stopped:
        sys.exit(problems[0] if problems else 128 + stopped)
    spent = (time.perf_counter() - begun) / 60
    if took:
        over = sum(took.get(cell.folder, 0.0) > cell.expected for cell in cells)
        print(f"{len(took)} cells in {spent:.0f} min, {over} of them slower than expected")
    return before + spent


def by_seed(folders: Mapping[int, Path], read: Callable[[dict[str, Any]], float]) -> dict[int, float]:
    """What `read` takes from the results of every seed that is over."""
    found = {seed: finished(path) for seed, path in folders.items()}
    return {seed: read(results) for seed, results in found.items() if results is not None}


def spread(values: Sequence[float]) -> str:
    """Mean and half width of the 95 % interval by Student's t, in per cent or points."""
    if not len(values):
        return "-"
    mean, _, high = t_interval(np.asarray(values))
    return f"{100 * mean:.1f}" + ("" if high is None else f" +- {100 * (high - mean):.1f}")
