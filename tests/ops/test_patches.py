"""Patches: their order by hand, and there and back."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from gssl_jax.ops.patches import patchify, unpatchify


def test_order_of_patches_and_of_their_pixels():
    """A 4 x 4 image whose pixel (r, c) has the channels 10 r + c and 100 + 10 r + c: patches go row by row, the pixels
    of a patch row by row, and its channels stand together."""
    r, c = np.meshgrid(np.arange(4), np.arange(4), indexing="ij")
    image = np.stack([10 * r + c, 100 + 10 * r + c], axis=-1)[None]
    patches = patchify(jnp.asarray(image), 2)
    assert patches.shape == (1, 4, 8)
    np.testing.assert_array_equal(patches[0, 1], [2, 102, 3, 103, 12, 112, 13, 113])
    np.testing.assert_array_equal(patches[0, 2], [20, 120, 21, 121, 30, 130, 31, 131])


@pytest.mark.parametrize(("size", "patch", "channels"), [(12, 4, 1), (6, 3, 3), (5, 1, 2), (4, 4, 5)])
def test_unpatchify_is_the_inverse(size, patch, channels):
    images = jnp.asarray(np.random.default_rng(0).random((3, size, size, channels), np.float32))
    np.testing.assert_array_equal(unpatchify(patchify(images, patch), patch, channels), images)


def test_oblong_images_cut_too():
    patches = patchify(jnp.arange(8.0).reshape(1, 2, 4, 1), 2)
    np.testing.assert_array_equal(patches[0], [[0, 1, 4, 5], [2, 3, 6, 7]])


def test_a_patch_that_does_not_divide_the_image():
    with pytest.raises(ValueError, match="10x10 pixels cannot be cut into patches of 4"):
        patchify(jnp.zeros((1, 10, 10, 1)), 4)
