"""Random crop boxes, one function for the host and for the device: it works on numpy and on JAX arrays alike.

Nothing is imported from JAX here, so that code in data workers may use this file. The caller draws the uniform numbers,
which makes a box a pure function of them and lets one test compare both worlds.
"""

from __future__ import annotations

import math
from typing import Any

ATTEMPTS = 10  # torchvision's number of tries before the centred fallback


def crop_box(uniforms: Any, height: float, width: float, scale: tuple[float, float], ratio: tuple[float, float]) -> Any:
    """A random box of random area and aspect ratio, as torchvision's `RandomResizedCrop` draws it.

    For each attempt the area is uniform in `scale` x image area and the aspect ratio (width / height) log-uniform in
    `ratio`; the first attempt that fits into the image is placed uniformly. If none fits, the box is centred, as large
    as possible with its ratio clamped to `ratio`. Boxes are real numbers of pixels; torchvision rounds (see `rounded`).

    Args:
        uniforms: draws from [0, 1), [..., T, 4] for T attempts (`ATTEMPTS` by convention): area, ratio, top, left.
        height, width: size of the image in pixels (Python numbers, fixed under jit).
        scale: bounds of the area as a fraction of the image.
        ratio: bounds of the aspect ratio.

    Returns:
        [..., 4] (top, left, box height, box width) in pixels, of the type of `uniforms`.

    Raises:
        ValueError: bounds that are not positive or not in order, or `uniforms` of the wrong shape.
    """
    for name, (low, high) in (("scale", scale), ("ratio", ratio)):
        if not 0 < low <= high:
            raise ValueError(f"{name} must satisfy 0 < low <= high, got {(low, high)}")
    if uniforms.ndim < 2 or uniforms.shape[-1] != 4:
        raise ValueError(f"uniforms must be [..., attempts, 4], got shape {tuple(uniforms.shape)}")
    xp = uniforms.__array_namespace__()
    area = height * width * (scale[0] + (scale[1] - scale[0]) * uniforms[..., 0])
    low, high = math.log(ratio[0]), math.log(ratio[1])
    root = xp.exp(0.5 * (low + (high - low) * uniforms[..., 1]))  # square root of the aspect ratio
    side = xp.sqrt(area)
    heights, widths = side / root, side * root
    fits = (heights <= height) & (widths <= width)
    tries = xp.stack(
        [uniforms[..., 2] * (height - heights), uniforms[..., 3] * (width - widths), heights, widths], axis=-1
    )
    first = xp.argmax(fits, axis=-1)[..., None, None]
    chosen = xp.take_along_axis(tries, first, axis=-2)[..., 0, :]
    fallback = xp.broadcast_to(xp.asarray(_centred(height, width, ratio), dtype=chosen.dtype), chosen.shape)
    return xp.where(xp.any(fits, axis=-1)[..., None], chosen, fallback)


def rounded(box: Any, height: int, width: int) -> Any:
    """The box in whole pixels, at least 1 x 1 and inside the image: [..., 4] floats -> [..., 4] int32."""
    xp = box.__array_namespace__()
    box_height = xp.clip(xp.round(box[..., 2]), 1, height)
    box_width = xp.clip(xp.round(box[..., 3]), 1, width)
    top = xp.minimum(xp.clip(xp.round(box[..., 0]), 0, height - 1), height - box_height)
    left = xp.minimum(xp.clip(xp.round(box[..., 1]), 0, width - 1), width - box_width)
    return xp.stack([top, left, box_height, box_width], axis=-1).astype("int32")


def _centred(height: float, width: float, ratio: tuple[float, float]) -> tuple[float, float, float, float]:
    """The largest centred box whose aspect ratio lies in `ratio`: the whole image if its own ratio does."""
    aspect = min(max(width / height, ratio[0]), ratio[1])
    box_height, box_width = min(height, width / aspect), min(width, height * aspect)
    return (height - box_height) / 2, (width - box_width) / 2, box_height, box_width
