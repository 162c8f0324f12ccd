"""The training loop: feed, dispatch, read the numbers one interval late, act at the boundaries.

It knows no evaluator: `hooks` are called at named moments, and `runs/` builds evaluation, health and alarms as hooks.
Nothing in the path of a step waits for the device; the one wait is for the metrics of an interval, after the next
step has been sent off.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from gssl_jax.training.mesh import put_batch
from gssl_jax.training.state import TrainState
from gssl_jax.training.step import Metrics, Resident, StepFunction, merged

Row = dict[str, float]


class Hooks(NamedTuple):
    """What happens beside the steps, each in the order given.

    `on_log(step, row)`: the metrics of the interval that ended at `step` are there, scalars by name.
    `on_boundary(step, state)`: `step` steps are done; `state` may be read but not kept: the next step takes it.
    """

    on_log: Sequence[Callable[[int, Row], None]] = ()
    on_boundary: Sequence[Callable[[int, TrainState], None]] = ()


class Every:
    """Says once in `every` steps that it is time, also where several steps pass at once; 0 = never."""

    def __init__(self, every: int, start: int) -> None:
        self._every, self._last = every, start

    def due(self, step: int) -> bool:
        """Whether a multiple of `every` lies after the last step asked about, up to this one."""
        before, self._last = self._last, step
        return self._every > 0 and step // self._every > before // self._every


class Interval(NamedTuple):
    """The metrics of the steps up to `step`, still on the device."""

    step: int
    metrics: Metrics
    steps: int
    started: float


class Stop(NamedTuple):
    """How a loop ended: the state, and whether it was asked to stop before its end."""

    state: TrainState
    interrupted: bool


def train(
    state: TrainState,
    step_for: Callable[[int], StepFunction],
    batches: Iterator[Any],
    resident: Resident,
    mesh: Mesh,
    *,
    total: int,
    batch_size: int,
    hooks: Hooks,
    log_every: int,
    dispatch: int = 1,
    asked_to_stop: Callable[[], bool] = lambda: False,
) -> Stop:
    """Trains from `state.step` to `total` steps, or to where it is asked to stop.

    Args:
      step_for: number of steps -> the jitted function that does them in one call (`make_step`).
      batches: endless, numpy; `resident` are the images that live on the device, by stream.
      batch_size: samples a step, of all streams, for the images/s of the log.
      log_every: steps; metrics are averages over the interval.
      dispatch: steps a call; hooks, signals and logs act at its boundaries.
      asked_to_stop: looked at before every dispatch.
    """
    done = since = int(state.step)
    log = Every(log_every, done)
    metrics: Metrics | None = None
    finished: Interval | None = None
    started = 0.0
    while done < total and not asked_to_stop():
        n = min(dispatch, total - done)
        state, more = step_for(n)(state, resident, fed(batches, n, mesh))
        # The first call compiles before it returns: its clock starts here.
        started = started or time.perf_counter()
        metrics = more if metrics is None else merged(metrics, more)
        done += n
        if finished is not None:
            started, finished = _report(finished, batch_size, hooks), None
        if log.due(done) or done >= total:
            finished = Interval(done, metrics, done - since, started)
            metrics, since = None, done
        for on_boundary in hooks.on_boundary:
            on_boundary(done, state)
    if metrics is not None:
        finished = Interval(done, metrics, done - since, started)
    if finished is not None:
        _report(finished, batch_size, hooks)
    return Stop(state, done < total)


def fed(batches: Iterator[Any], steps: int, mesh: Mesh) -> Any:
    """The next batch on the mesh, or the next `steps` of them with a new axis in front."""
    if steps == 1:
        return put_batch(next(batches), mesh)
    several = [next(batches) for _ in range(steps)]
    return put_batch(jax.tree.map(lambda *x: np.stack(x), *several), mesh, stacked=True)


def _report(interval: Interval, batch_size: int, hooks: Hooks) -> float:
    """Waits for the numbers of an interval and hands them on; returns the time at which they were there."""
    averages = jax.device_get(interval.metrics)
    now = time.perf_counter()
    row = {name: float(value.compute()) if value.count else float("nan") for name, value in averages.items()}
    row["train/images_per_second"] = interval.steps * batch_size / max(now - interval.started, 1e-9)
    for on_log in hooks.on_log:
        on_log(interval.step, row)
    return now
