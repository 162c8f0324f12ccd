"""Losses of classification with labels, in float32, and the weights and margins that a long tail of classes asks for.

A label is int [...], logits are [..., C]; a label of -1 has no loss: an unlabelled or padded image, whatever its logits
hold. A label of C or more makes the loss NaN instead of some plausible number. All means are those of the weighted
cross-entropy of torch, sum w l / sum w with w the weight of each label's class, taken over the labels that count: with
equal weights the plain mean, whatever their scale. Without any label the loss is 0.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

_LEAST = 1e-12  # of 1 - p in the focal loss: keeps the gradient of (1 - p)^gamma finite where p rounds to 1


def cross_entropy(logits: Array, labels: Array, class_weights: Array | None = None) -> Array:
    """-log softmax(logits)[label]; logits [..., C], labels int [...], class weights [C] -> the weighted mean."""
    return weighted_mean(_of_labels(logits, labels), labels, class_weights)


def smoothed_cross_entropy(logits: Array, labels: Array, smoothing: float) -> Array:
    """Cross-entropy with targets (1 - smoothing) at the label and smoothing / C at every class (arXiv 1512.00567,
    section 7); logits [..., C], labels int [...] -> the mean over the labels that count."""
    counted = labels >= 0
    safe = jnp.where(counted[..., None], logits.astype(jnp.float32), 0.0)
    everywhere = jnp.where(counted, -jnp.mean(jax.nn.log_softmax(safe, axis=-1), axis=-1), 0.0)
    return weighted_mean((1.0 - smoothing) * _of_labels(logits, labels) + smoothing * everywhere, labels)


def focal(logits: Array, labels: Array, gamma: float, class_weights: Array | None = None) -> Array:
    """-(1 - p)^gamma log p with p = softmax(logits)[label] (arXiv 1708.02002, equations 4 and 5, with gamma 2).

    The weights (alpha in the paper) are applied outside: p stays a probability. The code published with LDAM takes
    p = exp(-w l) of the already weighted loss instead. Logits [..., C], labels int [...] -> the weighted mean.
    """
    losses = _of_labels(logits, labels)
    miss = jnp.maximum(-jnp.expm1(-losses), _LEAST)
    return weighted_mean(miss**gamma * losses, labels, class_weights)


def ldam(cosines: Array, labels: Array, margins: Array, scale: float, class_weights: Array | None = None) -> Array:
    """Cross-entropy of scale * (cosines - margin of the label, at the label alone) (arXiv 1906.07413, 3.2).

    Args:
        cosines: [..., C], between unit features and unit class vectors; not scaled.
        labels: int [...].
        margins: [C] of `ldam_margins`.
        scale: 30 in the authors' code.
        class_weights: [C] or None.

    Returns: the weighted mean.
    """
    at_label = jax.nn.one_hot(labels, cosines.shape[-1])
    shifted = cosines.astype(jnp.float32) - at_label * margins[jnp.maximum(labels, 0)][..., None]
    return cross_entropy(scale * shifted, labels, class_weights)


def ldam_margins(counts: ArrayLike, largest: float) -> Array:
    """Margins n^(-1/4), scaled so that the rarest class has `largest` (.5 in the code); counts [C] -> [C].

    arXiv 1906.07413, section 3.2. A class without images is never a label: its margin is 0 and it scales nothing.
    """
    n = jnp.asarray(counts, jnp.float32)
    raw = jnp.where(n > 0, jnp.maximum(n, 1.0) ** -0.25, 0.0)
    return raw * (largest / jnp.max(raw))


def class_balanced_weights(counts: ArrayLike, beta: float) -> Array:
    """(1 - beta) / (1 - beta^n), scaled to the sum C (arXiv 1901.05555, section 4); counts [C] -> [C].

    beta 0 weighs all classes alike, beta towards 1 by 1 / n. A class without images is never a label: weight 0.

    Raises:
        ValueError: beta is not in [0, 1).
    """
    if not 0.0 <= beta < 1.0:
        raise ValueError(f"beta of class-balanced weights must lie in [0, 1), not {beta}")
    n = jnp.asarray(counts, jnp.float32)
    # In float32 1 - .9999^n loses four digits; expm1 of n ln beta, with the logarithm from float64, loses none. The
    # factor 1 - beta is the same for all classes and cancels.
    effective = -jnp.expm1(jnp.maximum(n, 1.0) * (math.log(beta) if beta > 0 else -math.inf))
    weights = jnp.where(n > 0, 1.0 / effective, 0.0)
    return weights * (n.shape[0] / jnp.sum(weights))


REWEIGHTING = ("none", "class_balanced", "drw")
"""What `class_weights` follows: ones, class-balanced from the first step, or deferred (arXiv 1906.07413, 3.3)."""


def class_weights(rule: str, counts: ArrayLike, beta: float, step: ArrayLike, start: ArrayLike) -> Array:
    """Class weights [C] at `step`: ones, or those of `class_balanced_weights`, which `drw` defers until `start`.

    Args:
        rule: one of `REWEIGHTING`.
        counts: [C], training images per class.
        beta: .9999 in the paper; used by `class_balanced` and `drw`.
        step: where training is, 0 at the beginning, possibly traced; `drw` alone reads it.
        start: the first step, counted like `step`, with class-balanced weights, which then stay.

    Raises:
        ValueError: unknown rule, or beta not in [0, 1).
    """
    if rule not in REWEIGHTING:
        raise ValueError(f"unknown re-weighting {rule!r}, known: {', '.join(REWEIGHTING)}")
    ones = jnp.ones_like(jnp.asarray(counts), jnp.float32)
    if rule == "none":
        return ones
    balanced = class_balanced_weights(counts, beta)
    return balanced if rule == "class_balanced" else jnp.where(jnp.asarray(step) >= start, balanced, ones)


def weighted_mean(losses: Array, labels: Array, class_weights: Array | None = None) -> Array:
    """sum w l / sum w over the labels of 0 and more, w = class_weights[label]; [...], int [...], [C] -> scalar.

    0 where there is no label, or none with a weight.
    """
    counted = labels >= 0
    weights = jnp.where(counted, 1.0 if class_weights is None else class_weights[jnp.maximum(labels, 0)], 0.0)
    total = jnp.sum(weights)
    return jnp.sum(jnp.where(counted, weights * losses, 0.0)) / jnp.where(total > 0, total, 1.0)


def _of_labels(logits: Array, labels: Array) -> Array:
    """-log softmax(logits)[label] of each sample, 0 at a label of -1; [..., C], int [...] -> [...]."""
    counted = labels >= 0
    # Logits are replaced before the logarithm and not after it: a NaN in padding would survive in the gradient.
    safe = jnp.where(counted[..., None], logits.astype(jnp.float32), 0.0)
    chosen = jnp.take_along_axis(jax.nn.log_softmax(safe, axis=-1), jnp.maximum(labels, 0)[..., None], axis=-1)
    return jnp.where(counted, -chosen[..., 0], 0.0)
