"""Resizing against OpenCV and Pillow, and the rules for patches and channels against what they promise."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image

from gssl_jax.errors import UserError
from gssl_jax.interop.adapt import (
    keys_cubic,
    other_channels,
    resampled_patches,
    resize_matrix,
    resized_grid,
    side_of,
)
from gssl_jax.interop.layouts import ANTIALIASED, DINO, TORCH

SIDES = [(37, 16), (14, 24), (7, 7), (3, 8), (16, 5)]


@pytest.fixture
def grid():
    return lambda side, width=3: np.random.default_rng(side).standard_normal((side * side, width)).astype(np.float32)


@pytest.mark.parametrize(("old", "new"), SIDES)
def test_without_antialiasing_as_opencv(grid, old, new):
    """OpenCV's INTER_CUBIC has a = -0.75, half-pixel centres and repeated edges, as torch's bicubic."""
    positions = grid(old)
    wanted = cv2.resize(positions.reshape(old, old, 3), (new, new), interpolation=cv2.INTER_CUBIC)
    np.testing.assert_allclose(resized_grid(positions, new, TORCH), wanted.reshape(-1, 3), rtol=0, atol=2e-6)


@pytest.mark.parametrize(("old", "new"), SIDES)
def test_antialiased_as_pillow(grid, old, new):
    """Pillow's BICUBIC on floats: a = -0.5, widened when shrinking, cut at the edges; torch took it over."""
    positions = grid(old, 1)
    image = Image.fromarray(positions.reshape(old, old))
    wanted = np.asarray(image.resize((new, new), Image.Resampling.BICUBIC))
    np.testing.assert_allclose(resized_grid(positions, new, ANTIALIASED), wanted.reshape(-1, 1), rtol=0, atol=2e-6)


def test_the_offset_changes_the_scale_only():
    """2 -> 4 with 0.1 added: scale 2 / 4.1, so the second sample is at 1.5 * 0.487805 - 0.5 = 0.231707.

    Taps -1 (repeats 0), 0, 1, 2 (repeats 1) lie at distances 1.231707, 0.231707, 0.768293, 1.768293.
    """
    first = keys_cubic(np.array([1.231707, 0.231707]), -0.75).sum()
    np.testing.assert_allclose(resize_matrix(2, 4, DINO)[1], [first, 1 - first], atol=1e-6)
    assert abs(resize_matrix(2, 4, DINO) - resize_matrix(2, 4, TORCH)).max() > 0.01


def test_the_kernel_by_hand():
    # a = -0.75 at 0.5: 1.25 / 8 - 2.25 / 4 + 1 = 0.59375; at 1.5: -0.75 (3.375 - 11.25 + 12 - 4) = -0.09375.
    np.testing.assert_allclose(keys_cubic(np.array([0, 0.5, -1.5, 1, 2, 5]), -0.75), [1, 0.59375, -0.09375, 0, 0, 0])


@pytest.mark.parametrize("how", [TORCH, ANTIALIASED, DINO])
def test_constants_stay(how):
    np.testing.assert_allclose(resize_matrix(37, 16, how).sum(axis=1), 1, rtol=1e-12)


def test_the_same_grid_is_left_alone(grid):
    positions = grid(5)
    assert resized_grid(positions, 5, DINO) is positions


def test_a_grid_is_square():
    assert side_of(1369) == 37
    with pytest.raises(UserError, match="1370 positions are no square grid"):
        side_of(1370)


def test_larger_patches_respond_as_before():
    """A patch of 4 pixels, resized to 7, gives the new kernel's response what the old one gave the patch."""
    rng = np.random.default_rng(0)
    kernel, patch = rng.standard_normal((5, 2, 4, 4)), rng.standard_normal((2, 4, 4))
    axis = resize_matrix(4, 7, ANTIALIASED)
    larger = axis @ patch @ axis.T
    new = resampled_patches(kernel, 7)
    assert new.shape == (5, 2, 7, 7)
    np.testing.assert_allclose(np.sum(new * larger, (1, 2, 3)), np.sum(kernel * patch, (1, 2, 3)), rtol=1e-9)
    assert resampled_patches(kernel, 4) is kernel


def test_smaller_patches_take_the_least_squares_kernel():
    """pinv over the whole patch at once, as FlexiViT writes it: B is the Kronecker product of the two axes."""
    kernel = np.random.default_rng(1).standard_normal((3, 1, 6, 6))
    axis = resize_matrix(6, 4, ANTIALIASED)
    wanted = np.linalg.pinv(np.kron(axis, axis).T) @ kernel.reshape(3, 36).T
    np.testing.assert_allclose(resampled_patches(kernel, 4).reshape(3, 16), wanted.T, rtol=1e-9, atol=1e-12)


KERNEL = np.array([1.0, 2.0, 6.0]).reshape(1, 3, 1, 1)


@pytest.mark.parametrize(
    ("channels", "rule", "wanted"),
    [
        (1, "sum", [9]), (1, "mean", [3]), (1, "repeat", [3]), (1, "auto", [9]),
        (2, "sum", [4.5, 4.5]), (2, "mean", [3, 3]), (2, "repeat", [1.5, 3]), (2, "auto", [1.5, 3]),
        (6, "repeat", [0.5, 1, 3, 0.5, 1, 3]), (3, "sum", [1, 2, 6]),
    ],
)  # fmt: skip
def test_channels_by_hand(channels, rule, wanted):
    np.testing.assert_allclose(other_channels(KERNEL, channels, rule).ravel(), wanted)


def test_an_unknown_rule_for_channels():
    with pytest.raises(UserError, match="rule for channels 'summ'; did you mean 'sum'"):
        other_channels(KERNEL, 1, "summ")
