"""Crop boxes: hand cases, the distribution against a scalar loop, and numpy beside JAX."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gssl_jax.ops.boxes import ATTEMPTS, crop_box, rounded

RATIO = (3 / 4, 4 / 3)


def draws(count, attempts=ATTEMPTS, seed=0):
    return np.random.default_rng(seed).random((count, attempts, 4), np.float32)


def test_hand_case_takes_the_first_attempt_that_fits():
    # 100 x 100, whole area: attempt 1 has aspect 4/3 and is 115 wide, attempt 2 has area .25 and aspect 1.
    uniforms = np.array([[1.0, 1.0, 0.0, 0.0], [0.0, 0.5, 0.5, 1.0], [0.0, 0.5, 0.0, 0.0]])
    box = crop_box(uniforms, 100, 100, (0.25, 1.0), RATIO)
    np.testing.assert_allclose(box, [25.0, 50.0, 50.0, 50.0], rtol=1e-12)


def test_aspect_is_width_over_height():
    box = crop_box(np.array([[0.0, 1.0, 0.0, 0.0]]), 100, 100, (0.3, 0.3), (1.0, 2.0))
    assert box[3] / box[2] == pytest.approx(2.0)
    assert box[3] * box[2] == pytest.approx(3000.0)


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (10, 100, (0.0, (100 - 40 / 3) / 2, 10.0, 40 / 3)),  # too wide: ratio clamped to 4/3
        (100, 10, ((100 - 40 / 3) / 2, 0.0, 40 / 3, 10.0)),  # too tall: ratio clamped to 3/4
    ],
)
def test_fallback_is_centred_and_clamped_to_the_ratio(height, width, expected):
    boxes = crop_box(draws(20), height, width, (1.0, 1.0), RATIO)  # the whole area at these ratios never fits
    np.testing.assert_allclose(boxes, np.broadcast_to(np.float32(expected), (20, 4)), rtol=1e-6)


def test_area_aspect_and_place_are_uniform_when_every_attempt_fits():
    # The widest box of area .5 is sqrt(.5 * 4/3) = .82 of the side: nothing is rejected, so each moment is exact.
    count = 40_000
    top, left, height, width = crop_box(draws(count), 64, 64, (0.1, 0.5), RATIO).T
    area = height * width / 64**2
    assert 0.1 <= area.min() + 1e-6 and area.max() <= 0.5 + 1e-6
    assert area.mean() == pytest.approx(0.3, abs=4 * 0.4 / math.sqrt(12 * count))
    aspect = np.log(width / height) / math.log(4 / 3)  # uniform in [-1, 1]
    assert np.abs(aspect).max() <= 1 + 1e-5
    assert aspect.mean() == pytest.approx(0.0, abs=4 / math.sqrt(3 * count))
    assert aspect.std() == pytest.approx(1 / math.sqrt(3), abs=0.01)
    for place in (top / (64 - height), left / (64 - width)):
        np.testing.assert_allclose(np.quantile(place, [0.1, 0.5, 0.9]), [0.1, 0.5, 0.9], atol=0.015)


def by_loop(rng, height, width, scale, ratio):
    """RandomResizedCrop for one image, attempt by attempt, without rounding."""
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = math.sqrt(area * aspect), math.sqrt(area / aspect)
        if w <= width and h <= height:
            return rng.uniform(0, height - h), rng.uniform(0, width - w), h, w
    return None


def test_rejections_shape_the_distribution_as_in_a_scalar_loop():
    count, rng = 10_000, np.random.default_rng(1)
    ours = crop_box(draws(count), 48, 64, (0.25, 1.0), RATIO)
    loop = np.array([by_loop(rng, 48, 64, (0.25, 1.0), RATIO) for _ in range(count)], float)
    levels = np.linspace(0.05, 0.95, 10)
    for k in range(4):
        spread = loop[:, k].std()
        ours_q, loop_q = np.quantile(ours[:, k], levels), np.quantile(loop[:, k], levels)
        np.testing.assert_allclose(ours_q, loop_q, atol=0.08 * spread)


def test_numpy_and_jax_give_the_same_boxes():
    uniforms = draws(500)
    for height, width, scale in ((48, 64, (0.05, 1.0)), (10, 100, (0.25, 1.0))):
        host = crop_box(uniforms, height, width, scale, RATIO)
        device = jax.jit(lambda u, h=height, w=width, s=scale: crop_box(u, h, w, s, RATIO))(jnp.asarray(uniforms))
        assert host.dtype == np.float32
        # float32 exp and sqrt differ in the last bit; a place is the product of two such numbers
        np.testing.assert_allclose(device, host, rtol=1e-5, atol=1e-4)
        one = crop_box(jnp.asarray(uniforms[0]), height, width, scale, RATIO)
        np.testing.assert_allclose(one, host[0], rtol=1e-5, atol=1e-4)


def test_boxes_lie_inside_and_rounding_keeps_them_there():
    boxes = crop_box(draws(5000), 7, 9, (0.01, 1.0), RATIO)
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 0] + boxes[:, 2] <= 7 + 1e-5).all() and (boxes[:, 1] + boxes[:, 3] <= 9 + 1e-5).all()
    whole = rounded(boxes, 7, 9)
    assert whole.dtype == np.int32
    assert (whole[:, :2] >= 0).all() and (whole[:, 2:] >= 1).all()
    assert (whole[:, 0] + whole[:, 2] <= 7).all() and (whole[:, 1] + whole[:, 3] <= 9).all()
    assert np.abs(whole - boxes).max() <= 1.0
    np.testing.assert_array_equal(rounded(jnp.asarray(boxes), 7, 9), whole)


@pytest.mark.parametrize(("scale", "ratio"), [((0.0, 1.0), RATIO), ((0.5, 0.2), RATIO), ((0.1, 1.0), (2.0, 1.0))])
def test_impossible_bounds_are_refused(scale, ratio):
    with pytest.raises(ValueError, match="low <= high"):
        crop_box(draws(1), 8, 8, scale, ratio)


def test_wrong_shape_is_refused():
    with pytest.raises(ValueError, match="attempts, 4"):
        crop_box(np.zeros((10, 3)), 8, 8, (0.1, 1.0), RATIO)
