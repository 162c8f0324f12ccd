"""Choosing a labelled method's state by validation images, so that test images choose nothing."""

from __future__ import annotations

from typing import Any

import jax

from gssl_jax.runs.evaluation import Judge
from gssl_jax.training import distributed
from gssl_jax.training.checkpoint import Checkpoints
from gssl_jax.training.loop import Every
from gssl_jax.training.state import TrainState


class Selector:
    """A hook that keeps the state with the best mean accuracy over the classes of the validation images.

    It looks whenever `every` says so and at the end (`total`); the first of equals stays. `emit(step, row)` logs.
    """

    def __init__(self, judge: Judge, kept: Checkpoints, every: Every, total: int, emit: Any, say: Any) -> None:
        self._judge, self._kept, self._every, self._total = judge, kept, every, total
        self._emit, self._say = emit, say
        self._best = float(kept.latest_extra()["score"]) if kept.latest is not None else -1.0

    def on_boundary(self, step: int, state: TrainState) -> None:
        """Judges `state` when it is time, and saves it when it is the best so far."""
        if not self._every.due(step) and step < self._total:
            return
        score = distributed.same(self._judge.validate(state.params, state.method_state))
        self._emit(step, {"eval/validation": score})
        if score > self._best:
            self._best = score
            self._kept.save(state, {"score": score})
        self._say(f"step {step}: validation {score:.3f}, best {self._best:.3f}")

    def selected(self, last: TrainState, sharding: Any) -> TrainState:
        """The best state, placed as `Checkpoints.restore` does; `last` where there is none."""
        self._kept.finish()
        if self._kept.latest is None:
            return last
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), last)
        return self._kept.restore(abstract, sharding)[0]
