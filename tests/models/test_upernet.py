"""The decoder: which maps it reads, how it pools, and that every pixel's logits see their own place."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gssl_jax.models.resnet import ResNet
from gssl_jax.models.upernet import UperNet, captured, pooling, pyramid
from gssl_jax.models.vit import ViT

VIT = ViT(image_size=8, patch=2, width=8, depth=2, heads=2, channels=1, registers=1)


@pytest.mark.parametrize(
    ("depth", "blocks"),
    [(12, (2, 5, 8, 11)), (24, (5, 11, 17, 23)), (3, (0, 1, 2, 2)), (1, (0, 0, 0, 0)), (4, (0, 1, 2, 3))],
)
def test_blocks_are_evenly_spaced_and_end_with_the_last(depth, blocks):
    network = VIT.clone(depth=depth)
    assert captured(network) == tuple(f"block_{i}" for i in blocks)


def test_stages_of_residual_networks():
    three = ResNet(image_size=8, block="basic", depths=(1, 1, 1), widths=(4, 4, 4))
    assert captured(three) == ("stem", "stage_1", "stage_2", "stage_3")
    four = ResNet(image_size=8, block="basic", depths=(1, 1, 1, 1), widths=(4, 4, 4, 4))
    assert captured(four) == ("stage_1", "stage_2", "stage_3", "stage_4")


@pytest.mark.parametrize(("length", "bins"), [(6, 3), (7, 3), (4, 6), (5, 1)])
def test_adaptive_pooling_as_torch_defines_it(length, bins):
    values = np.random.default_rng(0).normal(size=length)
    expected = [values[i * length // bins : int(np.ceil((i + 1) * length / bins))].mean() for i in range(bins)]
    np.testing.assert_allclose(pooling(length, bins) @ values, expected, rtol=1e-6)


def test_maps_of_a_transformer_are_its_patches_at_four_scales():
    """Registers and the class token are left out, and the third map is the grid itself."""
    out = {"map": jnp.zeros((2, 4, 4, 8)), "block_0": jnp.arange(2 * 18 * 8.0).reshape(2, 18, 8)}
    maps = pyramid(VIT, out, ("block_0",) * 4)
    assert [one.shape for one in maps] == [(2, 16, 16, 8), (2, 8, 8, 8), (2, 4, 4, 8), (2, 2, 2, 8)]
    np.testing.assert_array_equal(maps[2], out["block_0"][:, 2:].reshape(2, 4, 4, 8))


def test_logits_of_every_place():
    rng = np.random.default_rng(0)
    maps = [jnp.asarray(rng.normal(size=(2, side, side, 4)), jnp.float32) for side in (8, 4, 2, 1)]
    decoder = UperNet(8, 3)
    variables = jax.jit(decoder.init)(jax.random.key(0), maps)
    run = jax.jit(decoder.apply)
    logits = run(variables, maps)
    assert logits.shape == (2, 8, 8, 3) and logits.dtype == jnp.float32
    for level, one in enumerate(maps):  # every map reaches the logits, of its own image alone
        moved = list(maps)
        moved[level] = one.at[0, 0, 0, 0].add(3.0)  # all channels alike would be undone by the norm
        change = np.abs(run(variables, moved) - logits).max((1, 2, 3))
        assert change[0] > 1e-4 and change[1] == 0, level
