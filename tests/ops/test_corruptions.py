"""Corruptions: noise by formula, severities, tables, other programs' results, and that a draw follows its sample."""

from __future__ import annotations

import jax
import matplotlib.colors
import numpy as np
import pytest
from PIL import Image

from gssl_jax.ops import corruptions as module
from gssl_jax.ops.corruptions import NAMES, corrupt, strengths
from gssl_jax.ops.keys import named
from tests.ops.test_jpeg import picture

SIDE = 32
IMAGES = np.stack([picture(SIDE, SIDE, 3, seed) for seed in range(3)]) / np.float32(255)
KEYS = jax.random.split(jax.random.key(0), 3)
FLAT = np.full((3, SIDE, SIDE, 3), 0.4, np.float32)


@pytest.fixture(scope="module")
def corrupted():
    """Every corruption at every severity, [5, 3, S, S, C]; compiled once for this file."""
    return {name: np.stack([corrupt(name, IMAGES, KEYS, severity) for severity in range(1, 6)]) for name in NAMES}


def test_the_fourteen_corruptions_stay_in_the_range_and_do_something(corrupted):
    assert len(NAMES) == 14 and set(module.FUNCTIONS) == set(NAMES)
    for name, found in corrupted.items():
        assert found.dtype == np.float32 and found.min() >= 0 and found.max() <= 1, name
        assert np.abs(found - IMAGES).mean((2, 3, 4)).min() > 1e-4, name


# Not among them: glass and elastic, whose published severities trade one effect for another.
@pytest.mark.parametrize(
    "name",
    ["gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "zoom_blur", "snow", "fog", "brightness",
     "contrast", "pixelate", "jpeg_compression"],
)  # fmt: skip
def test_a_higher_severity_is_further_away(name, corrupted):
    distance = np.square(corrupted[name] - IMAGES).mean((1, 2, 3, 4))
    assert (np.diff(distance) > 0).all(), distance


@pytest.mark.parametrize("name", ["gaussian_noise", "impulse_noise", "glass_blur", "snow", "fog", "elastic_transform"])
def test_a_draw_follows_its_key_and_not_its_place(name, corrupted):
    found = corrupt(name, IMAGES[::-1], KEYS[::-1], 3)
    np.testing.assert_allclose(found[::-1], corrupted[name][2], atol=1e-5)
    assert np.abs(corrupt(name, IMAGES, KEYS[::-1], 3) - corrupted[name][2]).max() > 1e-2


def test_noise_has_the_mean_and_the_variance_of_its_formula():
    """Far from 0 and 1: sigma^2, x / photons, and a share of zeros and ones with x (1 - x) in between."""
    keys = jax.random.split(jax.random.key(1), 3)
    for severity in (1, 5):
        (sigma,), (photons,), (share,) = (
            strengths(name, severity, SIDE) for name in ("gaussian_noise", "shot_noise", "impulse_noise")
        )
        gaussian, shot, impulse = (
            np.asarray(corrupt(name, FLAT, keys, severity))
            for name in ("gaussian_noise", "shot_noise", "impulse_noise")
        )
        assert gaussian.mean() == pytest.approx(0.4, abs=3 * sigma / 96)
        assert gaussian.std() == pytest.approx(sigma, rel=0.03)
        assert shot.mean() == pytest.approx(0.4, abs=0.004) and shot.var() == pytest.approx(0.4 / photons, rel=0.06)
        assert np.abs(shot * photons - np.round(shot * photons)).max() < 1e-3
        assert (impulse == 0).mean() == pytest.approx(share / 2, abs=0.004)
        assert (impulse == 1).mean() == pytest.approx(share / 2, abs=0.004)
        assert ((impulse != 0) & (impulse != 1) & (impulse != np.float32(0.4))).sum() == 0


@pytest.mark.parametrize(
    "name", ["defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "contrast", "elastic_transform", "pixelate"]
)
def test_a_flat_image_has_nothing_to_lose(name):
    np.testing.assert_allclose(corrupt(name, FLAT, KEYS, 5), FLAT, atol=1e-5)


@pytest.mark.parametrize("severity", [1, 5])
def test_large_pixels_are_those_of_pillow(severity, corrupted):
    (matrix,), levels = strengths("pixelate", severity, SIDE), np.round(255 * IMAGES[0]).astype(np.uint8)
    small = int(SIDE * module.TABLES[32]["pixelate"][severity - 1])
    wanted = (
        Image.fromarray(levels).resize((small, small), Image.Resampling.BOX).resize((SIDE, SIDE), Image.Resampling.BOX)
    )
    np.testing.assert_allclose(matrix.sum(1), 1.0, atol=1e-6)
    np.testing.assert_allclose(255 * corrupted["pixelate"][severity - 1, 0], np.asarray(wanted), atol=1.01)


def test_brightness_is_the_value_of_hsv(corrupted):
    hsv = matplotlib.colors.rgb_to_hsv(IMAGES)
    hsv[..., 2] = np.minimum(hsv[..., 2] + 0.15, 1)
    np.testing.assert_allclose(corrupted["brightness"][2], matplotlib.colors.hsv_to_rgb(hsv), atol=1e-5)
    black = corrupt("brightness", 0 * FLAT, KEYS, 3)
    np.testing.assert_allclose(black, 0.15, atol=1e-6)


def test_contrast_by_hand(corrupted):
    mean = IMAGES.mean((1, 2), keepdims=True)
    np.testing.assert_allclose(corrupted["contrast"][4], mean + 0.15 * (IMAGES - mean), atol=1e-5)


def test_the_cloud_point_by_point():
    """Diamond-square on a torus: the middle of four corners, then the middle of four neighbours, plus its own noise."""
    key, side, decay = jax.random.key(3), 8, 1.5
    noise = np.asarray(jax.random.uniform(key, (side, side), minval=-1.0, maxval=1.0), np.float64)
    grid, amplitude, step = np.zeros((side, side)), 1.0, side
    while step > 1:
        half = step // 2
        for i in range(half, side, step):
            for j in range(half, side, step):
                corners = [grid[(i + a) % side, (j + b) % side] for a in (-half, half) for b in (-half, half)]
                grid[i, j] = np.mean(corners) + amplitude * noise[i, j]
        for i in range(0, side, half):
            for j in range((i + half) % step, side, step):
                near = [grid[(i + a) % side, (j + b) % side] for a, b in ((-half, 0), (half, 0), (0, -half), (0, half))]
                grid[i, j] = np.mean(near) + amplitude * noise[i, j]
        step, amplitude = half, amplitude / decay**2
    wanted = (grid - grid.min()) / np.ptp(grid)
    np.testing.assert_allclose(module.plasma(key, side, decay), wanted, atol=1e-5)


def test_fog_adds_the_cloud_and_darkens(corrupted):
    for k in range(3):
        cloud = np.asarray(module.plasma(named(KEYS[k], "fog"), SIDE, 2.0))[..., None]
        brightest = IMAGES[k].max()
        wanted = np.clip((IMAGES[k] + cloud) * brightest / (brightest + 1.0), 0, 1)
        np.testing.assert_allclose(corrupted["fog"][3, k], wanted, atol=1e-5)


def test_snow_falls_twice_once_upside_down():
    """On black the whitened image is 0.5 everywhere, of which severity 1 takes 1 - 0.95."""
    found = np.asarray(corrupt("snow", 0 * FLAT, KEYS, 1)) - 0.025
    assert found.min() > -1e-6 and found.max() > 0.05
    whole = found.max((1, 2, 3)) < 0.974
    np.testing.assert_allclose(found[whole], found[whole][:, ::-1, ::-1], atol=1e-5)


def test_strengths_of_the_published_sides_and_of_others():
    """244 x 2, 244 x .7 and 244 x .1 pixels are what ImageNet-C was made with; 112 is halfway to 224 by ratio .5."""
    np.testing.assert_allclose(strengths("elastic_transform", 1, 224), (488.0, 170.8, 24.4))
    np.testing.assert_allclose(strengths("elastic_transform", 2, 32), (1.6, 6.4, 2.24))
    assert strengths("gaussian_noise", 5, 224) == (0.38,) and strengths("gaussian_noise", 5, 64) == (0.18,)
    assert strengths("motion_blur", 5, 224) == (20, 15) and strengths("motion_blur", 5, 112 + 28) == (12.5, 9.375)
    assert strengths("glass_blur", 5, 448) == (3.0, 8, 2) and strengths("glass_blur", 1, 16) == (0.025, 1, 1)
    assert [module.table_side(side) for side in (28, 32, 45, 46, 64, 119, 120, 224, 384)] == [32] * 3 + [64] * 3 + [
        224
    ] * 3
    factors, counts = strengths("zoom_blur", 3, 224)
    np.testing.assert_allclose(factors[counts], np.arange(1, 1.21, 0.02))
    assert len(factors) == len(strengths("zoom_blur", 1, 224)[0])


@pytest.mark.parametrize("channels", [1, 4])
def test_any_number_of_channels(channels):
    images = np.stack([picture(SIDE, SIDE, channels)]) / np.float32(255)
    for name in ("brightness", "snow", "jpeg_compression"):
        found = np.asarray(corrupt(name, images, KEYS[:1], 2))
        assert found.shape == images.shape and found.min() >= 0 and found.max() <= 1
    np.testing.assert_allclose(corrupt("brightness", images, KEYS[:1], 2), np.minimum(images + 0.1, 1), atol=1e-6)


def test_what_is_not_known_is_refused():
    for name, severity in (("frost", 1), ("fog", 0), ("fog", 6)):
        with pytest.raises(ValueError, match="each from 1 to 5"):
            corrupt(name, IMAGES, KEYS, severity)
    with pytest.raises(ValueError, match="square"):
        corrupt("fog", IMAGES[:, :20], KEYS, 1)
