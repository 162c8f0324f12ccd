"""Small networks, batches and steps for the tests of the objectives that draw `MultiViews` or `MaskedViews`."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gssl_jax.methods.base import Clock
from gssl_jax.methods.known import METHODS
from gssl_jax.models.build import build_backbone
from gssl_jax.models.resnet import ResNet
from gssl_jax.training.mesh import make_mesh, put_batch, replicated
from gssl_jax.training.state import TrainState
from gssl_jax.training.step import make_step
from tests.runs.recipes import recipe
from tests.tiny import PLAIN_VIEW, QUICK, SIZES, filled, tiny_batch

RESNET = ResNet(
    image_size=12, block="basic", depths=(1, 1), widths=(4, 6), stem_width=4, channels=1, mean=(0.5,), std=(0.25,)
)
COUNTS = np.array([5, 4, 3])


def config(method, **changes):
    """The tiny recipe of an objective at 12 grey pixels in 3 x 3 patches; `method__views__locals=1` sets a value."""
    c = recipe(f"tiny,method={method}", "objectives")
    views = {
        f"method.augment.{name}.{key}": value
        for name, size in (("global_1", 12), ("global_2", 12), ("local", 8))
        for key, value in {**PLAIN_VIEW, "size": size}.items()
    }
    masks = {"method.corruption.align": 4} if "corruption" in c.method else {}
    flat = {name.replace("__", "."): value for name, value in changes.items()}
    c.update_from_flattened_dict({**SIZES, **views, **masks, **flat})
    return c


def made(method, network=None, total=10, **changes):
    """The method of `config` on a network, the transformer of `config` without one."""
    c = config(method, **changes)
    return METHODS[method].build(c, network or build_backbone(c), Clock(total, 1), COUNTS)


def batch(number=0, size=8):
    """Random canvases with labels 0, 1, 2."""
    found = tiny_batch(size, size * number)["train"]
    return {"train": {**found, "label": np.int32(found["index"] % 3)}}


@functools.cache
def shown(method, seed=0, **changes):
    """The views that a method draws of `batch`, as the student gets them."""
    return jax.jit(made(method, **changes).views, compiler_options=QUICK)(batch(), jax.random.key(seed), 0)


def begun(method, views):
    """(params, state) of numbers from a formula, the teacher another than the student, without compiling anything."""
    shapes = jax.eval_shape(method.init, jax.random.key(0), views)
    params, state = filled(shapes[0], 0, 0.3), dict(shapes[1])
    if "teacher" in state:
        state["teacher"] = filled(state["teacher"], 300, 0.3)
    for place, name in enumerate(("batch_stats", "teacher_batch_stats")):
        if name in state:
            state[name] = jax.tree.map(lambda x: 0.5 + jnp.abs(x), filled(state[name], 600 + 100 * place))
    return params, state


def judged(method):
    """The loss, jitted: (params, state, views, key, step) -> (loss, (state, metrics))."""
    return jax.jit(functools.partial(method.loss, train=True), compiler_options=QUICK)


def three_steps(method, devices, size=16):
    """State and losses after three steps of plain SGD; Adam would hide a gradient that is off by a factor."""
    mesh, optimiser, zero = make_mesh(devices), optax.sgd(0.1), jnp.zeros((), jnp.int32)
    views = jax.eval_shape(method.views, batch(0, size), jax.random.key(0), 0)
    params, state = begun(method, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), views))
    whole = TrainState(zero, params, state, optimiser.init(params), jax.random.key(7), jnp.uint32(0), zero + 0)
    whole = jax.device_put(whole, replicated(mesh))
    step = make_step(method, optimiser, mesh)
    step = step.lower(whole, {}, put_batch(batch(0, size), mesh)).compile(compiler_options=QUICK)
    losses = []
    for number in range(3):
        whole, metrics = step(whole, {}, put_batch(batch(number, size), mesh))
        losses.append({name: float(value.compute()) for name, value in metrics.items()})
    return whole, losses
