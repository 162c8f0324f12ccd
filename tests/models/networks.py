"""Small vision transformers with random parameters, compiled once for all tests."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from gssl_jax.models.vit import ViT
from tests.tiny import QUICK

SMALL = dict(image_size=12, patch=4, width=16, depth=2, heads=2, mlp_ratio=2.0, channels=1)


def images(batch=2, size=12, channels=1, seed=0):
    return jnp.asarray(np.random.default_rng(seed).random((batch, size, size, channels), np.float32))


@functools.cache
def network(**changes):
    """A network with random parameters everywhere, zeros at the start included."""
    vit = ViT(**{**SMALL, **changes})
    shapes = jax.eval_shape(vit.init, jax.random.key(0), images(1, vit.image_size, vit.channels))
    leaves, tree = jax.tree.flatten(shapes)
    rng = np.random.default_rng(0)
    return vit, jax.tree.unflatten(tree, [jnp.asarray(rng.normal(0, 0.3, x.shape), x.dtype) for x in leaves])


def run(network_, x, **arguments):
    """The outputs of a network, jitted with the arguments that are not arrays as constants."""
    vit, variables = network_
    arrays = {k: v for k, v in arguments.items() if not isinstance(v, (bool, tuple))}
    fixed = {k: v for k, v in arguments.items() if k not in arrays}
    return _jitted(vit, tuple(fixed.items()))(variables, x, arrays)


@functools.cache
def _jitted(vit, fixed):
    return jax.jit(
        lambda variables, x, arrays: vit.apply(variables, x, **arrays, **dict(fixed)), compiler_options=QUICK
    )
