"""Hooks that watch the health of a run: the label-free probe and the collapse alarm."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gssl_jax.evals.collapse import THINGS, WINDOW, assignment_signs, features_collapsed, in_words, remedy
from gssl_jax.evals.health import alignment, feature_std, rank_me, uniformity
from gssl_jax.methods.base import Method
from gssl_jax.training.loop import Every, Row
from gssl_jax.training.state import TrainState

Emit = Callable[[int, dict[str, Any]], None]


class HealthProbe:
    """Whenever `every` says so: spread, effective rank, alignment and uniformity of a fixed sample of images, for the
    log.

    `encode(variables, images) -> features [n, D]` is jitted; the spread is told relative to `start`, that of the
    untrained backbone. `pairs` are the first views of half of the images and then their second views, in the form of
    `images`, so that one program serves both; None leaves alignment out.
    """

    def __init__(
        self,
        method: Method,
        encode: Callable[[Any, Any], Array],
        images: Array | np.ndarray,
        pairs: Array | np.ndarray | None,
        which: str,
        every: Every,
        emit: Emit,
    ) -> None:
        self._method, self._encode, self._images, self._pairs = method, encode, images, pairs
        self._which, self._every, self._emit = which, every, emit
        self._measure = jax.jit(_measured)
        self._start = float("nan")
        self._waiting: tuple[int, dict[str, Array]] | None = None

    def begin(self, untrained: Any) -> None:
        """Measures where the spread starts."""
        self._start = float(self._look(untrained)["health/feature_std"])

    def on_boundary(self, step: int, state: TrainState) -> None:
        """Sends off a measurement when it is time, and reads the one before, by now behind a step in the queue."""
        self.finish()
        if self._every.due(step):
            self._waiting = step, self._look(self._method.backbone(state.params, state.method_state, self._which))

    def finish(self) -> None:
        """Reads and emits the measurement that was sent off, if there is one."""
        if self._waiting is None:
            return
        step, found = self._waiting
        self._waiting = None
        row = {name: float(value) for name, value in found.items()}
        std = row["health/feature_std"]
        self._emit(step, row | {"health/feature_std_of_start": std / self._start if self._start else float("nan")})

    def _look(self, variables: Any) -> dict[str, Array]:
        views = None if self._pairs is None else self._encode(variables, self._pairs)
        return self._measure(self._encode(variables, self._images), views)


def _measured(features: Array, pairs: Array | None) -> dict[str, Array]:
    """The row of the log for features [n, D] of the images and, where there are any, of the first and second views."""
    found = {"feature_std": feature_std(features), "rankme": rank_me(features), "uniformity": uniformity(features)}
    if pairs is not None:
        found["alignment"] = alignment(jnp.stack(jnp.split(pairs, 2), axis=1))
    return {f"health/{name}": value for name, value in found.items()}


class CollapseAlarm:
    """Says in words, once for each sign and level, that targets or features have collapsed and which knob to turn.

    `config` is the stage's configuration as plain dictionaries: the advice depends on the control in use.
    """

    def __init__(self, emit: Emit, config: Mapping[str, Any], start: int = 0) -> None:
        self._emit, self._config = emit, config
        self._since: dict[tuple[str, str], int] = {}
        self._previous = start
        self.fired: dict[tuple[str, str], int] = {}

    def on_log(self, step: int, row: Row) -> None:
        """`row` are averages over the steps since the row before; a state has to last for `WINDOW` steps."""
        for level in THINGS:
            names = {"one": "mean_target_entropy", "uniform": "target_entropy", "few": "prototypes_in_use"}
            values = {kind: row.get(f"health/{name}_{level}") for kind, name in names.items()}
            signs = assignment_signs(*values.values())
            for kind, value in values.items():
                self._judge(kind, level, step, kind in signs, value)
        self._previous = step

    def on_health(self, step: int, row: Mapping[str, Any]) -> None:
        """Looks at what the health probe measured; a number that is not finite counts as collapsed."""
        left, rank = row["health/feature_std_of_start"], row["health/rankme"]
        if features_collapsed(left, rank) and ("features", "") not in self.fired:
            self._fire("features", "", step, left=left, rank=rank)

    def _judge(self, kind: str, level: str, step: int, bad: bool, value: Any) -> None:
        if not bad:
            self._since.pop((kind, level), None)
            return
        began = self._since.setdefault((kind, level), self._previous)
        if step - began >= WINDOW and (kind, level) not in self.fired:
            self._fire(kind, level, step, value=value)

    def _fire(self, kind: str, level: str, step: int, **numbers: float) -> None:
        self.fired[kind, level] = step
        knob = remedy(kind, level, self._config)
        self._emit(step, {"alarm": in_words(kind, level, **numbers) + (f" Try {knob}" if knob else "")})
