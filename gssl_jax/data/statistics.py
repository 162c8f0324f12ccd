"""Mean and standard deviation of the pixels of a source, what `data.mean` and `data.std` ask for."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from gssl_jax.data import decode
from gssl_jax.data.sources import Source
from gssl_jax.data.substitution import as_readable
from gssl_jax.errors import UserError

CHUNK = 256  # images whose sums are held at a time


class Statistics(NamedTuple):
    """Mean and deviation of each channel in units of [0, 1], float64 [C]; images counted; those unreadable by name."""

    mean: np.ndarray
    std: np.ndarray
    images: int
    broken: tuple[str, ...]


def channel_statistics(source: Source, data: Any, count: int = 0) -> Statistics:
    """Of `count` images evenly spaced over the source (0 = all), as `data.channels` channels of eight bits.

    Every image counts equally whatever its size, as it does once all are brought to one size; within an image every
    pixel does. Unreadable images are left out.

    Args:
        source: at least one image.
        data: `config.data`; `channels`, `threads` and `max_broken` are read.

    Raises:
        UserError: no image at all, or more unreadable ones than `data.max_broken` allows.
    """
    readable = as_readable(source, data.max_broken)
    rows = np.unique(np.linspace(0, len(source) - 1, min(count or len(source), len(source))).astype(int))

    def moments(index: int) -> np.ndarray | None:
        sample = readable.readable(int(index))
        if sample is None:
            return None
        pixels = decode.to_channels(sample["image"], data.channels).reshape(-1, data.channels) / 255.0
        return np.stack([pixels.mean(0), np.square(pixels).mean(0)])

    total, found = np.zeros((2, data.channels)), 0
    with ThreadPoolExecutor(max(1, data.threads)) as pool:
        for start in range(0, len(rows), CHUNK):
            known = [m for m in pool.map(moments, rows[start : start + CHUNK]) if m is not None]
            found += len(known)
            total += np.sum(known, axis=0) if known else 0.0
    if not found:
        raise UserError(f"no image of {source.name} can be read: {'; '.join(readable.broken[:3])}")
    mean, square = total / found
    return Statistics(mean, np.sqrt(np.maximum(square - mean**2, 0.0)), found, readable.broken)
