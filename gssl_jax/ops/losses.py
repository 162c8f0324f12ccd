"""Losses of clustering and of reconstruction, on plain arrays in float32.

Letters: B images, U teacher views, V student views, N tokens, K prototypes, S image side, C channels, P numbers of a
patch (p p C).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array


def cross_entropy(targets: Array, logits: Array) -> Array:
    """H(P, softmax(logits)) over the last axis; [..., K], [..., K] -> [...]. Logits are already divided by tau."""
    return -jnp.sum(targets * jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1), axis=-1)


def view_pair_cross_entropy(targets: Array, logits: Array, include_same: bool = False) -> Array:
    """Mean cross-entropy of every teacher view with every student view (MaskCluster E2; pairs as in DINO).

    Args:
      targets: [B, U, K], the assignments of the teacher's (global) views.
      logits: [B, V, K], the student's logits divided by its temperature; the first U of the V views are the
        masked versions of the teacher's views, the others are local views.
      include_same: also pair a view with itself. Without it at least two views are needed.

    Returns: the scalar mean over images and pairs.
    """
    u, v = targets.shape[1], logits.shape[1]
    pairs = jnp.ones((u, v)) if include_same else 1.0 - jnp.eye(u, v)
    if not include_same and v < 2:
        raise ValueError("cross-view pairs need a second student view; use two global views or include_same")
    log_p_BxVxK = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    entropies_BxUxV = -jnp.einsum("buk,bvk->buv", targets, log_p_BxVxK)
    return jnp.sum(jnp.mean(entropies_BxUxV, axis=0) * pairs) / jnp.sum(pairs)


def token_cross_entropy(targets: Array, logits: Array, weights: Array | None = None) -> Array:
    """Mean cross-entropy of tokens at the same place of the same view (MaskCluster E3).

    Args:
      targets: [B, N, K].
      logits: [B, N, K], divided by the student's temperature.
      weights: [B, N] with 1 for the tokens that count, or None for all. With weights each image's sum is divided
        by its own count (at least 1), then images are averaged, as in iBOT (arXiv 2111.07832).

    Returns: a scalar.
    """
    entropies_BxN = cross_entropy(targets, logits)
    if weights is None:
        return jnp.mean(entropies_BxN)
    weights = weights.astype(jnp.float32)
    return jnp.mean(jnp.sum(entropies_BxN * weights, axis=1) / jnp.maximum(jnp.sum(weights, axis=1), 1.0))


def masked_l1(images: Array, reconstructions: Array, mask: Array) -> Array:
    """l1 distance over hidden pixels only: sum over pixels and channels / max(1, hidden pixels x C) (MaskCluster E4).

    images, reconstructions: [B, S, S, C] in the normalised space; mask: bool [B, S, S], True = hidden. Scalar.
    """
    hidden = mask.astype(jnp.float32)[..., None]
    difference = jnp.abs(images.astype(jnp.float32) - reconstructions.astype(jnp.float32)) * hidden
    return jnp.sum(difference) / jnp.maximum(jnp.sum(hidden) * images.shape[-1], 1.0)


def patch_statistics(patches: Array) -> tuple[Array, Array]:
    """Mean and standard deviation of each patch over its pixels and channels, [..., P] -> [..., 1] twice.

    The variance is that of a sample (P - 1), and 1e-6 is added before the root, as in MAE's code.
    """
    return jnp.mean(patches, axis=-1, keepdims=True), jnp.sqrt(jnp.var(patches, axis=-1, keepdims=True, ddof=1) + 1e-6)


def masked_patch_mse(targets: Array, predictions: Array, hidden: Array) -> Array:
    """Squared error, the mean over the numbers of a patch and over all hidden patches (MAE, arXiv 2111.06377).

    targets, predictions: [B, N, P]; hidden: bool [B, N], True = hidden. Scalar; 0 where nothing is hidden.
    """
    errors_BxN = jnp.mean(jnp.square(targets.astype(jnp.float32) - predictions.astype(jnp.float32)), axis=-1)
    weights = hidden.astype(jnp.float32)
    return jnp.sum(errors_BxN * weights) / jnp.maximum(jnp.sum(weights), 1.0)
