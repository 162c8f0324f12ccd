"""What the tests of the clustering objectives share: the smallest of each, a ResNet too, networks replaced by given
cosines, gradients by what they reach, and one device against eight."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gssl_jax.methods import dino, ibot, msn, swav
from gssl_jax.methods.base import Clock, Method
from gssl_jax.models.build import build_backbone
from gssl_jax.training.mesh import make_mesh, put_batch, replicated
from gssl_jax.training.state import TrainState
from gssl_jax.training.step import make_step
from tests.runs.recipes import recipe
from tests.tiny import METHOD, PLAIN_VIEW, QUICK, SIZES, filled, leaves, tiny_batch

METHODS = {"dino": dino, "ibot": ibot, "msn": msn, "swav": swav}
CONTROLS = ("centring", "memax", "sinkhorn", "none")
STEP, UNIT = 40, 2  # the 20th of 29 intervals of the teacher's temperature
TEMPERATURE = 0.04 + 0.03 * 20 / 29
BATCH = 4


def config_of(name: str, **changes):
    """The recipe `tiny,method=name` at the sizes of tests/tiny.py, with one local view."""
    config = recipe(f"tiny,method={name}", "objectives")
    views = {
        f"method.augment.{view}.{key}": value
        for view, size in (("global_1", 12), ("global_2", 12), ("local", 8))
        for key, value in {**PLAIN_VIEW, "size": size}.items()
    }
    own = ("method.corruption.", "method.collapse.", "method.loss.")
    known = set(config.to_dict()["method"])
    sizes = {key: value for key, value in METHOD.items() if not key.startswith(own) and key.split(".")[1] in known}
    if "patch" not in config.method.prototypes:
        del sizes["method.prototypes.patch"], sizes["method.sinkhorn.positionwise"], sizes["method.projector.shared"]
    if "corruption" in config.method:
        config.method.corruption.update(dict(align=4, max_side=0.5))
    flat = {key.replace("__", "."): value for key, value in changes.items()}
    config.update_from_flattened_dict({**SIZES, **sizes, **views, "method.views.locals": 1, **flat})
    return config


def tiny(name: str, **changes) -> Method:
    """The smallest method of that name."""
    config = config_of(name, **changes)
    return METHODS[name].build(config, build_backbone(config), Clock(10, UNIT))


def given(method: Method, networks: dict):
    """The method's object with teacher and student replaced by their results."""
    own = method.loss.__self__
    kind = type(f"Given{type(own).__name__}", (type(own),), {n: staticmethod(f) for n, f in networks.items()})
    return kind(**{field.name: getattr(own, field.name) for field in dataclasses.fields(own)})


def cosines(*shape, seed=0):
    """Numbers in [-1, 1]."""
    return jnp.asarray(np.tanh(np.random.default_rng(seed).standard_normal(shape)), jnp.float32)


def drawn_views(method: Method) -> dict[str, jax.Array]:
    """One step's views of four images."""
    return jax.jit(method.views, compiler_options=QUICK)(tiny_batch(BATCH), jax.random.key(0), jnp.int32(STEP))


def start(method: Method) -> TrainState:
    """A state that needs no compiling: parameters, and a teacher that is not the student."""
    shapes = jax.eval_shape(lambda b: method.views(b, jax.random.key(0), jnp.int32(0)), tiny_batch(BATCH))
    params, state = jax.eval_shape(method.init, jax.random.key(0), shapes)
    zero, params = jnp.zeros((), jnp.int32), filled(params, 0, 0.5)
    state = {name: filled(tree, 300 * i, 0.3) for i, (name, tree) in enumerate(sorted(state.items()), 1)}
    for name in ("batch_stats", "teacher_batch_stats"):
        if name in state:  # variances are positive
            state[name] = jax.tree.map(lambda x: 1.0 + jnp.abs(x), state[name])
    return TrainState(zero, params, state, optax.sgd(0.1).init(params), jax.random.key(7), jnp.uint32(0), zero + 0)


def largest(tree) -> float:
    """The largest absolute entry of a tree; 0 for an empty one."""
    return max((float(jnp.abs(x).max()) for x in jax.tree.leaves(tree)), default=0.0)


def gradients(method: Method, views=None):
    """(metrics, {params, state, views}) of one step's loss; views that are floats are differentiated."""
    state, views = start(method), views or drawn_views(method)
    floats = {name: x for name, x in views.items() if jnp.issubdtype(x.dtype, jnp.floating)}

    def loss(params, method_state, floats):
        return method.loss(params, method_state, {**views, **floats}, jax.random.key(0), jnp.int32(STEP), True)

    graded = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True), compiler_options=QUICK)
    (_, (_, metrics)), found = graded(state.params, state.method_state, floats)
    return metrics, dict(zip(("params", "state", "views"), found, strict=True))


def eight_devices_equal_one(method: Method) -> None:
    """Three steps of plain SGD (Adam would hide a gradient that is off by the number of devices): metrics, parameters,
    teacher, centres and batch statistics."""
    batches, found = [tiny_batch(16, 16 * i) for i in range(3)], []
    for devices in (1, 8):
        mesh = make_mesh(devices)
        step = make_step(method, optax.sgd(0.1), mesh)
        state, rows = jax.device_put(start(method), replicated(mesh)), []
        step = step.lower(state, {}, put_batch(batches[0], mesh)).compile(compiler_options=QUICK)
        for batch in batches:
            state, metrics = step(state, {}, put_batch(batch, mesh))
            rows.append({name: float(value.compute()) for name, value in metrics.items()})
        assert len(state.step.sharding.device_set) == devices
        found.append((leaves(state), rows))
    (one, first), (eight, second) = found
    for a, b in zip(first, second, strict=True):
        assert a == pytest.approx(b, rel=1e-4, abs=1e-5)
    before = leaves(start(method))
    for name in one:
        np.testing.assert_allclose(one[name], eight[name], atol=1e-4, err_msg=name)
    moved = [name for name in one if name.startswith(".params") and np.abs(one[name] - before[name]).max() > 1e-3]
    assert len(moved) > 0.8 * sum(name.startswith(".params") for name in one)  # the tolerance is not all there is
