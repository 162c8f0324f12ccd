"""Blurs against OpenCV and SciPy, and what they leave as it is."""

from __future__ import annotations

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from gssl_jax.ops import blurs
from gssl_jax.ops.keys import named

IMAGE = np.random.default_rng(0).random((24, 24, 2)).astype(np.float32)
PLACED = jnp.asarray(IMAGE)
KEY = jax.random.key(5)


@pytest.mark.parametrize(("radius", "sigma"), [(0.3, 0.4), (1.5, 0.1), (3, 0.5), (6, 0.5), (10, 0.5)])
def test_the_disk_is_that_of_opencv(radius, sigma):
    half = 12
    squares = np.arange(-half, half + 1) ** 2
    wanted = (squares[:, None] + squares[None] <= radius**2).astype(np.float32)
    wanted = cv2.GaussianBlur(wanted / wanted.sum(), (3, 3) if radius <= 8 else (5, 5), sigma)
    found = blurs.disk(radius, sigma, half)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert float(found.sum()) == pytest.approx(1.0, abs=1e-5)


def test_out_of_focus_is_a_filter_by_the_disk():
    kernel = np.asarray(blurs.disk(2.5, 0.5, 5))
    np.testing.assert_allclose(blurs.defocus(IMAGE, 2.5, 0.5, 5), cv2.filter2D(IMAGE, -1, kernel), atol=1e-5)


def test_a_movement_to_the_right_by_hand():
    """Three places (radius 1) weighted 1, exp(-1/2), exp(-2), each from one pixel further on, the border repeated."""
    weights = np.exp([0.0, -0.5, -2.0]) / np.exp([0.0, -0.5, -2.0]).sum()
    np.testing.assert_allclose(blurs.motion_weights(1, 1.0, 7), [*weights, 0, 0, 0, 0], atol=1e-6)
    wide = np.pad(IMAGE, ((0, 0), (0, 2), (0, 0)), mode="edge")
    wanted = sum(w * wide[:, k : k + 24] for k, w in enumerate(weights))
    np.testing.assert_allclose(blurs.motion(PLACED, 1, 1.0, 0.0, 7), wanted, atol=1e-6)
    down = blurs.motion(PLACED.transpose(1, 0, 2), 1, 1.0, np.pi / 2, 7)
    np.testing.assert_allclose(down, wanted.transpose(1, 0, 2), atol=1e-6)


def test_a_zoom_keeps_the_middle_and_magnifies_a_slope():
    np.testing.assert_allclose(blurs.zoomed(IMAGE, 1.0), IMAGE, atol=1e-6)
    slope = np.broadcast_to(np.linspace(0, 1, 25)[None, :, None], (25, 25, 1)).astype(np.float32)
    np.testing.assert_allclose(blurs.zoomed(slope, 2.0), 0.25 + slope / 2, atol=1e-6)
    factors, counts = jnp.asarray([1.0, 2.0, 9.0]), jnp.asarray([1.0, 1.0, 0.0])
    np.testing.assert_allclose(blurs.zoom(slope, factors, counts), (2 * slope + 0.25 + slope / 2) / 3, atol=1e-6)


def test_frosted_glass_takes_pixels_from_nearby():
    """Without a blur every pixel is one of the 4 x 4 pixels at -2 to 1 of it, of all channels at once."""
    places = np.stack(np.meshgrid(np.arange(24.0), np.arange(24.0), indexing="ij"), -1).astype(np.float32)
    found = np.asarray(blurs.glass(KEY, places, 0.0, 2, 1, 3))
    ways = np.round(found - places)[2:-2, 2:-2]
    np.testing.assert_allclose(found, np.round(found), atol=1e-4)
    assert ways.min() == -2 and ways.max() == 1
    np.testing.assert_allclose(blurs.glass(KEY, IMAGE, 0.0, 2, 0, 3), IMAGE, atol=1e-6)


def test_a_displacement_is_sampled_as_scipy_does():
    rows, columns = np.random.default_rng(1).uniform(-9, 33, (2, 24, 24)).astype(np.float32)
    wanted = [ndimage.map_coordinates(IMAGE[..., c], [rows, columns], order=1, mode="mirror") for c in (0, 1)]
    np.testing.assert_allclose(blurs.sampled(IMAGE, rows, columns), np.stack(wanted, -1), atol=1e-4)


def test_the_affine_map_moves_three_points_as_opencv_does():
    smooth = 5 * (cv2.GaussianBlur(IMAGE, (0, 0), 3) - 0.4)
    np.testing.assert_allclose(blurs.elastic(KEY, smooth, 0.0, 0.0, 0.0), smooth, atol=1e-5)
    moves = np.asarray(jax.random.uniform(named(KEY, "affine"), (3, 2), minval=-1.0, maxval=1.0)) * 3.0
    points = np.float32([[20, 20], [20, 4], [4, 4]])
    matrix = cv2.getAffineTransform(points, (points + moves).astype(np.float32))
    wanted = cv2.warpAffine(smooth, matrix, (24, 24), borderMode=cv2.BORDER_REFLECT_101)
    np.testing.assert_allclose(blurs.elastic(KEY, smooth, 0.0, 0.0, 3.0), wanted, atol=0.04)
    assert np.abs(wanted - smooth).max() > 0.1
