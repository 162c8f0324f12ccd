"""Published weights made to fit: positions on another grid, patches of another size, another number of channels.

All in float64 on the host, once, when weights are loaded.
"""

from __future__ import annotations

import numpy as np

from gssl_jax.errors import UserError, unknown
from gssl_jax.interop.layouts import ANTIALIASED, Bicubic

CHANNEL_RULES = ("auto", "sum", "mean", "repeat")


def keys_cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution kernel (1981) with free parameter `a`: zero from a distance of 2 on."""
    x = np.abs(distance)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def resize_matrix(old: int, new: int, how: Bicubic) -> np.ndarray:
    """[new, old] weights that resample one axis as torch's `interpolate(mode="bicubic")` does.

    Without antialiasing, samples beyond an edge repeat the last one; with it, the filter is cut there and its weights
    rescaled to sum to 1. `how.offset` is added to `new` for the scale alone.
    """
    scale = old / (new + how.offset)
    centre = (np.arange(new) + 0.5) * scale - 0.5
    if how.antialias:
        width = max(scale, 1.0)
        weights = keys_cubic((np.arange(old)[None, :] - centre[:, None]) / width, how.a)
        return weights / weights.sum(axis=1, keepdims=True)
    taps = np.floor(centre)[:, None] + np.arange(-1, 3)[None, :]
    weights = keys_cubic(taps - centre[:, None], how.a)
    matrix = np.zeros((new, old))
    np.add.at(matrix, (np.arange(new)[:, None], np.clip(taps, 0, old - 1).astype(int)), weights)
    return matrix


def resized_grid(positions: np.ndarray, side: int, how: Bicubic) -> np.ndarray:
    """Patch positions [n * n, D] on another grid [side * side, D]; the same ones where the side is the same."""
    old = side_of(len(positions))
    if old == side:
        return positions
    matrix = resize_matrix(old, side, how)
    grid = positions.reshape(old, old, -1).astype(np.float64)
    return np.einsum("ih,jw,hwd->ijd", matrix, matrix, grid, optimize=True).reshape(side * side, -1)


def side_of(cells: int) -> int:
    """The side of a square grid. Raises UserError where `cells` is no square."""
    side = round(cells**0.5)
    if side * side != cells:
        raise UserError(f"{cells} positions are no square grid")
    return side


def resampled_patches(kernel: np.ndarray, patch: int) -> np.ndarray:
    """Patch embedding [D, C, p, p] for patches of another size (FlexiViT, arXiv 2212.08013, section 3.4).

    With B the matrix that resizes a patch of p pixels to the new size, the new kernel is pinv(B^T) w: that which gives
    a resized patch the response of the original, exactly so where the new patch is larger.
    """
    old = kernel.shape[-1]
    if old == patch:
        return kernel
    axis = np.linalg.pinv(resize_matrix(old, patch, ANTIALIASED).T)  # of a Kronecker product: one axis at a time
    return np.einsum("yh,xw,dchw->dcyx", axis, axis, kernel.astype(np.float64), optimize=True)


def other_channels(kernel: np.ndarray, channels: int, rule: str = "auto") -> np.ndarray:
    """First convolution [D, C, p, p] for images of another number of channels N. `rule`:

    `sum`: every new channel gets the sum over the old ones divided by N, so that one grey picture in all channels
      responds as a grey picture in C channels did.
    `mean`: every new channel gets the mean over the old ones: responses to such a picture grow by N / C.
    `repeat`: new channel j gets old channel j mod C, times C / N (timm's rule).
    `auto`: `sum` for one channel, `repeat` for several (as timm has it).

    Raises UserError for an unknown rule.
    """
    if rule not in CHANNEL_RULES:
        raise unknown("rule for channels", rule, CHANNEL_RULES)
    old = kernel.shape[1]
    if channels == old:
        return kernel
    if rule == "auto":
        rule = "sum" if channels == 1 else "repeat"
    if rule == "repeat":
        return kernel[:, np.arange(channels) % old] * (old / channels)
    scale = 1 / channels if rule == "sum" else 1 / old
    return np.repeat(kernel.sum(axis=1, keepdims=True) * scale, channels, axis=1)
