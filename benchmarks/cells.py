"""What the studies share: cells run side by side in processes of their own, and what is said of their differences."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gssl_jax.evals.intervals import t_interval

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
    waiting, took = missing(cells), {}
    number, begun = len(waiting), time.perf_counter()
    compiled.mkdir(parents=True, exist_ok=True)
    surroundings = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(compiled.resolve())}
    pin = jobs > 1 and shutil.which("taskset") and hasattr(os, "sched_getaffinity")
    cores = sorted(os.sched_getaffinity(0)) if pin else []

    def one(job: int, cell: Cell) -> None:
        start, line = time.perf_counter(), [sys.executable, *cell.command]
        if cores:
            line = ["taskset", "--cpu-list", ",".join(str(core) for core in cores[job::jobs] or cores), *line]
        done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, env=surroundings)
        if done.returncode:
            raise RuntimeError(f"{cell.folder} failed with {done.returncode}:\n{done.stderr[-2000:]}")
        took[cell.folder] = time.perf_counter() - start
        left = (number - len(took)) * statistics.mean(took.values()) / jobs / 60
        name = cell.folder.name
        print(f"{len(took)}/{number} {name}: {took[cell.folder]:.0f} s, about {left:.0f} min left", flush=True)
        if before + (time.perf_counter() - begun) / 60 + left > LIMIT and len(took) >= jobs:
            raise RuntimeError(f"the study would take more than {LIMIT:.0f} min: cells of {took[cell.folder]:.0f} s")

    def lane(job: int) -> None:
        while waiting:
            try:
                one(job, waiting.pop(0))
            except BaseException:
                waiting.clear()
                raise

    with ThreadPoolExecutor(jobs) as pool:
        lanes = [pool.submit(lane, job) for job in range(jobs)]
    for each in lanes:
        try:
            each.result()
        except RuntimeError as problem:
            sys.exit(str(problem))
    spent = (time.perf_counter() - begun) / 60
    if took:
        over = sum(took.get(cell.folder, 0.0) > cell.expected for cell in cells)
        print(f"{len(took)} cells in {spent:.0f} min, {over} of them slower than expected")
    return before + spent


def holm(values: Sequence[float]) -> list[float]:
    """p-values after Holm's step-down correction (Scand. J. Statist. 6, 1979), in the order given."""
    order, corrected, running = np.argsort(values), [0.0] * len(values), 0.0
    for rank, place in enumerate(order):
        running = max(running, min(1.0, (len(values) - rank) * values[place]))
        corrected[place] = running
    return corrected


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
