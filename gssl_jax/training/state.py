"""What training carries from step to step: arrays only."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array

from gssl_jax.methods.base import Method, MethodState, Params
from gssl_jax.ops.keys import named


@flax.struct.dataclass
class TrainState:
    """step int32, params (student), method_state (teacher, centres), opt_state, key, samples_seen uint32, and
    skipped int32: steps whose loss or gradient was not finite and which therefore changed nothing."""

    step: Array
    params: Params
    method_state: MethodState
    opt_state: Any
    key: Array
    samples_seen: Array
    skipped: Array


def create_state(method: Method, optimiser: optax.GradientTransformation, batches: Any, key: Array) -> TrainState:
    """A fresh state; `batches` serves for shapes only: the method is initialised with views of zeros, as drawing real
    ones would take longer to compile than all the rest. Jit it with the shardings that the state shall have."""
    zero = jnp.zeros((), jnp.int32)
    shapes = jax.eval_shape(method.views, batches, named(key, "views"), zero)
    views = jax.tree.map(lambda view: jnp.zeros(view.shape, view.dtype), shapes)
    params, method_state = method.init(named(key, "init"), views)
    return TrainState(zero, params, method_state, optimiser.init(params), key, jnp.zeros((), jnp.uint32), zero)
