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
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gssl_jax.data.subsets import k_shot
from gssl_jax.evals import logistic
from gssl_jax.evals.preprocess import centre_and_normalise, single_threaded


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
    max_iterations: int,
    tolerance: float,
    classes: Sequence[str],
    seed: int,
    pad_to: int = 0,
) -> LowShot:
    """`draws` independent draws of `shots` images per class from [N, D], each judged on all of [M, D].

    `strength` and `grid` are values of lambda; a fit ends where its gradient's norm is below `tolerance`, or after
    `max_iterations`. With `pad_to` a draw has room for that many images per class, the surplus without weight: several
    numbers of shots then share one compiled program. Raises `UserError` when a class has fewer than `shots` images.
    """
    index = np.stack([k_shot(train_labels, shots, seed, draw, classes) for draw in range(draws)])
    digest = hashlib.sha256(index.astype("<i8").tobytes()).hexdigest()[:16]
    count = index.shape[1]
    room = ((0, 0), (0, max(0, pad_to * len(classes) - count)))
    real = jnp.asarray(np.pad(np.ones(index.shape, np.float32), room))
    labels = jnp.asarray(np.pad(train_labels[index], room), jnp.int32)
    with single_threaded():
        prepared = _prepare(jnp.asarray(train), np.pad(index, room), real)
        reduced, basis, mean = jax.block_until_ready(prepared)

    solver: dict[str, Any] = {"classes": len(classes), "max_iterations": max_iterations, "tolerance": tolerance}
    chosen = np.full(draws, strength, np.float32)
    if shots >= kfold_from:
        strengths = np.sort(np.asarray(grid, np.float32))[::-1]
        parts = np.stack([_folds(train_labels[row], min(folds, shots), (seed, draw)) for draw, row in enumerate(index)])
        parts = np.pad(parts, room, constant_values=-1)
        right = _cross_validate(reduced, labels, real, parts, strengths / count, folds=min(folds, shots), **solver)
        chosen = strengths[np.asarray(right).argmax(1)]
    weight, converged = _solve(reduced, labels, real, chosen / count, **solver)
    accuracy = _accuracy(weight, basis, mean, jnp.asarray(test), jnp.asarray(test_labels), transductive)
    return LowShot(np.asarray(accuracy, np.float64), chosen, digest, int(np.asarray(converged).sum()))


@jax.jit
@jax.default_matmul_precision("highest")
def _prepare(train: Array, index: Array, real: Array) -> tuple[Array, Array, Array]:
    """Each draw's features in their own basis: reduced [G, n, R], basis [G, D, R], mean [G, D].

    Solving in the reduced basis lets backbones of different widths share a compiled solver while n <= D.
    """

    def one(draw: tuple[Array, Array]) -> tuple[Array, Array, Array]:
        rows_N, real_N = draw
        features = train[rows_N].astype(jnp.float32)
        mean = (real_N @ features) / real_N.sum()
        reduced, basis = logistic.rotate(centre_and_normalise(features, mean) * real_N[:, None])
        return reduced, basis, mean

    return jax.lax.map(one, (index, real))


@partial(jax.jit, static_argnames=("classes",))
@jax.default_matmul_precision("highest")
def _solve(
    reduced: Array, labels: Array, real: Array, l2: Array, classes: int, max_iterations: int, tolerance: float
) -> tuple[Array, Array]:
    """[G, n, R], [G, n], [G, n], [G] -> weights [G, R, C] and whether each fit converged."""

    def one(draw: tuple[Array, ...]) -> tuple[Array, Array]:
        features, label, real_N, strength = draw
        fit = logistic.fit_rotated(
            features, label, strength[None], real_N[None], classes, False, max_iterations, tolerance
        )
        return fit.weight[0], fit.converged[0]

    return jax.lax.map(one, (reduced, labels, real, l2))


@partial(jax.jit, static_argnames=("folds", "classes"))
@jax.default_matmul_precision("highest")
def _cross_validate(
    reduced: Array,
    labels: Array,
    real: Array,
    parts: Array,
    l2: Array,
    folds: int,
    classes: int,
    max_iterations: int,
    tolerance: float,
) -> Array:
    """How many left-out images each strength of l2 [L] gets right, int [G, L]; parts [G, n] names each image's fold."""
    left_out_F = jnp.arange(folds)

    def one(draw: tuple[Array, ...]) -> Array:
        features, label, real_N, part = draw
        held_FxN = part[None] == left_out_F[:, None]
        weights_KxN = jnp.repeat(real_N[None] * ~held_FxN, len(l2), axis=0)
        fit = logistic.fit_rotated(
            features, label, jnp.tile(l2, folds), weights_KxN, classes, False, max_iterations, tolerance
        )
        right_KxN = logistic.logits(fit, features).argmax(-1) == label[None]
        return (right_KxN.reshape(folds, len(l2), -1) & held_FxN[:, None]).sum((0, 2))

    return jax.lax.map(one, (reduced, labels, real, parts))


@partial(jax.jit, static_argnames=("transductive",))
@jax.default_matmul_precision("highest")
def _accuracy(weight: Array, basis: Array, mean: Array, test: Array, test_labels: Array, transductive: bool) -> Array:
    """Accuracy [G] of each draw's classifier on the test features [M, D]."""
    wide = test.astype(jnp.float32)

    def one(draw: tuple[Array, Array, Array]) -> Array:
        weight_RxC, basis_DxR, mean_D = draw
        prepared = centre_and_normalise(wide, wide.mean(0) if transductive else mean_D)
        return jnp.mean((prepared @ (basis_DxR @ weight_RxC)).argmax(-1) == test_labels)

    return jax.lax.map(one, (weight, basis, mean))


def _folds(labels: np.ndarray, folds: int, seed: tuple[int, int]) -> np.ndarray:
    """int [n]: the fold of each image, every class spread evenly over the folds."""
    rng, part = np.random.default_rng(seed), np.zeros(len(labels), np.int32)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        part[members] = np.arange(len(members)) % folds
    return part
