"""Effective rank and spread on matrices whose answer is known."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gssl_jax.evals.health import (
    AT_ONCE,
    _of_images,
    _views,
    alignment,
    alpha_req,
    distance,
    drawer,
    feature_std,
    label_free,
    lidar,
    rank_me,
    uniformity,
)

PRESET = {
    "size": 8, "crop": True, "pad": 0, "scale": (0.3, 1.0), "ratio": (1.0, 1.0), "interpolation": "bilinear",
    "flip": 0.5, "contrast_normalise": False, "grey": 0.0, "blur": {"probability": 0.0, "sigma": (0.1, 1.0)},
    "jitter": {"probability": 0.0, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0},
    "solarise": {"probability": 0.0, "threshold": 0.5},
}  # fmt: skip


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


def test_alignment_by_hand():
    """Unit vectors: the first image's views are at right angles (2), the second's opposite (4): the mean is 3."""
    views = jnp.array([[[2.0, 0.0], [0.0, 5.0]], [[1.0, 1.0], [-3.0, -3.0]]])
    assert alignment(views) == pytest.approx(3.0, rel=1e-6)
    assert alignment(jnp.array([[[1.0, 2.0], [2.0, 4.0]]])) == pytest.approx(0.0, abs=1e-6)  # one direction
    # Three views, pairs at 2 (right angle), 4 (opposite), 2: the mean is 8/3.
    three = jnp.array([[[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]])
    assert alignment(three) == pytest.approx(8 / 3, rel=1e-6)


def test_distance_and_uniformity_by_brute_force(getrows):
    rows = np.asarray(getrows(30, 5))
    pairs = [np.square(a - b).sum() for i, a in enumerate(rows) for j, b in enumerate(rows) if i < j]
    assert distance(jnp.asarray(3.0 * rows)) == pytest.approx(np.mean(pairs), rel=1e-5)
    wanted = np.log(np.mean(np.exp(-2.0 * np.array(pairs))))
    assert uniformity(jnp.asarray(3.0 * rows)) == pytest.approx(wanted, rel=1e-5)


@pytest.fixture
def getrows():
    """getrows(N, D): rows of length 1."""

    def make(number, width):
        rows = np.random.default_rng(5).normal(size=(number, width))
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    return make


def test_uniformity_of_a_circle():
    """Points at equal angles: squared distance 2 - 2 cos. Many of them approach the integral over the circle,
    mean of exp(-4 + 4 cos) = exp(-4) I0(4), I0 the modified Bessel function: 11.301922."""

    def circle(number):
        angles = 2 * np.pi * np.arange(number) / number
        return jnp.asarray(np.stack([np.cos(angles), np.sin(angles)], axis=1))

    assert uniformity(circle(2)) == pytest.approx(-8.0, rel=1e-5)  # opposite: distance 2, squared 4
    assert uniformity(circle(4)) == pytest.approx(np.log((2 * np.exp(-4.0) + np.exp(-8.0)) / 3), rel=1e-5)
    n = 1000  # with itself each point would add 1 / n
    whole = np.exp(-4.0) * 11.301922
    assert uniformity(circle(n)) == pytest.approx(np.log((n * whole - 1) / (n - 1)), rel=1e-4)
    assert uniformity(jnp.ones((6, 3))) == pytest.approx(0.0, abs=1e-5)  # one point


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_lidar_of_identical_views_and_orthogonal_images(scale):
    """n corners of a simplex around their mean: n - 1 equal eigenvalues, whatever the scale of the features."""
    views = np.repeat(scale * np.eye(6, 9)[:, None], 4, axis=1)
    assert lidar(views) == pytest.approx(5.0, rel=1e-9)


def test_lidar_by_hand():
    """Class means at +-2 on one axis and +-1 on the other, views at +-1 around them on either axis.

    S_b (over n - 1 = 3): 4 + 4 = 8 / 3 and 1 + 1 = 2 / 3. S_w (over n (q - 1) = 4): 2 each time, 8 / 4 = 2 on the first
    axis, 0 on the second. Variance (8/3 + 2/3 + 2 + 0) / 2 = 8/3, ridge .3 of it: .8. Eigenvalues (8/3 - 2/2) / 2.8 and
    (2/3) / .8: .595238 and .833333, shares 5/12 and 7/12.
    """
    means = np.array([[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    views = means[:, None] + np.array([[1.0, 0.0], [-1.0, 0.0]])[None]
    entropy = -(5 / 12) * np.log(5 / 12) - (7 / 12) * np.log(7 / 12)
    assert lidar(views, ridge=0.3) == pytest.approx(np.exp(entropy), rel=1e-9)


def test_lidar_does_not_count_what_views_disagree_on():
    """Two directions in which images differ, and eight that are noise of the views, as large."""
    rng = np.random.default_rng(0)
    views = np.zeros((400, 8, 10))
    views[:, :, :2] = rng.normal(size=(400, 1, 2))
    views[:, :, :2] += 0.05 * rng.normal(size=(400, 8, 2))
    views[:, :, 2:] = rng.normal(size=(400, 8, 8))
    assert lidar(views) == pytest.approx(2.0, rel=0.02)
    assert rank_me(jnp.asarray(views[:, 0])) > 8


def test_alpha_req_of_a_power_law():
    """Principal axes whose variance is rank ** -1.5, and the slope that NumPy fits to any other spectrum."""
    rng = np.random.default_rng(1)
    columns = rng.normal(size=(50, 8))
    axes = np.linalg.qr(columns - columns.mean(0))[0]  # orthonormal, mean 0
    assert alpha_req(axes * np.arange(1, 9.0) ** -0.75) == pytest.approx(1.5, rel=1e-6)
    variance = np.array([9.0, 7.0, 2.0, 1.0, 0.7, 0.1, 0.09, 0.03])
    rank = np.arange(1, 9)
    slope = np.polyfit(np.log(rank), np.log(variance), 1, w=np.sqrt(1.0 / rank))[0]  # its weights are of the residuals
    assert alpha_req(axes * np.sqrt(variance)) == pytest.approx(-slope, rel=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_all_scores_of_features_that_are_not_finite_are_nan(bad):
    views = np.random.default_rng(0).normal(size=(6, 2, 4))
    views[3, 1, 2] = bad
    found = [alignment(jnp.asarray(views)), uniformity(jnp.asarray(views[:, 1])), distance(jnp.asarray(views[:, 1]))]
    assert np.isnan([*found, lidar(views), alpha_req(views[:, 1])]).all()
    assert np.isnan([lidar(np.ones((6, 2, 4))), alpha_req(np.ones((6, 4))), lidar(views[:, :1])]).all()


def test_views_belong_to_the_image_and_the_view_alone_and_do_not_compile_again():
    images = np.random.default_rng(0).integers(0, 256, (AT_ONCE + 2, 8, 8, 3), np.uint8)
    draw = drawer(PRESET)
    first = draw(images, 0)
    assert first.shape == images.shape and first.dtype == np.uint8
    before = _views._cache_size()
    np.testing.assert_array_equal(draw(images[:AT_ONCE], 0), first[:AT_ONCE])
    np.testing.assert_array_equal(drawer(dict(PRESET))(images, 0), first)
    assert (draw(images, 1) != first).any()
    assert _views._cache_size() == before


def test_label_free_scores_are_those_of_the_features():
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), np.uint8)
    draw = drawer(PRESET)

    def encode(variables, shown):
        return variables * shown.reshape(len(shown), -1)[:, :20].astype(np.float32) / 255

    found = label_free(encode, 2.0, images, draw, views=3)
    size = _of_images._cache_size()
    assert label_free(encode, 5.0, images, draw, views=3)["lidar"] == pytest.approx(found["lidar"], rel=1e-4)
    assert _of_images._cache_size() == size
    clean = jnp.asarray(encode(2.0, images))
    views = np.stack([encode(2.0, draw(images, place)) for place in range(3)], axis=1)
    wanted = {"rankme": rank_me(clean), "feature_std": feature_std(clean), "uniformity": uniformity(clean),
              "distance": distance(clean), "alpha_req": alpha_req(clean), "alignment": alignment(jnp.asarray(views)),
              "lidar": lidar(views)}  # fmt: skip
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        assert found[name] == pytest.approx(float(value), rel=1e-5), name
    alone = label_free(encode, 2.0, images, draw, views=1)
    assert np.isnan([alone["alignment"], alone["lidar"]]).all() and alone["rankme"] == found["rankme"]
