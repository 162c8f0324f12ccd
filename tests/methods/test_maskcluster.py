"""MaskCluster as a whole: what is refused, what it starts from, the teacher, and the same result on 1 and 8 devices."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gssl_jax.errors import UserError
from gssl_jax.training.mesh import make_mesh, put_batch, replicated
from gssl_jax.training.state import TrainState
from gssl_jax.training.step import make_step
from tests.tiny import QUICK, filled, leaves, tiny_batch, tiny_crops, tiny_method


def fake_views(batch=2):
    shape = (batch, 2, 12, 12, 1)
    rng = np.random.default_rng(0)
    clean = jnp.asarray(rng.random(shape, np.float32))
    return {"clean": clean, "student": clean, "mask": jnp.zeros(shape[:-1], bool)}


def simple(value):
    """A parameter tree with one number under every prefix."""
    return {
        name: {"x": jnp.full((3,), value + i)}
        for i, name in enumerate(("backbone", "projector", "prototypes", "heads"))
    }


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("changes", "message"), [
    (dict(method__corruption__kind="drop"), "set --config.method.loss.reconstruction=0.0"),
    (dict(method__loss__patch_tokens="hidden"), "method.loss.patch_tokens must be 'all' or 'masked', got 'hidden'"),
    (dict(method__loss__patch_tokens="masked", method__corruption__kind="drop", method__loss__reconstruction=0.0),
     "method.loss.patch_tokens=masked has no tokens when method.corruption.kind=drop"),
    (dict(method__loss__patch_tokens="masked", method__corruption__align=2), "set --config.method.corruption.align=4"),
    (dict(method__views__globals=1), "set --config.method.views.globals=2"),
    (dict(method__momentum__curve="cosin"), "method.momentum.curve"),
    (dict(method__collapse__patch="sinkhron"), "did you mean 'sinkhorn'"),
    (dict(method__collapse__cls="me-max"), "did you mean 'memax'"),
])  # fmt: skip
def test_combinations_without_a_meaning(changes, message):
    with pytest.raises(UserError) as caught:
        tiny_method(**changes)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_combinations_with_a_meaning():
    tiny_method(method__views__globals=1, method__loss__same_view=True)
    tiny_method(method__views__globals=1, method__views__locals=1)
    tiny_method(method__loss__patch_tokens="masked", method__corruption__align=12)
    tiny_method(method__corruption__kind="drop", method__loss__reconstruction=0.0)


# -- what it starts from ---------------------------------------------------------------------------------------------


def shapes(**changes):
    return jax.eval_shape(tiny_method(**changes).init, jax.random.key(0), fake_views())


def test_parameters_and_state():
    params, state = shapes()
    assert set(params) == {"backbone", "projector", "prototypes", "heads"} and set(params["heads"]) == {
        "reconstruction"
    }
    assert set(params["projector"]) == {"cls", "patch"}
    assert params["prototypes"]["cls"]["directions"].shape == (8, 6)
    assert params["prototypes"]["patch"]["directions"].shape == (8, 10)
    assert set(state) == {"teacher", "centre"} and set(state["teacher"]) == {"backbone", "projector", "prototypes"}
    assert {level: c.shape for level, c in state["centre"].items()} == {"cls": (6,), "patch": (10,)}
    assert set(shapes(method__projector__shared=True)[0]["projector"]) == {"shared"}
    assert set(shapes(method__corruption__kind="token")[0]["heads"]) == {"reconstruction", "mask_token"}
    assert "heads" not in shapes(method__loss__reconstruction=0.0)[0]


def test_the_teacher_starts_as_a_copy_in_memory_of_its_own():
    method = tiny_method()
    params, state = jax.jit(method.init, compiler_options=QUICK)(jax.random.key(0), fake_views())
    taught = {name: params[name] for name in state["teacher"]}
    for name, value in leaves(taught).items():
        np.testing.assert_array_equal(leaves(state["teacher"])[name], value)
    places = [x.unsafe_buffer_pointer() for x in jax.tree.leaves((params, state["teacher"]))]
    assert len(set(places)) == len(places)  # a donated buffer may stand for one array only
    assert all((c == 0).all() for c in state["centre"].values())
    named = leaves(method.backbone(params, {**state, "teacher": simple(0.0)}, "student"))
    assert set(named) == set(leaves({"params": params["backbone"]}))
    teacher = method.backbone(params, {**state, "teacher": simple(7.0)}, "teacher")
    np.testing.assert_array_equal(teacher["params"]["x"], np.full(3, 7.0))


# -- the teacher follows ---------------------------------------------------------------------------------------------


def test_momentum_zero_copies_and_one_keeps():
    for momentum, expected in ((0.0, simple(5.0)), (1.0, simple(1.0))):
        method = tiny_method(method__momentum__start=momentum, method__momentum__end=momentum)
        state = {"teacher": {k: v for k, v in simple(1.0).items() if k != "heads"}, "centre": "kept"}
        after = method.after_update(simple(5.0), state, jnp.int32(3))
        del expected["heads"]  # the teacher predicts no pixels
        assert after["centre"] == "kept"
        jax.tree.map(np.testing.assert_array_equal, after["teacher"], expected)


def test_n_steps_towards_a_constant_student():
    """t_n = s + m^n (t_0 - s)."""
    method = tiny_method(method__momentum__start=0.9, method__momentum__end=0.9)
    state = {"teacher": {k: v for k, v in simple(1.0).items() if k != "heads"}}
    for n in range(1, 5):
        state = method.after_update(simple(5.0), state, jnp.int32(n))
        np.testing.assert_allclose(state["teacher"]["backbone"]["x"], 5 + 0.9**n * (1 - 5), rtol=1e-6)


@pytest.mark.parametrize(("curve", "quarter"), [("cosine", 0.996586), ("linear", 0.997)])
def test_momentum_over_the_run(curve, quarter):
    own = tiny_method(total=400, method__momentum__start=0.996, method__momentum__curve=curve).loss.__self__
    found = [float(own.momentum(step)) for step in (0, 100, 200, 400)]
    np.testing.assert_allclose(found, [0.996, quarter, 0.998, 1.0], atol=1e-6)


# -- reconstruction --------------------------------------------------------------------------------------------------


def test_reconstruction_comes_back_as_pixels():
    """The head's output is in the normalised space: times .25 and plus .5 here, cut to [0, 1]."""
    method, views = tiny_method(), fake_views()
    params, _ = jax.jit(method.init, compiler_options=QUICK)(jax.random.key(0), views)
    params["heads"] = jax.tree.map(lambda x: 8 * x, params["heads"])
    pixels, raw = jax.jit(
        lambda p: (
            method.reconstruct(p, views),
            method.loss.__self__.student(p, views, jax.random.key(9), False)["pixels"],
        )
    )(params)
    assert pixels.shape == views["clean"].shape
    np.testing.assert_allclose(pixels, np.clip(np.asarray(raw) * 0.25 + 0.5, 0, 1), atol=1e-6)
    assert (np.asarray(pixels) == 0).any() and (np.asarray(pixels) == 1).any()
    assert tiny_method(method__loss__reconstruction=0.0).reconstruct is None


# -- devices ---------------------------------------------------------------------------------------------------------

VARIANTS = {
    "sinkhorn and ME-MAX": dict(method__collapse__patch="memax", method__projector__norm="batch"),
    "centring and sinkhorn by position": dict(
        method__collapse__cls="centring", method__sinkhorn__positionwise=True, method__corruption__kind="token",
        method__views__locals=1, method__loss__patch_tokens="masked", method__projector__shared=True,
        backbone__depth=2, data__crop="host", backbone__drop_path=0.5,
    ),
}  # fmt: skip


def start(method):
    """A state that needs no compiling: parameters, and a teacher that is not the student."""
    params, method_state = jax.eval_shape(lambda: method.init(jax.random.key(0), fake_views()))
    zero, params = jnp.zeros((), jnp.int32), filled(params, 0, 0.3)
    method_state = {
        "teacher": filled(method_state["teacher"], 300, 0.3),
        "centre": filled(method_state["centre"], 600, 0.1),
    }
    return TrainState(
        zero, params, method_state, optax.sgd(0.1).init(params), jax.random.key(7), jnp.uint32(0), zero + 0
    )


def three_steps(method, batches, devices):
    mesh = make_mesh(devices)
    step = make_step(method, optax.sgd(0.1), mesh)
    state, losses = jax.device_put(start(method), replicated(mesh)), []
    step = step.lower(state, {}, put_batch(batches[0], mesh)).compile(compiler_options=QUICK)
    for batch in batches:
        state, metrics = step(state, {}, put_batch(batch, mesh))
        losses.append({name: float(value.compute()) for name, value in metrics.items()})
    return state, losses


@pytest.mark.parametrize("variant", VARIANTS)
def test_eight_devices_equal_one(variant):
    """Three steps of plain SGD (Adam would hide a gradient that is off by the number of devices), and the parameters:
    with the class and patch targets, the penalties, the centres and the batch statistics over the global batch."""
    method = tiny_method(**VARIANTS[variant])
    draw = tiny_crops if method.loss.__self__.views.crops.host_crops else tiny_batch
    batches = [draw(16, 16 * i) for i in range(3)]
    (one, one_losses), (eight, eight_losses) = (three_steps(method, batches, n) for n in (1, 8))
    assert len(eight.step.sharding.device_set) == 8 and len(one.step.sharding.device_set) == 1
    for a, b in zip(one_losses, eight_losses, strict=True):
        assert a == pytest.approx(b, rel=1e-4, abs=1e-5)
    before, first, second = leaves(start(method)), leaves(one), leaves(eight)
    for name in first:
        np.testing.assert_allclose(first[name], second[name], atol=1e-4, err_msg=name)
    trained = [n for n in first if n.startswith((".params", ".method_state"))]
    moved = [n for n in trained if np.abs(first[n] - before[n]).max() > 2e-3]
    assert len(moved) > 0.8 * len(trained)  # the tolerance is not all there is
