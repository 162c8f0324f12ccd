"""Images as JPEG gives them back, as a pure function: no bytes, the same blocks, tables and roundings.

Colour images are taken to YCbCr with the chroma at half the side, cut into 8 x 8 blocks, transformed, quantised and
back (ITU-T T.81; colours of JFIF 1.02, chroma interpolated as libjpeg does by default). Coding is lossless and left
out. Rounding is that of real numbers: libjpeg's transform of whole numbers differs by a grey level here and there.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from gssl_jax.ops.augment import LUMA

BLOCK = 8
_EXACT = jax.lax.Precision.HIGHEST

LUMA_TABLE = np.asarray(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ],
    np.float32,
)
"""Steps of quantisation at quality 50 (T.81, table K.1); rows are vertical frequencies."""

CHROMA_TABLE = np.full((BLOCK, BLOCK), 99, np.float32)
"""The same for colour (T.81, table K.2)."""
CHROMA_TABLE[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]

# cos((2 x + 1) u pi / 16) with the factors that make it orthonormal: rows are frequencies.
DCT = np.sqrt(2 / BLOCK) * np.cos((2 * np.arange(BLOCK)[None] + 1) * np.arange(BLOCK)[:, None] * np.pi / (2 * BLOCK))
DCT[0] /= np.sqrt(2)
DCT = DCT.astype(np.float32)


def quality_table(table: np.ndarray, quality: ArrayLike) -> Array:
    """Steps at a quality from 1 to 100 by libjpeg's rule, whole numbers from 1 to 255."""
    quality = jnp.asarray(quality, jnp.float32)
    scale = jnp.where(quality < 50, jnp.floor(5000 / quality), 200 - 2 * quality)
    return jnp.clip(jnp.floor((table * scale + 50) / 100), 1, 255)


def jpeg(image: Array, quality: ArrayLike) -> Array:
    """[H, W, C] in [0, 1] after JPEG of this quality; three channels are red, green and blue, all others grey each."""
    levels = jnp.round(255 * image)
    if image.shape[-1] != 3:
        planes = [_plane(levels[..., c], quality_table(LUMA_TABLE, quality)) for c in range(image.shape[-1])]
        return jnp.stack(planes, axis=-1) / 255
    red, green, blue = levels[..., 0], levels[..., 1], levels[..., 2]
    luma = jnp.round(LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue)
    exact = LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue
    chroma = [
        jnp.round((colour - exact) * 0.5 / (1 - part) + 128) for colour, part in ((blue, LUMA[2]), (red, LUMA[0]))
    ]
    luma = _plane(luma, quality_table(LUMA_TABLE, quality))
    table = quality_table(CHROMA_TABLE, quality)
    height, width = luma.shape
    b, r = (_doubled(_plane(_halved(jnp.clip(c, 0, 255)), table))[:height, :width] - 128 for c in chroma)
    red, blue = luma + 2 * (1 - LUMA[0]) * r, luma + 2 * (1 - LUMA[2]) * b
    green = luma - 2 * (LUMA[0] * (1 - LUMA[0]) * r + LUMA[2] * (1 - LUMA[2]) * b) / LUMA[1]
    return jnp.clip(jnp.round(jnp.stack([red, green, blue], axis=-1)), 0, 255) / 255


def _plane(plane: Array, table: Array) -> Array:
    """One channel [H, W] of levels 0 to 255 through blocks, quantisation and back; edges are repeated up to a block."""
    height, width = plane.shape
    full = jnp.pad(plane - 128, ((0, -height % BLOCK), (0, -width % BLOCK)), mode="edge")
    rows, columns = full.shape[0] // BLOCK, full.shape[1] // BLOCK
    blocks = full.reshape(rows, BLOCK, columns, BLOCK)
    steps = table[None, :, None, :]
    spectrum = jnp.einsum("ux,rxcy,vy->rucv", DCT, blocks, DCT, precision=_EXACT)
    # libjpeg holds the spectrum as whole eighths; halves of a step, which are common then, go away from zero.
    eighths = jnp.round(8 * spectrum)
    spectrum = jnp.sign(eighths) * jnp.floor((jnp.abs(eighths) + 4 * steps) / (8 * steps)) * steps
    blocks = jnp.einsum("ux,rucv,vy->rxcy", DCT, spectrum, DCT, precision=_EXACT)
    return jnp.clip(jnp.round(blocks.reshape(full.shape) + 128), 0, 255)[:height, :width]


def _halved(plane: Array) -> Array:
    """Means of 2 x 2 pixels, an odd edge repeated; halves go down in even columns and up in odd ones, as in libjpeg."""
    full = jnp.pad(plane, ((0, plane.shape[0] % 2), (0, plane.shape[1] % 2)), mode="edge")
    total = full.reshape(full.shape[0] // 2, 2, full.shape[1] // 2, 2).sum((1, 3))
    return jnp.floor((total + 1 + jnp.arange(total.shape[1])[None] % 2) / 4)


def _doubled(plane: Array) -> Array:
    """Twice the side: three quarters of the nearer sample and one of the next, edges repeated, in whole numbers."""

    def along(values: Array) -> tuple[Array, Array]:
        wide = jnp.pad(values, ((1, 1), (0, 0)), mode="edge")
        return 3 * values + wide[:-2], 3 * values + wide[2:]

    rows = jnp.stack(along(plane), axis=1).reshape(-1, plane.shape[1])
    left, right = along(rows.T)
    return jnp.floor(jnp.stack([(left + 8) / 16, (right + 7) / 16], axis=1)).reshape(-1, rows.shape[0]).T
