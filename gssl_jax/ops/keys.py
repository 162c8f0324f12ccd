"""Random keys by name, step and sample, so that a draw belongs to what it is for and not to its place."""

from __future__ import annotations

import zlib

import jax
from jax import Array


def named(key: Array, name: str) -> Array:
    """The key that belongs to `name`: `fold_in` of its CRC-32 (Python's own `hash` changes between processes)."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def per_sample(key: Array, index: Array) -> Array:
    """One key for each entry of `index`, int32 [B] -> keys [B]: a sample keeps its draw wherever it stands."""
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(index)
