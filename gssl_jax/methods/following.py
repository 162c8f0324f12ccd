"""How a teacher follows its student: the exponential moving average of DINO, BYOL, MoCo and their relatives."""

from __future__ import annotations

from collections.abc import Sequence

import optax
from jax import Array
from ml_collections import ConfigDict

from gssl_jax.methods.base import Clock, MethodState, Params
from gssl_jax.ops import schedules


def momentum_at(settings: ConfigDict, clock: Clock, step: Array) -> Array:
    """Momentum of the teacher at a step; `settings` is `config.method`."""
    m = settings.momentum
    return schedules.CURVES[m.curve](step, m.start, m.end, clock.total)


def followed(params: Params, state: MethodState, prefixes: Sequence[str], momentum: Array) -> MethodState:
    """`state` with teacher <- m teacher + (1 - m) student, for these prefixes of the student's parameters."""
    student = {name: params[name] for name in prefixes}
    return {**state, "teacher": optax.incremental_update(student, state["teacher"], 1.0 - momentum)}
