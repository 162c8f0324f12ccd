"""Common corruptions at five severities (Hendrycks and Dietterich, arXiv 1903.12261), as pure functions.

Fourteen of the paper's fifteen. Frost lays photographs of frozen windows over the image, which do not come with this
project, and is left out; a mean over these fourteen is not the paper's mean. Strengths are those of the authors' code
(github.com/hendrycks/robustness, create_c) for the sides that it was published for: 224 (ImageNet-C), 64 (Tiny
ImageNet-C) and 32 (CIFAR-10-C) pixels. Images of another side take the table of the nearest one, by the ratio of the
sides, with its lengths in pixels scaled by that ratio: that rule is ours. Results stay floats; the published sets are
8-bit images, those of 64 and 224 pixels compressed as JPEG again.

Images are float32 [S, S, C] in [0, 1] of any number of channels; three are red, green and blue.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gssl_jax.ops import blurs
from gssl_jax.ops.augment import luma
from gssl_jax.ops.jpeg import jpeg
from gssl_jax.ops.keys import named

SEVERITIES = (1, 2, 3, 4, 5)
SIDES = (32, 64, 224)

_ZOOMS_64 = [(1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)]
TABLES: dict[int, dict[str, list[Any]]] = {
    32: {
        "gaussian_noise": [0.04, 0.06, 0.08, 0.09, 0.10],  # standard deviation
        "shot_noise": [500, 250, 100, 75, 50],  # photons of a white pixel
        "impulse_noise": [0.01, 0.02, 0.03, 0.05, 0.07],  # share of values
        "defocus_blur": [(0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)],  # radius*, softening
        "glass_blur": [(0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)],  # sigma*, reach*, times
        "motion_blur": [(6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)],  # radius*, sigma*
        "zoom_blur": _ZOOMS_64,  # end (left out), step
        # mean, deviation and zoom of the noise, threshold, radius* and sigma* of the movement, share of the image
        "snow": [
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ],
        "fog": [(0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)],  # thickness, decay from scale to scale
        "brightness": [0.05, 0.1, 0.15, 0.2, 0.3],
        "contrast": [0.75, 0.5, 0.4, 0.3, 0.15],
        # displacement*, its smoothness* and the corners'*, in sides
        "elastic_transform": [
            (0, 0, 0.08),
            (0.05, 0.2, 0.07),
            (0.08, 0.06, 0.06),
            (0.1, 0.04, 0.05),
            (0.1, 0.03, 0.03),
        ],
        "pixelate": [0.95, 0.9, 0.85, 0.75, 0.65],  # of the side
        "jpeg_compression": [80, 65, 58, 50, 40],  # quality
    },
    64: {
        "gaussian_noise": [0.04, 0.08, 0.12, 0.15, 0.18],
        "shot_noise": [250, 100, 50, 30, 15],
        "impulse_noise": [0.01, 0.02, 0.05, 0.08, 0.14],
        "defocus_blur": [(0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1)],
        "glass_blur": [(0.1, 1, 1), (0.5, 1, 1), (0.6, 1, 2), (0.7, 2, 1), (0.9, 2, 2)],
        "motion_blur": [(10, 1), (10, 1.5), (10, 2), (10, 2.5), (12, 3)],
        "zoom_blur": _ZOOMS_64,
        "snow": [
            (0.1, 0.2, 1, 0.6, 8, 3, 0.8),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.8),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.7),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.65),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.6),
        ],
        "fog": [(0.4, 3), (0.7, 3), (1, 2.5), (1.5, 2), (2, 1.75)],
        "brightness": [0.1, 0.2, 0.3, 0.4, 0.5],
        "contrast": [0.4, 0.3, 0.2, 0.1, 0.05],
        "elastic_transform": [
            (0, 0, 0.08),
            (0.05, 0.3, 0.06),
            (0.1, 0.08, 0.06),
            (0.1, 0.03, 0.03),
            (0.16, 0.03, 0.02),
        ],
        "pixelate": [0.9, 0.8, 0.7, 0.6, 0.5],
        "jpeg_compression": [65, 58, 50, 40, 25],
    },
    224: {
        "gaussian_noise": [0.08, 0.12, 0.18, 0.26, 0.38],
        "shot_noise": [60, 25, 12, 5, 3],
        "impulse_noise": [0.03, 0.06, 0.09, 0.17, 0.27],
        "defocus_blur": [(3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)],
        "glass_blur": [(0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)],
        "motion_blur": [(10, 3), (15, 5), (15, 8), (15, 12), (20, 15)],
        "zoom_blur": [(1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)],
        "snow": [
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ],
        "fog": [(1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)],
        "brightness": [0.1, 0.2, 0.3, 0.4, 0.5],
        "contrast": [0.4, 0.3, 0.2, 0.1, 0.05],
        # The authors' lengths are 244 times these: a slip of theirs, see SLIP.
        "elastic_transform": [
            (2, 0.7, 0.1),
            (2, 0.08, 0.2),
            (0.05, 0.01, 0.02),
            (0.07, 0.01, 0.02),
            (0.12, 0.01, 0.02),
        ],
        "pixelate": [0.6, 0.5, 0.4, 0.3, 0.25],
        "jpeg_compression": [25, 18, 15, 10, 7],
    },
}
"""Strengths by side, corruption and severity, as in the authors' code; a star marks what is a length in pixels."""

SLIP = 244 / 224
NAMES = tuple(TABLES[224])


def table_side(side: int) -> int:
    """The side of the table for images of `side` pixels: the nearest by ratio."""
    return min(SIDES, key=lambda known: abs(np.log(side / known)))


def strengths(name: str, severity: int, side: int) -> tuple[Any, ...]:
    """What the function of a corruption takes after key and image, lengths scaled to images of `side` pixels.

    Raises ValueError for an unknown corruption or severity.
    """
    if name not in NAMES or severity not in SEVERITIES:
        raise ValueError(
            f"no corruption {name!r} of severity {severity!r}; known: {', '.join(NAMES)}, each from 1 to 5"
        )
    known = table_side(side)
    found, scale = np.atleast_1d(np.asarray(TABLES[known][name][severity - 1], np.float64)), side / known
    if name == "zoom_blur":
        factors = np.arange(1.0, *found)
        most = max(len(np.arange(1.0, *one)) for one in TABLES[known][name])
        return np.r_[factors, np.ones(most - len(factors))], np.arange(most) < len(factors)
    if name == "pixelate":
        return (pixel_matrix(side, int(side * found[0])),)
    if name == "elastic_transform":
        return tuple(found * side * (SLIP if known == 224 else 1.0))
    lengths = {"defocus_blur": (0,), "glass_blur": (0, 1), "motion_blur": (0, 1), "snow": (4, 5)}.get(name, ())
    for place in lengths:
        found[place] *= scale
    if name == "glass_blur":
        found[1] = max(1, round(found[1]))
    return tuple(found)


def corrupt(name: str, images: Array, keys: Array, severity: int) -> Array:
    """Images float32 [B, S, S, C] in [0, 1] under the corruption `name` of `NAMES` at severity 1 to 5; as many keys.

    A key gives a sample the same draw at every severity and place in the batch. One program serves all severities.
    Raises ValueError for an unknown corruption or severity, and for images that are not square.
    """
    if images.shape[1] != images.shape[2]:
        raise ValueError(f"corruptions are for square images, not {images.shape[1:3]}")
    given = [np.asarray(one, np.float32) for one in strengths(name, severity, images.shape[1])]
    return _corrupt(name, images, keys, given)


@partial(jax.jit, static_argnames=("name",))
def _corrupt(name: str, images: Array, keys: Array, given: list[Array]) -> Array:
    images = jnp.asarray(images, jnp.float32)
    change = FUNCTIONS[name]
    return jax.vmap(lambda key, image: jnp.clip(change(named(key, name), image, *given), 0.0, 1.0))(keys, images)


def _most(name: str, place: int, side: int) -> int:
    """The largest strength of any severity, as the size of a kernel."""
    return int(np.ceil(max(float(strengths(name, severity, side)[place]) for severity in SEVERITIES)))


def _gaussian_noise(key: Array, image: Array, deviation: Array) -> Array:
    return image + deviation * jax.random.normal(key, image.shape)


def _shot_noise(key: Array, image: Array, photons: Array) -> Array:
    return jax.random.poisson(key, image * photons, image.shape) / photons


def _impulse_noise(key: Array, image: Array, share: Array) -> Array:
    """A share of the values becomes 0 or 1, evenly."""
    draw = jax.random.uniform(key, image.shape)
    return jnp.where(draw < share / 2, 0.0, jnp.where(draw < share, 1.0, image))


def _defocus_blur(key: Array, image: Array, radius: Array, sigma: Array) -> Array:
    return blurs.defocus(image, radius, sigma, max(2, 2 + _most("defocus_blur", 0, image.shape[0])))


def _glass_blur(key: Array, image: Array, sigma: Array, reach: Array, times: Array) -> Array:
    return blurs.glass(key, image, sigma, reach, times, _most("glass_blur", 2, image.shape[0]))


def _motion_blur(key: Array, image: Array, radius: Array, sigma: Array) -> Array:
    angle = jnp.deg2rad(jax.random.uniform(key, minval=-45.0, maxval=45.0))
    return blurs.motion(image, radius, sigma, angle, 2 * _most("motion_blur", 0, image.shape[0]) + 1)


def _zoom_blur(key: Array, image: Array, factors: Array, counts: Array) -> Array:
    return blurs.zoom(image, factors, counts)


def _snow(
    key: Array, image: Array, mean: Array, spread: Array, zoom: Array, least: Array, radius: Array, sigma: Array,
    share: Array,
) -> Array:  # fmt: skip
    """Blown flakes over a whitened image; the flakes once more upside down."""
    side = image.shape[0]
    flakes = blurs.zoomed(mean + spread * jax.random.normal(named(key, "flakes"), (side, side, 1)), zoom)
    flakes = jnp.clip(jnp.where(flakes < least, 0.0, flakes), 0.0, 1.0)
    angle = jnp.deg2rad(jax.random.uniform(named(key, "wind"), minval=-135.0, maxval=-45.0))
    flakes = blurs.motion(flakes, radius, sigma, angle, 2 * _most("snow", 4, side) + 1)
    white = jnp.maximum(image, luma(image) * 1.5 + 0.5)
    return share * image + (1 - share) * white + flakes + flakes[::-1, ::-1]


def _fog(key: Array, image: Array, thickness: Array, decay: Array) -> Array:
    """A cloud is added and the whole darkened, so that the brightest value stays about where it was."""
    side = image.shape[0]
    brightest = jnp.max(image)
    cloud = plasma(key, 2 ** int(np.ceil(np.log2(side))), decay)[:side, :side, None]
    return (image + thickness * cloud) * brightest / jnp.maximum(brightest + thickness, 1e-6)


def plasma(key: Array, side: int, decay: Array) -> Array:
    """A cloud [side, side] with values from 0 to 1 by the diamond-square algorithm on a torus; `side` a power of two.

    At every halving of the grid its new points are the mean of four old ones and uniform noise, whose amplitude falls
    by the square of `decay`, as in the authors' code.
    """
    noise = jax.random.uniform(key, (side, side), minval=-1.0, maxval=1.0)
    grid, step, amplitude = jnp.zeros((1, 1)), side, jnp.asarray(1.0)
    while step > 1:
        half = step // 2
        below = grid + jnp.roll(grid, -1, axis=0)
        centre = (below + jnp.roll(below, -1, axis=1)) / 4 + amplitude * noise[half::step, half::step]
        top = centre + jnp.roll(centre, 1, axis=0) + grid + jnp.roll(grid, -1, axis=1)
        top = top / 4 + amplitude * noise[::step, half::step]
        left = centre + jnp.roll(centre, 1, axis=1) + grid + jnp.roll(grid, -1, axis=0)
        left = left / 4 + amplitude * noise[half::step, ::step]
        four = jnp.stack([jnp.stack([grid, top], axis=-1), jnp.stack([left, centre], axis=-1)], axis=1)
        grid, step, amplitude = four.reshape(2 * len(grid), 2 * len(grid)), half, amplitude / jnp.square(decay)
    lowest = jnp.min(grid)
    return (grid - lowest) / jnp.maximum(jnp.max(grid) - lowest, 1e-12)


def _brightness(key: Array, image: Array, more: Array) -> Array:
    """More of the value of HSV, hue and saturation as they were; other than three channels: the same for each."""
    if image.shape[-1] != 3:
        return image + more
    value = jnp.max(image, axis=-1, keepdims=True)
    brighter = jnp.minimum(value + more, 1.0)
    return jnp.where(value > 0, image / jnp.where(value > 0, value, 1.0), 1.0) * brighter


def _contrast(key: Array, image: Array, share: Array) -> Array:
    mean = jnp.mean(image, axis=(0, 1), keepdims=True)
    return mean + share * (image - mean)


def _elastic_transform(key: Array, image: Array, strength: Array, sigma: Array, corner: Array) -> Array:
    return blurs.elastic(key, image, strength, sigma, corner)


def _pixelate(key: Array, image: Array, matrix: Array) -> Array:
    exact = jax.lax.Precision.HIGHEST
    half = jnp.einsum("ph,hwc->pwc", matrix, image, precision=exact)
    return jnp.einsum("qw,pwc->pqc", matrix, half, precision=exact)


def pixel_matrix(side: int, small: int) -> np.ndarray:
    """[side, side]: means of a box filter over `small` large pixels, then each pixel the large one that it lies in.

    As Pillow's `BOX`: the mean is over the pixels whose middle lies in the large one.
    """
    small = max(small, 1)
    edges = np.arange(small + 1) * side / small
    middles = np.arange(side) + 0.5
    inside = (middles[None] > edges[:-1, None]) & (middles[None] <= edges[1:, None])
    means = inside / np.maximum(inside.sum(1, keepdims=True), 1)
    return means[np.minimum((middles * small / side).astype(int), small - 1)].astype(np.float32)


def _jpeg_compression(key: Array, image: Array, quality: Array) -> Array:
    return jpeg(image, quality)


FUNCTIONS: dict[str, Callable[..., Array]] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "defocus_blur": _defocus_blur,
    "glass_blur": _glass_blur,
    "motion_blur": _motion_blur,
    "zoom_blur": _zoom_blur,
    "snow": _snow,
    "fog": _fog,
    "brightness": _brightness,
    "contrast": _contrast,
    "elastic_transform": _elastic_transform,
    "pixelate": _pixelate,
    "jpeg_compression": _jpeg_compression,
}
"""Corruption -> function of (key, image, strengths ...), not yet cut to [0, 1]."""
