"""Grad-CAM of heads whose map is known, roll-out of two layers by hand, enlarging and colouring."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib import colormaps

from gssl_jax.evals.gradcam import attention_rollout, enlarged, grad_cam, overlay
from tests.models.networks import images, network, run

RNG = np.random.default_rng(0)
MAP = RNG.normal(size=(3, 2, 4, 5)).astype(np.float32)
HEAD = RNG.normal(size=(5, 6)).astype(np.float32)
LABELS = np.array([4, 0, 2])


def pooled(features):
    """Global average pool and one linear layer."""
    return features.reshape(features.shape[0], -1, features.shape[-1]).mean(1) @ HEAD + 0.5


def test_behind_a_pooled_linear_head_it_is_the_class_activation_map():
    """relu(w_y . f) / (h w), with w_y the class vector."""
    found = jax.jit(lambda features, labels: grad_cam(pooled, features, labels))(MAP, LABELS)
    expected = np.maximum(np.einsum("bhwd,db->bhw", MAP, HEAD[:, LABELS]), 0) / 8
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert (np.asarray(found) == 0).any() and (np.asarray(found) > 0).any()


def test_behind_a_curved_head_the_weights_are_mean_slopes():
    """The slope of the label's logit in each feature by central differences in float64."""

    def logits(features):
        return (features.reshape(*features.shape[:-3], -1) ** 3) @ CURVED

    CURVED = RNG.normal(size=(40, 6))
    found = grad_cam(logits, jnp.asarray(MAP), jnp.asarray(LABELS))
    for b, label in enumerate(LABELS):
        steps = 1e-4 * np.eye(40).reshape(40, 2, 4, 5)
        slope = (logits(MAP[b] + steps) - logits(MAP[b] - steps))[:, label] / 2e-4
        weights = slope.reshape(8, 5).mean(0)
        np.testing.assert_allclose(found[b], np.maximum(MAP[b] @ weights, 0), rtol=1e-3, atol=1e-3)


def test_patch_tokens_give_the_same_as_their_map():
    tokens = jnp.asarray(MAP.reshape(3, 8, 5))
    expected = grad_cam(pooled, jnp.asarray(MAP), LABELS)
    np.testing.assert_allclose(grad_cam(pooled, tokens, LABELS, grid=(2, 4)), expected, atol=1e-6)
    square = grad_cam(pooled, tokens[:, :4], LABELS)
    assert square.shape == (3, 2, 2)
    with pytest.raises(ValueError, match="8 patch tokens do not form a square; give the grid"):
        grad_cam(pooled, tokens, LABELS)
    with pytest.raises(ValueError, match="8 patch tokens do not form a grid of 3 x 3"):
        grad_cam(pooled, tokens, LABELS, grid=(3, 3))
    with pytest.raises(ValueError, match="a map"):
        grad_cam(pooled, tokens[0], LABELS)


def test_without_a_label_the_predicted_class_is_explained():
    predicted = np.asarray(pooled(jnp.asarray(MAP))).argmax(1)
    assert (predicted != LABELS).any()
    found = grad_cam(pooled, jnp.asarray(MAP), jnp.asarray([-1, -1, 2]))
    np.testing.assert_array_equal(found, grad_cam(pooled, jnp.asarray(MAP), jnp.asarray([*predicted[:2], 2])))


def test_enlarging_is_bilinear_and_ends_at_one():
    """Centres of 4 pixels over 2 cells lie at 0, 1/4, 3/4 and 1 between them."""
    found = enlarged(jnp.asarray([[[0.0, 8.0]], [[0.0, 0.0]], [[3.0, 3.0]]]), (2, 4))
    np.testing.assert_allclose(found[0], [[0, 0.25, 0.75, 1]] * 2, atol=1e-6)
    np.testing.assert_array_equal(found[1], 0.0)
    np.testing.assert_allclose(found[2], 1.0)
    assert np.isnan(enlarged(jnp.full((1, 1, 2), np.nan), (2, 4))).all()


def test_rollout_of_two_layers_by_hand():
    """Class token c and patches p, q. Layer 1, half kept and half passed on: c <- (c + p) / 2, p <- (p + q) / 2,
    q <- (q + c) / 2. Layer 2 has two heads, c looks at p in one and at q in the other: c <- c / 2 + (p + q) / 4.
    Together p gives 1/4 + 1/8 and q 1/8 + 1/8."""
    first = np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]], np.float32)
    second = np.array([[[0, 1, 0], [0, 1, 0], [0, 0, 1]], [[0, 0, 1], [0, 1, 0], [0, 0, 1]]], np.float32)
    attention = np.stack([np.stack([first, first]), second])[:, None]
    np.testing.assert_allclose(attention_rollout(jnp.asarray(attention), (1, 2)), [[[3 / 8, 2 / 8]]], rtol=1e-6)


def test_rollout_equals_the_product_of_matrices():
    raw = RNG.random((4, 2, 3, 7, 7)).astype(np.float32)
    attention = raw / raw.sum(-1, keepdims=True)
    product = np.broadcast_to(np.eye(7), (2, 7, 7))
    for layer in attention.mean(2):
        product = (0.5 * np.eye(7) + 0.5 * layer) @ product
    found = jax.jit(lambda a: attention_rollout(a, skip=3))(attention)
    np.testing.assert_allclose(found, product[:, 0, 3:].reshape(2, 2, 2), rtol=1e-5)
    np.testing.assert_allclose(found.sum((1, 2)) + product[:, 0, :3].sum(1), 1.0, rtol=1e-5)
    only_last = attention_rollout(jnp.asarray(attention[-1:]), residual=0.0, skip=3)
    np.testing.assert_allclose(only_last, attention[-1].mean(1)[:, 0, 3:].reshape(2, 2, 2), rtol=1e-5)
    assert not np.any(attention_rollout(jnp.asarray(attention), residual=1.0, skip=3))


def test_rollout_reads_what_the_vision_transformer_captures():
    out = run(network(), images(), capture=("attention_0", "attention_1"))
    found = attention_rollout(jnp.stack([out["attention_0"], out["attention_1"]]))
    assert found.shape == (2, 3, 3) and (np.asarray(found) > 0).all() and (np.asarray(found).sum((1, 2)) < 1).all()


def test_rollout_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="6 patch tokens do not form a square"):
        attention_rollout(jnp.ones((1, 1, 1, 7, 7)))
    with pytest.raises(ValueError, match="-1 patch tokens"):
        attention_rollout(jnp.ones((1, 1, 1, 1, 1)), skip=2)
    with pytest.raises(ValueError, match="form"):
        attention_rollout(jnp.ones((1, 1, 7, 7)))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_an_overlay_mixes_image_and_colour(dtype):
    largest = 1 if dtype == np.float32 else np.iinfo(dtype).max
    picture = (RNG.integers(0, 2, (2, 3, 4, 1)) * largest).astype(dtype)
    warm = RNG.random((2, 3, 4)).astype(np.float32)
    only_image = overlay(picture, warm, 1.0)
    assert only_image.dtype == np.uint8 and only_image.shape == (2, 3, 4, 3)
    np.testing.assert_array_equal(only_image, np.repeat(255 * (picture > 0), 3, -1))
    colours = colormaps["inferno"](warm)[..., :3]
    np.testing.assert_allclose(overlay(picture, warm, 0.0), 255 * colours, atol=0.51)
    np.testing.assert_allclose(overlay(picture, warm, 0.7), 255 * (0.7 * (picture > 0) + 0.3 * colours), atol=0.51)
    with pytest.raises(ValueError, match="overlay"):
        overlay(picture, warm[:, :2], 0.7)
    with pytest.raises(ValueError, match="overlay"):
        overlay(np.repeat(picture, 2, -1), warm, 0.7)
