"""What a fresh state holds."""

from __future__ import annotations

import jax
import numpy as np
import optax

from gssl_jax.training.mesh import make_mesh
from tests.tiny import leaves
from tests.toy import toy_method, toy_state


def test_a_fresh_state():
    state = toy_state(toy_method(), optax.adam(0.1), make_mesh(), seed=5)
    assert (state.step, state.skipped, state.samples_seen) == (0, 0, 0)
    assert (state.step.dtype, state.skipped.dtype, state.samples_seen.dtype) == (np.int32, np.int32, np.uint32)
    np.testing.assert_array_equal(jax.random.key_data(state.key), jax.random.key_data(jax.random.key(5)))
    assert all(isinstance(x, jax.Array) and x.is_fully_replicated for x in jax.tree.leaves(state))
    moments = [name for name in leaves(state.opt_state) if "backbone" in name]
    assert len(moments) == 2
