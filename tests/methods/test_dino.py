"""DINO: its loss against plain loops for every control, what no gradient may reach, statistics of a ResNet, devices."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gssl_jax.errors import UserError
from gssl_jax.methods.base import Clock
from gssl_jax.models.resnet import ResNet
from tests import reference
from tests.methods.clustering_parts import (
    BATCH,
    CONTROLS,
    METHODS,
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
from tests.tiny import QUICK, leaves

RESNET = ResNet(image_size=12, block="basic", depths=(1, 1), widths=(4, 6), stem_width=4)


def loss_of(method, taught, learned, centre):
    networks = {"teacher": lambda *_: (taught, {}), "student": lambda *_: (learned, {})}
    state = {"teacher": {}, "centre": {"cls": centre}, "batch_stats": {}, "teacher_batch_stats": {}}
    return given(method, networks).loss({}, state, {}, jax.random.key(0), jnp.int32(STEP), True)


@pytest.mark.parametrize("control", CONTROLS)
def test_the_loss_equals_plain_loops(control):
    """Two global views teach, those two and a local one learn: four pairs of different views."""
    taught, learned, centre = cosines(BATCH, 2, 6), cosines(BATCH, 3, 6, seed=1), cosines(6, seed=2) / 5
    method = tiny("dino", method__collapse__cls=control)
    loss, (state, metrics) = loss_of(method, taught, learned, centre)
    settings = config_of("dino").method
    goals = reference.targets(control, np.asarray(taught), np.asarray(centre), TEMPERATURE, settings)
    costs = [
        reference.cross_entropy(goals[b, u], np.asarray(learned)[b, v] / 0.1)
        for b in range(BATCH) for u in range(2) for v in range(3) if u != v
    ]  # fmt: skip
    assert float(metrics["train/loss_cls"]) == pytest.approx(np.mean(costs), rel=2e-4)
    penalty = 0.0
    if control == "memax":  # over all views of the student, the local one too
        shares = reference.softmax(np.asarray(learned) / 0.1).reshape(-1, 6).mean(axis=0)
        penalty = np.log(6) - reference.entropy(shares)
        assert float(metrics["train/memax_cls"]) == pytest.approx(penalty, rel=2e-4)
    assert float(loss) == pytest.approx(np.mean(costs) + penalty, rel=2e-4) == float(metrics["train/loss"])
    moved = 0.9 * centre + 0.1 * taught.reshape(-1, 6).mean(axis=0)
    np.testing.assert_allclose(state["centre"]["cls"], moved if control == "centring" else centre, atol=1e-6)


@pytest.mark.parametrize("name", ["dino", "swav", "msn", "ibot"])
@pytest.mark.parametrize("control", CONTROLS)
def test_each_control_gives_targets_of_its_own_kind(name, control):
    """Of cosines that all prefer the first prototype: sinkhorn shares it out, a converged centre too, the others
    do not, of which ME-MAX says what it costs."""
    method = tiny(name, method__collapse__cls=control, method__sinkhorn__iterations=50)
    own = method.loss.__self__.clusters
    rows = (cosines(8, 2, 6) * 0.1).at[..., 0].add(0.5)
    centre = rows.reshape(-1, 6).mean(axis=0)
    targets = np.asarray(own.targets("cls", rows, centre, jnp.int32(STEP)))
    np.testing.assert_allclose(targets.sum(axis=-1), 1.0, atol=1e-5)
    mean = targets.reshape(-1, 6).mean(axis=0)
    if control == "sinkhorn":
        np.testing.assert_allclose(mean, 1 / 6, atol=0.01)
    elif control == "centring":
        assert mean.max() < 0.5 and targets.max() > 0.5
    else:
        assert mean[0] > 0.9
    penalty, metrics = own.watch("cls", targets, rows)
    assert (float(penalty) > 0.5) == (control == "memax") == ("train/memax_cls" in metrics)
    names = ("mean_target_entropy", "target_entropy", "prototypes_in_use", "agreement")
    assert {f"health/{name}_cls" for name in names} <= set(metrics)  # what the alarm of a run looks at
    assert float(metrics["health/mean_target_entropy_cls"]) == pytest.approx(
        reference.entropy(mean) / np.log(6), abs=1e-3
    )


def test_no_gradient_reaches_teacher_or_centre_and_every_view_counts():
    metrics, found = gradients(tiny("dino"))
    assert largest(found["state"]) == 0.0
    for prefix in ("backbone", "projector", "prototypes"):
        assert largest(found["params"][prefix]) > 1e-4, prefix
    assert largest(found["views"]["clean"]) > 1e-5 and largest(found["views"]["local"]) > 1e-5
    assert np.isfinite(float(metrics["train/loss"])) and set(drawn_views(tiny("dino"))) == {"clean", "local"}


def test_state_and_parameters():
    method = tiny("dino")
    state = start(method)
    assert set(state.params) == {"backbone", "projector", "prototypes"} == set(state.method_state["teacher"])
    assert set(state.method_state) == {"teacher", "centre", "batch_stats", "teacher_batch_stats"}
    after = method.loss(state.params, state.method_state, drawn_views(method), jax.random.key(0), jnp.int32(0), True)
    assert set(after[1][0]) == set(state.method_state)
    followed = method.after_update(state.params, state.method_state, jnp.int32(0))  # momentum .9
    for a, b, c in zip(
        *map(jax.tree.leaves, (followed["teacher"], state.method_state["teacher"], state.params)), strict=True
    ):
        np.testing.assert_allclose(a, 0.9 * b + 0.1 * c, atol=1e-6)


@pytest.mark.parametrize("name", ["dino", "swav"])
def test_a_resnet_keeps_the_statistics_of_its_own_passes(name):
    """In training by the batch, both kinds of views one after the other; elsewhere the running ones, which stay."""
    method = METHODS[name].build(config_of(name), RESNET, Clock(10, 1))
    views, state = drawn_views(method), start(method)
    own = state.method_state

    @functools.partial(jax.jit, static_argnums=0, compiler_options=QUICK)
    def after(train, views):
        return method.loss(state.params, own, views, jax.random.key(0), jnp.int32(0), train)[1][0]

    trained, shifted = after(True, views), after(True, {**views, "local": views["local"] * 0.5})
    for kept in [name for name in own if name.endswith("batch_stats")]:
        assert largest(jax.tree.map(jnp.subtract, trained[kept], own[kept])) > 1e-3, kept
        alike = largest(jax.tree.map(jnp.subtract, trained[kept], shifted[kept])) == 0.0
        assert alike == (kept == "teacher_batch_stats")  # the teacher sees no local view
        for path, value in leaves(after(False, views)[kept]).items():
            np.testing.assert_array_equal(value, leaves(own[kept])[path])
    for which in ("teacher", "student"):
        assert set(method.backbone(state.params, own, which)) == {"params", "batch_stats"}


def test_mistakes():
    with pytest.raises(UserError, match="one view alone"):
        tiny("dino", method__views__globals=1, method__views__locals=0)
    with pytest.raises(UserError, match="did you mean 'centring'"):
        tiny("dino", method__collapse__cls="centering")
    with pytest.raises(UserError, match="method.momentum.curve"):
        tiny("dino", method__momentum__curve="cosin")


def test_eight_devices_equal_one():
    eight_devices_equal_one(tiny("dino", method__projector__norm="batch"))
