"""Several labels an image from few labelled images: the low-shot protocol with one binary regression for each label.

As in `lowshot` features are centred by the mean of the draw and l2-normalised and the penalty is lambda / n. The
regressions have an intercept, since a label is rarely as often there as not. A grid of lambda is judged by the mean
binary cross-entropy of the images left out, which rare labels do not leave undefined as they do a ranking.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gssl_jax.evals import logistic
from gssl_jax.evals.lowshot import in_own_bases, side_by_side
from gssl_jax.evals.preprocess import centre_and_normalise


class LabelDraw(NamedTuple):
    """Logits [M, C] of the test images, lambda, and whether every regression of the draw converged."""

    scores: np.ndarray
    strength: float
    converged: bool


def low_shot_labels(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray,
    draws: Sequence[np.ndarray],
    *,
    strength: float,
    folds: int,
    grid: Sequence[float],
    transductive: bool,
    max_iterations: int,
    tolerance: float,
    seed: int,
    room: int = 0,
) -> Iterator[LabelDraw]:
    """One `LabelDraw` for each of `draws` (rows of train [N, D]); options as for `lowshot.low_shot`.

    Labels [N, C] are 0, 1 and NaN (unknown: that image is left out of that label). A label without a positive among the
    drawn images scores all images about alike.
    """
    index, filled, sizes = side_by_side(draws, room)
    reduced, basis, mean = in_own_bases(train, index, jnp.asarray(filled))
    labels = train_labels[index].astype(np.float32)
    known = (~np.isnan(labels) & (filled[:, :, None] > 0)).astype(np.float32)
    solver: dict[str, Any] = {"max_iterations": max_iterations, "tolerance": tolerance}
    wanted = jnp.asarray(test)
    for draw, count in enumerate(sizes):
        own, weights, chosen = labels[draw], known[draw].T, float(strength)
        if folds > 1:
            part = np.random.default_rng((seed, draw)).permutation(np.arange(len(own)) % folds)
            strengths = sorted(map(float, grid), reverse=True)
            losses = [
                _left_out_loss(reduced[draw], own, np.float32(one / count), weights, part, folds, **solver)
                for one in strengths
            ]
            chosen = strengths[int(np.argmin(losses))]
        fit = _fit(reduced[draw], own, np.float32(chosen / count), weights, **solver)
        scores = _scores(fit, basis[draw], mean[draw], wanted, transductive)
        yield LabelDraw(np.asarray(scores), chosen, bool(np.asarray(fit.converged).all()))


@jax.jit
@jax.default_matmul_precision("highest")
def _fit(features: Array, labels: Array, l2: Array, weights: Array, max_iterations: int, tolerance: float) -> Any:
    """[n, R], [n, C], [], [C, n] -> a `logistic.Fit` of C regressions."""
    return logistic.fit_binary(features, labels, jnp.full(labels.shape[1], l2), weights, max_iterations, tolerance)


@partial(jax.jit, static_argnames=("folds",))
@jax.default_matmul_precision("highest")
def _left_out_loss(
    features: Array,
    labels: Array,
    l2: Array,
    weights: Array,
    part: Array,
    folds: int,
    max_iterations: int,
    tolerance: float,
) -> Array:
    """Mean binary cross-entropy over the known labels of the images left out, each once; float32 []."""

    def one(fold: Array) -> Array:
        held_N = part == fold
        fit = logistic.fit_binary(
            features, labels, jnp.full(labels.shape[1], l2), weights * ~held_N[None], max_iterations, tolerance
        )
        logits_NxC = features @ fit.weight.T + fit.bias[None]
        losses_NxC = jax.nn.softplus(logits_NxC) - jnp.where(weights.T > 0, labels, 0.0) * logits_NxC
        return jnp.where(held_N[:, None], losses_NxC * weights.T, 0.0).sum()

    return jax.lax.map(one, jnp.arange(folds)).sum() / jnp.maximum(weights.sum(), 1.0)


@partial(jax.jit, static_argnames=("transductive",))
@jax.default_matmul_precision("highest")
def _scores(fit: logistic.Fit, basis: Array, mean: Array, test: Array, transductive: bool) -> Array:
    """Logits [M, C]."""
    wide = test.astype(jnp.float32)
    prepared = centre_and_normalise(wide, wide.mean(0) if transductive else mean)
    return prepared @ (basis @ fit.weight.T) + fit.bias[None]
