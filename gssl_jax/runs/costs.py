"""What a run costs before it is run: operations of a training step, and how fast this machine does them.

Both are found in a process of its own, on the cores that a cell will have: a device that this one held would be
missing from the cells.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from gssl_jax.errors import UserError
from gssl_jax.runs.chain import assembled
from gssl_jax.runs.folder import plain, write_atomically
from gssl_jax.runs.images import Images, shape_batch
from gssl_jax.runs.lineage import settings_digest
from gssl_jax.runs.stage import step_maker
from gssl_jax.training.mesh import in_parts, put_batch
from gssl_jax.training.state import create_state
from gssl_jax.training.step import gather

TIMED_STEPS = 3


class Cost(NamedTuple):
    """Floating-point operations of one training step by XLA's count of the lowered program (what is inside a loop
    counts once), steps in an `optim.unit`, and the digest of the settings that were counted; `problem` says why there
    are none (then `flops` is 0.0)."""

    flops: float
    unit: int
    settings: str
    problem: str = ""


class Spent(NamedTuple):
    """What a finished cell took: seconds in all, seconds of its training, and its operations."""

    method: str
    seconds: float
    training: float
    flops: float


class Prices(NamedTuple):
    """What cells are expected to take: operations a second, seconds beside the steps, seconds of a whole cell of the
    methods that have finished ones, and in words how this was found."""

    rate: float
    overhead: float
    by_method: Mapping[str, float]
    how: str

    def seconds(self, method: str, flops: float) -> float:
        """Of a cell with this number of operations."""
        if method in self.by_method:
            return self.by_method[method]
        return self.overhead + flops / self.rate


def digest(config: ConfigDict) -> str:
    """Of the settings of the one stage that is counted."""
    return settings_digest(plain(config), config.stages[-1])


def counted(config: ConfigDict) -> Cost:
    """The cost of a step of the last stage of `config`; nothing is compiled."""
    parts = assembled(config, 0, config.stages[-1])
    images, batch = Images.load(parts), shape_batch(parts)

    def fresh(batches: Any, key: jax.Array) -> Any:
        return create_state(parts.method, parts.optimiser, gather(images.resident, batches), key)

    state = jax.eval_shape(fresh, batch, jax.random.key(0))
    analysis = step_maker(parts)(1).lower(state, images.resident, batch).cost_analysis()
    return Cost(float(analysis["flops"]), parts.clock.unit, digest(config))


def timed(config: ConfigDict) -> float:
    """Seconds of a step of the last stage of `config`, the best of a few after one that compiles it."""
    parts = assembled(config, 0, config.stages[-1])
    images, batch = Images.load(parts), put_batch(shape_batch(parts), parts.mesh)

    def fresh(batches: Any, key: jax.Array) -> Any:
        return create_state(parts.method, parts.optimiser, gather(images.resident, batches), key)

    places = in_parts(jax.eval_shape(fresh, batch, jax.random.key(0)), parts.mesh)
    state = jax.jit(fresh, out_shardings=places)(batch, jax.random.key(0))
    step, times = step_maker(parts, places)(1), []
    for _ in range(1 + TIMED_STEPS):
        start = time.perf_counter()
        state, _ = jax.block_until_ready(step(state, images.resident, batch))
        times.append(time.perf_counter() - start)
    return min(times[1:])


def _settle(cores: Sequence[int], compiled: str) -> None:
    """In the new process, before it has a device: its cores, and where programs are kept."""
    if cores:
        os.sched_setaffinity(0, cores)
    jax.config.update("jax_compilation_cache_dir", compiled)


def _counted(config: ConfigDict) -> Cost:
    """A method that cannot be built costs its own cells and not the study: they will say the same."""
    try:
        return counted(config)
    except UserError:
        raise
    except Exception as problem:
        return Cost(0.0, 1, "", " ".join(f"{type(problem).__name__}: {problem}".split())[:300])


def look(
    recipes: Mapping[str, ConfigDict], reference: str | None, path: Path, compiled: Path, cores: Sequence[int]
) -> tuple[dict[str, Cost], float | None]:
    """The cost of every recipe by name, and seconds of a step of `reference` (None: nothing is timed).

    What stands in the file `path` for the same settings is taken from there, so that several processes of one study
    agree; what does not is found and written. Raises UserError for a recipe that cannot work.
    """
    known = {name: Cost(*values) for name, values in read(path)["costs"].items()}
    fresh = {name: config for name, config in recipes.items() if name not in known or not _same(known[name], config)}
    seconds = None
    if fresh or reference is not None:
        context = multiprocessing.get_context("spawn")
        arguments = (list(cores), str(compiled.resolve()))
        with ProcessPoolExecutor(1, context, _settle, arguments) as pool:
            known |= {name: pool.submit(_counted, config).result() for name, config in fresh.items()}
            if reference is not None:
                seconds = pool.submit(timed, recipes[reference]).result()
    if fresh:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps({"costs": {n: [*c] for n, c in known.items()}}, indent=1) + "\n")
    return {name: known[name] for name in recipes}, seconds


def _same(cost: Cost, config: ConfigDict) -> bool:
    return cost.settings == digest(config)


def read(path: Path) -> dict[str, Any]:
    """The file of costs, empty where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"costs": {}}


def prices(spent: Sequence[Spent], step: float | None, flops: float, overhead: float) -> Prices:
    """What cells will take, from finished cells of the study where there are any, else from a step of `step` seconds
    and `flops` operations and from `overhead` seconds beside the steps."""
    usable = [one for one in spent if one.training > 0 and one.flops > 0]
    if usable:
        rate = statistics.median(one.flops / one.training for one in usable)
        beside = statistics.median(max(0.0, one.seconds - one.training) for one in usable)
        names = sorted({one.method for one in usable})
        means = {n: statistics.mean(one.seconds for one in usable if one.method == n) for n in names}
        number = f"{len(usable)} finished cell{'s' if len(usable) > 1 else ''}"
        return Prices(rate, beside, means, f"from {number} of this study, {rate / 1e9:.1f} Gflop/s a cell")
    assert step is not None
    words = f"from {TIMED_STEPS} steps timed here, {flops / step / 1e9:.1f} Gflop/s a cell, and {overhead:.0f} s beside"
    return Prices(flops / step, overhead, {}, words)
