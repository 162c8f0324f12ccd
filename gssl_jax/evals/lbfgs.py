"""L-BFGS for K penalised softmax regressions over the same features, side by side in one loop."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

HISTORY = 10
TRIALS = 12


class Objective(NamedTuple):
    """sum_n share CE(softmax(features weight), target) + 1/2 sum penalty weight^2, for each of K columns."""

    features: Array  # [N, R]
    target: Array  # [N, C], one-hot
    share: Array  # [N, K], sums to 1 over N
    penalty: Array  # [R, K]


class Minimum(NamedTuple):
    """Where the search ended: weight [R, K, C], residual [K] (largest gradient norm of a class), iterations [K]."""

    weight: Array
    residual: Array
    iterations: Array


class _State(NamedTuple):
    step: Array  # []
    weight: Array  # [R, K, C]
    logits: Array  # [N, K, C]
    gradient: Array  # [R, K, C]
    scale: Array  # [R, K]: the preconditioner, an estimate of the inverse curvature
    moves: Array  # [H, R, K, C]
    changes: Array  # [H, R, K, C]
    inverse: Array  # [H, K]: 1 / <move, change>, 0 for an empty place
    residual: Array  # [K]
    stuck: Array  # [K]
    iterations: Array  # [K]


def minimise(objective: Objective, max_iterations: int, tolerance: Array | float) -> Minimum:
    """From zero until every column's residual is below `tolerance`, or nothing moves in float32, or the limit.

    Limited-memory BFGS (Nocedal and Wright, algorithm 7.4) with 10 pairs. Its starting matrix is diagonal: the
    mean p (1 - p) of the current predictions times the features' second moments, plus the penalty.
    """
    rows, size = objective.features.shape
    columns, classes = objective.share.shape[1], objective.target.shape[1]
    second_R = jnp.square(objective.features)
    moment_RxK = second_R.T @ objective.share
    zero = jnp.zeros((size, columns, classes))
    logits = jnp.zeros((rows, columns, classes))
    gradient, scale = _gradient(objective, moment_RxK, zero, logits)
    start = _State(
        step=jnp.int32(0),
        weight=zero,
        logits=logits,
        gradient=gradient,
        scale=scale,
        moves=jnp.zeros((HISTORY, *zero.shape)),
        changes=jnp.zeros((HISTORY, *zero.shape)),
        inverse=jnp.zeros((HISTORY, columns)),
        residual=_residual(gradient),
        stuck=jnp.zeros(columns, bool),
        iterations=jnp.zeros(columns, jnp.int32),
    )

    def active(state: _State) -> Array:
        return (state.residual >= tolerance) & ~state.stuck

    def going(state: _State) -> Array:
        return (state.step < max_iterations) & active(state).any()

    def iterate(state: _State) -> _State:
        direction = _direction(state)
        slope_K = _dot(direction, state.gradient)
        along = jnp.einsum("nr,rkc->nkc", objective.features, direction)
        length_K = _line_search(objective, state, direction, along, slope_K)
        length_K = jnp.where(active(state) & (slope_K < 0), length_K, 0.0)
        move = length_K[None, :, None] * direction
        weight, logits = state.weight + move, state.logits + length_K[None, :, None] * along
        gradient, scale = _gradient(objective, moment_RxK, weight, logits)
        change = gradient - state.gradient
        curvature_K = _dot(move, change)
        place = state.step % HISTORY
        return _State(
            step=state.step + 1,
            weight=weight,
            logits=logits,
            gradient=gradient,
            scale=scale,
            moves=state.moves.at[place].set(move),
            changes=state.changes.at[place].set(change),
            inverse=state.inverse.at[place].set(jnp.where(curvature_K > 1e-30, 1 / curvature_K, 0.0)),
            residual=_residual(gradient),
            stuck=state.stuck | (active(state) & ~(length_K > 0)),
            iterations=state.iterations + active(state),
        )

    end = jax.lax.while_loop(going, iterate, start)
    return Minimum(end.weight, end.residual, end.iterations)


def _gradient(objective: Objective, moment_RxK: Array, weight: Array, logits: Array) -> tuple[Array, Array]:
    """The gradient [R, K, C] at `weight` and the preconditioner [R, K]."""
    probability = jax.nn.softmax(logits)
    error = objective.share[:, :, None] * (probability - objective.target[:, None])
    gradient = jnp.einsum("nr,nkc->rkc", objective.features, error) + objective.penalty[:, :, None] * weight
    spread_K = jnp.einsum("nk,nkc->k", objective.share, probability * (1 - probability)) / probability.shape[-1]
    curvature_RxK = moment_RxK * spread_K[None] + objective.penalty
    floor_K = 1e-6 * curvature_RxK.max(0) + 1e-30
    return gradient, 1 / jnp.maximum(curvature_RxK, floor_K[None])


def _direction(state: _State) -> Array:
    """The two-loop recursion: minus the inverse Hessian estimate times the gradient."""
    latest_first = (state.step - 1 - jnp.arange(HISTORY)) % HISTORY

    def down(vector: Array, place: Array) -> tuple[Array, Array]:
        factor = state.inverse[place] * _dot(state.moves[place], vector)
        return vector - factor[None, :, None] * state.changes[place], factor

    def up(vector: Array, item: tuple[Array, Array]) -> tuple[Array, None]:
        place, factor = item
        correction = factor - state.inverse[place] * _dot(state.changes[place], vector)
        return vector + correction[None, :, None] * state.moves[place], None

    vector, factors = jax.lax.scan(down, state.gradient, latest_first)
    vector, _ = jax.lax.scan(up, vector * state.scale[:, :, None], (latest_first, factors), reverse=True)
    return -vector


def _line_search(objective: Objective, state: _State, direction: Array, along: Array, slope_K: Array) -> Array:
    """Step lengths [K] with |slope at the end| <= |slope at 0| / 2, by Newton steps inside a bracket.

    The objective is convex along a line, so its slope alone brackets the minimum. Values are not compared: in
    float32 they stop changing long before the slope does.
    """
    penalty = objective.penalty[:, :, None]
    linear_K, square_K = _dot(penalty * state.weight, direction), _dot(penalty * direction, direction)

    def slopes(length_K: Array) -> tuple[Array, Array]:
        probability = jax.nn.softmax(state.logits + length_K[None, :, None] * along)
        first_NxK = (probability * along).sum(-1)
        second_NxK = (probability * jnp.square(along)).sum(-1) - jnp.square(first_NxK)
        reached_NxK = jnp.einsum("nc,nkc->nk", objective.target, along)
        slope = (objective.share * (first_NxK - reached_NxK)).sum(0) + linear_K + length_K * square_K
        return slope, (objective.share * second_NxK).sum(0) + square_K

    def wanting(slope: Array) -> Array:
        return (jnp.abs(slope) > 0.5 * jnp.abs(slope_K)) & (slope_K < 0)

    def refine(search: tuple[Array, ...]) -> tuple[Array, ...]:
        trial, length_K, low_K, high_K, slope, bend = search
        low_K, high_K = jnp.where(slope < 0, length_K, low_K), jnp.where(slope < 0, high_K, length_K)
        newton_K = length_K - slope / jnp.maximum(bend, 1e-30)
        middle_K = jnp.where(jnp.isinf(high_K), 4 * length_K, (low_K + high_K) / 2)
        inside = (newton_K > low_K) & (newton_K < jnp.where(jnp.isinf(high_K), 10 * length_K, high_K))
        better_K = jnp.where(inside, newton_K, middle_K)
        length_K = jnp.where(wanting(slope), better_K, length_K)
        return (trial + 1, length_K, low_K, high_K, *slopes(length_K))

    one = jnp.ones_like(slope_K)
    search = (jnp.int32(0), one, 0 * one, jnp.inf * one, *slopes(one))
    search = jax.lax.while_loop(lambda s: (s[0] < TRIALS) & wanting(s[4]).any(), refine, search)
    return search[1]


def _dot(left: Array, right: Array) -> Array:
    """Inner product over all but the column axis: [R, K, C] x [R, K, C] -> [K]."""
    return jnp.einsum("rkc,rkc->k", left, right)


def _residual(gradient: Array) -> Array:
    return jnp.sqrt(jnp.square(gradient).sum(0).max(-1))
