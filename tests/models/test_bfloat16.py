"""What stays float32 where networks compute in bfloat16: masters, teacher, moments, norms, softmax and losses."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gssl_jax.models.vit import ViT
from gssl_jax.training.state import create_state
from tests.methods import objectives

NETWORK = ViT(
    image_size=12, patch=4, width=32, depth=2, heads=2, channels=1, mean=(0.5,), std=(0.25,), dtype=jnp.bfloat16
)
METHODS = ("maskcluster", "dino", "ibot", "msn", "swav", "mae", "simmim", "simclr", "moco_v3", "supervised")


def floats(tree):
    """Dtypes of the floating leaves of a tree."""
    return {leaf.dtype for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)}


@pytest.mark.parametrize("name", METHODS)
def test_state_and_loss_are_float32_and_products_are_not(name):
    """Shapes alone. The two inputs of a product with float32 masters are cast first."""
    method = objectives.made(name, NETWORK)
    batch = {"train": jax.tree.map(jnp.asarray, objectives.batch()["train"])}
    optimiser = optax.adamw(1e-3)
    state = jax.eval_shape(lambda: create_state(method, optimiser, batch, jax.random.key(0)))
    assert floats((state.params, state.method_state, state.opt_state)) == {np.dtype(np.float32)}

    def loss(params, held):
        views = method.views(batch, jax.random.key(1), jnp.int32(0))
        return method.loss(params, held, views, jax.random.key(2), jnp.int32(0), True)

    value, (method_state, metrics) = jax.eval_shape(loss, state.params, state.method_state)
    assert value.dtype == np.float32 and floats((method_state, metrics)) == {np.dtype(np.float32)}
    text = str(jax.make_jaxpr(loss)(state.params, state.method_state))
    assert ":bf16[" in text and "dot_general" in text


def test_residual_stream_norms_and_softmax():
    images = jnp.ones((2, 12, 12, 1))
    variables = jax.eval_shape(NETWORK.init, jax.random.key(0), images)
    assert floats(variables) == {np.dtype(np.float32)}
    wanted = ("block_0", "block_1", "attention_1")
    out = jax.eval_shape(lambda v: NETWORK.apply(v, images, capture=wanted), variables)
    assert out["block_0"].dtype == out["block_1"].dtype == jnp.bfloat16  # the residual stream
    assert out["attention_1"].dtype == jnp.float32  # softmax
    assert {out[name].dtype for name in ("feat", "tokens", "cls_prenorm", "last4_cls", "map")} == {np.dtype("float32")}
