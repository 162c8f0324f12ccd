"""Gates by hand, by their closed forms, and the order they settle in."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gssl_jax.ops import gating
from tests.reference import softmax

LOSSES = jnp.asarray([2.5, 0.6, 1.7])  # rotation, flip and channels near chance
FORMULAS = {
    "softmax_of_mean": lambda z: softmax(z.mean(axis=0)),
    "mean_of_softmax": lambda z: softmax(z).mean(axis=0),
    "per_sample": softmax,
}


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


# -- weights of a gate -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("formula", gating.FORMULAS)
def test_weights_are_a_mixture_and_follow_their_formula(formula):
    z = 3 * normal(5, 3)
    weights = gating.gate_weights(z, formula)
    np.testing.assert_allclose(weights, FORMULAS[formula](np.float64(z)), atol=1e-6)
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(-1), 1.0, atol=1e-6)
    assert gating.gate_weights(z.astype(jnp.bfloat16), formula).dtype == jnp.float32


def test_the_two_published_formulas_part_where_samples_differ():
    """Logits (a, 0) and (-a, 0) with e^a = 9, (b, 0) and (b, 0): the means are 0 and b. Softmaxes of the first pair
    are (.9, .1) and (.1, .9). Of (a, 0) and (0, 0): arithmetic mean (.7, .3), geometric sqrt(9) : 1 = (.75, .25)."""
    a = np.log(9.0)
    for rows, first, second in (
        ([[a, 0], [-a, 0]], [0.5, 0.5], [0.5, 0.5]),
        ([[a, 0], [0, 0]], [0.75, 0.25], [0.7, 0.3]),
        ([[a, 0], [a, 0]], [0.9, 0.1], [0.9, 0.1]),
    ):
        z = jnp.asarray(rows, jnp.float32)
        np.testing.assert_allclose(gating.gate_weights(z, "softmax_of_mean"), first, atol=1e-6)
        np.testing.assert_allclose(gating.gate_weights(z, "mean_of_softmax"), second, atol=1e-6)


@pytest.mark.parametrize("formula", gating.FORMULAS)
def test_learned_gradient_is_the_closed_form_and_frozen_has_none(formula):
    """The formulas of `gate_weights`, in float64 beside jax.grad; lambda = .1, B = 4."""
    z, scale = normal(4, 3), 0.1
    losses = jnp.abs(normal(4, 3, seed=1)) if formula == "per_sample" else LOSSES

    def loss(z, mode):
        weights = gating.task_weights(mode, 3, gating.gate_weights(z, formula))
        return scale * gating.gated_loss(losses, weights)

    p, rows = softmax(np.float64(z)), np.broadcast_to(np.float64(losses), (4, 3))
    g = np.broadcast_to(FORMULAS["softmax_of_mean"](np.float64(z)), (4, 3)) if formula == "softmax_of_mean" else p
    closed = scale / 4 * g * (rows - (g * rows).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(jax.grad(loss)(z, "learned"), closed, atol=1e-7)
    assert np.abs(closed).max() > 1e-3
    np.testing.assert_array_equal(jax.grad(loss)(z, "frozen"), np.zeros((4, 3)))
    assert loss(z, "frozen") == loss(z, "learned")


def test_a_learned_gate_ends_at_the_easiest_task():
    """Without a penalty descent leaves nothing but the smallest loss: the flip's."""
    z = jnp.zeros((1, 3))
    step = jax.jit(
        lambda z: z - jax.grad(lambda z: gating.gated_loss(LOSSES, gating.gate_weights(z, "softmax_of_mean")))(z)
    )
    for _ in range(60):
        z = step(z)
    assert gating.gate_weights(z, "softmax_of_mean")[1] > 0.97


def test_the_entropy_weight_holds_the_gate_at_its_fixed_point():
    """At g = softmax(-lambda L / w) loss and entropy pull equally, and closer to one task the entropy wins."""
    scale, w = 0.1, 0.05

    def loss(z):
        weights = gating.gate_weights(z, "softmax_of_mean")
        return scale * gating.gated_loss(LOSSES, weights) + gating.gate_penalty(weights, w, 0.0)

    still = -scale * LOSSES[None] / w
    np.testing.assert_allclose(jax.grad(loss)(still), np.zeros((1, 3)), atol=1e-7)
    assert np.abs(jax.grad(loss)(jnp.zeros((1, 3)))).max() > 1e-2
    assert jax.grad(loss)(2 * still)[0, 1] > 1e-3  # the flip, weighted most, would be lowered


# -- modes -----------------------------------------------------------------------------------------------------------


def test_sum_is_three_times_uniform_and_none_is_zero():
    supervised, scale, weights = 1.3, 0.1, {m: gating.task_weights(m, 3) for m in ("uniform", "sum", "none")}
    total = {mode: supervised + scale * gating.gated_loss(LOSSES, w) for mode, w in weights.items()}
    assert float((total["sum"] - supervised) / (total["uniform"] - supervised)) == pytest.approx(3.0, rel=1e-5)
    assert float(total["sum"]) == pytest.approx(1.3 + 0.1 * 4.8)
    assert float(total["none"]) == pytest.approx(supervised)


def test_losses_by_sample_meet_weights_of_both_shapes():
    """Two samples, two tasks. Per batch .25 (1 + 3) / 2 + .75 (2 + 6) / 2 = 3.5; by sample (1 + (3 + 6) / 2) / 2."""
    losses = jnp.asarray([[1.0, 2.0], [3.0, 6.0]])
    assert float(gating.gated_loss(losses, jnp.asarray([0.25, 0.75]))) == pytest.approx(3.5)
    assert float(gating.gated_loss(losses, jnp.asarray([[1.0, 0.0], [0.5, 0.5]]))) == pytest.approx(2.75)
    assert float(gating.gated_loss(losses.mean(axis=0), jnp.asarray([0.25, 0.75]))) == pytest.approx(3.5)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: gating.gate_weights(jnp.zeros((2, 3)), "softmax"), "formula must be one of"),
    (lambda: gating.task_weights("learnt", 3), "mode must be one of"),
    (lambda: gating.task_weights("learned", 3), "needs a gate of 3 tasks, got none"),
    (lambda: gating.task_weights("frozen", 3, jnp.ones(2)), "needs a gate of 3 tasks, got one of 2"),
    (lambda: gating.gated_loss(jnp.ones(3), jnp.ones((2, 3))), "need losses by sample"),
    (lambda: gating.chance_normalised(jnp.ones(2), (4, 1)), "two classes or more"),
    (lambda: gating.chance_normalised(jnp.ones(2), (4, 2, 2)), "as many tasks"),
    (lambda: gating.usefulness_weights(jnp.ones(2), jnp.int32(1), 1.0, 1.0), "momentum < 1"),
    (lambda: gating.usefulness_weights(jnp.ones(2), jnp.int32(1), 0.9, 0.0), "temperature > 0"),
])  # fmt: skip
def test_mistakes_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_chance_is_one_for_every_task():
    chance = np.log([16.0, 2.0, 6.0]).astype(np.float32)
    np.testing.assert_allclose(gating.chance_normalised(jnp.asarray(chance), (16, 2, 6)), 1.0, atol=1e-6)
    rows = jnp.asarray(np.stack([chance, 2 * chance]))
    np.testing.assert_allclose(gating.chance_normalised(rows, (16, 2, 6)), [[1] * 3, [2] * 3], atol=1e-6)


# -- penalties and metrics -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("weights", "expected"), [
    ([1 / 3] * 3, 0.0),
    ([1.0, 0.0, 0.0], 2.0),
    ([0.5, 0.3, 0.2], 3 * 0.38 - 1),
    ([[1.0, 0.0], [0.0, 1.0]], 0.0),  # each sample has its favourite, the tasks share equally
    ([[1.0, 0.0], [1.0, 0.0]], 1.0),
])  # fmt: skip
def test_load_imbalance_is_the_squared_coefficient_of_variation(weights, expected):
    assert float(gating.load_imbalance(jnp.asarray(weights))) == pytest.approx(expected, abs=1e-6)
    mean = np.reshape(weights, (-1, np.shape(weights)[-1])).mean(axis=0)
    assert expected == pytest.approx((mean.std() / mean.mean()) ** 2, abs=1e-9)


def test_gate_penalty_by_hand():
    """Two samples that each have one task: no entropy, perfect balance. Equal weights have the entropy ln 2."""
    split, equal = jnp.eye(2), jnp.full((2,), 0.5)
    assert float(gating.gate_penalty(split, 2.0, 5.0)) == pytest.approx(0.0, abs=1e-6)
    assert float(gating.gate_penalty(equal, 2.0, 5.0)) == pytest.approx(-2 * np.log(2), rel=1e-6)
    assert float(gating.gate_penalty(jnp.asarray([1.0, 0.0]), 2.0, 5.0)) == pytest.approx(5.0)


@pytest.mark.parametrize(("weights", "expected"), [
    ([0.5, 0.5], (1, 1, 0.5)),
    ([1.0, 0.0], (0, 0, 1)),
    ([1.0, 1.0], (1, 1, 0.5)),  # the sum of losses
    ([0.0, 0.0], (0, 0, 0)),  # no losses
    ([[1.0, 0.0], [0.0, 1.0]], (1, 0, 0.5)),
    ([0.7], (0, 0, 1)),
])  # fmt: skip
def test_mixture_metrics_by_hand(weights, expected):
    found = gating.mixture_metrics(jnp.asarray(weights))
    np.testing.assert_allclose([found[k] for k in ("entropy", "sample_entropy", "largest")], expected, atol=1e-6)


# -- usefulness ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1.0, 1e-30, 1e30])
def test_alignment_by_hand(size):
    """The supervised gradient (1, 0; 0, 1) over two samples, and one that is parallel, orthogonal, opposite, zero, and
    parallel on the first sample alone: 1 / sqrt 2. Gradients by features are small; squares of 1e-30 are not there."""
    supervised = jnp.asarray([[1.0, 0.0], [0.0, 1.0]])
    others = jnp.stack([3 * supervised, supervised[::-1], -supervised, 0 * supervised, supervised.at[1].set(0.0)])
    found = gating.alignment(size * others, size * supervised)
    np.testing.assert_allclose(found, [1, 0, -1, 0, 0.5**0.5], atol=1e-6)
    np.testing.assert_array_equal(gating.alignment(size * others, 0 * supervised), np.zeros(5))


def test_alignment_is_one_cosine_over_the_batch():
    """Not the mean of cosines by sample: a sample with a large gradient counts more. Nothing flows back."""
    pretexts, supervised = normal(3, 4, 5), normal(4, 5, seed=1) * jnp.asarray([[1.0], [10], [0.1], [3]])
    flat, s = np.float64(pretexts).reshape(3, -1), np.float64(supervised).ravel()
    expected = flat @ s / np.linalg.norm(flat, axis=1) / np.linalg.norm(s)
    np.testing.assert_allclose(gating.alignment(pretexts, supervised), expected, atol=1e-6)
    gradients = jax.grad(lambda *g: gating.alignment(*g).sum(), argnums=(0, 1))(pretexts, supervised)
    assert not any(np.any(g) for g in gradients)


@pytest.mark.parametrize("momentum", [0.0, 0.9, 0.999])
def test_a_constant_alignment_is_itself_from_the_first_update_on(momentum):
    value, temperature = jnp.asarray([0.6, -0.2, 0.0]), 0.5
    average = jnp.zeros(3)
    np.testing.assert_allclose(gating.usefulness_weights(average, jnp.int32(0), momentum, temperature), 1 / 3)
    for n in range(1, 4):
        average = gating.updated_average(average, value, momentum)
        weights = gating.usefulness_weights(average, jnp.int32(n), momentum, temperature)
        np.testing.assert_allclose(weights, softmax(np.float64(value) / temperature), rtol=1e-4)


def test_the_average_forgets():
    """.5 (.5 * 0 + .5 * 1) + .5 * 0 = .25 against .5; corrected by 1 - .5^2 = .75: 1/3 and 2/3."""
    average = jnp.zeros(2)
    for value in ([1.0, 0.0], [0.0, 1.0]):
        average = gating.updated_average(average, jnp.asarray(value), 0.5)
    np.testing.assert_allclose(average, [0.25, 0.5])
    np.testing.assert_allclose(gating.usefulness_weights(average, jnp.int32(2), 0.5, 1.0), softmax([1 / 3, 2 / 3]))


def test_no_task_is_shut_out():
    """Alignments of -1 and 1 at temperature 2, the other two at 1: 1 / (1 + 3 e)."""
    average = jnp.asarray([-1.0, 1.0, 1.0, 1.0]) * (1 - 0.9)
    weights = gating.usefulness_weights(average, jnp.int32(1), 0.9, 2.0)
    assert float(weights[0]) == pytest.approx(1 / (1 + 3 * np.e), rel=1e-4)
