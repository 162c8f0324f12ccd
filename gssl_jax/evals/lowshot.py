"""Classification from k images per class on frozen features, by the protocol of MSN (arXiv 2204.07141).

Features are centred and l2-normalised, the classifier is a multinomial logistic regression without intercept, and
its penalty is lambda / n with n labelled images (see `logistic` for the objective). lambda is fixed at few shots and
chosen by k-fold on the draw itself from `kfold_from` shots up; test images never choose anything. Centring uses the
mean of the labelled draw, for the test images too, unless `transductive`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gssl_jax.data.subsets import k_shot
from gssl_jax.evals import logistic
from gssl_jax.evals.preprocess import centre_and_normalise

MAX_ITERATIONS = 300
TOLERANCE = 1e-4


class LowShot(NamedTuple):
    """`accuracy` [G] and chosen `strength` (lambda) [G] of the draws, digest of the drawn indices, converged fits."""

    accuracy: np.ndarray
    strength: np.ndarray
    digest: str
    converged: int


def low_shot(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray,
    test_labels: np.ndarray,
    *,
    shots: int,
    draws: int,
    strength: float,
    kfold_from: int,
    folds: int,
    grid: Sequence[float],
    transductive: bool,
    classes: Sequence[str],
    seed: int,
) -> LowShot:
    """`draws` independent draws of `shots` images per class from [N, D], each judged on all of [M, D].

    `strength` and `grid` are values of lambda. Raises `UserError` when a class has fewer than `shots` images.
    """
    index = np.stack([k_shot(train_labels, shots, seed, draw, classes) for draw in range(draws)])
    labels = jnp.asarray(train_labels[index], jnp.int32)
    wide, test = jnp.asarray(train, jnp.float32), jnp.asarray(test, jnp.float32)
    reduced, basis, mean = _prepare(wide, index)
    count = index.shape[1]
    if shots >= kfold_from:
        strengths = np.sort(np.asarray(grid, np.float32))[::-1]
        parts = np.stack([_folds(train_labels[row], min(folds, shots), (seed, draw)) for draw, row in enumerate(index)])
        scores = _cross_validate(reduced, labels, parts, strengths / count, min(folds, shots), len(classes))
        chosen = strengths[np.argmax(np.asarray(scores), axis=1)]
    else:
        chosen = np.full(draws, strength, np.float32)
    weight, converged = _solve(reduced, labels, chosen / count, len(classes))
    accuracy = _accuracy(weight, basis, mean, test, jnp.asarray(test_labels), transductive)
    digest = hashlib.sha256(index.astype("<i8").tobytes()).hexdigest()[:16]
    return LowShot(np.asarray(accuracy, np.float64), chosen, digest, int(np.asarray(converged).sum()))


@jax.jit
@jax.default_matmul_precision("highest")
def _prepare(train: Array, index: Array) -> tuple[Array, Array, Array]:
    """Each draw's features in their own basis: reduced [G, n, R], basis [G, D, R], mean [G, D].

    Solving in the reduced basis lets backbones of different widths share compiled solvers at the smallest draws.
    """

    def one(rows: Array) -> tuple[Array, Array, Array]:
        mean = train[rows].mean(0)
        reduced, basis = logistic.rotate(centre_and_normalise(train[rows], mean))
        return reduced, basis, mean

    return jax.lax.map(one, index)


@partial(jax.jit, static_argnames=("classes",))
@jax.default_matmul_precision("highest")
def _solve(reduced: Array, labels: Array, l2: Array, classes: int) -> tuple[Array, Array]:
    """[G, n, R], [G, n], [G] -> weights [G, R, C] and whether each fit converged."""

    def one(draw: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        features, label, strength = draw
        everything = jnp.ones((1, len(label)))
        fit = logistic.fit_rotated(
            features, label, strength[None], everything, classes, False, MAX_ITERATIONS, TOLERANCE
        )
        return fit.weight[0], fit.converged[0]

    return jax.lax.map(one, (reduced, labels, l2))


@partial(jax.jit, static_argnames=("folds", "classes"))
@jax.default_matmul_precision("highest")
def _cross_validate(reduced: Array, labels: Array, parts: Array, l2: Array, folds: int, classes: int) -> Array:
    """Accuracy [G, L] on the left-out folds for every strength of l2 [L]; parts int [G, n] names each image's fold."""
    left_out_F = jnp.arange(folds)

    def one(draw: tuple[Array, Array, Array]) -> Array:
        features, label, part = draw
        held_FxN = part[None] == left_out_F[:, None]
        weights_KxN = jnp.repeat(1.0 - held_FxN, len(l2), axis=0)
        fit = logistic.fit_rotated(
            features, label, jnp.tile(l2, folds), weights_KxN, classes, False, MAX_ITERATIONS, TOLERANCE
        )
        right_KxN = logistic.logits(fit, features).argmax(-1) == label[None]
        right_FxL = (right_KxN.reshape(folds, len(l2), -1) & held_FxN[:, None]).sum(-1)
        return right_FxL.sum(0) / len(label)

    return jax.lax.map(one, (reduced, labels, parts))


@partial(jax.jit, static_argnames=("transductive",))
@jax.default_matmul_precision("highest")
def _accuracy(weight: Array, basis: Array, mean: Array, test: Array, test_labels: Array, transductive: bool) -> Array:
    """Accuracy [G] of each draw's classifier on the test features [M, D]."""

    def one(draw: tuple[Array, Array, Array]) -> Array:
        weight_RxC, basis_DxR, mean_D = draw
        prepared = centre_and_normalise(test, test.mean(0) if transductive else mean_D)
        return jnp.mean((prepared @ (basis_DxR @ weight_RxC)).argmax(-1) == test_labels)

    return jax.lax.map(one, (weight, basis, mean))


def _folds(labels: np.ndarray, folds: int, seed: tuple[int, int]) -> np.ndarray:
    """int [n]: the fold of each image, every class spread evenly over the folds."""
    rng, part = np.random.default_rng(seed), np.zeros(len(labels), np.int32)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        part[members] = np.arange(len(members)) % folds
    return part
