"""RandAugment (arXiv 1909.13719) as FixMatch's strong views take it, on the device, made for jit and vmap.

Operations, ranges and the cutout at the end are those of the code that G-SSL's semi-supervised scenario is built on
(github.com/LeeDoYup/FixMatch-pytorch, after arXiv 2001.07685, appendix D): each operation is drawn from fourteen, its
strength uniformly from its range. The second number of `RandAugment(3, 5)` is read by nobody there.

Each operation equals the one of Pillow named in `OPERATIONS`, in whole grey levels and to one of them: Pillow computes
some tables in float64. What moves pixels takes the nearest one as Pillow does, black beyond the border; a pixel whose
source lies within rounding of a border between two may take the other. Images are float32 [H, W, C] in [0, 1]; the
results lie on the grid of 255 levels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gssl_jax.ops.keys import named, per_sample

WHITE = 255.0
CUTOUT_COLOUR = (125.0, 123.0, 114.0)
"""Levels of the mean colour of ImageNet; their mean for other numbers of channels."""

Change = Callable[[Array, Array], Array]
"""(levels [H, W, C], whole numbers 0 to 255 as float32; strength, a scalar) -> levels."""


# -- what moves pixels -------------------------------------------------------------------------------------------------


def affine(levels: Array, matrix: tuple[Array | float, ...]) -> Array:
    """`Image.transform(size, AFFINE, matrix)`: the result at (x, y) is the image at (ax + by + c, dx + ey + f).

    Counted from the corner, so the first pixel lies at (.5, .5).
    """
    height, width, _ = levels.shape
    a, b, c, d, e, f = matrix
    y, x = jnp.mgrid[:height, :width] + 0.5
    column, row = (jnp.floor(place).astype(jnp.int32) for place in (a * x + b * y + c, d * x + e * y + f))
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    found = levels[jnp.clip(row, 0, height - 1), jnp.clip(column, 0, width - 1)]
    return jnp.where(inside[..., None], found, 0.0)


def rotate(levels: Array, degrees: Array) -> Array:
    """About the centre, counter-clockwise."""
    height, width, _ = levels.shape
    x, y, angle = width / 2, height / 2, jnp.deg2rad(degrees)
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    return affine(levels, (cosine, -sine, x - cosine * x + sine * y, sine, cosine, y - sine * x - cosine * y))


def shear_x(levels: Array, share: Array) -> Array:
    """Row y moves by -share y."""
    return affine(levels, (1.0, share, 0.0, 0.0, 1.0, 0.0))


def shear_y(levels: Array, share: Array) -> Array:
    """Column x moves by -share x."""
    return affine(levels, (1.0, 0.0, 0.0, share, 1.0, 0.0))


def translate_x(levels: Array, share: Array) -> Array:
    """To the left by `share` of the width."""
    return affine(levels, (1.0, 0.0, share * levels.shape[1], 0.0, 1.0, 0.0))


def translate_y(levels: Array, share: Array) -> Array:
    """Up by `share` of the height."""
    return affine(levels, (1.0, 0.0, 0.0, 0.0, 1.0, share * levels.shape[0]))


# -- what blends the image with a poorer one ---------------------------------------------------------------------------


def blend(poorer: Array, levels: Array, factor: Array) -> Array:
    """`Image.blend`: `factor` 1 is the image, 0 the poorer one; Pillow cuts fractions off."""
    return jnp.floor(jnp.clip(poorer + factor * (levels - poorer), 0.0, WHITE))


def grey(levels: Array) -> Array:
    """`convert("L")`, [H, W, 1]: Rec. 601 in sixteen-bit fixed point; the mean of other numbers of channels."""
    if levels.shape[-1] != 3:
        return jnp.floor(levels.mean(-1, keepdims=True) + 0.5)
    red, green, blue = levels[..., :1], levels[..., 1:2], levels[..., 2:]
    return jnp.floor((19595.0 * red + 38470.0 * green + 7471.0 * blue + 32768.0) / 65536.0)


def smooth(levels: Array) -> Array:
    """`ImageFilter.SMOOTH`: the mean of 3 x 3 pixels, the middle one counted five times; the border stays."""
    height, width, _ = levels.shape
    shifted = [levels[i : height - 2 + i, j : width - 2 + j] for i in range(3) for j in range(3)]
    inner = jnp.floor((sum(shifted) + 4.0 * levels[1:-1, 1:-1]) / 13.0 + 0.5)
    return levels.at[1:-1, 1:-1].set(inner)


def brightness(levels: Array, factor: Array) -> Array:
    """Towards black."""
    return blend(jnp.zeros_like(levels), levels, factor)


def colour(levels: Array, factor: Array) -> Array:
    """Towards grey."""
    return blend(jnp.broadcast_to(grey(levels), levels.shape), levels, factor)


def contrast(levels: Array, factor: Array) -> Array:
    """Towards the mean grey of the image."""
    return blend(jnp.full_like(levels, jnp.floor(grey(levels).mean() + 0.5)), levels, factor)


def sharpness(levels: Array, factor: Array) -> Array:
    """Towards the smoothed image."""
    return blend(smooth(levels), levels, factor)


# -- what maps grey levels ---------------------------------------------------------------------------------------------


def autocontrast(levels: Array, _: Array) -> Array:
    """Each channel stretched from black to white; one of a single level stays."""
    low, high = levels.min((0, 1), keepdims=True), levels.max((0, 1), keepdims=True)
    return jnp.where(high > low, jnp.floor((levels - low) * WHITE / jnp.where(high > low, high - low, 1.0)), levels)


def equalize(levels: Array, _: Array) -> Array:
    """Each channel's histogram as flat as levels allow, in the whole numbers of `ImageOps.equalize`."""

    def channel(plane: Array) -> Array:
        place = plane.astype(jnp.int32)
        counts = jnp.zeros(256, jnp.int32).at[place].add(1)
        step = (place.size - counts[place.max()]) // 255
        below = jnp.cumsum(counts) - counts
        table = jnp.clip((step // 2 + below) // jnp.maximum(step, 1), 0, 255)
        return jnp.where(step > 0, table[place].astype(jnp.float32), plane)

    return jax.vmap(channel, in_axes=-1, out_axes=-1)(levels)


def posterize(levels: Array, bits: Array) -> Array:
    """The upper `bits`, cut to a whole number."""
    step = 2.0 ** (8.0 - jnp.floor(bits))
    return jnp.floor(levels / step) * step


def solarize(levels: Array, threshold: Array) -> Array:
    """Levels from `threshold` up are inverted."""
    return jnp.where(levels < threshold, levels, WHITE - levels)


def identity(levels: Array, _: Array) -> Array:
    """The image."""
    return levels


class Operation(NamedTuple):
    """A row of `OPERATIONS`: what it does, and the range of its strength."""

    change: Change
    low: float = 0.0
    high: float = 1.0


OPERATIONS = {
    "autocontrast": Operation(autocontrast),  # ImageOps.autocontrast
    "brightness": Operation(brightness, 0.05, 0.95),  # ImageEnhance.Brightness
    "colour": Operation(colour, 0.05, 0.95),  # ImageEnhance.Color
    "contrast": Operation(contrast, 0.05, 0.95),  # ImageEnhance.Contrast
    "equalize": Operation(equalize),  # ImageOps.equalize
    "identity": Operation(identity),
    "posterize": Operation(posterize, 4.0, 8.0),  # ImageOps.posterize
    "rotate": Operation(rotate, -30.0, 30.0),  # Image.rotate
    "sharpness": Operation(sharpness, 0.05, 0.95),  # ImageEnhance.Sharpness
    "shear_x": Operation(shear_x, -0.3, 0.3),  # Image.transform, as the next three
    "shear_y": Operation(shear_y, -0.3, 0.3),
    "solarize": Operation(solarize, 0.0, 256.0),  # ImageOps.solarize
    "translate_x": Operation(translate_x, -0.3, 0.3),
    "translate_y": Operation(translate_y, -0.3, 0.3),
}


def cutout(levels: Array, share: Array, centre: Array) -> Array:
    """A square of one colour, its side `share` of the width, about `centre` [2] (x, y in [0, 1)), as Pillow draws it.

    At the far border it is cut off, at the near one moved inside, as in the reference code; the last pixel of either
    side is drawn too.
    """
    height, width, channels = levels.shape
    side = share * width
    left, top = (jnp.floor(jnp.maximum(centre[i] * n - side / 2, 0.0)) for i, n in enumerate((width, height)))
    y, x = jnp.mgrid[:height, :width].astype(jnp.float32)
    hit = (x >= left) & (x <= jnp.floor(left + side)) & (y >= top) & (y <= jnp.floor(top + side)) & (side > 0)
    colours = CUTOUT_COLOUR if channels == 3 else (float(round(sum(CUTOUT_COLOUR) / 3)),) * channels
    return jnp.where(hit[..., None], jnp.asarray(colours).reshape(1, 1, -1), levels)


def randaugment(key: Array, image: Array, operations: int, largest_cutout: float) -> Array:
    """`operations` drawn operations in turn and a cutout: float [H, W, C] in [0, 1] -> the same.

    Args:
        key: random key of the sample.
        image: [H, W, C] in [0, 1].
        operations: how many; one may come twice.
        largest_cutout: the side of the cutout is uniform between 0 and this share of the width.
    """
    levels = jnp.round(image * WHITE)
    ranges = jnp.asarray([(one.low, one.high) for one in OPERATIONS.values()])
    for k in range(operations):
        u = jax.random.uniform(named(key, f"operation_{k}"), (2,))
        which = jnp.floor(u[0] * len(OPERATIONS)).astype(jnp.int32)
        low, high = ranges[which]
        levels = jax.lax.switch(which, [one.change for one in OPERATIONS.values()], levels, low + (high - low) * u[1])
    u = jax.random.uniform(named(key, "cutout"), (3,))
    return cutout(levels, largest_cutout * u[0], u[1:]) / WHITE


def randaugment_batch(key: Array, index: Array, images: Array, operations: int, largest_cutout: float) -> Array:
    """`randaugment` for a batch [B, H, W, C]; each sample draws by its `index`, int32 [B], wherever it stands."""
    return jax.vmap(lambda k, image: randaugment(k, image, operations, largest_cutout))(per_sample(key, index), images)
