"""The gate's layer, and that it stands apart from the tasks it weights."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from gssl_jax.models.gate import Gate
from gssl_jax.ops import gating


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def test_logits_are_one_linear_map_in_float32():
    features = normal(5, 64)
    variables = Gate(3).init(jax.random.key(0), features)
    kernel, bias = variables["params"]["linear"]["kernel"], variables["params"]["linear"]["bias"]
    assert kernel.size + bias.size == 3 * 65  # spec 1.3
    shifted = {"params": {"linear": {"kernel": kernel, "bias": bias + jnp.arange(3.0)}}}
    expected = np.float64(features) @ np.float64(kernel) + np.arange(3.0)
    np.testing.assert_allclose(Gate(3).apply(shifted, features), expected, atol=1e-5)
    assert Gate(3).apply(variables, features.astype(jnp.bfloat16)).dtype == jnp.float32
    wide = Gate(8).init(jax.random.key(0), normal(1, 4096))["params"]["linear"]["kernel"]
    assert abs(float(wide.std()) / (2 / 4096) ** 0.5 - 1) < 0.02  # Kaiming-normal, fan in


def test_frozen_weights_reach_neither_gate_nor_features():
    features, losses = normal(4, 8), jnp.asarray([2.7, 0.7, 1.8])
    params = Gate(3).init(jax.random.key(0), features)["params"]

    def loss(params, features, mode):
        gate = gating.gate_weights(Gate(3).apply({"params": params}, features), "mean_of_softmax")
        return gating.gated_loss(losses, gating.task_weights(mode, 3, gate))

    gradient = jax.grad(loss, argnums=(0, 1))
    assert not any(np.any(g) for g in jax.tree.leaves(gradient(params, features, "frozen")))
    learned = jax.tree.leaves(gradient(params, features, "learned"))
    assert all(np.any(g) and np.isfinite(g).all() for g in learned)
