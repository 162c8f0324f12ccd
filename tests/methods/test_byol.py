"""BYOL against its formula in NumPy, its teacher over a run, and what no gradient may reach."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gssl_jax.errors import UserError
from gssl_jax.methods import byol
from tests.methods.siamese_parts import (
    BATCH,
    RESNET,
    SIDE,
    TOTAL,
    Linear,
    begun,
    config,
    judged,
    made,
    three_steps,
    two_views,
)
from tests.tiny import QUICK, leaves

KEY = jax.random.key(3)


def head(layers, x):
    """Linear, batch norm, ReLU, linear in float64; the norm has no running averages."""
    layers = jax.tree.map(np.float64, layers)
    x = x @ layers["Dense_0"]["kernel"] + layers["Dense_0"]["bias"]
    x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)
    x = np.maximum(x * layers["BatchStandardise_0"]["scale"] + layers["BatchStandardise_0"]["bias"], 0)
    return x @ layers["Dense_1"]["kernel"] + layers["Dense_1"]["bias"]


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_one_step_is_its_formula():
    """|| p(z_1) - t_2 ||^2 + || p(z_2) - t_1 ||^2 on a linear backbone, in float64 (arXiv 2006.07733, equation 2)."""
    method = made(Linear(), "byol")
    params, state = begun(method)
    views = two_views()
    loss, (after, metrics) = judged(method)(params, state, views, KEY, jnp.int32(3))
    p, t = {}, {}
    for name, images in views.items():
        x = np.float64(images).reshape(BATCH, -1)
        z = head(params["projector"], x @ np.float64(params["backbone"]["w"]))
        p[name] = unit(head(params["predictor"], z))
        t[name] = unit(head(state["teacher"]["projector"], x @ np.float64(state["teacher"]["backbone"]["w"])))
    squared = [((p[a] - t[b]) ** 2).sum(1).mean() for a, b in (("view_1", "view_2"), ("view_2", "view_1"))]
    assert float(loss) == pytest.approx(sum(squared), rel=1e-4)
    found = {name: float(value) for name, value in metrics.items()}
    assert found["health/positive_cosine"] == pytest.approx(1 - sum(squared) / 4, abs=1e-4)
    assert found["health/target_spread"] == pytest.approx(t["view_1"].std(0).mean() * 5**0.5, rel=1e-3)
    assert set(after) == {"teacher", "batch_stats", "teacher_batch_stats"}  # and no queue


def test_the_teacher_has_no_predictor_and_no_gradient():
    method = made(RESNET, "byol")
    params, state = begun(method)
    assert set(params) == {"backbone", "projector", "predictor"} and set(state["teacher"]) == {"backbone", "projector"}

    def loss(params, teacher):
        return method.loss(params, {**state, "teacher": teacher}, two_views(), KEY, jnp.int32(0), True)[0]

    of_params, of_teacher = jax.jit(jax.grad(loss, argnums=(0, 1)), compiler_options=QUICK)(params, state["teacher"])
    assert all((np.asarray(x) == 0).all() for x in jax.tree.leaves(of_teacher))
    # a bias before batch norm moves nothing, that of the projector's end neither; everything else learns
    still = {name for name, x in leaves(of_params).items() if np.abs(x).max() < 1e-5}
    before_norms = (("projector", 0), ("projector", 1), ("predictor", 0))
    assert still == {f"['{name}']['Dense_{layer}']['bias']" for name, layer in before_norms}


def test_the_momentum_of_a_run():
    """1 - .004 (cos(pi k / K) + 1) / 2: from .996 to 1 (arXiv 2006.07733, section 3.3); the update uses it."""
    method = made(Linear(), "byol", method__momentum__start=0.996)
    own = method.loss.__self__.network
    expected = [1 - 0.004 * (np.cos(np.pi * step / TOTAL) + 1) / 2 for step in range(TOTAL + 1)]
    np.testing.assert_allclose([float(own.momentum(step)) for step in range(TOTAL + 1)], expected, atol=1e-6)
    params, state = begun(method)
    for step in (0, 4, TOTAL):
        after = method.after_update(params, state, jnp.int32(step))
        for name in ("backbone", "projector"):
            for leaf, wanted in leaves(after["teacher"][name]).items():
                old, new = leaves(state["teacher"][name])[leaf], leaves(params[name])[leaf]
                np.testing.assert_allclose(wanted, expected[step] * old + (1 - expected[step]) * new, atol=1e-6)


def test_statistics_are_of_each_networks_own_passes():
    """Both views one after the other; the teacher's are neither the student's nor averaged with them."""
    method = made(RESNET, "byol")
    params, state = begun(method)
    _, (after, _) = judged(method)(params, state, two_views(), KEY, jnp.int32(0))
    own = method.loss.__self__.network
    encode = jax.jit(lambda p, s, x: own.encoder.encode(p, s, x, None, True)[1], compiler_options=QUICK)
    for tree, name in ((params, "batch_stats"), (state["teacher"], "teacher_batch_stats")):
        expected = state[name]
        for images in two_views().values():
            expected = encode({"backbone": tree["backbone"]}, expected, images)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), after[name], expected)
    assert after["batch_stats"]["norm_stem"]["mean"] != pytest.approx(after["teacher_batch_stats"]["norm_stem"]["mean"])


def test_eight_devices_equal_one():
    method = made(RESNET, "byol", optim__batch_size=16)
    (one, one_losses, _), (eight, eight_losses, _) = (three_steps(method, n) for n in (1, 8))
    for a, b in zip(one_losses, eight_losses, strict=True):
        assert a == pytest.approx(b, rel=1e-3, abs=1e-4)
    first, second = leaves((one.params, one.method_state)), leaves((eight.params, eight.method_state))
    for name, value in first.items():
        np.testing.assert_allclose(value, second[name], rtol=1e-3, atol=2e-4, err_msg=name)
    assert one_losses[0]["train/loss"] != pytest.approx(one_losses[2]["train/loss"], rel=1e-3)


@pytest.mark.parametrize(("changes", "words"), [
    (dict(method__momentum__end=1.1), "momentum.end=1.1 is no momentum"),
    (dict(method__augment__view_1__size=SIDE + 1), "view_1.size=9 is not data.image_size=8"),
])  # fmt: skip
def test_what_has_no_meaning_is_refused(changes, words):
    with pytest.raises(UserError, match=words):
        made(RESNET, "byol", **changes)
    assert byol.KIND.warnings(config("byol"), RESNET) == () and not byol.KIND.labelled
