"""Contrast with a queue of earlier keys (MoCo, arXiv 1911.05722 and 2003.04297), and BYOL's distance.

Letters: B samples, K keys in the queue, D features of a unit vector.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

Queue = dict[str, Any]
"""`keys` float32 [K, D] of length 1, `pointer` int32, the place of the next key, and `filled` int32, how many of the
places hold a key. MoCo's code stores [D, K]."""

# The default precision of a float32 product is bfloat16 on TPU and TF32 on recent GPUs; 1 / T = 5 enlarges its error.
_EXACT = jax.lax.Precision.HIGHEST


def similarities(queries: Array, keys: Array, queue: Array) -> tuple[Array, Array]:
    """Dot products of unit vectors in float32: queries and keys [B, D], queue [K, D] -> [B] and [B, K]."""
    queries, keys = queries.astype(jnp.float32), keys.astype(jnp.float32)
    return jnp.sum(queries * keys, axis=-1), jnp.matmul(queries, queue.T, precision=_EXACT)


def info_nce(positives: Array, negatives: Array, temperature: float, counted: Array | None = None) -> Array:
    """-log exp(p / T) / (exp(p / T) + sum_k exp(n_k / T)) (arXiv 1911.05722, equation 1).

    Args:
      positives: [B], similarity of each query with its own key.
      negatives: [B, K], with the keys of the queue.
      temperature: T.
      counted: bool [K], the negatives that count, or None for all. With none at all the loss is 0.

    Returns: [B]. With all similarities equal it is ln(1 + K).
    """
    p, n = positives.astype(jnp.float32) / temperature, negatives.astype(jnp.float32) / temperature
    if counted is not None:
        n = jnp.where(counted[None, :], n, -jnp.inf)
    return jax.nn.logsumexp(jnp.concatenate([p[:, None], n], axis=1), axis=1) - p


def ranked_first(positives: Array, negatives: Array, counted: Array | None = None) -> Array:
    """Share of the queries [B] that are closer to their own key than to any of the (counted) negatives [B, K]."""
    if counted is not None:
        negatives = jnp.where(counted[None, :], negatives, -jnp.inf)
    return jnp.mean((positives > jnp.max(negatives, axis=1)).astype(jnp.float32))


def new_queue(key: Array, length: int, width: int) -> Queue:
    """`length` random directions, none of which counts as filled."""
    noise = jax.random.normal(key, (length, width), jnp.float32)
    noise = noise / jnp.linalg.norm(noise, axis=1, keepdims=True)
    return {"keys": noise, "pointer": jnp.zeros((), jnp.int32), "filled": jnp.zeros((), jnp.int32)}


def enqueued(queue: Queue, keys: Array) -> Queue:
    """The queue after `keys` [B, D] took the places of its oldest. B has to divide its length, so none wraps round."""
    length, count = len(queue["keys"]), len(keys)
    if length % count:
        raise ValueError(f"a queue of {length} cannot take {count} keys at a time without a remainder")
    return {
        "keys": jax.lax.dynamic_update_slice(queue["keys"], keys.astype(jnp.float32), (queue["pointer"], 0)),
        "pointer": (queue["pointer"] + count) % length,
        "filled": jnp.minimum(queue["filled"] + count, length),
    }


def unit_distance(predictions: Array, targets: Array) -> Array:
    """|| p - t ||^2 = 2 - 2 p.t of unit vectors [B, D] -> [B] in [0, 4] (BYOL, arXiv 2006.07733, equation 2)."""
    return 2.0 - 2.0 * jnp.sum(predictions.astype(jnp.float32) * targets.astype(jnp.float32), axis=-1)
