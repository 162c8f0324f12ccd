"""Plain and cosine classifiers: values, starts, and the floor that bounded logits put under the loss."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gssl_jax.models.classifiers import Classifier
from tests.reference import cross_entropy


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def test_plain_is_one_linear_map():
    x = normal(5, 64)
    variables = Classifier(10).init(jax.random.key(0), x)
    kernel, bias = variables["params"]["linear"]["kernel"], variables["params"]["linear"]["bias"]
    assert kernel.size + bias.size == 650 and not np.any(bias)
    shifted = {"params": {"linear": {"kernel": kernel, "bias": bias + jnp.arange(10.0)}}}
    expected = np.float64(x) @ np.float64(kernel) + np.arange(10.0)
    np.testing.assert_allclose(Classifier(10).apply(shifted, x), expected, atol=1e-5)


def test_plain_starts_kaiming_normal():
    """Standard deviation sqrt(2 / D); a truncated normal would end at 2.3 of them."""
    kernel = np.asarray(Classifier(100).init(jax.random.key(0), normal(1, 512))["params"]["linear"]["kernel"])
    assert kernel.std() == pytest.approx((2 / 512) ** 0.5, rel=0.02)
    assert np.abs(kernel).max() > 3 * kernel.std()


def test_normed_is_a_scaled_cosine():
    x = normal(5, 8) * jnp.asarray([[1e-3], [1], [10], [100], [1e3]])
    variables = Classifier(4, normed=True).init(jax.random.key(0), x)
    (directions,) = jax.tree.leaves(variables)  # no bias
    a, b = np.float64(x), np.float64(directions)
    expected = a @ b / np.linalg.norm(a, axis=1, keepdims=True) / np.linalg.norm(b, axis=0)
    np.testing.assert_allclose(Classifier(4, normed=True).apply(variables, x), expected, atol=1e-5)
    longer = {"params": {"directions": directions * jnp.asarray([[0.1, 1.0, 3.0, 50.0]])}}
    np.testing.assert_allclose(Classifier(4, normed=True, scale=30.0).apply(longer, x), 30 * expected, atol=2e-4)


def test_normed_starts_uniform_with_unit_columns():
    directions = np.asarray(Classifier(50, normed=True).init(jax.random.key(0), normal(1, 256))["params"]["directions"])
    np.testing.assert_allclose(np.linalg.norm(directions, axis=0), 1.0, atol=1e-5)
    # Uniform on (-1, 1) has variance 1/3, so a column of 256 ends at sqrt(3 / 256) and a kurtosis of 1.8.
    assert 0.99 < np.abs(directions).max() / (3 / 256) ** 0.5 < 1.15
    assert (directions**4).mean() / (directions**2).mean() ** 2 == pytest.approx(1.8, abs=0.1)


@pytest.mark.parametrize(("classes", "floor", "average"), [
    (16, 1.1086, 1.8185), (6, 0.5168, 0.9187), (4, 0.3408, 0.5827), (2, 0.1269, 0.1269),
])  # fmt: skip
def test_floor_of_unscaled_cosines(classes, floor, average):
    """G8. A sample on its class's direction, all others opposite, reaches ln(1 + (C - 1) e^-2); classes on a simplex,
    each sample on its own, ln(1 + (C - 1) e^(-C / (C - 1))). A scale of 16 takes both to nothing."""
    x, labels = np.asarray(normal(1, classes)), np.eye(classes, dtype=np.float32)
    opposite = np.concatenate([x.T, *[-x.T] * (classes - 1)], axis=1)
    simplex = labels - 1 / classes
    for directions, features, expected in ((opposite, x, floor), (simplex, simplex, average)):
        for scale, limit in ((1.0, expected), (16.0, 0.0)):
            head = Classifier(classes, normed=True, scale=scale)
            logits = jax.jit(head.apply)({"params": {"directions": directions}}, features)
            found = np.mean([cross_entropy(y, row) for y, row in zip(labels, logits, strict=False)])
            assert found == pytest.approx(limit, abs=6e-5)
    assert floor == pytest.approx(math.log(1 + (classes - 1) * math.exp(-2)), abs=6e-5)


@pytest.mark.parametrize("normed", [False, True])
def test_half_precision_features_give_whole_logits_and_a_zero_feature_a_gradient(normed):
    head, x = Classifier(3, normed), normal(2, 8)
    variables = head.init(jax.random.key(0), x)
    assert head.apply(variables, x.astype(jnp.bfloat16)).dtype == jnp.float32
    assert np.isfinite(jax.grad(lambda x: head.apply(variables, x).sum())(0 * x)).all()


def test_a_plain_layer_has_no_scale():
    with pytest.raises(ValueError, match="scale=16.0 multiplies cosines"):
        Classifier(3, normed=False, scale=16.0).init(jax.random.key(0), normal(1, 8))
