"""The linear protocol: one converged logistic regression on all training features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gssl_jax.data.subsets import fraction
from gssl_jax.evals import logistic
from gssl_jax.evals.preprocess import moments, single_threaded, standardise

LOGITS_BYTES = 2**31
SOLVER_ARRAYS = 6  # the solver holds 5.2 arrays of the size of its logits, by XLA's own count


class Classifier(NamedTuple):
    """Logits are features @ weight + bias, features as the backbone gives them: weight float32 [D, C], bias [C]."""

    weight: Array
    bias: Array


class Linear(NamedTuple):
    """`correct` bool [M] on the test images, the chosen l2, whether the final fit converged, on how many images, and
    what it found."""

    correct: np.ndarray
    l2: float
    converged: bool
    iterations: int
    images: int
    classifier: Classifier


def solver_bytes(images: int, classes: int) -> int:
    """Memory of one fit on the device, in bytes."""
    return SOLVER_ARRAYS * 4 * images * classes


def linear(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray,
    test_labels: np.ndarray,
    *,
    classes: int,
    l2_grid: Sequence[float],
    validation: float,
    train_images: int,
    max_iterations: int,
    tolerance: float,
    seed: int,
) -> Linear:
    """Logistic regression with intercept on standardised features [N, D], judged on [M, D].

    The l2 strength (see `logistic`) is the one of `l2_grid` with the best accuracy on the share `validation` of every
    class, the strongest of equals; the final fit sees them too. Of more than `train_images` training images (0 = no
    limit) so many are drawn by `seed`, the same share of every class.
    """
    if 0 < train_images < len(train):
        some = fraction(train_labels, train_images / len(train), seed)
        train, train_labels = train[some], train_labels[some]
    held_out = validation_part(train_labels, validation, seed)
    grid = sorted(map(float, l2_grid), reverse=True)
    known, wanted, matrix, mean = _prepared_and_map(train, test)
    # Where the logits of the whole grid fit, its strengths are solved side by side; else one after the other.
    together = len(grid) if 4 * len(train) * classes * len(grid) <= LOGITS_BYTES else 1
    options: dict[str, Any] = {"classes": classes, "max_iterations": max_iterations, "tolerance": tolerance}
    labels = jnp.asarray(train_labels, jnp.int32)

    def solve(l2: np.ndarray, weights: np.ndarray) -> list[logistic.Fit]:
        return _in_groups(partial(_fit, known, labels, **options), together, l2, weights)

    best = grid[0]
    if len(grid) > 1 and held_out.any():
        kept = np.broadcast_to(~held_out, (len(grid), len(train))).astype(np.float32)
        guesses = np.concatenate(
            [np.asarray(_classes(fit, known)) for fit in solve(np.asarray(grid, np.float32), kept)]
        )[: len(grid)]
        best = grid[int((guesses[:, held_out] == train_labels[held_out]).mean(1).argmax())]
    final = solve(np.asarray([best], np.float32), np.ones((1, len(train)), np.float32))[0]
    correct = np.asarray(_classes(final, wanted))[0] == test_labels
    found = Classifier(*_unfolded(final.weight[0], final.bias[0], matrix, mean))
    return Linear(correct, best, bool(final.converged[0]), int(final.iterations[0]), len(train), found)


def validation_part(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """bool [N]: `share` of every class, rounded, chosen by `seed`; a class with one image keeps it for training."""
    rng = np.random.default_rng(seed)
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        chosen[rng.permutation(members)[: min(round(share * len(members)), len(members) - 1)]] = True
    return chosen


def prepared(train: np.ndarray, test: np.ndarray) -> tuple[Array, Array]:
    """Both sets standardised and in the basis of the training features' second moments: [N, R], [M, R]."""
    return _prepared_and_map(train, test)[:2]


def _prepared_and_map(train: np.ndarray, test: np.ndarray) -> tuple[Array, Array, Array, Array]:
    """`prepared`, and the matrix [D, R] and mean [1, D] with prepared(x) = (x - mean) @ matrix."""
    with single_threaded():
        return jax.block_until_ready(_prepare(jnp.asarray(train), jnp.asarray(test)))


@jax.jit
@jax.default_matmul_precision("highest")
def _prepare(train: Array, test: Array) -> tuple[Array, Array, Array, Array]:
    mean, spread = moments(train.astype(jnp.float32))
    train, test = standardise(train.astype(jnp.float32), test.astype(jnp.float32))
    reduced, basis = logistic.rotate(train)
    return reduced, test @ basis, basis / spread.T, mean


@jax.jit
@jax.default_matmul_precision("highest")
def _unfolded(weight: Array, bias: Array, matrix: Array, mean: Array) -> tuple[Array, Array]:
    """Weight [R, C] and bias [C] for prepared features as those for the features themselves."""
    weight = matrix @ weight
    return weight, bias - (mean @ weight)[0]


def _in_groups(
    fit: Callable[[np.ndarray, np.ndarray], logistic.Fit], size: int, l2: np.ndarray, weights: np.ndarray
) -> list[logistic.Fit]:
    """Fits in groups of `size`; the last is filled with fits of weight 0: no iteration and no new compilation."""
    missing = -len(l2) % size
    l2 = np.concatenate([l2, np.ones(missing, np.float32)])
    weights = np.concatenate([weights, np.zeros((missing, weights.shape[1]), np.float32)])
    return [fit(l2[start : start + size], weights[start : start + size]) for start in range(0, len(l2), size)]


@partial(jax.jit, static_argnames=("classes",))
@jax.default_matmul_precision("highest")
def _fit(
    features: Array, labels: Array, l2: Array, weights: Array, classes: int, max_iterations: int, tolerance: float
) -> logistic.Fit:
    return logistic.fit_rotated(features, labels, l2, weights, classes, True, max_iterations, tolerance)


@jax.jit
def _classes(fit: logistic.Fit, features: Array) -> Array:
    return logistic.logits(fit, features).argmax(-1)
