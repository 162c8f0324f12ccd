"""The vision transformer: hidden and dropped patches, drop path, layer scale, precision."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gssl_jax.models.vit import REMATS, Attention, DropPath, ViT
from tests.models.networks import SMALL, images, network, run

# -- hidden and dropped patches --------------------------------------------------------------------------------------


def hidden(*places):
    return jnp.zeros((2, 9), bool).at[:, jnp.asarray(places, jnp.int32)].set(True)


def scrambled(x, places):
    """`x` with other pixels in the patches of these numbers."""
    x = np.asarray(x).copy()
    for place in places:
        r, c = divmod(place, 3)
        x[:, r * 4 : r * 4 + 4, c * 4 : c * 4 + 4] = np.random.default_rng(place).random((2, 4, 4, 1))
    return jnp.asarray(x)


def test_a_hidden_patch_gives_nothing_away():
    net, x, token = network(), images(), jnp.asarray(np.random.default_rng(1).random(16, np.float32))
    mask = hidden(2, 3, 7)
    out = run(net, x, mask=mask, mask_token=token)
    for name, value in run(net, scrambled(x, (2, 3, 7)), mask=mask, mask_token=token).items():
        np.testing.assert_array_equal(value, out[name])
    assert np.abs(run(net, scrambled(x, (4,)), mask=mask, mask_token=token)["feat"] - out["feat"]).max() > 1e-4
    assert np.abs(run(net, x, mask=mask, mask_token=token.at[0].add(1))["feat"] - out["feat"]).max() > 1e-4


def test_an_empty_mask_changes_nothing_and_a_full_one_leaves_only_positions():
    net, x, token = network(), images(), jnp.ones(16)
    empty = run(net, x, mask=hidden(), mask_token=token)
    for name, value in run(net, x).items():
        np.testing.assert_allclose(value, empty[name], atol=1e-5)
    full = run(net, x, mask=hidden(*range(9)), mask_token=token)["tokens"]
    np.testing.assert_allclose(full[0], full[1], atol=1e-6)
    assert np.abs(full[0, 0] - full[0, 1]).max() > 1e-3


def test_keeping_every_token_equals_keeping_no_list():
    net, x = network(), images()
    kept, plain = run(net, x, keep=jnp.tile(jnp.arange(9), (2, 1))), run(net, x)
    assert "map" not in kept and "map" in plain
    for name in kept:
        np.testing.assert_allclose(kept[name], plain[name], atol=1e-5)


def test_dropped_patches_give_nothing_away_and_the_others_keep_their_positions():
    net, x = network(), images()
    keep = jnp.asarray([[0, 4, 8], [1, 2, 6]])
    out = run(net, x, keep=keep)
    assert out["tokens"].shape == (2, 3, 16)
    np.testing.assert_array_equal(run(net, scrambled(x, (3, 5, 7)), keep=keep)["tokens"], out["tokens"])
    # Attention does not know an order: other places in the list, the same tokens.
    order = run(net, x, keep=keep[:, ::-1])
    np.testing.assert_allclose(order["tokens"], out["tokens"][:, ::-1], atol=1e-5)
    np.testing.assert_allclose(order["feat"], out["feat"], atol=1e-5)
    # A patch has the position of where it stood, not of its place in the list: alone, token 4 differs from token 0.
    alone = [run(net, jnp.ones((2, 12, 12, 1)), keep=jnp.full((2, 3), i))["tokens"][0, 0] for i in (0, 4)]
    assert np.abs(alone[0] - alone[1]).max() > 1e-3


# -- depth, scale, precision -----------------------------------------------------------------------------------------


def test_drop_path_keeps_the_mean_and_drops_whole_samples(getkey):
    x = jnp.ones((4000, 2, 3))
    y = np.asarray(DropPath(0.25).apply({}, x, True, rngs={"drop_path": getkey()}))
    np.testing.assert_allclose(np.unique(y), [0.0, 1 / 0.75])
    assert (y == y[:, :1, :1]).all()
    assert (y[:, 0, 0] == 0).mean() == pytest.approx(0.25, abs=0.03)
    np.testing.assert_array_equal(DropPath(0.25).apply({}, x, False), x)
    np.testing.assert_array_equal(DropPath(0.0).apply({}, x, True), x)  # wants no random stream


def test_drop_path_is_for_training_and_grows_with_depth(getkey):
    """Of two blocks the first has rate 0 and the last .9: its output is the same in every pass, the last's is not."""
    net, plain, x = network(drop_path=0.9), network(), images(batch=8)
    names = ("block_0", "block_1")
    np.testing.assert_array_equal(run(net, x)["feat"], run(plain, x)["feat"])
    first, second = (run(net, x, train=True, capture=names, rngs={"drop_path": getkey()}) for _ in range(2))
    np.testing.assert_array_equal(first["block_0"], second["block_0"])
    assert np.abs(first["block_1"] - second["block_1"]).max() > 1e-3
    np.testing.assert_array_equal(run(plain, x, train=True)["feat"], run(plain, x)["feat"])


def test_layer_scale():
    """Scales of zero leave the embedding as it is; of one, everything."""
    net = network(layer_scale=1e-5)

    def scaled(value):
        return jax.tree_util.tree_map_with_path(
            lambda p, x: jnp.full_like(x, value) if p[-1].key.startswith("scale") and len(p) == 3 else x, net[1]
        )

    params = scaled(1.0)["params"]
    bare = {
        "params": {
            k: {n: v for n, v in b.items() if n not in ("scale1", "scale2")} if "block" in k else b
            for k, b in params.items()
        }
    }
    ones = run((net[0], scaled(1.0)), images())["feat"]
    np.testing.assert_allclose(ones, run((ViT(**SMALL), bare), images())["feat"], atol=1e-5)
    none = run((net[0], scaled(0.0)), images(), capture=("block_1",))["block_1"]
    expected = params["cls_token"][0, 0] + params["positions"][0]
    np.testing.assert_allclose(none[:, 0], jnp.broadcast_to(expected, (2, 16)), atol=1e-6)
    fresh = jax.jit(lambda key: net[0].init(key, images(1))["params"]["block_1"]["scale2"])(jax.random.key(0))
    np.testing.assert_array_equal(fresh, np.full(16, 1e-5, np.float32))


def test_bfloat16_computes_matrices_small_and_norms_in_float32():
    net, x = network(dtype=jnp.bfloat16), images()
    shapes = jax.eval_shape(net[0].init, jax.random.key(0), x)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(shapes))  # parameters stay whole
    out = run(net, x, capture=("block_0", "attention_0"))
    for name in ("feat", "cls_prenorm", "tokens", "patch_mean", "map", "last4_cls", "attention_0"):
        assert out[name].dtype == jnp.float32, name
    assert out["block_0"].dtype == jnp.bfloat16
    exact = run(network(), x)["feat"]
    assert 1e-4 < np.abs(out["feat"] - exact).max() < 0.2
    # A norm in bfloat16 would leave 8 bits in its result; in float32 the low bits are there.
    low_bits = np.asarray(out["feat"]).view(np.uint32) & 0xFFFF
    assert (low_bits != 0).mean() > 0.9


def test_attention_scores_stay_float32_under_bfloat16():
    """Queries and keys are the tokens (16, 1) and (16, 0): the first one's scores are 257 and 256, over the root of 2.
    bfloat16 has no 257 and would find them alike."""
    x = jnp.asarray([[[16.0, 1.0], [16.0, 0.0]]])
    kernel = jnp.concatenate([jnp.eye(2)] * 3, axis=1)
    variables = {
        "params": {
            "qkv": {"kernel": kernel, "bias": jnp.zeros(6)},
            "proj": {"kernel": jnp.eye(2), "bias": jnp.zeros(2)},
        }
    }
    _, weights = Attention(heads=1, dtype=jnp.bfloat16).apply(variables, x, True)
    assert float(weights[0, 0, 0, 0]) == pytest.approx(1 / (1 + math.exp(-1 / math.sqrt(2))), abs=1e-5)


@functools.cache
def gradients(remat):
    """Loss and gradients of a network with drop path and attention of its first block, and the program for them."""
    vit, variables = network(remat=remat, drop_path=0.5)

    def loss(params, x):
        out = vit.apply(
            {"params": params}, x, train=True, capture=("attention_0",), rngs={"drop_path": jax.random.key(1)}
        )
        return jnp.sum(out["feat"] ** 2) + jnp.sum(out["attention_0"] ** 2)

    step = jax.value_and_grad(loss)
    return jax.jit(step)(variables["params"], images()), str(jax.make_jaxpr(step)(variables["params"], images()))


@pytest.mark.parametrize("remat", ["dots", "blocks"])
def test_what_is_computed_again_changes_no_gradient(remat):
    (plain, expected), (found, again) = gradients("none")[0], gradients(remat)[0]
    assert float(found) == pytest.approx(float(plain), rel=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), again, expected)


def test_every_block_is_computed_again_and_dots_keep_more():
    """Each of two blocks is marked. `blocks` runs three products with weights again in each of them, qkv, proj and fc1;
    what fc2 returns nothing needs."""
    programs = {remat: gradients(remat)[1] for remat in REMATS}
    assert [programs[remat].count("checkpoint[") + programs[remat].count("remat2[") for remat in REMATS] == [0, 2, 2]
    products = {remat: program.count("dot_general[") for remat, program in programs.items()}
    assert products["none"] < products["dots"] < products["blocks"]
    assert products["blocks"] - products["dots"] == 2 * 3
