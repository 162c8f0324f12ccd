"""JPEG as a function against Pillow's own, and what it must leave alone."""

from __future__ import annotations

import io

import cv2
import jax
import numpy as np
import pytest
from PIL import Image

from gssl_jax.ops import jpeg as module

QUALITIES = (7, 25, 50, 80)


def picture(height, width, channels, seed=0):
    """Smooth shapes and some noise, uint8."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (6, 6, channels)).astype(np.uint8)
    large = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC).reshape(height, width, channels)
    return np.clip(large.astype(int) + rng.integers(-12, 13, large.shape), 0, 255).astype(np.uint8)


def by_pillow(image, quality):
    held = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(held, "JPEG", quality=quality)
    return np.asarray(Image.open(held)).reshape(image.shape).astype(np.float64)


@pytest.mark.parametrize("quality", QUALITIES)
@pytest.mark.parametrize("shape", [(48, 48, 1), (48, 48, 3), (37, 53, 3)])
def test_pillow_gives_the_same_levels(shape, quality):
    image = picture(*shape)
    found = 255 * np.asarray(jax.jit(module.jpeg)(image / np.float32(255), quality), np.float64)
    wanted = by_pillow(image, quality)
    changed = np.abs(wanted - image).mean()
    assert np.abs(found - wanted).mean() < min(0.25, 0.05 * changed)
    assert np.quantile(np.abs(found - wanted), 0.99) <= 6


@pytest.mark.parametrize("quality", QUALITIES)
def test_the_tables_are_those_in_a_file(quality):
    held = io.BytesIO()
    Image.fromarray(picture(16, 16, 3)).save(held, "JPEG", quality=quality)
    tables = Image.open(held).quantization  # Pillow gives them row by row
    for number, table in enumerate((module.LUMA_TABLE, module.CHROMA_TABLE)):
        np.testing.assert_array_equal(np.asarray(module.quality_table(table, quality)).ravel(), tables[number])


def test_a_flat_image_stays_and_the_transform_is_orthonormal():
    np.testing.assert_allclose(module.DCT @ module.DCT.T, np.eye(8), atol=1e-6)
    flat = np.full((16, 24, 3), 128 / 255, np.float32)  # level 128 is coefficient 0, whatever the step
    np.testing.assert_allclose(module.jpeg(flat, 10), flat, atol=1e-6)


def test_four_channels_are_four_grey_images():
    image = picture(24, 24, 4) / np.float32(255)
    found = module.jpeg(image, 40)
    for channel in range(4):
        np.testing.assert_array_equal(found[..., channel : channel + 1], module.jpeg(image[..., channel, None], 40))
