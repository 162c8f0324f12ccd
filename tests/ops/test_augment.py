"""Augmentation against Pillow, SciPy and scikit-image; draws that follow the sample; any number of channels."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image, ImageEnhance, ImageOps
from scipy.ndimage import gaussian_filter
from skimage import data
from skimage.color import hsv2rgb, rgb2hsv

from gssl_jax.ops import augment

PILLOW = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def preset(**changes):
    settings = {
        "size": 16,
        "crop": True,
        "pad": 0,
        "scale": (0.25, 1.0),
        "ratio": (3 / 4, 4 / 3),
        "interpolation": "bicubic",
        "flip": 0.5,
        "jitter": {"probability": 0.8, "brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1},
        "grey": 0.2,
        "blur": {"probability": 0.5, "sigma": (0.1, 2.0)},
        "solarise": {"probability": 0.2, "threshold": 0.5},
        "contrast_normalise": False,
    }
    return settings | changes


def nothing(**changes):
    off = preset()
    off["jitter"]["probability"] = off["blur"]["probability"] = off["solarise"]["probability"] = 0.0
    return off | {"crop": False, "flip": 0.0, "grey": 0.0} | changes


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).random(shape, np.float32)


def photo():
    """An astronaut's face and flag, uint8 [64, 80, 3]."""
    return data.astronaut()[::4, ::4][10:74, 30:110].copy()


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("box", [(3.3, 5.1, 30.0, 40.7), (10.0, 20.0, 7.0, 8.5), (0.0, 0.0, 40.0, 56.0)])
def test_crop_and_resize_equals_pillow(interpolation, box):
    image = pixels(40, 56, 3)
    top, left, height, width = box
    corners = (left, top, left + width, top + height)
    planes = [Image.fromarray(image[..., c]).resize((24, 24), PILLOW[interpolation], box=corners) for c in range(3)]
    expected = np.clip(np.stack(planes, axis=-1), 0, 1)
    resize = jax.jit(lambda x, b: augment.crop_and_resize(x, b, 24, interpolation))
    np.testing.assert_allclose(resize(image, jnp.float32(box)), expected, atol=1e-5)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [16, 100])
def test_resize_of_a_photograph_is_within_one_grey_level_of_pillow(interpolation, size):
    image = photo() // 2 + 64  # away from black and white: Pillow clips 8-bit images between its two passes, we do not
    expected = Image.fromarray(image).resize((size, size), PILLOW[interpolation], box=(5, 6, 65, 50))
    box = jnp.float32([6, 5, 44, 60])
    ours = augment.crop_and_resize(augment.to_float(jnp.asarray(image)), box, size, interpolation)
    assert np.abs(np.round(np.asarray(ours) * 255) - np.asarray(expected, np.float32)).max() <= 1


def test_box_of_the_image_at_its_own_size_changes_nothing():
    image = pixels(12, 12, 2)
    for interpolation in PILLOW:
        same = augment.crop_and_resize(image, jnp.float32([0, 0, 12, 12]), 12, interpolation)
        np.testing.assert_allclose(same, image, atol=1e-6)


def test_unknown_interpolation_is_refused():
    with pytest.raises(ValueError, match="lanczos"):
        augment.crop_and_resize(pixels(8, 8, 1), jnp.float32([0, 0, 8, 8]), 4, "lanczos")


@pytest.mark.parametrize(
    ("ours", "enhancer"),
    [
        (augment.brightness, ImageEnhance.Brightness),
        (augment.contrast, ImageEnhance.Contrast),
        (augment.saturation, ImageEnhance.Color),
    ],
)
@pytest.mark.parametrize("factor", [0.3, 0.8, 1.0, 1.7])
def test_colour_operations_equal_pillow(ours, enhancer, factor):
    image = photo()
    expected = np.asarray(enhancer(Image.fromarray(image)).enhance(factor), np.float32)
    result = np.asarray(ours(jnp.float32(image) / 255, factor)) * 255
    # Pillow rounds the luma (and its mean) to whole levels and cuts the blend: 1.5 levels together
    assert np.abs(result - expected).max() <= 1.5


def test_hue_equals_scikit_image():
    image = pixels(20, 20, 3)
    image[0] = image[0, :, :1]  # grey pixels have no hue and stay
    image[1, :, 2] = image[1, :, 1]  # two channels tie
    for shift in (-0.5, -0.1, 0.0, 0.13, 0.5):
        hsv = rgb2hsv(image)
        hsv[..., 0] = (hsv[..., 0] + shift) % 1
        np.testing.assert_allclose(augment.hue(jnp.asarray(image), shift), hsv2rgb(hsv), atol=1e-5)
    np.testing.assert_allclose(augment.hue(jnp.asarray(image), 0.2)[0], image[0], atol=1e-6)


def test_grey_equals_pillow():
    image = photo()
    expected = np.asarray(Image.fromarray(image).convert("L"), np.float32)
    result = np.asarray(augment.grey(jnp.float32(image) / 255)) * 255
    assert result.shape == image.shape
    assert np.abs(result - expected[..., None]).max() <= 0.51


def test_solarise_equals_pillow():
    image = photo()
    expected = np.asarray(ImageOps.solarize(Image.fromarray(image), 128), np.float32)
    result = np.asarray(augment.solarise(jnp.float32(image) / 255, 128 / 255)) * 255
    np.testing.assert_allclose(result, expected, atol=1e-3)


@pytest.mark.parametrize("sigma", [0.1, 0.6, 1.0, 2.0])
def test_blur_equals_scipy(sigma):
    image = pixels(20, 31, 3)
    expected = gaussian_filter(image, (sigma, sigma, 0), mode="mirror")
    np.testing.assert_allclose(jax.jit(augment.gaussian_blur)(image, sigma), expected, atol=1e-5)


def test_contrast_normalise_by_hand():
    # grey levels 0 and 100: mean 50, deviation 50, so +-50 / 54 * 50 + 128 = 81.70 and 174.30
    image = jnp.float32([[0, 100], [100, 0]])[..., None] / 255
    low, high = 128 - 2500 / 54, 128 + 2500 / 54
    np.testing.assert_allclose(
        augment.contrast_normalise(image)[..., 0] * 255, np.float32([[low, high], [high, low]]), rtol=1e-5
    )
    np.testing.assert_allclose(augment.contrast_normalise(jnp.full((4, 4, 3), 0.7)), 128 / 255, rtol=1e-5)


def test_normalise():
    images = pixels(2, 4, 4, 3)
    ours = augment.normalise(jnp.asarray(images), (0.5, 0.4, 0.3), (0.2,))
    np.testing.assert_allclose(ours, (images - np.float32([0.5, 0.4, 0.3])) / np.float32(0.2), rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="mean has 3 numbers for images of 1 channels"):
        augment.normalise(jnp.zeros((2, 4, 4, 1)), (0.5, 0.4, 0.3), (0.2,))


def test_integers_become_floats_in_unit_range():
    np.testing.assert_allclose(augment.to_float(jnp.uint8([0, 51, 255])), [0, 0.2, 1], rtol=1e-6)
    np.testing.assert_allclose(augment.to_float(jnp.uint16([0, 13107, 65535])), [0, 0.2, 1], rtol=1e-6)
    assert augment.to_float(jnp.float16([0.5])).dtype == jnp.float32


def test_operations_of_probability_zero_are_not_traced(getkey):
    image = pixels(16, 16, 3)
    off = nothing()
    program = str(jax.make_jaxpr(lambda k, x: augment.augment(k, x, off))(getkey(), image))
    assert "random" not in program and "dot_general" not in program
    np.testing.assert_array_equal(augment.augment(getkey(), jnp.asarray(image), off), image)


def test_image_cut_on_the_host_is_resized_only_if_its_size_differs(getkey):
    image = pixels(20, 24, 3)
    ours = augment.augment(getkey(), jnp.asarray(image), nothing(size=8))
    expected = augment.crop_and_resize(image, jnp.float32([0, 0, 20, 24]), 8, "bicubic")
    np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_flip_happens_as_often_as_asked(getkey):
    images = jnp.broadcast_to(pixels(1, 8, 8, 1), (2000, 8, 8, 1))
    views = augment.augment_batch(getkey(), jnp.arange(2000), images, nothing(size=8, flip=0.3))
    flipped = np.all(np.asarray(views == images[:, :, ::-1]), axis=(1, 2, 3))
    same = np.all(np.asarray(views == images), axis=(1, 2, 3))
    assert (flipped ^ same).all()
    assert flipped.mean() == pytest.approx(0.3, abs=0.045)  # four standard deviations


def test_jitter_draws_uniform_factors(getkey):
    only = {"probability": 1.0, "brightness": 0.4, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
    images = jnp.full((4000, 2, 2, 1), 0.5)
    views = augment.augment_batch(getkey(), jnp.arange(4000), images, nothing(size=2, jitter=only))
    factor = np.asarray(views[:, 0, 0, 0]) / 0.5
    np.testing.assert_allclose(np.quantile(factor, [0, 0.25, 0.5, 0.75, 1]), [0.6, 0.8, 1, 1.2, 1.4], atol=0.03)


def test_draws_follow_the_index_and_not_the_place(getkey):
    key, images = getkey(), jnp.asarray(pixels(8, 24, 24, 3))
    index, order = jnp.arange(8) + 100, jnp.array([3, 1, 7, 0, 2, 6, 5, 4])
    views = jax.jit(lambda i, x: augment.augment_batch(key, i, x, preset()))
    np.testing.assert_allclose(views(index[order], images[order]), views(index, images)[order], atol=1e-6)
    alike = views(index, jnp.broadcast_to(images[:1], images.shape))
    assert all(np.abs(alike[i] - alike[j]).max() > 1e-3 for i in range(8) for j in range(i))


@pytest.mark.parametrize(("channels", "dtype"), [(1, np.uint8), (3, np.float32), (5, np.uint16)])
def test_any_number_of_channels_and_every_type(getkey, channels, dtype):
    images = pixels(4, 20, 28, channels)
    if dtype != np.float32:
        images = (images * np.iinfo(dtype).max).astype(dtype)
    settings = ConfigDict(preset(grey=1.0, contrast_normalise=True))
    run = jax.jit(lambda k, x: augment.augment_batch(k, jnp.arange(4), x, settings))
    views = run(getkey(), jnp.asarray(images))
    assert views.shape == (4, 16, 16, channels) and views.dtype == jnp.float32
    assert float(views.min()) >= 0 and float(views.max()) <= 1 and float(views.std()) > 0.05
    equal_channels = bool(jnp.allclose(views, views[..., :1], atol=1e-6))
    assert equal_channels == (channels in (1, 3))  # grey works on colour and leaves five channels apart


def test_as_pixels_undoes_normalise_and_cuts():
    images = jnp.asarray(np.random.default_rng(0).random((2, 3, 3, 3)), jnp.float32)
    mean, std = (0.4, 0.5, 0.6), (0.1, 0.2, 0.3)
    there = augment.normalise(images, mean, std)
    np.testing.assert_allclose(augment.as_pixels(there, mean, std), images, atol=1e-6)
    np.testing.assert_array_equal(augment.as_pixels(jnp.full((1, 1, 1, 1), 9.0), (0.5,), (0.2,)), 1.0)
