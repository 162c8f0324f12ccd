"""Contrast with a queue of earlier keys (MoCo, arXiv 1911.05722 and 2003.04297) or within the batch (SimCLR, MoCo-v3),
and BYOL's distance.

Letters: B samples, V views of each, K keys in the queue, D features of a unit vector.
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


def all_similarities(queries: Array, keys: Array) -> Array:
    """Dot products of unit vectors in float32: [n, D], [m, D] -> [n, m]."""
    return jnp.matmul(queries.astype(jnp.float32), keys.astype(jnp.float32).T, precision=_EXACT)


def same_image(samples: int, views: int) -> Array:
    """Which rows of B x V views, those of an image side by side, show the same image: bool [B V, B V]."""
    image = jnp.repeat(jnp.arange(samples), views)
    return image[:, None] == image[None, :]


def nt_xent(similarities: Array, views: int, temperature: float) -> Array:
    """-log exp(s_ip / T) / sum_{k != i} exp(s_ik / T), the mean over the other views p of the image of i.

    With two views the loss of SimCLR (arXiv 2002.05709, equation 1), with more its mean over the positives, each
    against all other views of the batch (arXiv 2004.11362, equation 2).

    Args:
      similarities: [B V, B V] of all views with each other, those of an image side by side.
      views: V, at least 2.
      temperature: T.

    Returns: [B V]. With all similarities equal it is ln(B V - 1).
    """
    n = len(similarities)
    if views < 2 or n % views:
        raise ValueError(f"{n} rows are not two or more views of each image, views={views}")
    logits, itself = similarities.astype(jnp.float32) / temperature, jnp.eye(n, dtype=bool)
    total = jax.nn.logsumexp(jnp.where(itself, -jnp.inf, logits), axis=1)
    positives = same_image(n // views, views) & ~itself
    return total - jnp.sum(jnp.where(positives, logits, 0.0), axis=1) / (views - 1)


def in_batch_info_nce(similarities: Array, temperature: float) -> Array:
    """InfoNCE of each query against the keys of the batch: [B, B], queries by keys, positives on the diagonal -> [B].

    MoCo-v3 (arXiv 2104.02057, algorithm 1) without its factor 2 T. With all similarities equal it is ln B.
    """
    logits = similarities.astype(jnp.float32) / temperature
    return jax.nn.logsumexp(logits, axis=1) - jnp.diagonal(logits)


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
