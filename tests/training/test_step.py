"""One transition by hand; steps that are not finite; several steps in one call; images that live on the device."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gssl_jax.training.mesh import make_mesh, put_batch
from gssl_jax.training.step import gather, make_step, merged
from tests.tiny import leaves
from tests.toy import MOMENTUM, toy_batch, toy_method, toy_state

RATE = 0.2


@pytest.fixture(scope="module")
def mesh():
    return make_mesh()


@pytest.fixture(scope="module")
def adam(mesh):
    """(method, optimiser, step of one batch, step of four) with moments and random views."""
    method, optimiser = toy_method(), optax.adamw(0.05)
    schedules = {"rate": lambda step: 0.5 * step}
    steps = {n: make_step(method, optimiser, mesh, n, schedules) for n in (1, 4)}
    return method, optimiser, steps[1], steps[4]


def values(metrics):
    return {name: (float(m.compute()) if m.count else None, float(m.count)) for name, m in metrics.items()}


def test_one_transition_by_hand(mesh):
    """The gradient at the old parameters and the old centre, plain SGD, then the teacher from the new parameters."""
    method, optimiser = toy_method(noise=0.0), optax.sgd(RATE)
    state = toy_state(method, optimiser, mesh)
    batch = toy_batch(1)
    x = np.float64(batch["train"]["image"]).reshape(8, 4)
    w, d = np.float64(state.params["backbone"]["w"]), np.float64(state.params["prototypes"]["directions"])
    after, metrics = make_step(method, optimiser, mesh)(state, {}, put_batch(batch, mesh))
    to_w, to_d = 2 * x.T @ (x @ w - 1) / 8, 2 * x.T @ (x @ d) / 16
    new_w, new_d = w - RATE * to_w, d - RATE * to_d
    np.testing.assert_allclose(after.params["backbone"]["w"], new_w, atol=1e-6)
    np.testing.assert_allclose(after.params["prototypes"]["directions"], new_d, atol=1e-6)
    teacher = after.method_state["teacher"]["backbone"]["w"]
    np.testing.assert_allclose(teacher, MOMENTUM * w + (1 - MOMENTUM) * new_w, atol=1e-6)
    np.testing.assert_allclose(after.method_state["centre"], (x @ d).mean(axis=0), atol=1e-6)
    assert (after.step, after.samples_seen, after.skipped) == (1, 8, 0)
    found = values(metrics)
    assert found["train/loss"] == pytest.approx((np.mean((x @ w - 1) ** 2) + np.mean((x @ d) ** 2), 1), rel=1e-5)
    norm = np.sqrt(np.sum(to_w**2) + np.sum(to_d**2))
    assert found["train/gradient_norm"] == pytest.approx((norm, 1), rel=1e-5)


def test_a_broken_batch_changes_nothing_but_the_counters(adam, mesh):
    method, optimiser, step, _ = adam
    state, _ = step(toy_state(method, optimiser, mesh), {}, put_batch(toy_batch(0), mesh))
    before = leaves(state)
    state, metrics = step(state, {}, put_batch(toy_batch(1, broken=True), mesh))
    after = leaves(state)
    counters = {".step": 2, ".samples_seen": 16, ".skipped": 1}
    for name in before:
        np.testing.assert_array_equal(after[name], counters.get(name, before[name]), err_msg=name)
    assert {count for _, count in values(metrics).values()} == {0.0}
    state, metrics = step(state, {}, put_batch(toy_batch(2), mesh))
    assert state.skipped == 1 and values(metrics)["train/loss"][1] == 1
    assert all(np.isfinite(x).all() for x in leaves(state.params).values())
    assert (leaves(state.params)["['backbone']['w']"] != before[".params['backbone']['w']"]).all()


def test_a_gradient_that_is_not_finite_is_enough(mesh):
    """The root at zero: a finite loss whose gradient is not."""
    method = toy_method()

    def loss(params, state, views, key, step, train):
        value, (state, metrics) = method.loss(params, state, views, key, step, train)
        return value + jnp.sqrt(jnp.sum(params["backbone"]["w"] * 0.0)), (state, metrics)

    state = toy_state(method, optax.sgd(RATE), mesh)
    before = leaves(state.params)
    state, metrics = make_step(method._replace(loss=loss), optax.sgd(RATE), mesh)(
        state, {}, put_batch(toy_batch(0), mesh)
    )
    assert state.skipped == 1 and metrics["train/loss"].count == 0
    for name, value in leaves(state.params).items():
        np.testing.assert_array_equal(value, before[name])


def four(adam, mesh, broken):
    """Four steps one by one and in one call; batch 2 may be broken."""
    method, optimiser, step, four_steps = adam
    batches = [toy_batch(i, broken=broken and i == 2) for i in range(4)]
    state, total = toy_state(method, optimiser, mesh), None
    for batch in batches:
        state, metrics = step(state, {}, put_batch(batch, mesh))
        total = metrics if total is None else merged(total, metrics)
    stacked = put_batch(jax.tree.map(lambda *x: np.stack(x), *batches), mesh, stacked=True)
    return (state, total), four_steps(toy_state(method, optimiser, mesh), {}, stacked)


@pytest.mark.parametrize("broken", [False, True])
def test_four_steps_in_one_call_equal_four_calls(adam, mesh, broken):
    (one_state, one_metrics), (four_state, four_metrics) = four(adam, mesh, broken)
    first, second = leaves(one_state), leaves(four_state)
    for name in first:
        np.testing.assert_allclose(first[name], second[name], atol=1e-6, err_msg=name)
    assert four_state.step == 4 and four_state.samples_seen == 32 and four_state.skipped == int(broken)
    one_by_one, at_once = values(one_metrics), values(four_metrics)
    assert one_by_one.keys() == at_once.keys()
    for name, found in one_by_one.items():
        assert found == pytest.approx(at_once[name], rel=1e-6)


def test_metrics_are_averages_over_the_steps_that_counted(adam, mesh):
    """`train/step` is the number of the step: (0 + 1 + 3) / 3 without the broken step 2. `train/rate` is half of the
    optimiser's count, which that step did not advance: (0 + 1 + 2) / 3 / 2."""
    for broken, mean, rate, count in ((False, 1.5, 0.75, 4), (True, 4 / 3, 0.5, 3)):
        for _, metrics in four(adam, mesh, broken):
            found = values(metrics)
            assert found["train/step"] == pytest.approx((mean, count))
            assert found["train/rate"] == pytest.approx((rate, count))


def test_every_step_draws_its_own_views_and_a_repeated_one_the_same(adam, mesh):
    """The same state but for its number: only the noise of the views can tell the losses apart."""
    method, optimiser, step, _ = adam

    def loss(number):
        state = toy_state(method, optimiser, mesh).replace(step=jnp.int32(number))
        return values(step(state, {}, put_batch(toy_batch(0), mesh))[1])["train/loss"][0]

    assert loss(0) == loss(0)
    assert abs(loss(0) - loss(1)) > 1e-4


def test_resident_images_are_gathered_by_index():
    images = jnp.arange(5 * 2 * 2 * 1.0).reshape(5, 2, 2, 1)
    index = jnp.asarray([3, 0, 3])
    held = {"train": {"image": images, "label": 10 + jnp.arange(5)}}
    found = gather(held, {"train": {"index": index, "draw": index}})["train"]
    assert found["image"].shape == (3, 1, 2, 2, 1) and "draw" in found and found["label"].tolist() == [13, 10, 13]
    np.testing.assert_array_equal(found["image"][:, 0], images[np.asarray(index)])
    carried = {"train": {"index": index, "image": images[:3, None] + 100}}
    np.testing.assert_array_equal(gather(held, carried)["train"]["image"], carried["train"]["image"])


def test_a_step_on_resident_images_equals_one_on_the_batch(adam, mesh):
    method, optimiser, step, _ = adam
    batch = toy_batch(0)
    resident = {"train": {"image": jnp.asarray(batch["train"]["image"][:, 0])}}
    alone = put_batch({"train": {"index": batch["train"]["index"]}}, mesh)
    first = step(toy_state(method, optimiser, mesh), {}, put_batch(batch, mesh))[0]
    second = step(toy_state(method, optimiser, mesh), resident, alone)[0]
    for name, value in leaves(first).items():
        np.testing.assert_array_equal(leaves(second)[name], value)


def test_the_state_is_donated(adam, mesh):
    method, optimiser, step, _ = adam
    state = toy_state(method, optimiser, mesh)
    step(state, {}, put_batch(toy_batch(0), mesh))
    assert state.params["backbone"]["w"].is_deleted()
