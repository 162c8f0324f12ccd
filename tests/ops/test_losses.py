"""Losses by hand, by explicit loops in float64, and by the inequalities they obey."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gssl_jax.ops import losses
from gssl_jax.ops.assignment import centred, entropy
from tests.reference import cross_entropy, softmax

L = np.sin(1.0 + np.arange(12.0)).reshape(4, 3).astype(np.float32)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_dino_loss_reference():
    targets = centred(jnp.asarray(L), jnp.zeros(3), 0.04)
    assert float(losses.cross_entropy(targets, jnp.asarray(L / 0.1)).mean()) == pytest.approx(0.3150252, abs=1e-6)


def test_cross_entropy_is_at_least_the_entropy_of_the_target():
    p, logits = jax.nn.softmax(jnp.asarray(normal(40, 7))), jnp.asarray(normal(40, 7, seed=1))
    assert (losses.cross_entropy(p, logits) > entropy(p) + 1e-3).all()
    np.testing.assert_allclose(losses.cross_entropy(p, jnp.log(p)), entropy(p), atol=1e-6)


@pytest.mark.parametrize("k", [4, 512, 8192])
def test_a_uniform_student_costs_ln_k(k):
    target = jax.nn.softmax(jnp.asarray(normal(3, k)))
    np.testing.assert_allclose(losses.cross_entropy(target, jnp.zeros((3, k))), np.log(k), rtol=1e-5)


def test_cross_entropy_takes_half_precision_logits():
    logits = jnp.asarray(normal(3, 5)).astype(jnp.bfloat16)
    assert losses.cross_entropy(jax.nn.softmax(logits.astype(jnp.float32)), logits).dtype == jnp.float32


def test_cross_entropy_of_an_untrained_network_lies_where_gauss_puts_it():
    """Cosines of 8192 prototypes in 256 dimensions are N(0, 1/256): CE is about ln K + .195 - .977 rho, where rho is
    the correlation of the embeddings: 9.21 for unrelated student and teacher, 8.23 for the same."""
    rng = np.random.default_rng(0)
    prototypes, teacher, other = (rng.standard_normal((n, 256)) for n in (8192, 64, 64))
    prototypes, teacher, other = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (prototypes, teacher, other))
    targets = centred(jnp.asarray(teacher @ prototypes.T, jnp.float32), jnp.zeros(8192), 0.04)
    same, unrelated = (
        float(losses.cross_entropy(targets, jnp.asarray(x @ prototypes.T, jnp.float32) / 0.1).mean())
        for x in (teacher, other)
    )
    assert 8.1 < same < 8.4
    assert 9.1 < unrelated < 9.35


@pytest.mark.parametrize("include_same", [False, True])
@pytest.mark.parametrize(("u", "v"), [(2, 2), (2, 5), (3, 4), (1, 3)])
def test_view_pairs_equal_a_double_loop(u, v, include_same):
    targets, logits = softmax(normal(6, u, 5)), normal(6, v, 5, seed=1)
    pairs = [(i, j) for i in range(u) for j in range(v) if include_same or i != j]
    expected = np.mean([cross_entropy(targets[b, i], logits[b, j]) for b in range(6) for i, j in pairs])
    found = losses.view_pair_cross_entropy(jnp.asarray(targets, jnp.float32), jnp.asarray(logits), include_same)
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_one_view_has_no_pair_unless_with_itself():
    one = jnp.asarray(softmax(normal(2, 1, 3)), jnp.float32)
    with pytest.raises(ValueError, match="second student view"):
        losses.view_pair_cross_entropy(one, one)
    assert np.isfinite(float(losses.view_pair_cross_entropy(one, one, include_same=True)))


def test_token_loss_over_all_tokens():
    targets, logits = softmax(normal(3, 4, 5)), normal(3, 4, 5, seed=1)
    expected = np.mean([cross_entropy(targets[b, n], logits[b, n]) for b in range(3) for n in range(4)])
    found = losses.token_cross_entropy(jnp.asarray(targets, jnp.float32), jnp.asarray(logits))
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_token_loss_over_chosen_tokens_counts_each_image_by_its_own_number():
    """Targets are one-hot on prototype 0 and the student gives it the probabilities below. Image 0 has two chosen
    tokens (1/2, 1/4), image 1 one (1/8), image 2 none: (3/2 ln 2 + 3 ln 2 + 0) / 3 = 3/2 ln 2."""
    p = np.asarray([[1 / 2, 1 / 4, 1 / 16], [1 / 16, 1 / 16, 1 / 8], [1 / 16, 1 / 16, 1 / 16]])
    logits = jnp.log(jnp.asarray(np.stack([p, 1 - p], axis=-1), jnp.float32))
    targets = jnp.zeros((3, 3, 2)).at[..., 0].set(1.0)
    chosen = jnp.asarray([[True, True, False], [False, False, True], [False, False, False]])
    assert float(losses.token_cross_entropy(targets, logits, chosen)) == pytest.approx(1.5 * np.log(2), rel=1e-6)


def test_masked_l1_by_hand():
    """Two images of 2 x 2 pixels and 2 channels, 3 hidden pixels: the mean of the 6 differences under the mask."""
    images = np.arange(16, dtype=np.float32).reshape(2, 2, 2, 2)
    rebuilt = images + np.asarray(
        [[[[1, -2], [50, 50]], [[50, 50], [3, 0]]], [[[50, 50], [50, 50]], [[-4, 5], [50, 50]]]]
    )
    mask = np.asarray([[[True, False], [False, True]], [[False, False], [True, False]]])
    found = losses.masked_l1(jnp.asarray(images), jnp.asarray(rebuilt, jnp.float32), jnp.asarray(mask))
    assert float(found) == pytest.approx((1 + 2 + 3 + 0 + 4 + 5) / 6)


def test_masked_l1_without_hidden_pixels_is_zero():
    images = jnp.ones((1, 2, 2, 3))
    assert float(losses.masked_l1(images, 0 * images, jnp.zeros((1, 2, 2), bool))) == 0.0


def test_masked_l1_teaches_only_hidden_pixels():
    images, rebuilt = jnp.asarray(normal(2, 4, 4, 3)), jnp.asarray(normal(2, 4, 4, 3, seed=1))
    mask = jnp.asarray(normal(2, 4, 4, seed=2) > 0)
    for gradient in jax.grad(losses.masked_l1, argnums=(0, 1))(images, rebuilt, mask):
        np.testing.assert_array_equal(np.any(np.asarray(gradient) != 0, axis=-1), mask)


def test_masked_patch_mse_by_hand():
    """Three of four patches hidden, of two numbers each: the mean over hidden ones of their mean squares."""
    difference = np.float32([[[1, 3], [50, 50]], [[2, 0], [0, -4]]])
    hidden = jnp.asarray([[True, False], [True, True]])
    targets = jnp.asarray(normal(2, 2, 2))
    found = losses.masked_patch_mse(targets, targets + difference, hidden)
    assert float(found) == pytest.approx((5 + 2 + 8) / 3, rel=1e-5)
    assert float(losses.masked_patch_mse(targets, targets + 1, jnp.zeros((2, 2), bool))) == 0.0
    for gradient in jax.grad(losses.masked_patch_mse, (0, 1))(targets, targets + difference, hidden):
        np.testing.assert_array_equal(np.any(np.asarray(gradient)[0, 1] != 0), False)


def test_statistics_of_a_patch():
    """Mean 3 and sample variance 10/3 of 1, 2, 4, 5; a patch of one grey has a root of 1e-6."""
    mean, deviation = losses.patch_statistics(jnp.asarray([[1.0, 2, 4, 5], [7, 7, 7, 7]]))
    np.testing.assert_allclose(mean, [[3], [7]])
    np.testing.assert_allclose(deviation, [[np.sqrt(10 / 3)], [1e-3]], rtol=1e-5)
