"""Weights of several pretext losses beside a supervised one: by a gate, by usefulness, or fixed.

Letters: T pretext tasks, B samples, D features, z gate logits, g weights, L losses, lambda the weight of all pretexts
in the whole loss. A gate trained by the losses it weights goes to the smallest one (see `gate_weights`); the penalty
and `chance_normalised` work against that. The usefulness gate asks another question: which pretext pulls the features
where the labels pull them. Related: uncertainty weighting (arXiv 1705.07115), GradNorm (1711.02257), projected
gradients (PCGrad, 2001.06782), gradient similarity (1812.02224). Means over samples are those of the global batch.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from gssl_jax.ops.assignment import entropy

FORMULAS = ("softmax_of_mean", "mean_of_softmax", "per_sample")
"""How logits become weights: one vector a batch in either published way, or one a sample."""

MODES = ("learned", "frozen", "uniform", "sum", "none")
"""What weights losses: the gate with its gradient or without, 1 / T, 1, or 0 for the transforms alone."""


def gate_weights(logits: Array, formula: str) -> Array:
    """Weights of a gate, float32, positive with sum 1 over tasks; logits [B, T] -> [T], or [B, T] where per sample.

    `softmax_of_mean` is g = softmax(mean_b z_b) and `mean_of_softmax` g = mean_b p_b with p_b = softmax(z_b): the two
    forms of G-SSL's published code (arXiv 2301.05865), the normalised geometric and the arithmetic mean of the
    samples' weights. They agree where all samples share their logits. `per_sample` keeps p_b, for losses by sample.

    With the loss lambda sum_i g_i L_i the gate's gradient is
      softmax_of_mean: dL/dz_bj = (lambda / B) g_j (L_j - sum_i g_i L_i)
      mean_of_softmax: dL/dz_bj = (lambda / B) p_bj (L_j - sum_i p_bi L_i)
      per_sample:      dL/dz_bj = (lambda / B) p_bj (L_bj - sum_i p_bi L_bi)
    so that descent moves weight to the tasks whose loss is below the weighted mean, to the easiest in the end.

    Raises ValueError for an unknown formula.
    """
    if formula not in FORMULAS:
        raise ValueError(f"formula must be one of {FORMULAS}, got {formula!r}")
    z_BxT = logits.astype(jnp.float32)
    if formula == "softmax_of_mean":
        return jax.nn.softmax(jnp.mean(z_BxT, axis=0))
    p_BxT = jax.nn.softmax(z_BxT, axis=-1)
    return jnp.mean(p_BxT, axis=0) if formula == "mean_of_softmax" else p_BxT


def task_weights(mode: str, tasks: int, gate: Array | None = None) -> Array:
    """The weights that losses get in `mode`, one of `MODES`: [T], or in the shape of `gate`, [T] or [B, T].

    `frozen` is what the published code does, where the weights are numbers without a history: neither the gate nor
    the features get a gradient through them. `none` is the control that keeps transformed images and drops the
    losses. Raises ValueError for an unknown mode, for a gate that is missing or that has another number of tasks.
    """
    fixed = {"uniform": 1.0 / tasks, "sum": 1.0, "none": 0.0}
    if mode not in MODES:
        raise ValueError(f"mode must be one of {MODES}, got {mode!r}")
    if mode in fixed:
        return jnp.full((tasks,), fixed[mode], jnp.float32)
    if gate is None or gate.shape[-1] != tasks:
        found = "none" if gate is None else f"one of {gate.shape[-1]}"
        raise ValueError(f"mode {mode!r} needs a gate of {tasks} tasks, got {found}")
    return gate if mode == "learned" else jax.lax.stop_gradient(gate)


def gated_loss(losses: Array, weights: Array) -> Array:
    """sum_i g_i L_i, a scalar. Losses are means [T], or by sample [B, T] and then averaged over samples.

    Weights are [T], or [B, T] beside losses by sample; with mean losses that would only be their average, so it
    raises ValueError.
    """
    if weights.ndim == 2 and losses.ndim == 1:
        raise ValueError("weights by sample [B, T] need losses by sample [B, T], got means [T]")
    if weights.ndim == 1 and losses.ndim == 2:
        losses = jnp.mean(losses, axis=0)
    return jnp.sum(jnp.mean((weights * losses).reshape(-1, losses.shape[-1]), axis=0))


def chance_normalised(losses: Array, classes: tuple[int, ...]) -> Array:
    """L_i / ln C_i: 1 is chance for every task; losses [..., T] with the numbers of classes C of T tasks.

    Without it a gate compares ln 2 of a flip with ln 16 of a located rotation. Raises ValueError for a task of fewer
    than two classes or another number of tasks.
    """
    if min(classes) < 2 or losses.shape[-1] != len(classes):
        raise ValueError(f"{losses.shape[-1]} losses need as many tasks of two classes or more, got {classes}")
    return losses / jnp.log(jnp.asarray(classes, jnp.float32)).reshape((1,) * (losses.ndim - 1) + (-1,))


def load_imbalance(weights: Array) -> Array:
    """Squared coefficient of variation of the tasks' mean weights, a scalar: T sum_i g_i^2 - 1; [T] or [B, T].

    0 where tasks share equally and T - 1 where one takes all (importance loss of sparsely gated experts, arXiv
    1701.06538, section 4). With dense gates Switch's T sum_i f_i P_i (2101.03961, section 2.2) is the same plus 1.
    """
    g_T = jnp.mean(weights.astype(jnp.float32).reshape(-1, weights.shape[-1]), axis=0)
    return g_T.shape[0] * jnp.sum(g_T * g_T) - 1.0


def gate_penalty(weights: Array, gate_entropy_weight: float, load_balance_weight: float) -> Array:
    """What is added to the loss so that a learned gate stays open, a scalar; weights [T] or [B, T].

    load_balance_weight CV^2(mean g) - gate_entropy_weight mean H(g). With entropy weight w alone, a gate per batch
    settles at g = softmax(-lambda L / w): graded by the losses and not all or nothing. By sample, the entropy keeps
    every sample's weights open and the balance only their average.
    """
    return load_balance_weight * load_imbalance(weights) - gate_entropy_weight * jnp.mean(entropy(weights))


def alignment(pretext_gradients: Array, supervised_gradient: Array) -> Array:
    """Cosine of each pretext loss's gradient with the supervised one, [T] in [-1, 1], without a gradient of its own.

    pretext_gradients [T, B, D] and supervised_gradient [B, D] are gradients by the shared features, compared over the
    whole batch as one vector: a backward pass through each head and none through the backbone. Du et al. (arXiv
    1812.02224) take the cosine of gradients by the shared parameters and scale the auxiliary one by max(0, cosine).
    A gradient that is zero is at 0 with all others.
    """

    def direction(gradients: Array) -> Array:
        rows = jax.lax.stop_gradient(gradients).astype(jnp.float32).reshape(-1, supervised_gradient.size)
        largest = jnp.max(jnp.abs(rows), axis=1, keepdims=True)  # squares of small gradients would underflow
        rows = rows / jnp.where(largest > 0, largest, 1.0)
        length = jnp.sqrt(jnp.sum(rows * rows, axis=1, keepdims=True))
        return rows / jnp.where(length > 0, length, 1.0)

    return jnp.clip(jnp.sum(direction(pretext_gradients) * direction(supervised_gradient[None]), axis=1), -1.0, 1.0)


def updated_average(average: Array, value: Array, momentum: float) -> Array:
    """m a + (1 - m) v, started at zeros: the average of alignments [T] for the state of a method."""
    return momentum * average + (1.0 - momentum) * value


def usefulness_weights(average: Array, updates: Array, momentum: float, temperature: float) -> Array:
    """softmax(a / (1 - m^n) / temperature): weights [T] from the average of alignments after n updates.

    The division undoes the start at zeros (arXiv 1412.6980, section 3); before the first update all tasks weigh the
    same. A pretext that has pulled against the labels loses weight to the others but keeps some: over T tasks, none
    weighs less than 1 / (1 + (T - 1) exp(2 / temperature)). Raises ValueError unless 0 <= momentum < 1 and the
    temperature is positive.
    """
    if not 0.0 <= momentum < 1.0 or temperature <= 0.0:
        raise ValueError(f"needs 0 <= momentum < 1 and temperature > 0, got {momentum} and {temperature}")
    corrected = average / (1.0 - momentum ** jnp.maximum(updates, 1))
    return jax.nn.softmax(jax.lax.stop_gradient(corrected).astype(jnp.float32) / temperature)


def mixture_metrics(weights: Array) -> dict[str, Array]:
    """What tells a gate that has closed, from weights [T] or [B, T], each a scalar in [0, 1].

    `entropy`: H of the mean weights / ln T (1 = equal, 0 = one task has all); `sample_entropy`: mean over samples of
    H / ln T, the same number where weights are per batch; `largest`: the largest mean weight. Weights are taken as
    shares of their sum, so `sum` reads as `uniform`; all are 0 where every weight is 0.
    """
    g_RxT = weights.astype(jnp.float32).reshape(-1, weights.shape[-1])
    total = jnp.sum(g_RxT, axis=1, keepdims=True)
    g_RxT = g_RxT / jnp.where(total > 0, total, 1.0)
    g_T = jnp.mean(g_RxT, axis=0)
    most = jnp.log(max(g_T.shape[0], 2))  # one task has no entropy to share out
    return {"entropy": entropy(g_T) / most, "sample_entropy": jnp.mean(entropy(g_RxT)) / most, "largest": jnp.max(g_T)}
