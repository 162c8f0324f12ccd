"""Multinomial logistic regression with an l2 penalty, solved to convergence on the device.

    objective(W, b) = sum_i w_i CE(softmax(W^T x_i + b), y_i) / sum_i w_i + l2 / 2 * ||W||_F^2      (b is not penalised)

In scikit-learn's terms C = 1 / (l2 * sum_i w_i); in MSN's (Cyanure's) terms l2 = lambda / n.

Three things make it quick. The features are rotated to the basis of their own second moments, at most min(N, D)
numbers each: exact, since the penalty does not change under rotations and directions outside the span of the
features never leave zero. In that basis the curvature is close to diagonal, so that L-BFGS starts from a diagonal
preconditioner. And the model is linear, so that a line search walks along stored logits and costs no product with
the features. Several problems over the same features (folds, l2 strengths) are solved side by side as columns of
one matrix product.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gssl_jax.evals.lbfgs import Objective, minimise

MANY_CLASSES = 100  # from here on a tolerance is that over the number of classes: 1e-4 means 1e-5 with 1,000


class Fit(NamedTuple):
    """A solved regression; `residual` is the largest gradient norm over the classes, a bound of the max-norm."""

    weight: Array  # [D, C]
    bias: Array  # [C], zeros without intercept
    residual: Array  # float32 []
    converged: Array  # bool []: residual < tolerance, times 100 / C with more than 100 classes
    iterations: Array  # int32 []


def fit(
    features: Array,
    labels: Array,
    *,
    l2: Array | float,
    classes: int,
    intercept: bool,
    weights: Array | None = None,
    max_iterations: int = 500,
    tolerance: float = 1e-5,
) -> Fit:
    """One regression of `labels` int [N] on `features` [N, D].

    `weights` float [N] multiply the samples' losses; 0 leaves a sample out (its label may then be anything).
    The function can be jitted and vmapped over any of its arrays; for many weights or strengths over the same
    features `fit_many` is the quicker way.
    """
    weights = jnp.ones(features.shape[0]) if weights is None else weights
    many = fit_many(
        features,
        labels,
        l2=jnp.asarray(l2, jnp.float32)[None],
        weights=weights[None],
        classes=classes,
        intercept=intercept,
        max_iterations=max_iterations,
        tolerance=tolerance,
    )
    return jax.tree.map(lambda leaf: leaf[0], many)


@partial(jax.jit, static_argnames=("classes", "intercept"))
@jax.default_matmul_precision("highest")
def fit_many(
    features: Array,
    labels: Array,
    *,
    l2: Array,
    weights: Array,
    classes: int,
    intercept: bool,
    max_iterations: int = 500,
    tolerance: float = 1e-5,
) -> Fit:
    """K regressions over the same features: l2 [K], weights [K, N] -> a `Fit` whose leaves have a leading K.

    `labels` are int [N], or float [N, C], the share of each class in a sample, of rows that sum to 1.
    """
    features = features.astype(jnp.float32)
    # Any fixed shift of the features is absorbed by an unpenalised intercept; centred features are better conditioned.
    shift_D = features.mean(0) if intercept else jnp.zeros(features.shape[1])
    reduced_NxR, basis_DxR = rotate(features - shift_D[None])
    solved = fit_rotated(reduced_NxR, labels, l2, weights, classes, intercept, max_iterations, tolerance)
    weight_KxDxC = jnp.einsum("dr,krc->kdc", basis_DxR, solved.weight)
    return solved._replace(
        weight=weight_KxDxC, bias=solved.bias - jnp.einsum("d,kdc->kc", shift_D, weight_KxDxC) * float(intercept)
    )


def fit_rotated(
    features: Array,
    labels: Array,
    l2: Array,
    weights: Array,
    classes: int,
    intercept: bool,
    max_iterations: Array | int,
    tolerance: Array | float,
) -> Fit:
    """`fit_many` on features that went through `rotate` already: the weights [K, R, C] are in that basis."""
    target = (jax.nn.one_hot(labels, classes) if labels.ndim == 1 else labels)[:, None]
    return _solve(features, target, l2, weights, intercept, max_iterations, tolerance)


def fit_binary(
    features: Array,
    labels: Array,
    l2: Array,
    weights: Array,
    max_iterations: Array | int,
    tolerance: Array | float,
) -> Fit:
    """K regressions of a label each, with intercept: labels [N, K], l2 [K], weights [K, N] -> weight [K, R], bias [K].

    objective(w, b) = mean of the binary cross-entropy of w^T x + b over weighted samples + l2 / 2 |w|^2. It is the
    softmax over two classes with twice the penalty: half of w and minus half of it hold half of |w|^2. A label may be
    anything, NaN too, where its weight is 0. Features as for `fit_rotated`.
    """
    positive_NxK = jnp.where(weights.T > 0, labels, 0.0)
    target = jnp.stack([1 - positive_NxK, positive_NxK], axis=-1)
    found = _solve(features, target, 2 * jnp.asarray(l2), weights, True, max_iterations, tolerance)
    difference = jnp.asarray([-1.0, 1.0])
    return found._replace(weight=found.weight @ difference, bias=found.bias @ difference)


def _solve(
    features: Array,
    target: Array,
    l2: Array,
    weights: Array,
    intercept: bool,
    max_iterations: Array | int,
    tolerance: Array | float,
) -> Fit:
    """Targets [N, 1 or K, C] -> a `Fit` with a leading K."""
    size = features.shape[1]
    if intercept:
        features = jnp.concatenate([features, jnp.ones((len(features), 1))], 1)
    penalty_R = jnp.ones(features.shape[1]).at[size:].set(0.0)
    share_KxN = weights / jnp.maximum(weights.sum(1, keepdims=True), 1e-30)
    objective = Objective(features, target, share_KxN.T, penalty_R[:, None] * jnp.asarray(l2)[None])
    # The gradient of a class is that of the 1 / C share of the images that it has: of many classes it begins small.
    tolerance = tolerance * min(1.0, MANY_CLASSES / target.shape[2])
    end = minimise(objective, max_iterations, tolerance)
    weight_KxRxC = jnp.moveaxis(end.weight, 1, 0)
    bias_KxC = weight_KxRxC[:, size] if intercept else jnp.zeros((weights.shape[0], target.shape[2]))
    return Fit(weight_KxRxC[:, :size], bias_KxC, end.residual, end.residual < tolerance, end.iterations)


def rotate(features: Array) -> tuple[Array, Array]:
    """Features [N, D] in the basis of their own second moments: (reduced [N, R], basis [D, R]), R = min(N, D).

    The basis has orthonormal columns and spans the features, so `features = reduced @ basis.T` exactly.
    """
    count, size = features.shape
    if size > count:
        outer_DxR, lower = jnp.linalg.qr(features.T)
        inner = jnp.linalg.eigh(lower @ lower.T)[1]
        basis_DxR = outer_DxR @ inner
    else:
        basis_DxR = jnp.linalg.eigh(features.T @ features)[1]
    return features @ basis_DxR, basis_DxR


def logits(solved: Fit, features: Array) -> Array:
    """[N, D] -> [N, C] of one fit, or [K, N, C] of K fits."""
    with jax.default_matmul_precision("highest"):
        wide = features[(None,) * (solved.weight.ndim - 2)]
        return wide @ solved.weight + solved.bias[..., None, :]
