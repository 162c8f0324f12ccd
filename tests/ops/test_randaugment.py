"""RandAugment: each operation against Pillow, and the draws."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

from gssl_jax.ops import randaugment
from gssl_jax.ops.randaugment import OPERATIONS

WIDE, HIGH = 32, 28


def affine(*matrix):
    return lambda image: image.transform(image.size, Image.Transform.AFFINE, matrix)


# name -> (strengths, strength -> what Pillow does), as in github.com/LeeDoYup/FixMatch-pytorch
TONES = {
    "autocontrast": ((0.0,), lambda v: ImageOps.autocontrast),
    "equalize": ((0.0,), lambda v: ImageOps.equalize),
    "identity": ((0.0,), lambda v: lambda image: image),
    "posterize": ((4.0, 5.7, 7.99), lambda v: lambda image: ImageOps.posterize(image, int(v))),
    "solarize": ((0.0, 100.4, 128.0, 256.0), lambda v: lambda image: ImageOps.solarize(image, v)),
    "brightness": ((0.05, 0.4, 0.95), lambda v: lambda image: ImageEnhance.Brightness(image).enhance(v)),
    "colour": ((0.05, 0.4, 0.95), lambda v: lambda image: ImageEnhance.Color(image).enhance(v)),
    "contrast": ((0.05, 0.4, 0.95), lambda v: lambda image: ImageEnhance.Contrast(image).enhance(v)),
    "sharpness": ((0.05, 0.4, 0.95), lambda v: lambda image: ImageEnhance.Sharpness(image).enhance(v)),
}
MOVES = {
    "rotate": ((-30.0, -7.3, 0.0, 12.5, 29.9), lambda v: lambda image: image.rotate(v)),
    "shear_x": ((-0.29, -0.11, 0.19), lambda v: affine(1, v, 0, 0, 1, 0)),
    "shear_y": ((-0.29, 0.07, 0.19), lambda v: affine(1, 0, 0, v, 1, 0)),
    "translate_x": ((-0.29, 0.13), lambda v: affine(1, 0, v * WIDE, 0, 1, 0)),
    "translate_y": ((-0.17, 0.3), lambda v: affine(1, 0, 0, 0, 1, v * HIGH)),
}


def pictures(channels=3):
    """Noise of every level, a smooth and dim picture, one of few levels, one of a single level."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (HIGH, WIDE, channels))
    slope = 40 + np.add.outer(np.arange(HIGH) * 2, np.arange(WIDE))[..., None] + 9 * np.arange(channels)
    few = rng.choice([7, 90, 91, 200], (HIGH, WIDE, channels), p=[0.6, 0.2, 0.15, 0.05])
    return [x.astype(np.uint8) for x in (noise, slope, few, np.full((HIGH, WIDE, channels), 93))]


def ours(name, picture, strength):
    change = jax.jit(OPERATIONS[name].change)
    return np.asarray(change(jnp.asarray(picture, jnp.float32), jnp.float32(strength)))


@pytest.mark.parametrize("name", TONES)
def test_levels_are_those_of_pillow_to_one(name):
    strengths, made = TONES[name]
    for picture in pictures():
        for strength in strengths:
            found, wanted = ours(name, picture, strength), np.asarray(made(strength)(Image.fromarray(picture)), float)
            assert np.abs(found - wanted).max() <= 1, strength
            assert (found != wanted).mean() <= 0.1, strength  # and mostly equal
            assert (found == np.round(found)).all() and found.min() >= 0 and found.max() <= 255


@pytest.mark.parametrize("name", MOVES)
def test_pixels_move_as_in_pillow(name):
    """A pixel may take the neighbour of the one Pillow takes where its source lies between the two: 1 in 100."""
    strengths, made = MOVES[name]
    for strength in strengths:
        picture = pictures()[0]
        wanted = np.asarray(made(strength)(Image.fromarray(picture)))
        assert (ours(name, picture, strength) != wanted).any(-1).mean() <= 0.01, strength


def test_every_operation_is_compared():
    assert set(TONES) | set(MOVES) == set(OPERATIONS)
    assert len(OPERATIONS) == 14


def test_smoothing_keeps_the_border():
    for picture in pictures():
        wanted = np.asarray(Image.fromarray(picture).filter(ImageFilter.SMOOTH), float)
        found = np.asarray(randaugment.smooth(jnp.asarray(picture, jnp.float32)))
        assert np.abs(found - wanted).max() <= 1


def test_grey_images_have_no_colour_to_lose():
    picture = pictures(1)[0]
    np.testing.assert_array_equal(ours("colour", picture, 0.05), picture)
    wanted = np.asarray(ImageOps.equalize(Image.fromarray(picture[..., 0])))
    assert np.abs(ours("equalize", picture, 0.0)[..., 0] - wanted).max() <= 1


@pytest.mark.parametrize(("share", "centre"), [(0.5, (0.4, 0.6)), (0.3, (0.02, 0.97)), (0.01, (0.5, 0.5)), (0, (0, 0))])
def test_the_cutout_is_the_rectangle_of_pillow(share, centre):
    """The reference: from int(max(0, centre - side / 2)) on, `side` wide, both ends drawn."""
    picture = pictures()[0]
    wanted = Image.fromarray(picture)
    if share > 0:
        side = np.float32(share) * WIDE
        x, y = (int(max(0, np.float32(c) * n - side / 2)) for c, n in zip(centre, (WIDE, HIGH), strict=True))
        ImageDraw.Draw(wanted).rectangle((x, y, min(WIDE, x + side), min(HIGH, y + side)), (125, 123, 114))
    found = randaugment.cutout(jnp.asarray(picture, jnp.float32), jnp.float32(share), jnp.asarray(centre, jnp.float32))
    np.testing.assert_array_equal(found, np.asarray(wanted))


def test_a_draw_follows_the_sample_and_reaches_every_operation():
    """Without a cutout, one operation on one picture: 400 samples show each operation; a sample keeps its draw."""
    draw = jax.jit(lambda index, images: randaugment.randaugment_batch(jax.random.key(0), index, images, 1, 0.0))
    picture = jnp.asarray(pictures()[1], jnp.float32) / 255
    images = jnp.broadcast_to(picture[None], (400, *picture.shape))
    found = np.asarray(draw(jnp.arange(400), images))
    again = np.asarray(draw(jnp.arange(400)[::-1], images))[::-1]
    np.testing.assert_array_equal(found, again)
    assert found.min() >= 0 and found.max() <= 1 and found.dtype == np.float32
    which = np.floor(
        [float(jax.random.uniform(randaugment.named(k, "operation_0"), (2,))[0]) * 14
         for k in randaugment.per_sample(jax.random.key(0), jnp.arange(400))]
    )  # fmt: skip
    assert set(which) == set(range(14))
    kept = (found == np.asarray(images)).all((1, 2, 3))
    assert kept[which == list(OPERATIONS).index("identity")].all()
    for name in ("autocontrast", "brightness", "equalize"):
        assert not kept[which == list(OPERATIONS).index(name)].any()


def test_three_operations_and_a_cutout_change_most_pixels():
    image = jnp.asarray(pictures()[0], jnp.float32)[None] / 255
    images = jnp.repeat(image, 64, axis=0)
    found = jax.jit(lambda x: randaugment.randaugment_batch(jax.random.key(1), jnp.arange(64), x, 3, 0.5))(images)
    colour = (np.abs(np.asarray(found) * 255 - np.array([125, 123, 114])) < 0.5).all(-1)
    sides = np.sqrt(colour.reshape(64, -1).sum(1))
    assert sides.max() <= WIDE / 2 + 1 and sides.mean() > 4
    assert (np.asarray(found) != np.asarray(images)).mean() > 0.5
