"""Hooks that watch the health of a run: the label-free probe and the collapse alarm (specification 2.4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import Array

from gssl_jax.evals.health import feature_std, rank_me
from gssl_jax.methods.base import Method
from gssl_jax.training.loop import Every, Row
from gssl_jax.training.state import TrainState

WINDOW = 20
"""Steps over which a collapse has to last before the alarm goes."""

ONE_TAKES_ALL, UNIFORM, STD_LEFT, RANK_LEFT = 0.1, 0.99, 0.01, 2.0
"""Entropy of the mean target and mean entropy of the targets, both over ln K; feature std over its start; RankMe."""

FEW_IN_USE = 0.1
"""Share of the prototypes that could be somebody's first choice and are. Ours beside the specification's alarms: a
reconstruction loss or batch norm can hold a collapse at a handful of prototypes, where entropies stay above theirs."""

ADVICE = {
    "one": "one prototype takes all {level} tokens (entropy of the mean target {value:.3f} of ln K): use "
    "--config.method.collapse.{level}=sinkhorn, or a higher method.temperature.teacher_end",
    "few": "only {value:.0%} of the {level} prototypes are anybody's first choice: use "
    "--config.method.collapse.{level}=sinkhorn, or fewer prototypes (method.prototypes.{level})",
    "uniform": "the {level} targets are uniform and teach nothing (mean entropy {value:.3f} of ln K): sharpen them "
    "with a lower method.temperature.teacher_start and teacher_end (sinkhorn: a lower method.sinkhorn.eps)",
    "features": "the features have collapsed (spread {value:.4f} of its start, effective rank {rank:.1f}): use "
    "collapse=sinkhorn at both levels, raise method.loss.reconstruction or lower optim.learning_rate",
}

Emit = Callable[[int, dict[str, Any]], None]


class HealthProbe:
    """Whenever `every` says so: spread and effective rank of the features of a fixed sample of images, for the log.

    `encode(variables, images) -> features [n, D]` is jitted; the spread is told relative to `start`, that of the
    untrained backbone.
    """

    def __init__(
        self,
        method: Method,
        encode: Callable[[Any, Any], Array],
        images: Array | np.ndarray,
        which: str,
        every: Every,
        emit: Emit,
    ) -> None:
        self._method, self._encode, self._images, self._which = method, encode, images, which
        self._every, self._emit = every, emit
        self._measure = jax.jit(lambda f: (feature_std(f), rank_me(f)))
        self._start = float("nan")
        self._waiting: tuple[int, tuple[Array, Array]] | None = None

    def begin(self, untrained: Any) -> None:
        """Measures where the spread starts."""
        self._start = float(self._measure(self._encode(untrained, self._images))[0])

    def on_log(self, step: int, row: Row) -> None:
        """Nothing to do with the metrics of the steps."""

    def on_boundary(self, step: int, state: TrainState) -> None:
        """Sends off a measurement when it is time, and reads the one before, by now behind a step in the queue."""
        self.finish()
        if self._every.due(step):
            variables = self._method.backbone(state.params, state.method_state, self._which)
            self._waiting = step, self._measure(self._encode(variables, self._images))

    def finish(self) -> None:
        """Reads and emits the measurement that was sent off, if there is one."""
        if self._waiting is None:
            return
        step, (std, rank) = self._waiting
        self._waiting = None
        left = float(std) / self._start if self._start else float("nan")
        row = {"health/feature_std": float(std), "health/feature_std_of_start": left, "health/rankme": float(rank)}
        self._emit(step, row)


class CollapseAlarm:
    """Says in words, once for each kind and level, that targets or features have collapsed and which knob to turn."""

    def __init__(self, emit: Emit, start: int = 0) -> None:
        self._emit = emit
        self._since: dict[tuple[str, str], int] = {}
        self._previous = start
        self.fired: dict[tuple[str, str], int] = {}

    def on_log(self, step: int, row: Row) -> None:
        """`row` are averages over the steps since the row before; a state has to last for `WINDOW` steps."""
        for level in ("cls", "patch"):
            mean_target, target = (
                row.get(f"health/{name}_{level}") for name in ("mean_target_entropy", "target_entropy")
            )
            if mean_target is None or target is None:
                continue
            self._judge("one", level, step, mean_target < ONE_TAKES_ALL, value=mean_target)
            self._judge("uniform", level, step, target > UNIFORM, value=target)
            used = row.get(f"health/prototypes_in_use_{level}", 1.0)
            self._judge("few", level, step, used < FEW_IN_USE, value=used)
        self._previous = step

    def on_boundary(self, step: int, state: TrainState) -> None:
        """Nothing to do between logs."""

    def on_health(self, step: int, row: dict[str, Any]) -> None:
        """Looks at what the health probe measured; a number that is not finite counts as collapsed."""
        left, rank = row["health/feature_std_of_start"], row["health/rankme"]
        bad = not (left >= STD_LEFT and rank >= RANK_LEFT)
        if bad and ("features", "") not in self.fired:
            self._fire("features", "", step, value=left, rank=rank)

    def _judge(self, kind: str, level: str, step: int, bad: bool, value: float) -> None:
        if not bad:
            self._since.pop((kind, level), None)
            return
        began = self._since.setdefault((kind, level), self._previous)
        if step - began >= WINDOW and (kind, level) not in self.fired:
            self._fire(kind, level, step, value=value)

    def _fire(self, kind: str, level: str, step: int, **numbers: float) -> None:
        self.fired[kind, level] = step
        self._emit(step, {"alarm": ADVICE[kind].format(level=level, **numbers)})


def probe_images(images: np.ndarray, count: int) -> np.ndarray:
    """Evenly spaced samples of [N, ...], at most `count`."""
    return images[np.linspace(0, len(images) - 1, min(count, len(images))).astype(int)]
