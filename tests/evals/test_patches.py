"""Patches and their masks: shares by counting, drawn images, and scores enlarged to pixels."""

from __future__ import annotations

import cv2
import jax.numpy as jnp
import numpy as np
import pytest

from gssl_jax.evals import patches as module
from gssl_jax.evals.patches import Maps, Patches, draw_images, held_out_images, of_images, patches_of, some_patches


@pytest.mark.parametrize(("side", "grid"), [(8, 2), (9, 3), (10, 4)])
def test_shares_by_counting(side, grid):
    rng = np.random.default_rng(0)
    masks = rng.choice([0, 1, 2, 255], (3, side, side), p=[0.4, 0.2, 0.1, 0.3]).astype(np.uint8)
    masks[1, : -(-side // grid), : -(-side // grid)] = 255  # the first patch of an image has no class
    features = rng.normal(size=(3, grid, grid, 5)).astype(np.float32)
    found, rows = patches_of(Maps(features, masks), 3), []
    place = np.arange(side) * grid // side
    for image in range(3):
        for row in range(grid):
            for column in range(grid):
                pixels = masks[image][np.ix_(place == row, place == column)].ravel()
                counts = np.array([(pixels == c).sum() for c in range(3)])
                if counts.sum():
                    rows.append(
                        (features[image, row, column], counts / counts.sum(), counts.sum() / len(pixels), image)
                    )
    assert len(found.features) == len(rows) < 3 * grid**2
    for one, other in zip(found, zip(*rows, strict=True), strict=True):
        np.testing.assert_allclose(one, np.stack(other), rtol=1e-6)


def made(images):
    """Patches, one an image, of classes 0 to 2."""
    count = len(images)
    return Patches(np.arange(count)[:, None], np.eye(3)[np.asarray(images)], np.ones(count), np.arange(count))


def test_images_are_drawn_for_each_class_that_they_show():
    present = np.zeros((30, 3), bool)
    present[:20, 0] = present[10:30, 1] = present[5, 2] = True
    draws = [draw_images(present, 3, 0, draw) for draw in range(50)]
    for rows in draws:
        assert (present[rows, :2].sum(0) >= 3).all() and 5 in rows and len(rows) <= 7  # one image alone shows class 2
        assert len(set(rows)) == len(rows) and sorted(rows) == list(rows)
    assert len({tuple(rows) for rows in draws}) > 45
    np.testing.assert_array_equal(draws[3], draw_images(present, 3, 0, 3))
    assert set(np.concatenate(draws)) > set(range(20))
    np.testing.assert_array_equal(module.present_in(made([0, 2, 1]), 3), np.eye(3, dtype=bool)[[0, 2, 1]])


def test_parts_of_the_patches():
    known = made([0, 1, 2, 0, 1, 2])
    np.testing.assert_array_equal(of_images(known, np.array([1, 4])).features[:, 0], [1, 4])
    assert some_patches(known, 6, 0) is known
    some = some_patches(known, 4, 0)
    assert len(set(some.image)) == 4 and (some.features[:, 0] == some.image).all()
    assert len(held_out_images(10, 0.2, 0)) == 2 and len(held_out_images(2, 0.01, 0)) == 1
    assert len(held_out_images(3, 0.99, 0)) == 2


def test_scores_are_enlarged_as_opencv_does():
    scores = np.random.default_rng(0).normal(size=(11, 3, 3, 4)).astype(np.float32)  # not a multiple of 8 images
    found = module.predicted(lambda features: features, scores, 12)
    large = np.stack([cv2.resize(one, (12, 12), interpolation=cv2.INTER_LINEAR) for one in scores])
    clear = np.diff(np.sort(large, -1)[..., -2:])[..., 0] > 1e-4
    assert found.dtype == np.uint8 and clear.mean() > 0.99
    np.testing.assert_array_equal(found[clear], large.argmax(-1)[clear])


def test_maps_leave_padding_out():
    images = np.random.default_rng(0).integers(0, 256, (4, 4, 4, 1), np.uint8)
    masks = images[..., 0] % 3
    batch = {"image": images, "segmentation": masks, "label": np.zeros(4), "valid": np.array([1, 0, 1, 1], bool)}
    found = module.maps(lambda x: {"map": jnp.mean(x.reshape(-1, 2, 2, 2, 2, 1), (2, 4))}, None, [batch, batch], "map")
    assert found.features.shape == (6, 2, 2, 1)
    np.testing.assert_array_equal(found.masks, np.concatenate([masks[[0, 2, 3]]] * 2))
