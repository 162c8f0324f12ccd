"""Preprocessing of frozen features."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from threadpoolctl import threadpool_info

from gssl_jax.evals.preprocess import centre_and_normalise, single_threaded, standardise, unit, whiten


def test_standardise_uses_training_statistics_only():
    # Column 0: mean 2, standard deviation 1; column 1 is constant.
    train, test = jnp.array([[1.0, 5.0], [3.0, 5.0]]), jnp.array([[4.0, 5.0]])
    known, wanted = standardise(train, test)
    np.testing.assert_allclose(known, [[-1, 0], [1, 0]], atol=1e-6)
    np.testing.assert_allclose(wanted, [[2, 0]], atol=1e-6)


def test_whitened_training_features_are_uncorrelated_with_unit_spread(getkey):
    mixing = jnp.array([[3.0, 1.0, 0.0], [0.0, 0.5, 0.2], [0.0, 0.0, 0.1]])
    train = jax.random.normal(getkey(), (500, 3)) @ mixing + 7.0
    known, wanted = whiten(train, train[:4], 1e-6)
    np.testing.assert_allclose(np.cov(np.asarray(known).T, bias=True), np.eye(3), atol=1e-3)
    np.testing.assert_allclose(wanted, known[:4], atol=1e-4)  # the test features go through the same map


def test_whitening_keeps_small_directions_small_by_its_floor():
    """Standard deviations 2 and 0.1 along the axes: 2 / (2 + .05 x 2) and 0.1 / (0.1 + 0.1)."""
    train = jnp.array([[2.0, 0.1], [2.0, -0.1], [-2.0, 0.1], [-2.0, -0.1]])
    known, wanted = whiten(train, jnp.array([[4.0, 0.0]]), 0.05)
    np.testing.assert_allclose(np.sort(np.abs(known[0])), [0.5, 2 / 2.1], atol=1e-5)
    np.testing.assert_allclose(np.sort(np.abs(wanted[0])), [0.0, 4 / 2.1], atol=1e-5)


def test_centre_and_normalise():
    features, mean = jnp.array([[4.0, 5.0], [1.0, 1.0]]), jnp.array([1.0, 1.0])
    np.testing.assert_allclose(centre_and_normalise(features, mean), [[0.6, 0.8], [0, 0]], atol=1e-6)


def test_unit_of_stacked_rows():
    np.testing.assert_allclose(unit(jnp.array([[[3.0, 4.0]], [[0.0, 2.0]]])), [[[0.6, 0.8]], [[0, 1]]], atol=1e-6)


def test_single_threaded_is_given_back():
    def threads():
        return [pool["num_threads"] for pool in threadpool_info()]

    before = threads()
    with single_threaded():
        assert set(threads()) == {1}
    assert threads() == before
