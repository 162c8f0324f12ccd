"""L-BFGS for K penalised softmax regressions over the same features, side by side in one loop."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

HISTORY = 5  # pairs kept; 10 took as many iterations on the features we measured
TRIALS = 12


class Objective(NamedTuple):
    """sum_n share CE(softmax(features weight), target) + 1/2 sum penalty weight^2, for each of K columns."""

    features: Array  # [N, R]
    target: Array  # [N, 1, C], one-hot, or [N, K, C] where the columns have targets of their own
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
    gradient: Array  # [R, K, C], at the weight before the last move
    move: Array  # [R, K, C], the last one
    moves: Array  # [H, R, K, C]
    changes: Array  # [H, R, K, C], of the gradient
    inverse: Array  # [H, K]: 1 / <move, change>, 0 for an empty place
    residual: Array  # [K]
    stuck: Array  # [K]
    iterations: Array  # [K]


def minimise(objective: Objective, max_iterations: Array | int, tolerance: Array | float) -> Minimum:
    """From zero until every column's residual is below `tolerance`, or nothing moves in float32, or the limit.

    Limited-memory BFGS (Nocedal and Wright, algorithm 7.4). Its starting matrix is diagonal: the mean p (1 - p) of
    the current predictions times the features' second moments, plus the penalty.
    """
    rows, size = objective.features.shape
    columns, classes = objective.share.shape[1], objective.target.shape[2]
    moment_RxK = jnp.square(objective.features).T @ objective.share
    zero = jnp.zeros((size, columns, classes))
    start = _State(
        step=jnp.int32(0),
        weight=zero,
        logits=jnp.zeros((rows, columns, classes)),
        gradient=zero,
        move=zero,
        moves=jnp.zeros((HISTORY, *zero.shape)),
        changes=jnp.zeros((HISTORY, *zero.shape)),
        inverse=jnp.zeros((HISTORY, columns)),
        residual=jnp.full(columns, jnp.inf),
        stuck=jnp.zeros(columns, bool),
        iterations=jnp.zeros(columns, jnp.int32),
    )

    def going(state: _State) -> Array:
        return (state.step < max_iterations) & ((state.residual >= tolerance) & ~state.stuck).any()

    end = jax.lax.while_loop(going, lambda state: _iterate(objective, moment_RxK, state, tolerance), start)
    return Minimum(end.weight, end.residual, end.iterations)


def _iterate(objective: Objective, moment_RxK: Array, state: _State, tolerance: Array | float) -> _State:
    gradient, scale = _gradient(objective, moment_RxK, state.weight, state.logits)
    residual_K = jnp.sqrt(jnp.square(gradient).sum(0).max(-1))
    change, place = gradient - state.gradient, state.step % HISTORY
    curvature_K = _dot(state.move, change)
    moves, changes = state.moves.at[place].set(state.move), state.changes.at[place].set(change)
    inverse = state.inverse.at[place].set(jnp.where(curvature_K > 1e-30, 1 / curvature_K, 0.0))

    direction = _direction(gradient, scale, moves, changes, inverse, state.step)
    slope_K = _dot(direction, gradient)
    active_K = (residual_K >= tolerance) & ~state.stuck
    along = jnp.einsum("nr,rkc->nkc", objective.features, direction)
    length_K = _line_search(objective, state, direction, along, jnp.where(active_K, slope_K, 0.0))
    move = length_K[None, :, None] * direction
    return _State(
        step=state.step + 1,
        weight=state.weight + move,
        logits=state.logits + length_K[None, :, None] * along,
        gradient=gradient,
        move=move,
        moves=moves,
        changes=changes,
        inverse=inverse,
        residual=residual_K,
        stuck=state.stuck | ~(length_K > 0),
        iterations=state.iterations + (length_K > 0),
    )


def _gradient(objective: Objective, moment_RxK: Array, weight: Array, logits: Array) -> tuple[Array, Array]:
    """The gradient [R, K, C] at `weight` and the preconditioner [R, K]."""
    probability = jax.nn.softmax(logits)
    error = objective.share[:, :, None] * (probability - objective.target)
    gradient = jnp.einsum("nr,nkc->rkc", objective.features, error) + objective.penalty[:, :, None] * weight
    spread_K = jnp.einsum("nk,nkc->k", objective.share, probability * (1 - probability)) / probability.shape[-1]
    curvature_RxK = moment_RxK * spread_K[None] + objective.penalty
    floor_K = 1e-6 * curvature_RxK.max(0) + 1e-30
    return gradient, 1 / jnp.maximum(curvature_RxK, floor_K[None])


def _direction(gradient: Array, scale: Array, moves: Array, changes: Array, inverse: Array, step: Array) -> Array:
    """The two-loop recursion: minus the inverse Hessian estimate times the gradient [R, K, C]."""
    latest_first = (step - jnp.arange(HISTORY)) % HISTORY

    def down(vector: Array, place: Array) -> tuple[Array, Array]:
        factor = inverse[place] * _dot(moves[place], vector)
        return vector - factor[None, :, None] * changes[place], factor

    def up(vector: Array, item: tuple[Array, Array]) -> tuple[Array, None]:
        place, factor = item
        correction = factor - inverse[place] * _dot(changes[place], vector)
        return vector + correction[None, :, None] * moves[place], None

    vector, factors = jax.lax.scan(down, gradient, latest_first)
    vector, _ = jax.lax.scan(up, vector * scale[:, :, None], (latest_first, factors), reverse=True)
    return -vector


class _Search(NamedTuple):
    trial: Array  # []
    length: Array  # [K]
    low: Array  # [K], the slope is negative here
    high: Array  # [K], and positive here; infinite until seen
    wanting: Array  # [K]


def _line_search(objective: Objective, state: _State, direction: Array, along: Array, slope_K: Array) -> Array:
    """Step lengths [K] with |slope at the end| <= |slope at 0| / 2, by Newton steps inside a bracket; 0 where it is 0.

    The objective is convex along a line, so its slope alone brackets the minimum. Values are not compared: in
    float32 they stop changing long before the slope does.
    """
    penalty = objective.penalty[:, :, None]
    square_K = _dot(penalty * direction, direction)
    reached_K = (objective.share * (objective.target * along).sum(-1)).sum(0)
    constant_K = _dot(penalty * state.weight, direction) - reached_K

    def refine(search: _Search) -> _Search:
        length_K = search.length
        probability = jax.nn.softmax(state.logits + length_K[None, :, None] * along)
        first_NxK = (probability * along).sum(-1)
        second_NxK = (probability * jnp.square(along)).sum(-1) - jnp.square(first_NxK)
        slope = (objective.share * first_NxK).sum(0) + constant_K + length_K * square_K
        bend = (objective.share * second_NxK).sum(0) + square_K

        low_K = jnp.where(slope < 0, length_K, search.low)
        high_K = jnp.where(slope < 0, search.high, length_K)
        newton_K = length_K - slope / jnp.maximum(bend, 1e-30)
        open_K = jnp.isinf(high_K)
        inside = (newton_K > low_K) & (newton_K < jnp.where(open_K, 10 * length_K, high_K))
        better_K = jnp.where(inside, newton_K, jnp.where(open_K, 4 * length_K, (low_K + high_K) / 2))
        wanting = search.wanting & (jnp.abs(slope) > 0.5 * jnp.abs(slope_K))
        return _Search(search.trial + 1, jnp.where(wanting, better_K, length_K), low_K, high_K, wanting)

    wanting = slope_K < 0
    start = _Search(jnp.int32(0), wanting.astype(slope_K.dtype), 0 * slope_K, jnp.full_like(slope_K, jnp.inf), wanting)
    end = jax.lax.while_loop(lambda search: (search.trial < TRIALS) & search.wanting.any(), refine, start)
    return end.length


def _dot(left: Array, right: Array) -> Array:
    """Inner product over all but the column axis: [R, K, C] x [R, K, C] -> [K]."""
    return jnp.einsum("rkc,rkc->k", left, right)
