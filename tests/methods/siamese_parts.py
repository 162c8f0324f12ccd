"""Small networks and batches for the tests of MoCo and BYOL."""

from __future__ import annotations

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gssl_jax.methods import byol, moco
from gssl_jax.methods.base import Clock
from gssl_jax.models.resnet import ResNet
from gssl_jax.training.mesh import make_mesh, put_batch, replicated
from gssl_jax.training.state import TrainState
from gssl_jax.training.step import make_step
from tests.runs.recipes import recipe
from tests.tiny import QUICK, filled

SIDE, BATCH, WIDTH = 8, 8, 6
TOTAL = 10
RESNET = ResNet(image_size=SIDE, block="basic", depths=(1, 1), widths=(4, WIDTH), stem_width=4)


class Linear:
    """A backbone of one matrix, without statistics."""

    dtype = jnp.float32

    def init(self, key, images):
        return {"params": {"w": jax.random.normal(key, (images[0].size, WIDTH)) / 8}}

    def apply(self, variables, images, train=False, rngs=None, mutable=()):
        out = {"feat": images.reshape(len(images), -1) @ variables["params"]["w"]}
        return (out, {}) if mutable else out

    def clone(self, **_):
        return self


def config(method="moco", **changes):
    """The tiny recipe at 8 px; `method__queue__length=16` sets a value by its path."""
    c = recipe(f"tiny,method={method}", "hpt_moco")
    c.data.image_size = c.data.canvas = SIDE
    c.data.crop = "device"
    c.optim.batch_size = BATCH
    for view in c.method.augment.values():
        view.size = SIDE
    c.method.projector.update(dict(hidden=7, output=5))
    if method == "moco":
        c.method.queue.length = 3 * BATCH
        c.method.shuffle_bn.groups = 1
    else:
        c.method.predictor.hidden = 9
    for path, value in changes.items():
        *groups, name = path.split("__")
        node = c
        for group in groups:
            node = node[group]
        node[name] = value
    return c


def made(network, method="moco", **changes):
    """The method of `config` on a network."""
    build = {"moco": moco.build, "byol": byol.build}[method]
    return build(config(method, **changes), network, Clock(TOTAL, 1))


def given(method):
    """The method with the views that a batch holds, in place of those it would draw."""

    def views(batches, key, step):
        return {name: batches["train"]["image"][:, place] for place, name in enumerate(("view_1", "view_2"))}

    return method._replace(views=views)


def two_views(seed=0, size=BATCH):
    """Two views of random pixels, of which those of one image are alike."""
    rng = np.random.default_rng(seed)
    image = rng.random((size, 1, 1, 3)) * 0.6
    return {name: np.float32(image + 0.4 * rng.random((size, SIDE, SIDE, 3))) for name in ("view_1", "view_2")}


def batch(seed=0, size=BATCH):
    """The same as a batch for `given`."""
    images = np.stack([*two_views(seed, size).values()], axis=1)
    return {"train": {"image": images, "index": np.arange(size, dtype=np.int32)}}


def begun(method, size=BATCH):
    """(params, state) of numbers from a formula, the teacher another than the student, without compiling anything."""
    shapes = jax.eval_shape(method.init, jax.random.key(0), two_views(size=size))
    params, state = filled(shapes[0], 0, 0.5), dict(shapes[1])
    state["teacher"] = filled(state["teacher"], 300, 0.5)
    for place, name in enumerate(("batch_stats", "teacher_batch_stats")):
        state[name] = jax.tree.map(lambda x: 0.5 + jnp.abs(x), filled(state[name], 600 + 100 * place))
    if "queue" in state:
        keys = np.random.default_rng(5).standard_normal(state["queue"]["keys"].shape)
        keys = jnp.float32(keys / np.linalg.norm(keys, axis=1, keepdims=True))
        state["queue"] = {"keys": keys, "pointer": jnp.int32(0), "filled": jnp.int32(0)}
    return params, state


def judged(method):
    """The loss, jitted: (params, state, views, key, step) -> (loss, (state, metrics))."""
    return jax.jit(functools.partial(method.loss, train=True), compiler_options=QUICK)


def three_steps(method, devices, size=16):
    """State and losses after three steps of plain SGD, which a gradient off by a factor would show, and the compiled
    step as text."""
    mesh, method, optimiser = make_mesh(devices), given(method), optax.sgd(0.1)
    params, state = begun(method, size)
    zero = jnp.zeros((), jnp.int32)
    whole = TrainState(zero, params, state, optimiser.init(params), jax.random.key(7), jnp.uint32(0), zero + 0)
    whole = jax.device_put(whole, replicated(mesh))
    step = make_step(method, optimiser, mesh)
    step = step.lower(whole, {}, put_batch(batch(0, size), mesh)).compile(compiler_options=QUICK)
    losses = []
    for number in range(3):
        whole, metrics = step(whole, {}, put_batch(batch(number, size), mesh))
        losses.append({name: float(value.compute()) for name, value in metrics.items()})
    return whole, losses, step.as_text()


def convolutions(text):
    """Images in the outputs of the convolutions of a compiled step: their leading dimension where the rest is [h, w, D]
    of an image; those of kernels, which are gradients, are 3 and less."""
    found = re.findall(r"\w+\[(\d+),(\d+),\d+,\d+\]\S* convolution\(", text)
    return {int(images) for images, side in found if int(side) != 3}
