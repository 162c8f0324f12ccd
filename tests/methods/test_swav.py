"""SwAV: the swap of codes by hand and by plain loops, no gradient through the codes, one network, devices."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gssl_jax.errors import UserError
from tests import reference
from tests.methods.clustering_parts import (
    BATCH,
    CONTROLS,
    STEP,
    TEMPERATURE,
    config_of,
    cosines,
    drawn_views,
    eight_devices_equal_one,
    given,
    gradients,
    largest,
    start,
    tiny,
)


def loss_of(method, learned, centre, views=2):
    own = given(method, {"student": lambda params, *_: (params, {})})
    state = {"centre": {"cls": centre}, "batch_stats": {}}
    shown = {"clean": jnp.zeros((len(learned), views, 12, 12, 1))}
    return own.loss(learned, state, shown, jax.random.key(0), jnp.int32(STEP), True)


@pytest.mark.parametrize("control", CONTROLS)
def test_the_loss_equals_plain_loops(control):
    """Codes of each of two global views, balanced by itself, taught to the other one and to a local one."""
    learned, centre = cosines(BATCH, 3, 6, seed=1), cosines(6, seed=2) / 5
    loss, (_, metrics) = loss_of(tiny("swav", method__collapse__cls=control), learned, centre)
    scores, settings = np.asarray(learned), config_of("swav").method
    goals = [
        reference.targets(control, scores[:, u : u + 1], np.asarray(centre), TEMPERATURE, settings) for u in (0, 1)
    ]
    costs = [
        reference.cross_entropy(goals[u][b, 0], scores[b, v] / 0.1)
        for b in range(BATCH) for u in range(2) for v in range(3) if u != v
    ]  # fmt: skip
    assert float(metrics["train/loss_cls"]) == pytest.approx(np.mean(costs), rel=2e-4)
    penalty = float(metrics["train/memax_cls"]) if control == "memax" else 0.0
    assert float(loss) == pytest.approx(np.mean(costs) + penalty, rel=2e-4)


def test_the_code_of_one_view_is_taught_to_the_other():
    """View 1 is sure of prototypes 0 to 3, view 2 of 1, 2, 3, 0. The gradient of a view's scores is p - q of the other
    view, over the temperature and the pairs: each is pulled to where the other one is, not to its own place."""
    one, other = 0.9 * jnp.eye(6)[jnp.arange(4)], 0.9 * jnp.eye(6)[jnp.asarray([1, 2, 3, 0])]
    scores = jnp.stack([one, other], axis=1)
    method = tiny("swav", method__collapse__cls="none")
    gradient = np.asarray(jax.grad(lambda s: loss_of(method, s, jnp.zeros(6))[0])(scores))
    for v in range(2):
        p = reference.softmax(np.asarray(scores[:, v]) / 0.1)
        q = reference.softmax(np.asarray(scores[:, 1 - v]) / TEMPERATURE)
        np.testing.assert_allclose(gradient[:, v], (p - q) / 0.1 / 4 / 2, atol=1e-4)
        np.testing.assert_array_equal(gradient[:, v].argmin(axis=-1), np.asarray(scores[:, 1 - v]).argmax(axis=-1))


def test_each_view_is_balanced_by_itself():
    """All of view 1 prefers prototypes 0 and 1, all of view 2 the prototypes 2 and 3; both get all of them."""
    scores = cosines(24, 2, 6) * 0.2
    scores = scores.at[:, 0, :2].add(0.5).at[:, 1, 2:4].add(0.5)
    own = tiny("swav", method__sinkhorn__iterations=100).loss.__self__
    codes = np.asarray(own.codes(scores, jnp.zeros(6), jnp.int32(0)))
    np.testing.assert_allclose(codes.mean(axis=0), 1 / 6, atol=0.01)


def test_the_centre_moves_by_the_global_views():
    learned, centre = cosines(BATCH, 3, 6), cosines(6, seed=2) / 5
    _, (state, _) = loss_of(tiny("swav", method__collapse__cls="centring"), learned, centre)
    moved = 0.9 * centre + 0.1 * learned[:, :2].reshape(-1, 6).mean(axis=0)
    np.testing.assert_allclose(state["centre"]["cls"], moved, atol=1e-6)


def test_one_network_without_a_teacher():
    method = tiny("swav")
    state = start(method)
    assert set(state.method_state) == {"centre", "batch_stats"}
    assert method.after_update(state.params, state.method_state, jnp.int32(3)) is state.method_state
    for which in ("teacher", "student"):
        assert method.backbone(state.params, state.method_state, which)["params"] is state.params["backbone"]
    _, found = gradients(method)
    assert largest(found["state"]) == 0.0
    assert largest(found["params"]["prototypes"]) > 1e-4 and largest(found["views"]["local"]) > 1e-5
    assert set(drawn_views(method)) == {"clean", "local"}


def test_mistakes():
    with pytest.raises(UserError, match="nothing to swap codes with"):
        tiny("swav", method__views__globals=1, method__views__locals=0)


def test_eight_devices_equal_one():
    eight_devices_equal_one(tiny("swav", method__projector__norm="batch"))
