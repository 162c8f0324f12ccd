"""Masks and corruption: coverage, alignment, bit equality outside the mask, donors, draws that follow the sample."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from gssl_jax.ops import masking
from tests import reference

FILL = jnp.float32([0.25, 0.5, 0.75])
GMML = {
    "kind": "noise",
    "ratio": 0.5,
    "max_side": 0.3,
    "align": 1,
    "foreign_probability": 0.5,
    "foreign_ratio": 0.3,
    "fill": FILL,
}


def pixels(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).random(shape, np.float32))


@pytest.mark.parametrize(("grid", "ratio", "max_side"), [(32, 0.5, 9), (8, 0.5, 2), (14, 0.75, 4), (33, 0.3, 5)])
def test_covered_fraction_ends_within_one_box_of_the_ratio(getkey, grid, ratio, max_side):
    masks = jax.jit(lambda k: masking.block_masks(k, jnp.arange(2000), grid, ratio, max_side))(getkey())
    assert masks.shape == (2000, grid, grid) and masks.dtype == bool
    covered = np.asarray(masks).mean(axis=(1, 2))
    assert covered.min() >= ratio
    assert covered.max() <= ratio + (max_side / grid) ** 2


def test_boxes_of_one_cell_cover_exactly_the_ratio(getkey):
    masks = jax.jit(lambda k: masking.block_masks(k, jnp.arange(200), 6, 0.4, 1))(getkey())
    assert (masks.sum(axis=(1, 2)) == math.ceil(0.4 * 36)).all()


def gmml_by_loop(rng, grid, ratio, max_side):
    mask = np.zeros((grid, grid), bool)
    while mask.mean() < ratio:
        (top, left), (height, width) = rng.integers(0, grid, 2), rng.integers(1, max_side + 1, 2)
        mask[top : top + height, left : left + width] = True
    return mask


def test_every_cell_is_hidden_as_often_as_in_a_scalar_loop(getkey):
    rng, count = np.random.default_rng(0), 3000
    expected = np.mean([gmml_by_loop(rng, 8, 0.5, 3) for _ in range(count)], axis=0)
    draw = jax.jit(lambda k: masking.block_masks(k, jnp.arange(count), 8, 0.5, 3))
    ours = np.asarray(draw(getkey())).mean(axis=0)
    assert np.abs(ours - expected).max() < 0.06  # 64 cells, 4.6 standard deviations of the difference


def test_block_mask_edges(getkey):
    assert not jax.jit(lambda k: masking.block_mask(k, 4, 0.0, 2))(getkey()).any()
    one_box = jax.jit(lambda k: masking.block_mask(k, 4, 0.5, 2, boxes=1))(getkey())
    assert 1 <= int(one_box.sum()) <= 4  # the loop ends before the ratio
    with pytest.raises(ValueError, match="ratio"):
        masking.block_mask(getkey(), 4, 1.0, 2)
    with pytest.raises(ValueError, match="max_side"):
        masking.block_mask(getkey(), 4, 0.5, 5)


def test_random_mask_hides_exactly_count_and_every_cell_alike(getkey):
    masks = jax.jit(jax.vmap(lambda k: masking.random_mask(k, 10, 3)))(jax.random.split(getkey(), 3000))
    assert (masks.sum(axis=1) == 3).all()
    np.testing.assert_allclose(masks.mean(axis=0), 0.3, atol=0.04)
    with pytest.raises(ValueError, match="cannot hide 11 of 10"):
        masking.random_mask(getkey(), 10, 11)


def test_expand_repeats_cells():
    mask = np.random.default_rng(0).random((2, 3, 3)) > 0.5
    np.testing.assert_array_equal(masking.expand(jnp.asarray(mask), 4), np.kron(mask, np.ones((1, 4, 4), bool)))


def test_token_mask_needs_the_whole_patch_and_goes_row_by_row():
    mask = np.zeros((1, 4, 6), bool)
    mask[0, 0:2, 2:4] = True  # token 1 of a 2 x 3 grid, whole
    mask[0, 2:4, 4:6] = True  # token 5, but for one pixel
    mask[0, 3, 5] = False
    np.testing.assert_array_equal(masking.token_mask(jnp.asarray(mask), 2), [[False, True, False, False, False, False]])
    with pytest.raises(ValueError, match="patch 4"):
        masking.token_mask(jnp.asarray(mask), 4)


@pytest.mark.parametrize("n", [2, 7, 64])
def test_donors_are_one_cycle_without_fixed_points(getkey, n):
    draws = np.asarray(jax.jit(jax.vmap(lambda k: masking.donors(k, jnp.arange(n))))(jax.random.split(getkey(), 400)))
    assert draws.dtype == np.int32
    assert (np.sort(draws, axis=1) == np.arange(n)).all()
    assert (draws != np.arange(n)).all()
    place = np.zeros(400, int)
    for step in range(1, n + 1):  # back at the start after n steps, and not before
        place = draws[np.arange(400), place]
        assert ((place == 0) == (step == n)).all()


def test_donors_of_three_are_equally_likely(getkey):
    draws = jax.jit(jax.vmap(lambda k: masking.donors(k, jnp.arange(3))))(jax.random.split(getkey(), 2000))
    assert float((draws[:, 0] == 1).mean()) == pytest.approx(0.5, abs=0.045)


def test_donors_need_two(getkey):
    with pytest.raises(ValueError, match="at least 2"):
        masking.donors(getkey(), jnp.arange(1))


def test_donors_follow_the_samples(getkey):
    key, index, order = getkey(), jnp.array([40, 7, 19, 3, 88]), jnp.array([4, 2, 0, 1, 3])
    donor = masking.donors(key, index)
    shuffled = index[order]
    given = dict(zip(index.tolist(), index[donor].tolist(), strict=True))
    again = dict(zip(shuffled.tolist(), shuffled[masking.donors(key, shuffled)].tolist(), strict=True))
    assert given == again


@pytest.mark.parametrize("kind", masking.KINDS)
def test_corruption_leaves_the_rest_equal_bit_for_bit(getkey, kind):
    images, mask = pixels(6, 8, 8, 3), pixels(6, 8, 8, seed=1) < 0.5
    result = np.asarray(masking.corrupt(getkey(), jnp.arange(6), images, mask, kind, FILL))
    hidden = np.asarray(mask)
    np.testing.assert_array_equal(result[~hidden], np.asarray(images)[~hidden])
    assert (result[hidden] != np.asarray(images)[hidden]).all()


def test_kinds_of_content(getkey):
    images = jnp.broadcast_to(jnp.arange(5.0)[:, None, None, None] + 2, (5, 4, 4, 3)) + pixels(1, 4, 4, 3)
    everything = jnp.ones((5, 4, 4), bool)
    zeros = masking.corrupt(getkey(), jnp.arange(5), images, everything, "zeros", FILL)
    np.testing.assert_array_equal(zeros, np.broadcast_to(FILL, zeros.shape))
    foreign = np.asarray(masking.corrupt(getkey(), jnp.arange(5), images, everything, "foreign", FILL))
    source = np.floor(foreign[:, 0, 0, 0]).astype(int) - 2
    assert sorted(source) == list(range(5)) and (source != np.arange(5)).all()
    np.testing.assert_array_equal(foreign, np.asarray(images)[source])  # the same place of the donor
    black = jnp.zeros((200, 4, 4, 3))
    noise = masking.corrupt(getkey(), jnp.arange(200), black, jnp.ones((200, 4, 4), bool), "noise", FILL)
    np.testing.assert_allclose(np.quantile(noise, [0, 0.25, 0.5, 0.75, 1]), [0, 0.25, 0.5, 0.75, 1], atol=0.03)
    with pytest.raises(ValueError, match="unknown corruption 'blur'"):
        masking.corrupt(getkey(), jnp.arange(5), images, everything, "blur", FILL)


@pytest.mark.parametrize(("align", "kind"), [(1, "zeros"), (4, "zeros"), (4, "noise")])
def test_gmml_covers_is_aligned_and_leaves_the_rest(getkey, align, kind):
    count = 400
    images = pixels(count, 32, 32, 1)
    settings = GMML | {"kind": kind, "align": align, "fill": jnp.float32([9.0])}
    corrupt = jax.jit(lambda k, i, x: masking.gmml_corrupt(k, i, x, **settings))
    result, mask = corrupt(getkey(), jnp.arange(count), images)
    result, hidden, images = np.asarray(result), np.asarray(mask), np.asarray(images)
    np.testing.assert_array_equal(result[~hidden], images[~hidden])
    covered = hidden.mean(axis=(1, 2))
    swapped = covered < 0.45
    assert swapped.mean() == pytest.approx(0.5, abs=0.1)
    assert covered[swapped].min() >= 0.3 and covered[swapped].max() <= 0.39
    assert covered[~swapped].min() >= 0.5 and covered[~swapped].max() <= 0.59
    if align > 1:
        assert reference.patch_aligned(mask, align)
        assert bool((masking.token_mask(mask, align).sum(axis=1) * align**2 == mask.sum(axis=(1, 2))).all())
    if kind == "zeros":  # swapped samples hold one other image at the same place, the others the fill
        assert (result[~swapped][hidden[~swapped]] == 9.0).all()
        for i in np.flatnonzero(swapped)[:20]:
            same = (images[:, hidden[i]] == result[i, hidden[i]]).all(axis=(1, 2))
            assert same.sum() == 1 and not same[i]


def test_gmml_without_foreign_content_works_for_one_image_and_refuses_with_it(getkey):
    image = pixels(1, 8, 8, 3)
    corrupt = jax.jit(lambda k: masking.gmml_corrupt(k, jnp.arange(1), image, **GMML | {"foreign_probability": 0.0}))
    result, mask = corrupt(getkey())
    np.testing.assert_array_equal(np.asarray(result)[~np.asarray(mask)], np.asarray(image)[~np.asarray(mask)])
    assert 0.5 <= float(mask.mean()) <= 0.59
    with pytest.raises(ValueError, match="at least 2 images"):
        masking.gmml_corrupt(getkey(), jnp.arange(1), image, **GMML)


def test_gmml_refuses_cells_that_do_not_divide_the_image(getkey):
    with pytest.raises(ValueError, match="align 5 must divide"):
        masking.gmml_corrupt(getkey(), jnp.arange(2), pixels(2, 32, 32, 3), **GMML | {"align": 5})


def test_gmml_draws_follow_the_index_and_not_the_place(getkey):
    key, images = getkey(), pixels(8, 16, 16, 3)
    index, order = jnp.arange(8) + 50, jnp.array([3, 1, 7, 0, 2, 6, 5, 4])
    corrupt = jax.jit(lambda i, x: masking.gmml_corrupt(key, i, x, **GMML))
    result, mask = corrupt(index, images)
    again, mask_again = corrupt(index[order], images[order])
    np.testing.assert_array_equal(mask_again, mask[order])
    np.testing.assert_array_equal(again, result[order])
    assert len({np.asarray(m).tobytes() for m in mask}) == 8


def test_gmml_is_the_same_on_eight_devices(getkey):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    images, index, key = pixels(16, 16, 16, 3), jnp.arange(16), getkey()
    corrupt = jax.jit(lambda i, x: masking.gmml_corrupt(key, i, x, **GMML))
    spread = NamedSharding(mesh, PartitionSpec("data"))
    parts = corrupt(jax.device_put(index, spread), jax.device_put(images, spread))
    for ours, expected in zip(parts, corrupt(index, images), strict=True):
        np.testing.assert_array_equal(ours, expected)


def test_masks_that_vary_between_samples():
    """Of 400 samples half are masked (+- 5 standard deviations), each of them from 10 % to 50 % of 64 cells, with a
    mean near 30 %; the largest box of 2 x 2 may overshoot by 4 cells."""
    index = jnp.arange(400)
    masks = np.asarray(masking.varied_block_masks(jax.random.key(0), index, 8, (0.1, 0.5), 0.5, 2))
    shares = masks.reshape(400, -1).mean(axis=1)
    masked = shares[shares > 0]
    assert abs(len(masked) - 200) < 50
    assert masked.min() >= 0.1 and masked.max() <= 0.5 + 4 / 64
    assert masked.min() < 0.15 and masked.max() > 0.45 and masked.mean() == pytest.approx(0.3, abs=0.05)
    again = masking.varied_block_masks(jax.random.key(0), index[::-1], 8, (0.1, 0.5), 0.5, 2)
    np.testing.assert_array_equal(np.asarray(again)[::-1], masks)  # a draw follows the sample
