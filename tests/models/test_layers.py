"""Blocks that several models share."""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gssl_jax.models.layers import Dense, gelu, l2_normalise


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


@pytest.mark.parametrize("shape", [(5, 3), (2, 4, 3), (2, 3, 2, 3)])
def test_dense_is_that_of_flax(shape):
    x = normal(*shape)
    ours, theirs = Dense(7).init(jax.random.key(0), x), nn.Dense(7).init(jax.random.key(0), x)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    np.testing.assert_allclose(Dense(7).apply(ours, x), nn.Dense(7).apply(theirs, x), atol=1e-6)
    assert Dense(7, dtype=jnp.bfloat16).apply(ours, x).dtype == jnp.bfloat16


def test_gelu_is_the_exact_one_and_keeps_the_type():
    x = np.linspace(-6, 6, 97, dtype=np.float32)
    expected = [v * 0.5 * math.erfc(-v / math.sqrt(2)) for v in x.tolist()]
    np.testing.assert_allclose(gelu(jnp.asarray(x)), expected, atol=1e-6)  # the tanh form misses by 5e-4
    assert gelu(jnp.asarray(x, jnp.bfloat16)).dtype == jnp.bfloat16


def test_l2_normalise_has_length_one_and_a_gradient_at_zero():
    x = normal(5, 7) * 100
    np.testing.assert_allclose(np.linalg.norm(l2_normalise(x), axis=-1), 1.0, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(l2_normalise(x, axis=0), axis=0), 1.0, atol=1e-6)
    gradient = jax.grad(lambda z: l2_normalise(z).sum())(jnp.zeros(4))
    assert np.isfinite(gradient).all()
    assert l2_normalise(x.astype(jnp.bfloat16)).dtype == jnp.float32
