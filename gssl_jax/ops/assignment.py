"""Soft assignments of features to prototypes, the four ways to keep them from collapsing, and how to see a collapse.

Letters: R rows (samples or tokens), K prototypes. All of it runs in float32 and sees the rows of the global batch:
under `jax.jit` on a mesh the sums over rows are global without a collective in the code.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import logsumexp


def entropy(probabilities: Array) -> Array:
    """Shannon entropy in nats over the last axis; [..., K] -> [...]. Zero probabilities count as zero."""
    p = probabilities.astype(jnp.float32)
    return -jnp.sum(jnp.where(p > 0, p * jnp.log(jnp.where(p > 0, p, 1.0)), 0.0), axis=-1)


def sharpen(probabilities: Array, temperature: float) -> Array:
    """p^(1/T), normalised over the last axis [..., K] (MSN, arXiv 2204.07141, eq. 2)."""
    return jax.nn.softmax(jnp.log(probabilities.astype(jnp.float32)) / temperature, axis=-1)


def sinkhorn(log_scores: Array, iterations: int, counted: Array | None = None) -> Array:
    """Assignments with nearly equal use of prototypes, by Sinkhorn-Knopp in the log domain (SwAV, arXiv 2006.09882).

    Args:
      log_scores: [R, K], cosines / eps, or the logarithm of sharpened probabilities (MSN's form).
      iterations: alternations of prototype and sample normalisation, at least 1.
      counted: bool [R], the rows that are balanced (all where None, and where none is True). The others are assigned
        by the same prototype potentials but do not move them.

    Returns:
      [R, K]. It ends on the normalisation of samples, so each row sums to 1 exactly; the sums over rows approach
      R / K only as iterations grow. Adding a constant to all scores changes nothing, so float32 never overflows.

    The alternation runs on the two vectors of potentials and not on the matrix: one [R, K] read for each half step.
    """
    if iterations < 1:
        raise ValueError(f"sinkhorn needs at least one iteration, got {iterations}")
    scores_RxK = log_scores.astype(jnp.float32)
    rows, prototypes = scores_RxK.shape
    start_R = jnp.zeros((rows,), jnp.float32)
    if counted is not None:  # a potential of -inf is a weight of 0 in the sums over rows
        start_R = jnp.where(counted | ~jnp.any(counted), 0.0, -jnp.inf)

    def alternate(_, row_potential_R):
        column_K = -logsumexp(scores_RxK + row_potential_R[:, None], axis=0) - jnp.log(prototypes)
        return start_R - logsumexp(scores_RxK + column_K[None, :], axis=1)

    row_R = jax.lax.fori_loop(0, iterations - 1, alternate, start_R)
    column_K = -logsumexp(scores_RxK + row_R[:, None], axis=0) - jnp.log(prototypes)
    return jax.nn.softmax(scores_RxK + column_K[None, :], axis=1)


def centred(logits: Array, centre: Array, temperature: Array | float) -> Array:
    """softmax((t - c) / tau) over the last axis: logits [R, K], centre [K] (DINO, arXiv 2104.14294)."""
    return jax.nn.softmax((logits.astype(jnp.float32) - centre[None, :]) / temperature, axis=-1)


def updated_centre(centre: Array, logits: Array, momentum: float) -> Array:
    """The centre for the *next* step: c <- m c + (1 - m) mean of the logits over all rows; [K], [R, K] -> [K]."""
    return momentum * centre + (1.0 - momentum) * jnp.mean(logits.astype(jnp.float32), axis=0)


def mean_of(rows: Array, counted: Array | None) -> Array:
    """Mean over the rows of [R, ...] that are `counted`, bool [R]; over all where it is None, 0 where none is."""
    if counted is None:
        return jnp.mean(rows, axis=0)
    weights_R = counted.astype(jnp.float32)
    return jnp.tensordot(weights_R, rows, axes=1) / jnp.maximum(jnp.sum(weights_R), 1.0)


def me_max(probabilities: Array, counted: Array | None = None) -> Array:
    """ln K - H(mean over rows of p): 0 when prototypes are used equally, ln K when one takes all (MSN, eq. 3).

    [R, K] -> scalar in [0, ln K], over the rows that are `counted`, bool [R], all where None. The rows must be those
    of all views and devices: it is the entropy of the mean, not the mean of entropies.
    """
    p_K = mean_of(probabilities.astype(jnp.float32), counted)
    return jnp.log(p_K.shape[-1]) - entropy(p_K)


def assignment_health(targets: Array, counted: Array | None = None) -> dict[str, Array]:
    """What tells a collapse of the targets [R, K], each a scalar in [0, 1] (spec 2.4 and 2.5).

    Rows that are not `counted`, bool [R], are left out; None = all.

    `target_entropy`: mean over rows of H / ln K (1 = uniform, says nothing); `mean_target_entropy`: H of the mean
    target / ln K (0 = one prototype takes all); `prototypes_in_use`: the share of prototypes that are some row's
    first choice, of those that could be (at most R).
    """
    rows, prototypes = targets.shape
    log_k = jnp.log(prototypes)
    seen_R = jnp.ones((rows,)) if counted is None else counted.astype(jnp.float32)
    used_K = jnp.zeros((prototypes,), jnp.float32).at[jnp.argmax(targets, axis=-1)].max(seen_R)
    return {
        "target_entropy": mean_of(entropy(targets), counted) / log_k,
        "mean_target_entropy": entropy(mean_of(targets, counted)) / log_k,
        "prototypes_in_use": jnp.sum(used_K) / jnp.clip(jnp.sum(seen_R), 1.0, prototypes),
    }
