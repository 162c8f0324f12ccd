"""Classification from few labelled images on frozen features, by the protocol of MSN (arXiv 2204.07141).

Features are centred and l2-normalised, the classifier is a multinomial logistic regression without intercept, and
its penalty is lambda / n with n labelled images (see `logistic` for the objective). lambda is fixed, or chosen by
k-fold on the draw itself; test images never choose anything. Centring uses the mean of the labelled draw, for the test
images too, unless `transductive`.
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

from gssl_jax.evals import logistic
from gssl_jax.evals.preprocess import centre_and_normalise, single_threaded

LOGITS_BYTES = 2**26  # fits of folds and strengths go side by side as long as their logits take no more


class LowShot(NamedTuple):
    """Which test images each draw's classifier gets right, bool [G, M], its `strength` (lambda) [G], and how many fits
    converged."""

    correct: np.ndarray
    strength: np.ndarray
    converged: int


class Draws(NamedTuple):
    """Draws [G] of different sizes side by side: `rows` and `real` [G, n]; `sizes` [G] count the real ones."""

    rows: np.ndarray
    real: np.ndarray
    sizes: np.ndarray


def digest(draws: Sequence[np.ndarray]) -> str:
    """What tells whether two runs drew the same images."""
    return hashlib.sha256(np.concatenate(draws).astype("<i8").tobytes()).hexdigest()[:16]


def side_by_side(draws: Sequence[np.ndarray], room: int = 0) -> Draws:
    """Draws filled up to the largest, or to `room` images where that is more; what fills them up has no weight."""
    sizes = np.array([len(rows) for rows in draws])
    size = max(room, sizes.max())
    index = np.stack([np.pad(rows, (0, size - len(rows))) for rows in draws])
    return Draws(index, (np.arange(size)[None] < sizes[:, None]).astype(np.float32), sizes)


def low_shot(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray,
    test_labels: np.ndarray,
    draws: Sequence[np.ndarray],
    *,
    strength: float,
    folds: int,
    grid: Sequence[float],
    transductive: bool,
    max_iterations: int,
    tolerance: float,
    classes: int,
    seed: int,
    room: int = 0,
) -> LowShot:
    """A classifier on each of `draws` (rows of train [N, D]), judged on all of [M, D].

    `strength` and `grid` are values of lambda; with 2 or more `folds` the grid chooses, the strongest of equals. A fit
    ends where its gradient's norm is below `tolerance` (see `logistic`), or after `max_iterations`. Draws have room for
    as many images as the largest, or `room`: several evaluations of one room share a compiled program.
    """
    index, filled, sizes = side_by_side(draws, room)
    labels, real = jnp.asarray(train_labels[index], jnp.int32), jnp.asarray(filled)
    reduced, basis, mean = in_own_bases(train, index, real)
    solver: dict[str, Any] = {"classes": classes, "max_iterations": max_iterations, "tolerance": tolerance}
    chosen = np.full(len(draws), strength, np.float32)
    if folds > 1:
        strengths = np.sort(np.asarray(grid, np.float32))[::-1]
        parts = np.full(index.shape, -1, np.int32)
        for draw, rows in enumerate(draws):
            parts[draw, : len(rows)] = _folds(train_labels[rows], folds, (seed, draw))
        width = int(np.clip(LOGITS_BYTES // (4 * index.shape[1] * classes), 1, folds * len(grid)))
        right = _cross_validate(
            reduced, labels, real, parts, strengths[None] / sizes[:, None], folds=folds, width=width, **solver
        )
        chosen = strengths[np.asarray(right).argmax(1)]
    weight, converged = _solve(reduced, labels, real, (chosen / sizes).astype(np.float32), **solver)
    correct = _correct(weight, basis, mean, jnp.asarray(test), jnp.asarray(test_labels), transductive)
    return LowShot(np.asarray(correct), chosen, int(np.asarray(converged).sum()))


def in_own_bases(train: np.ndarray, index: np.ndarray, real: Array) -> tuple[Array, Array, Array]:
    """Each draw's features, prepared and in a basis of their own: reduced [G, n, R], basis [G, D, R], mean [G, D].

    Solving in the reduced basis lets backbones of different widths share a compiled solver while n <= D.
    """
    with single_threaded():
        return jax.block_until_ready(_prepare(jnp.asarray(train), index, real))


@jax.jit
@jax.default_matmul_precision("highest")
def _prepare(train: Array, index: Array, real: Array) -> tuple[Array, Array, Array]:
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


@partial(jax.jit, static_argnames=("folds", "classes", "width"))
@jax.default_matmul_precision("highest")
def _cross_validate(
    reduced: Array,
    labels: Array,
    real: Array,
    parts: Array,
    l2: Array,
    folds: int,
    width: int,
    classes: int,
    max_iterations: int,
    tolerance: float,
) -> Array:
    """How many left-out images each strength of l2 [G, L] gets right, int [G, L]; parts [G, n] names each image's fold.

    `width` fits of a fold and a strength are solved side by side.
    """
    count = folds * l2.shape[1]
    surplus = -count % width

    def one(draw: tuple[Array, ...]) -> Array:
        features, label, real_N, part, strengths = draw
        fold_K = jnp.pad(jnp.repeat(jnp.arange(folds), len(strengths)), (0, surplus), constant_values=folds)
        l2_K = jnp.pad(jnp.tile(strengths, folds), (0, surplus), constant_values=1.0)

        def some(problem: tuple[Array, Array]) -> Array:
            fold_W, l2_W = problem
            held_WxN = part[None] == fold_W[:, None]
            weights_WxN = real_N[None] * ~held_WxN * (fold_W < folds)[:, None]
            fit = logistic.fit_rotated(features, label, l2_W, weights_WxN, classes, False, max_iterations, tolerance)
            return ((logistic.logits(fit, features).argmax(-1) == label[None]) & held_WxN).sum(1)

        right_K = jax.lax.map(some, (fold_K.reshape(-1, width), l2_K.reshape(-1, width))).reshape(-1)
        return right_K[:count].reshape(folds, -1).sum(0)

    return jax.lax.map(one, (reduced, labels, real, parts, l2))


@partial(jax.jit, static_argnames=("transductive",))
@jax.default_matmul_precision("highest")
def _correct(weight: Array, basis: Array, mean: Array, test: Array, test_labels: Array, transductive: bool) -> Array:
    """Which of the test features [M, D] each draw's classifier gets right, bool [G, M]."""
    wide = test.astype(jnp.float32)

    def one(draw: tuple[Array, Array, Array]) -> Array:
        weight_RxC, basis_DxR, mean_D = draw
        prepared = centre_and_normalise(wide, wide.mean(0) if transductive else mean_D)
        return (prepared @ (basis_DxR @ weight_RxC)).argmax(-1) == test_labels

    return jax.lax.map(one, (weight, basis, mean))


def _folds(labels: np.ndarray, folds: int, seed: tuple[int, int]) -> np.ndarray:
    """int [n]: the fold of each image, every class spread evenly over the folds."""
    rng, part = np.random.default_rng(seed), np.zeros(len(labels), np.int32)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        part[members] = np.arange(len(members)) % folds
    return part
