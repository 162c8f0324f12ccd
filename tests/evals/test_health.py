"""Effective rank and spread on matrices whose answer is known."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gssl_jax.evals.health import feature_std, rank_me


@pytest.mark.parametrize("rank", [1, 3, 8])
@pytest.mark.parametrize("shape", [(40, 8), (8, 40)])
def test_rank_me_of_an_orthogonal_matrix_is_its_rank(rank, shape):
    rng = np.random.default_rng(rank)
    left, right = (np.linalg.qr(rng.normal(size=(side, 8)))[0][:, :rank] for side in shape)
    features = jnp.asarray(3 * left @ right.T, jnp.float32)
    assert rank_me(features) == pytest.approx(rank, rel=1e-4)
    assert jax.jit(rank_me)(features) == pytest.approx(rank, rel=1e-4)


def test_rank_me_by_hand():
    # Shares 3/4 and 1/4: exp(-.75 ln .75 - .25 ln .25) = exp(.562335) = 1.754765.
    assert rank_me(jnp.array([[3.0, 0.0], [0.0, 1.0], [0.0, 0.0]])) == pytest.approx(1.754765, rel=1e-5)


def test_feature_std():
    assert feature_std(jnp.array([[1.0, 2.0], [2.0, 4.0]])) == pytest.approx(0, abs=1e-6)  # one direction
    assert feature_std(jnp.array([[2.0, 0.0], [-3.0, 0.0]])) == pytest.approx(0.5)  # stds 1 and 0
    isotropic = jnp.asarray(np.random.default_rng(0).normal(size=(4000, 16)))
    assert feature_std(isotropic) == pytest.approx(0.25, rel=0.02)  # 1 / sqrt(16)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_features_that_are_not_finite_give_nan(bad):
    features = jnp.ones((6, 4)).at[2, 1].set(bad)
    assert np.isnan(rank_me(features)) and np.isnan(feature_std(features))
    assert np.isnan(rank_me(jnp.zeros((6, 4))))
