"""Blurs of a camera that is out of focus, moves or zooms, and of frosted glass; one image [H, W, C] in [0, 1] each.

The numbers that say how strong may be traced, so that one program serves all severities; sizes of kernels may not.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from gssl_jax.ops.augment import gaussian_blur
from gssl_jax.ops.keys import named

_EXACT = jax.lax.Precision.HIGHEST
SMALLEST_SIGMA = 1e-3  # of a Gaussian that is meant to do nothing


def disk(radius: ArrayLike, sigma: ArrayLike, half: int) -> Array:
    """A disk of this radius in pixels, its edge softened by a Gaussian of 3 x 3 (above radius 8: 5 x 5) pixels.

    [2 half + 1, 2 half + 1], of sum 1. The softening is that of the corruptions' authors (arXiv 1903.12261).
    """
    place = jnp.arange(-half, half + 1)
    inside = (jnp.square(place)[:, None] + jnp.square(place)[None] <= jnp.square(radius)).astype(jnp.float32)
    reach = jnp.where(jnp.asarray(radius) <= 8, 1, 2)
    taps = jnp.where(jnp.abs(jnp.arange(-2, 3)) <= reach, jnp.exp(-0.5 * jnp.square(jnp.arange(-2, 3) / sigma)), 0.0)
    soft = inside
    for axis in (0, 1):
        wide = jnp.pad(soft, [(2, 2) if axis == a else (0, 0) for a in (0, 1)])
        soft = jnp.stack([taps[k] * jax.lax.dynamic_slice_in_dim(wide, k, 2 * half + 1, axis) for k in range(5)]).sum(0)
    return soft / jnp.sum(soft)


def defocus(image: Array, radius: ArrayLike, sigma: ArrayLike, half: int) -> Array:
    """Blurred by a `disk`, edges reflected about the border pixel (repeated where the image is smaller than that)."""
    pad = [(half, half), (half, half), (0, 0)]
    wide = jnp.pad(image, pad, mode="reflect" if half < min(image.shape[:2]) else "edge")
    planes = wide.transpose(2, 0, 1)[:, None]
    kernel = disk(radius, sigma, half)[None, None]
    return jax.lax.conv(planes, kernel, (1, 1), "VALID", precision=_EXACT)[:, 0].transpose(1, 2, 0)


def motion_weights(radius: ArrayLike, sigma: ArrayLike, taps: int) -> Array:
    """Weights [taps] of the places 0, 1, ... along a movement: half a Gaussian over 2 radius + 1 places, sum 1."""
    place = jnp.arange(taps)
    weights = jnp.where(place < 2 * radius + 1, jnp.exp(-0.5 * jnp.square(place / sigma)), 0.0)
    return weights / jnp.sum(weights)


def motion(image: Array, radius: ArrayLike, sigma: ArrayLike, angle: ArrayLike, taps: int) -> Array:
    """The mean of the image moved step by step in the direction `angle` (radians, 0 to the right, clockwise), to whole
    pixels and with repeated edges."""
    weights = motion_weights(radius, sigma, taps)
    steps = jnp.stack([jnp.sin(angle), jnp.cos(angle)])
    rows, columns = jnp.arange(image.shape[0]), jnp.arange(image.shape[1])

    def add(total: Array, tap: Array) -> tuple[Array, None]:
        down, right = jnp.round(tap * steps).astype(jnp.int32)
        moved = image[jnp.clip(rows + down, 0, len(rows) - 1)][:, jnp.clip(columns + right, 0, len(columns) - 1)]
        return total + weights[tap] * moved, None

    return jax.lax.scan(add, jnp.zeros_like(image), jnp.arange(taps))[0]


def zoomed(image: Array, factor: ArrayLike) -> Array:
    """The middle of the image enlarged `factor` times, 1 or more, linearly between pixels."""
    rows, columns = (_zoom_weights(length, factor) for length in image.shape[:2])
    half = jnp.einsum("ph,hwc->pwc", rows, image, precision=_EXACT)
    return jnp.einsum("qw,pwc->pqc", columns, half, precision=_EXACT)


def _zoom_weights(length: int, factor: ArrayLike) -> Array:
    middle = (length - 1) / 2
    source = middle + (jnp.arange(length) - middle) / factor
    return jnp.maximum(0.0, 1.0 - jnp.abs(source[:, None] - jnp.arange(length)[None]))


def zoom(image: Array, factors: Array, counts: Array) -> Array:
    """The mean of the image and of what it looks like at each zoom; `counts` [n] are 1 for the `factors` [n] that
    there are, and 0 for others."""

    def add(total: Array, one: tuple[Array, Array]) -> tuple[Array, None]:
        factor, count = one
        return total + count * zoomed(image, factor), None

    total = jax.lax.scan(add, image, (factors, counts))[0]
    return total / (1.0 + jnp.sum(counts))


def glass(key: Array, image: Array, sigma: ArrayLike, reach: ArrayLike, times: ArrayLike, most: int) -> Array:
    """Blurred, then `times` (at most `most`) times every pixel replaced by one at most `reach` away, then blurred.

    In the authors' code pixels take turns and the ways are -reach to reach - 1; here all move at once.
    """
    sigma = jnp.maximum(sigma, SMALLEST_SIGMA)
    height, width = image.shape[:2]
    reach = jnp.asarray(reach, jnp.int32)
    rows, columns = jnp.arange(height)[:, None], jnp.arange(width)[None]

    def shuffle(k: Array, now: Array) -> Array:
        ways = jax.random.uniform(jax.random.fold_in(named(key, "ways"), k), (2, height, width))
        ways = jnp.floor(ways * 2 * reach).astype(jnp.int32) - reach
        moved = now[jnp.clip(rows + ways[0], 0, height - 1), jnp.clip(columns + ways[1], 0, width - 1)]
        return jnp.where(k < times, moved, now)

    return gaussian_blur(jax.lax.fori_loop(0, most, shuffle, gaussian_blur(image, sigma)), sigma)


def elastic(key: Array, image: Array, strength: ArrayLike, sigma: ArrayLike, corner: ArrayLike) -> Array:
    """An affine map that moves three points by up to `corner` pixels, then a smooth random displacement: uniform noise
    blurred by `sigma` pixels, times `strength`.

    The Gaussian is that of `augment.gaussian_blur`, cut at 4 sigma and reflected once, the authors' at 3.
    """
    height, width = image.shape[:2]
    middle, part = np.asarray([width // 2, height // 2]), min(height, width) // 3
    points = jnp.asarray(middle + part * np.asarray([[1, 1], [1, -1], [-1, -1]]), jnp.float32)
    moves = jax.random.uniform(named(key, "affine"), (3, 2), minval=-1.0, maxval=1.0) * corner
    # Where each point of the result comes from: the map from moved points back to the points.
    ones = jnp.ones((3, 1))
    back = jnp.linalg.solve(jnp.concatenate([points + moves, ones], axis=1), points)
    rows, columns = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")
    places = jnp.stack([columns, rows, jnp.ones_like(rows)], axis=-1).astype(jnp.float32)
    source = jnp.einsum("hwi,ij->hwj", places, back, precision=_EXACT)
    image = sampled(image, source[..., 1], source[..., 0])
    noise = jax.random.uniform(named(key, "places"), (height, width, 2), minval=-1.0, maxval=1.0)
    ways = strength * gaussian_blur(noise, jnp.maximum(sigma, SMALLEST_SIGMA))
    return sampled(image, rows + ways[..., 0], columns + ways[..., 1])


def sampled(image: Array, rows: Array, columns: Array) -> Array:
    """The image at real places [h, w], linearly between pixels, edges reflected about the border pixel."""

    def folded(place: Array, length: int) -> Array:
        period = max(2 * (length - 1), 1)
        place = jnp.mod(place, period)
        return jnp.minimum(place, period - place)

    rows, columns = folded(rows, image.shape[0]), folded(columns, image.shape[1])
    top, left = jnp.floor(rows), jnp.floor(columns)
    down, right = (rows - top)[..., None], (columns - left)[..., None]
    (upper, lower), (west, east) = (
        jnp.stack([place, jnp.minimum(place + 1, length - 1)]).astype(jnp.int32)
        for place, length in ((top, image.shape[0]), (left, image.shape[1]))
    )
    above = (1 - right) * image[upper, west] + right * image[upper, east]
    below = (1 - right) * image[lower, west] + right * image[lower, east]
    return (1 - down) * above + down * below
