"""Logistic regression against scikit-learn: C = 1 / (l2 * sum of weights)."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from gssl_jax.evals.logistic import fit, fit_many, fit_rotated, logits, rotate

CLASSES = 4


def problem(count: int, size: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % CLASSES)
    centres = rng.normal(size=(CLASSES, size))
    features = centres[labels] + 2 * rng.normal(size=(count, size)) * np.linspace(2, 0.1, size) + 1
    return features.astype(np.float32), labels


def reference(features, labels, l2, intercept, weights):
    model = LogisticRegression(C=1 / (l2 * weights.sum()), fit_intercept=intercept, tol=1e-10, max_iter=10_000)
    return model.fit(features.astype(np.float64), labels, sample_weight=weights)


def probabilities(solved, features):
    return np.asarray(jax.nn.softmax(logits(solved, jnp.asarray(features))))


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize(("count", "size"), [(120, 6), (24, 60)], ids=["N>D", "D>N"])
@pytest.mark.parametrize("l2", [1e-3, 0.1])
def test_probabilities_equal_scikit_learn(intercept, count, size, l2):
    features, labels = problem(count, size)
    weights = np.random.default_rng(1).uniform(0.2, 2, count).astype(np.float32)
    weights[:3] = 0
    unseen = problem(50, size, seed=2)[0]
    solved = fit(
        features, labels, l2=l2, classes=CLASSES, intercept=intercept, weights=jnp.asarray(weights), tolerance=1e-6
    )
    assert solved.converged and solved.residual < 1e-6 and solved.iterations > 1
    expected = reference(features, labels, l2, intercept, weights).predict_proba(unseen)
    np.testing.assert_allclose(probabilities(solved, unseen), expected, atol=1e-3)
    if not intercept:
        assert not np.any(solved.bias)


def test_weight_zero_leaves_a_sample_out_whatever_it_holds():
    features, labels = problem(40, 6)
    padded = np.concatenate([features, np.zeros((8, 6), np.float32)]), np.concatenate([labels, np.full(8, -1)])
    weights = jnp.asarray(np.arange(48) < 40, jnp.float32)
    solved = fit(*padded, l2=1e-2, classes=CLASSES, intercept=True, weights=weights, tolerance=1e-6)
    expected = reference(features, labels, 1e-2, True, np.ones(40)).predict_proba(features)
    np.testing.assert_allclose(probabilities(solved, features), expected, atol=1e-4)


def test_reduced_path_equals_the_full_one():
    features, labels = problem(24, 60)
    options = {"classes": CLASSES, "intercept": False, "max_iterations": 500, "tolerance": 1e-6}
    l2, weights = jnp.array([0.01]), jnp.ones((1, 24))
    reduced = fit_many(features, labels, l2=l2, weights=weights, **options)
    full = jax.jit(partial(fit_rotated, **options))(features, labels, l2, weights)
    assert reduced.converged.all() and full.converged.all()
    np.testing.assert_allclose(reduced.weight, full.weight, atol=1e-4)


@pytest.mark.parametrize("shape", [(7, 20), (20, 7), (9, 9)])
def test_rotation_is_exact_and_orthonormal(shape):
    features = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    features[:, 0] = features[:, 1]  # rank deficient
    reduced, basis = rotate(jnp.asarray(features))
    size = min(shape)
    assert reduced.shape == (shape[0], size) and basis.shape == (shape[1], size)
    np.testing.assert_allclose(basis.T @ basis, np.eye(size), atol=1e-5)
    np.testing.assert_allclose(reduced @ basis.T, features, atol=1e-5)
    moments = np.asarray(reduced.T @ reduced)
    np.testing.assert_allclose(moments, np.diag(np.diag(moments)), atol=1e-4)


def test_vmap_over_draws_equals_columns_side_by_side():
    features, labels = problem(40, 6)
    l2 = jnp.array([1e-2, 1e-1, 1.0])
    weights = jnp.asarray(np.random.default_rng(0).integers(0, 2, (3, 40)), jnp.float32)
    draws = jnp.stack([jnp.asarray(features), -2 * jnp.asarray(features)])
    options = {"classes": CLASSES, "intercept": True, "tolerance": 1e-6}

    def one(draw, strength, weight):
        return fit(draw, labels, l2=strength, weights=weight, **options)

    mapped = jax.jit(jax.vmap(jax.vmap(one, (None, 0, 0)), (0, None, None)))(draws, l2, weights)
    for draw in range(2):
        many = fit_many(draws[draw], labels, l2=l2, weights=weights, **options)
        assert many.converged.all() and mapped.converged[draw].all()
        np.testing.assert_allclose(mapped.weight[draw], many.weight, atol=1e-3)
        np.testing.assert_allclose(mapped.bias[draw], many.bias, atol=1e-3)
        # With its column's own strength and weights alone the gradient at each solution vanishes.
        logits_KxNxC = logits(many, draws[draw])
        error = jax.nn.softmax(logits_KxNxC) - jax.nn.one_hot(labels, CLASSES)[None]
        share = weights / weights.sum(1, keepdims=True)
        gradient = jnp.einsum("nd,kn,knc->kdc", draws[draw], share, error) + l2[:, None, None] * many.weight
        np.testing.assert_allclose(gradient, 0, atol=1e-5)


def test_what_did_not_converge_says_so():
    features, labels = problem(48, 6)
    options = {"l2": 1e-4, "classes": CLASSES, "intercept": True}
    early = fit(features, labels, max_iterations=2, **options)
    assert not early.converged and early.iterations <= 3 and early.residual > 1e-3
    broken = fit(features * np.nan, labels, **options)
    assert not broken.converged and broken.iterations == 0


def test_separable_data_without_penalty_stays_finite():
    features, labels = np.eye(4, dtype=np.float32)[np.arange(12) % 4], np.arange(12) % 4
    solved = fit(features, labels, l2=0.0, classes=CLASSES, intercept=True, max_iterations=200)
    assert np.isfinite(solved.weight).all()
    np.testing.assert_array_equal(probabilities(solved, features).argmax(1), labels)
