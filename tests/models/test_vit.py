"""The vision transformer: parameters, every output against loops in float64, outputs by name, positions and sizes."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gssl_jax.models.vit import ViT, resized_positions, sincos_positions
from tests.models.networks import SMALL, images, network, run


def count(vit, size):
    shapes = jax.eval_shape(
        vit.init, jax.random.key(0), jax.ShapeDtypeStruct((1, size, size, vit.channels), jnp.float32)
    )
    return sum(math.prod(x.shape) for x in jax.tree.leaves(shapes))


# -- parameters ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "heads", "expected"), [(384, 6, 21_665_664), (768, 12, 85_798_656)])
def test_parameters_of_the_published_sizes(width, heads, expected):
    assert count(ViT(image_size=224, patch=16, width=width, depth=12, heads=heads), 224) == expected


def test_parameters_of_the_options():
    """Against the small network: 3 registers of 16; 2 scales of 16 in each of 2 blocks; no table of 9 + 1 positions."""
    plain = count(ViT(**SMALL), 12)
    assert count(ViT(**SMALL, registers=3), 12) == plain + 3 * 16
    assert count(ViT(**SMALL, layer_scale=1e-5), 12) == plain + 2 * 2 * 16
    assert count(ViT(**SMALL, positions="sincos"), 12) == plain - 10 * 16
    assert count(ViT(**SMALL, drop_path=0.5), 12) == plain


# -- outputs ---------------------------------------------------------------------------------------------------------


def layer_norm(x, p, eps=1e-6):
    x = np.float64(x)
    unit = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)
    return unit * np.float64(p["scale"]) + np.float64(p["bias"])


def dense(x, p):
    return x @ np.float64(p["kernel"]) + np.float64(p["bias"])


def exact_gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def by_loop(p, x, mean, std, heads=2, patch=4, gelu=exact_gelu):
    """The network of one image by explicit loops over patches, blocks and heads, in float64."""
    x = (np.float64(x) - mean) / std
    cells = range(x.shape[0] // patch)
    tokens = [x[r * patch : (r + 1) * patch, c * patch : (c + 1) * patch].reshape(-1) for r in cells for c in cells]
    tokens = [dense(t, p["patch_embed"]) + np.float64(p["positions"])[1 + i] for i, t in enumerate(tokens)]
    x = np.stack([np.float64(p["cls_token"])[0, 0] + np.float64(p["positions"])[0], *tokens])
    attentions = []
    for i in range(sum(name.startswith("block_") for name in p)):
        b = p[f"block_{i}"]
        q, k, v = np.split(dense(layer_norm(x, b["norm1"]), b["attn"]["qkv"]), 3, axis=-1)
        out, d = [], q.shape[-1] // heads
        for j in range(heads):
            part = slice(j * d, (j + 1) * d)
            attentions.append(softmax(q[:, part] @ k[:, part].T / np.sqrt(d)))
            out.append(attentions[-1] @ v[:, part])
        x = x + dense(np.concatenate(out, axis=-1), b["attn"]["proj"])
        x = x + dense(gelu(dense(layer_norm(x, b["norm2"]), b["fc1"])), b["fc2"])
    return x, layer_norm(x, p["norm"]), attentions


def test_forward_pass_equals_loops_in_float64():
    """Normalisation, order of patches, positions, attention, exact GELU (the tanh form misses by 1e-4 and more here),
    and every output."""
    net = network(mean=(0.4,), std=(0.3,))
    x = images()
    out = run(net, x, capture=("block_0", "block_1", "attention_0", "attention_1"))
    for i in range(2):
        raw, normed, attentions = by_loop(net[1]["params"], x[i], 0.4, 0.3)
        close = functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-5)
        close(out["feat"][i], normed[0])
        close(out["cls_prenorm"][i], raw[0])
        close(out["tokens"][i], normed[1:])
        close(out["patch_mean"][i], normed[1:].mean(axis=0))
        close(out["map"][i], normed[1:].reshape(3, 3, 16))
        close(out["block_1"][i], raw)
        close(np.concatenate([out["attention_0"][i], out["attention_1"][i]]), attentions)
        block_0 = layer_norm(out["block_0"][i][0], net[1]["params"]["norm"])
        close(out["last4_cls"][i], np.concatenate([block_0, normed[0]]))


def test_the_tanh_form_of_gelu_would_be_seen():
    """It is further away than the tolerance above."""

    def tanh_form(x):
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    p, x = network(mean=(0.4,), std=(0.3,))[1]["params"], images()[0]
    assert np.abs(by_loop(p, x, 0.4, 0.3, gelu=tanh_form)[1] - by_loop(p, x, 0.4, 0.3)[1]).max() > 1e-4


def test_captured_outputs_change_nothing_else():
    net, x = network(mean=(0.4,), std=(0.3,)), images()
    plain, captured = run(net, x), run(net, x, capture=("block_0", "block_1", "attention_0", "attention_1"))
    for name in plain:
        np.testing.assert_allclose(plain[name], captured[name], atol=2e-5)
    assert set(captured) - set(plain) == {"block_0", "block_1", "attention_0", "attention_1"}
    assert captured["attention_0"].shape == (2, 2, 10, 10)


@pytest.mark.parametrize("name", ["block_2", "attention_7", "blocks_0"])
def test_unknown_output(name):
    vit, variables = network()
    with pytest.raises(ValueError, match=rf"2 blocks and no output named \['{name}'\]"):
        jax.eval_shape(lambda v: vit.apply(v, images(), capture=("block_0", name)), variables)


def test_registers_are_not_patch_tokens():
    out = run(network(registers=3), images(), capture=("block_1",))
    assert out["block_1"].shape == (2, 1 + 3 + 9, 16)
    assert out["tokens"].shape == (2, 9, 16)
    vit, variables = network(registers=3)
    raw = layer_norm(out["block_1"][:, 4:], variables["params"]["norm"])
    np.testing.assert_allclose(out["tokens"], raw, rtol=1e-4, atol=1e-4)
    moved = jax.tree_util.tree_map_with_path(
        lambda p, x: x.at[..., 0].add(1) if p[-1].key == "registers" else x, variables
    )
    assert np.abs(run((vit, moved), images())["feat"] - out["feat"]).max() > 1e-2  # and yet they are attended to


@pytest.mark.parametrize("channels", [1, 5])
def test_any_number_of_channels(channels):
    """Mean and deviation of one number serve every channel; with one number each they follow the channel."""
    x = images(channels=channels)
    one, variables = network(channels=channels, mean=(0.4,), std=(0.3,))
    each = ViT(**{**SMALL, "channels": channels, "mean": (0.4,) * channels, "std": (0.3,) * channels})
    np.testing.assert_allclose(run((one, variables), x)["feat"], run((each, variables), x)["feat"], atol=1e-5)
    assert variables["params"]["patch_embed"]["kernel"].shape == (16 * channels, 16)


# -- image sizes and positions ---------------------------------------------------------------------------------------


def test_sincos_positions_by_hand():
    """Width 8: two frequencies, 1 and 1/100; first half the column, second half the row; sines before cosines."""
    p = np.asarray(sincos_positions(3, 8))
    r, c = 1, 2
    column = [math.sin(c), math.sin(c / 100), math.cos(c), math.cos(c / 100)]
    row = [math.sin(r), math.sin(r / 100), math.cos(r), math.cos(r / 100)]
    np.testing.assert_allclose(p[r * 3 + c], column + row, atol=1e-6)
    assert p.shape == (9, 8) and len(np.unique(p.round(5), axis=0)) == 9
    with pytest.raises(ValueError, match="divisible by 4, got 6"):
        sincos_positions(3, 6)


def test_sincos_network_moves_with_its_patches():
    """Without positions the order of patches would not matter; with them it does."""
    net, x = network(positions="sincos"), images()
    assert np.abs(run(net, x)["feat"] - run(net, x[:, ::-1])["feat"]).max() > 1e-3
    with pytest.raises(ValueError, match="'learned' or 'sincos', got 'rotary'"):
        jax.eval_shape(ViT(**SMALL, positions="rotary").init, jax.random.key(0), x)


def test_resized_positions_keep_the_corners_apart_and_a_constant_constant():
    table = jnp.asarray(np.random.default_rng(0).random((9, 4), np.float32))
    assert resized_positions(table, 3) is table
    np.testing.assert_allclose(resized_positions(jnp.ones((9, 4)), 5), 1.0, atol=1e-6)
    ramp = jnp.broadcast_to(jnp.arange(4.0)[None, :, None], (4, 4, 2)).reshape(16, 2)  # grows along the columns
    grid = np.asarray(resized_positions(ramp, 2)).reshape(2, 2, 2)
    np.testing.assert_allclose(grid[0], grid[1], atol=1e-6)
    np.testing.assert_allclose(grid[0, :, 0], [0.5, 2.5], atol=0.1)  # centres of the left and of the right half


def test_one_parameter_set_serves_other_image_sizes():
    net = network()
    small, large = run(net, images(size=8)), run(net, images(size=20))
    assert small["tokens"].shape == (2, 4, 16) and large["map"].shape == (2, 5, 5, 16)
    again = jax.eval_shape(net[0].init, jax.random.key(0), images(1, 8))
    assert jax.tree.map(jnp.shape, again) == jax.tree.map(jnp.shape, net[1])
    # The same as a network made for that size whose table holds the resized positions.
    table = net[1]["params"]["positions"]
    resized = jnp.concatenate([table[:1], resized_positions(table[1:], 2)])
    direct = {"params": {**net[1]["params"], "positions": resized}}
    np.testing.assert_allclose(run((ViT(**{**SMALL, "image_size": 8}), direct), images(size=8))["feat"], small["feat"],
                               atol=1e-5)  # fmt: skip
