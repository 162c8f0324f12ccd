"""InfoNCE at the numbers that can be worked out by hand, the queue as a list that forgets, BYOL's distance."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gssl_jax.ops import contrast


def unit(rng, *shape):
    x = rng.standard_normal(shape)
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(
    ("positive", "temperature", "expected"),
    [
        (0.0, 0.2, math.log(65537)),  # all alike
        (1.0, 0.2, math.log1p(65536 * math.exp(-5))),
        (1.0, 0.07, math.log1p(65536 * math.exp(-1 / 0.07))),
    ],
)
def test_a_queue_of_65536_at_its_corners(positive, temperature, expected):
    """11.0904, 6.0926 and .0401 (specification 3.12, 1)."""
    p, n = jnp.full((2,), positive), jnp.zeros((2, 65536))
    assert expected == pytest.approx({0.0: 11.0904, 1.0: 6.0926}[positive] if temperature == 0.2 else 0.0401, abs=6e-5)
    np.testing.assert_allclose(contrast.info_nce(p, n, temperature), expected, rtol=1e-5)


def test_random_directions_add_a_little():
    """E exp(x / T) of a coordinate x of a random unit vector is about exp(1 / (2 d T^2)): 6.0926 + .0977 = 6.190."""
    queue = contrast.new_queue(jax.random.key(0), 65536, 128)
    q = jnp.asarray(unit(np.random.default_rng(0), 4, 128))
    positives, negatives = contrast.similarities(q, q, queue["keys"])
    np.testing.assert_allclose(positives, 1.0, atol=1e-5)
    assert float(contrast.info_nce(positives, negatives, 0.2).mean()) == pytest.approx(6.190, abs=0.01)


def test_info_nce_is_a_cross_entropy_over_the_negatives_that_count():
    rng = np.random.default_rng(0)
    p, n = rng.uniform(-1, 1, 5), rng.uniform(-1, 1, (5, 7))
    counted = np.arange(7) < 3
    for chosen in (None, counted):
        rows = n if chosen is None else n[:, chosen]
        expected = -np.log(np.exp(p / 0.3) / (np.exp(p / 0.3) + np.exp(rows / 0.3).sum(1)))
        found = contrast.info_nce(jnp.float32(p), jnp.float32(n), 0.3, None if chosen is None else jnp.asarray(chosen))
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        first = (p > rows.max(1)).mean()
        assert float(contrast.ranked_first(jnp.float32(p), jnp.float32(n), chosen)) == pytest.approx(first)


def test_without_a_negative_there_is_nothing_to_learn_and_nothing_breaks():
    def total(x):
        return contrast.info_nce(x[:, 0], x, 0.2, jnp.zeros(4, bool)).sum()

    value, gradient = jax.jit(jax.value_and_grad(total))(jnp.ones((3, 4)))
    assert float(value) == 0.0
    np.testing.assert_array_equal(gradient, 0.0)


def test_half_precision_features_are_compared_in_float32():
    q = jnp.asarray(unit(np.random.default_rng(0), 2, 8), jnp.bfloat16)
    positives, negatives = contrast.similarities(q, q, jnp.ones((4, 8)))
    assert positives.dtype == negatives.dtype == jnp.float32
    assert contrast.info_nce(q[:, 0], q, 0.2).dtype == jnp.float32


def test_the_queue_forgets_its_oldest_keys():
    """Six places, two keys at a time, against a list; noise is gone after three pushes (specification 3.12, 2)."""
    queue = contrast.new_queue(jax.random.key(0), 6, 4)
    np.testing.assert_allclose(np.linalg.norm(queue["keys"], axis=1), 1.0, atol=1e-6)
    rng, noise = np.random.default_rng(0), np.asarray(queue["keys"])
    expected = [*noise]
    push = jax.jit(contrast.enqueued)
    for n in range(1, 8):
        keys = unit(rng, 2, 4)
        place = 2 * (n - 1) % 6
        expected[place : place + 2] = keys
        queue = push(queue, keys)
        assert int(queue["pointer"]) == 2 * n % 6 and int(queue["filled"]) == min(2 * n, 6)
        np.testing.assert_array_equal(queue["keys"], expected)
        left = (np.asarray(queue["keys"])[:, None] == noise[None]).all(-1).any(1).sum()
        assert left == max(0, 6 - 2 * n)
    np.testing.assert_allclose(np.linalg.norm(queue["keys"], axis=1), 1.0, atol=1e-6)


def test_a_queue_that_would_wrap_is_refused():
    with pytest.raises(ValueError, match="a queue of 6 cannot take 4 keys"):
        contrast.enqueued(contrast.new_queue(jax.random.key(0), 6, 4), jnp.zeros((4, 4)))


def test_distance_of_unit_vectors():
    rng = np.random.default_rng(0)
    a, b = unit(rng, 5, 8), unit(rng, 5, 8)
    np.testing.assert_allclose(contrast.unit_distance(a, b), ((a - b) ** 2).sum(1), rtol=1e-5)
    np.testing.assert_allclose(contrast.unit_distance(a, -a), 4.0, rtol=1e-5)


@pytest.mark.parametrize("views", [2, 3])
def test_nt_xent_is_a_double_loop_over_views(views):
    """Every view against all others, each positive by itself, in float64 (arXiv 2002.05709, equation 1)."""
    rng, temperature = np.random.default_rng(1), 0.3
    z = unit(rng, 4, views, 6)
    rows = np.float64(z.reshape(-1, 6))
    expected = []
    for i, one in enumerate(rows):
        scores = {k: np.exp(one @ other / temperature) for k, other in enumerate(rows) if k != i}
        positives = [k for k in scores if k // views == i // views]
        expected.append(np.mean([-np.log(scores[k] / sum(scores.values())) for k in positives]))
    similarities = contrast.all_similarities(rows, rows)
    np.testing.assert_allclose(contrast.nt_xent(similarities, views, temperature), expected, rtol=1e-5)
    if views == 2:  # SimCLR's own order of the rows, all first views before all second ones, gives the same mean
        n = len(z)
        swapped = np.concatenate([z[:, 0], z[:, 1]]).astype(np.float64)
        s = np.exp(swapped @ swapped.T / temperature) * (1 - np.eye(2 * n))
        pairs = [-np.log(s[i, (i + n) % (2 * n)] / s[i].sum()) for i in range(2 * n)]
        assert np.mean(expected) == pytest.approx(np.mean(pairs))


def test_contrast_within_a_batch_at_the_numbers_of_a_batch_alike():
    alike = jnp.full((12, 12), 0.4)
    np.testing.assert_allclose(contrast.nt_xent(alike, 2, 0.1), math.log(11), rtol=1e-5)
    np.testing.assert_allclose(contrast.in_batch_info_nce(alike, 0.2), math.log(12), rtol=1e-5)
    with pytest.raises(ValueError, match="12 rows are not two or more views of each image, views=5"):
        contrast.nt_xent(alike, 5, 0.1)


def test_in_batch_info_nce_is_a_cross_entropy_with_the_diagonal():
    rng = np.random.default_rng(2)
    q, k = unit(rng, 5, 4), unit(rng, 5, 4)
    s = np.exp(np.float64(q) @ np.float64(k).T / 0.2)
    found = contrast.in_batch_info_nce(contrast.all_similarities(jnp.asarray(q), jnp.asarray(k)), 0.2)
    np.testing.assert_allclose(found, -np.log(np.diag(s) / s.sum(1)), rtol=1e-5)


def test_views_of_one_image():
    np.testing.assert_array_equal(contrast.same_image(2, 2), np.kron(np.eye(2), np.ones((2, 2))).astype(bool))
