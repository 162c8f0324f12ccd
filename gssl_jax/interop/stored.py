"""Arrays that lie in a file: what is known of them before they are read, and how their bytes become numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

ITEM_BYTES = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2,
    "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1, "bool": 1,
}  # fmt: skip
"""Bytes of one number of every kind that weights are stored in, little-endian."""


class Stored(NamedTuple):
    """An array in a file: its shape, the name of its kind of number, and `read() -> array` of that shape."""

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]


def decoded(data: bytes | bytearray, dtype: str) -> np.ndarray:
    """Bytes as a flat array; bfloat16, which NumPy lacks, becomes float32: its bits are the upper half of one."""
    if dtype == "bfloat16":
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    return np.frombuffer(data, np.dtype(dtype).newbyteorder("<"))
