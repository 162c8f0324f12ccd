"""The linear protocol: one converged logistic regression on all training features."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gssl_jax.evals import logistic
from gssl_jax.evals.preprocess import standardise

VALIDATION = 0.2
LOGITS_BYTES = 2**31


class Linear(NamedTuple):
    """`correct` bool [M] on the test images, the chosen l2, and whether the final fit converged."""

    correct: np.ndarray
    l2: float
    converged: bool
    iterations: int


def linear(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray,
    test_labels: np.ndarray,
    *,
    classes: int,
    l2_grid: Sequence[float],
    max_iterations: int,
    tolerance: float,
    seed: int,
) -> Linear:
    """Logistic regression with intercept on standardised features [N, D], judged on [M, D].

    The l2 strength (see `logistic`) is the one of `l2_grid` with the best accuracy on a stratified fifth of the
    training set, the strongest of equals; the final fit sees the whole training set.
    """
    held_out = validation_part(train_labels, VALIDATION, seed)
    grid = np.sort(np.asarray(l2_grid, np.float32))[::-1]
    train_std, test_std = jax.jit(standardise)(jnp.asarray(train, jnp.float32), jnp.asarray(test, jnp.float32))
    # Where the logits of the whole grid fit, its strengths are solved side by side; else one after the other.
    together = len(grid) if 4 * len(train) * classes * len(grid) <= LOGITS_BYTES else 1
    solve = partial(
        _solve,
        train_std,
        jnp.asarray(train_labels, jnp.int32),
        together,
        classes=classes,
        intercept=True,
        max_iterations=max_iterations,
        tolerance=tolerance,
    )
    if len(grid) > 1 and held_out.any():
        kept = np.broadcast_to(~held_out, (len(grid), len(train)))
        guesses = [_predict(fit, train_std) for fit in solve(grid, kept.astype(np.float32))]
        accuracy = [(guess[held_out] == train_labels[held_out]).mean() for guess in np.concatenate(guesses)]
        best = grid[int(np.argmax(accuracy[: len(grid)]))]
    else:
        best = grid[0]
    final = solve(best[None], np.ones((1, len(train)), np.float32))[0]
    correct = _predict(final, test_std)[0] == test_labels
    return Linear(correct, float(best), bool(final.converged[0]), int(final.iterations[0]))


def validation_part(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """bool [N]: `share` of every class, rounded, chosen by `seed`; a class with one image keeps it for training."""
    rng = np.random.default_rng(seed)
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        chosen[rng.permutation(members)[: min(round(share * len(members)), len(members) - 1)]] = True
    return chosen


def _solve(
    features: jax.Array, labels: jax.Array, together: int, l2: np.ndarray, weights: np.ndarray, **options: object
) -> list[logistic.Fit]:
    """Fits in groups of `together`; the last is filled with fits of weight 0: no iteration and no new compilation."""
    missing = -len(l2) % together
    l2 = np.concatenate([l2, np.ones(missing, np.float32)])
    weights = np.concatenate([weights, np.zeros((missing, weights.shape[1]), np.float32)])
    return [
        logistic.fit_many(
            features, labels, l2=l2[start : start + together], weights=weights[start : start + together], **options
        )
        for start in range(0, len(l2), together)
    ]


def _predict(fit: logistic.Fit, features: jax.Array) -> np.ndarray:
    return np.asarray(_classes(fit, features))


@jax.jit
def _classes(fit: logistic.Fit, features: jax.Array) -> jax.Array:
    return logistic.logits(fit, features).argmax(-1)
