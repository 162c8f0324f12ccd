"""The decoder of masked autoencoders: what stands where, and shapes."""

import jax
import jax.numpy as jnp
import numpy as np

from gssl_jax.models.decoder import Decoder, placed
from gssl_jax.models.vit import sincos_positions
from tests.tiny import QUICK, filled

HIDDEN = np.array([[True, False, True, False], [False, False, True, True]])


def test_visible_tokens_stand_at_their_places_and_the_mask_token_at_the_others():
    visible = jnp.asarray([[[1.0], [2.0]], [[3.0], [4.0]]])
    found = placed(visible, jnp.asarray([9.0]), jnp.asarray(HIDDEN))
    np.testing.assert_array_equal(found[..., 0], [[9, 1, 9, 2], [3, 4, 9, 9]])
    ours = np.asarray(
        jax.grad(lambda v: (placed(v, jnp.zeros(1), jnp.asarray(HIDDEN))[..., 0] * WEIGHTS).sum())(visible)
    )
    np.testing.assert_array_equal(ours[..., 0], [[2, 4], [5, 6]])  # each token's gradient is that of its own place


WEIGHTS = jnp.arange(1.0, 9.0).reshape(2, 4)


def test_without_blocks_a_patch_is_a_linear_map_of_its_token_and_its_place():
    """norm(embedded token, or mask token, + position) W + b, the class token left out, in NumPy."""
    decoder = Decoder(patch=2, channels=3, width=8, depth=0, heads=2, layer_norm_eps=1e-6)
    rng = np.random.default_rng(0)
    cls, visible = np.float32(rng.normal(size=(2, 5))), np.float32(rng.normal(size=(2, 2, 5)))
    shapes = jax.eval_shape(decoder.init, jax.random.key(0), cls, visible, HIDDEN)
    params = filled(shapes, 3)["params"]
    out = jax.jit(decoder.apply, compiler_options=QUICK)({"params": params}, cls, visible, HIDDEN)
    assert out.shape == (2, 4, 12)
    p = jax.tree.map(np.float64, params)
    embedded = visible @ p["embed"]["kernel"] + p["embed"]["bias"]
    x = np.zeros((2, 4, 8)) + p["mask_token"]
    x[0, [1, 3]], x[1, [0, 1]] = embedded
    x = x + np.asarray(sincos_positions(2, 8))
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    x = (x * p["norm"]["scale"] + p["norm"]["bias"]) @ p["pixels"]["kernel"] + p["pixels"]["bias"]
    np.testing.assert_allclose(out, x, atol=1e-5)


def test_blocks_let_the_class_token_and_the_visible_patches_reach_the_hidden_ones():
    decoder = Decoder(patch=2, channels=1, width=8, depth=1, heads=2, layer_norm_eps=1e-6)
    cls, visible = jnp.ones((2, 5)), jnp.ones((2, 2, 5))
    params = filled(jax.eval_shape(decoder.init, jax.random.key(0), cls, visible, HIDDEN), 3)

    def at_hidden(cls, visible):
        return jnp.where(HIDDEN[..., None], decoder.apply(params, cls, visible, HIDDEN), 0.0)[0].sum()

    of_cls, of_visible = jax.jit(jax.grad(at_hidden, (0, 1)), compiler_options=QUICK)(cls, visible)
    assert (of_cls[0] != 0).any() and (of_visible[0] != 0).any()
    assert (of_cls[1] == 0).all() and (of_visible[1] == 0).all()  # and no other image
