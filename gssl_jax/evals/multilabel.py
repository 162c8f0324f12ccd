"""The linear protocol for images of several labels: a converged logistic regression for each, one against the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gssl_jax.evals import logistic
from gssl_jax.evals.linear import LOGITS_BYTES, prepared
from gssl_jax.evals.multilabel_scores import HALF, VALIDATION, mean_average_precision, thresholds_of


class OneVsRest(NamedTuple):
    """Logits [M, C] of the test images, the chosen l2, whether every final fit converged, the most iterations of one,
    on how many images, and above which logit a label counts as predicted: 0, or one number a class [C]."""

    scores: np.ndarray
    l2: float
    converged: bool
    iterations: int
    images: int
    thresholds: float | np.ndarray


def one_vs_rest(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray,
    *,
    l2_grid: Sequence[float],
    validation: float,
    train_images: int,
    max_iterations: int,
    tolerance: float,
    seed: int,
    threshold: str = HALF,
) -> OneVsRest:
    """Regressions with intercept on standardised features [N, D] and labels [N, C] of 0, 1 and NaN (unknown: that
    image is left out of that class), judged on [M, D].

    One l2 strength (of mean binary cross-entropy + l2/2 |w|^2) serves all classes: that of `l2_grid` with the best
    mean average precision on the share `validation` of the images, the strongest of equals; the final fits see them
    too. Of more than `train_images` training images (0 = no limit) so many are drawn by `seed`. With
    `threshold="validation"` the same
    share chooses a threshold for every class, by the fit that has not seen it.
    """
    order = np.random.default_rng(seed).permutation(len(train))
    if 0 < train_images < len(train):
        train, train_labels = train[order[:train_images]], train_labels[order[:train_images]]
        order = np.arange(train_images)  # drawn by the seed already
    held_out = np.zeros(len(train), bool)
    held_out[order[: min(round(validation * len(train)), len(train) - 1)]] = True
    grid = sorted(map(float, l2_grid), reverse=True)
    known, wanted = prepared(train, test)

    def solve(l2: float, kept: np.ndarray) -> logistic.Fit:
        return _in_groups(known, train_labels, l2, kept, max_iterations, tolerance)

    best = grid[0]
    thresholds: float | np.ndarray = 0.0
    if (len(grid) > 1 or threshold == VALIDATION) and held_out.any():
        found = [np.asarray(_logits(solve(l2, ~held_out), known))[held_out] for l2 in grid]
        means = [mean_average_precision(scores, train_labels[held_out]) for scores in found]
        chosen = int(np.nan_to_num(means, nan=-1.0).argmax())
        best = grid[chosen]
        if threshold == VALIDATION:
            thresholds = thresholds_of(found[chosen], train_labels[held_out], otherwise=0.0)
    final = solve(best, np.ones(len(train), bool))
    scores, most = np.asarray(_logits(final, wanted)), int(final.iterations.max())
    return OneVsRest(scores, best, bool(final.converged.all()), most, len(train), thresholds)


def _in_groups(
    features: Array, labels: np.ndarray, l2: float, kept: np.ndarray, max_iterations: int, tolerance: float
) -> logistic.Fit:
    """As many classes side by side as fit; the last group is filled with fits of weight 0 for the same program."""
    count, classes = labels.shape
    size = min(classes, max(1, LOGITS_BYTES // (8 * count)))
    room = -classes % size
    labels = np.pad(labels, ((0, 0), (0, room)), constant_values=np.nan)
    weights = (~np.isnan(labels) & kept[:, None]).T.astype(np.float32)
    strength = np.full(size, l2, np.float32)
    fits = [
        _fit(features, labels[:, part], strength, weights[part], max_iterations, tolerance)
        for part in (slice(start, start + size) for start in range(0, classes, size))
    ]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[:classes], *fits)


@jax.jit
@jax.default_matmul_precision("highest")
def _fit(
    features: Array, labels: Array, l2: Array, weights: Array, max_iterations: int, tolerance: float
) -> logistic.Fit:
    return logistic.fit_binary(features, labels, l2, weights, max_iterations, tolerance)


@jax.jit
@jax.default_matmul_precision("highest")
def _logits(fit: logistic.Fit, features: Array) -> Array:
    """[N, R] -> [N, C]."""
    return features @ fit.weight.T + fit.bias[None]
