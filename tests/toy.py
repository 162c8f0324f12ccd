"""A method that compiles in no time: a linear regression with a teacher, a centre and random views."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gssl_jax.methods.base import Method
from gssl_jax.training.mesh import replicated
from gssl_jax.training.state import TrainState, create_state

MOMENTUM = 0.75
NOISE = 0.1


def toy_method(noise: float = NOISE) -> Method:
    """Pixels x [B, 4] plus noise; loss = mean (x w - 1)^2 + mean (x d - centre)^2 with w [4] and directions d [4, 2].

    The centre moves to the mean of x d, the teacher follows w and d with momentum .75. A NaN pixel makes the loss NaN.
    """

    def init(key, views):
        params = {"backbone": {"w": jnp.linspace(0.1, 0.4, 4)}, "prototypes": {"directions": jnp.ones((4, 2)) / 3}}
        return params, {"teacher": jax.tree.map(jnp.copy, params), "centre": jnp.zeros(2)}

    def views(batches, key, step):
        x = batches["train"]["image"].reshape(-1, 4).astype(jnp.float32)
        return {"x": x + noise * jax.random.normal(jax.random.fold_in(key, step), x.shape)}

    def loss(params, state, views, key, step, train):
        x = views["x"]
        y, z = x @ params["backbone"]["w"], x @ params["prototypes"]["directions"]
        fit, spread = jnp.mean((y - 1) ** 2), jnp.mean((z - state["centre"][None]) ** 2)
        metrics = {"train/loss": fit + spread, "train/step": step.astype(jnp.float32)}
        return fit + spread, ({**state, "centre": jnp.mean(jax.lax.stop_gradient(z), axis=0)}, metrics)

    def after_update(params, state, step):
        return {**state, "teacher": optax.incremental_update(params, state["teacher"], 1 - MOMENTUM)}

    def backbone(params, state, which):
        return {"params": {"teacher": state["teacher"], "student": params}[which]["backbone"]}

    return Method(("train",), init, views, loss, after_update, backbone, None, None)


def toy_batch(number: int, size: int = 8, broken: bool = False) -> dict[str, dict[str, np.ndarray]]:
    """The `number`-th batch: 2 x 2 floats a sample, drawn by sample index; `broken` = one pixel is NaN."""
    index = np.arange(number * size, (number + 1) * size, dtype=np.int32)
    images = np.stack([np.random.default_rng(i).random((1, 2, 2, 1), np.float32) for i in index])
    if broken:
        images[size // 2, 0, 1, 1, 0] = np.nan
    return {"train": {"image": images, "index": index}}


def toy_state(method, optimiser, mesh, seed: int = 3) -> TrainState:
    """A fresh state on `mesh`."""
    fresh = jax.jit(lambda b: create_state(method, optimiser, b, jax.random.key(seed)), out_shardings=replicated(mesh))
    return fresh(toy_batch(0))
