"""Which leaves a rule trains, counted and by name, and that the others stay as they are, bit for bit."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gssl_jax.errors import UserError
from gssl_jax.methods.base import Clock
from gssl_jax.methods.gated import build
from gssl_jax.models.build import build_backbone
from gssl_jax.models.resnet import ARCHITECTURES, ResNet
from gssl_jax.training.optimizer import build_optimiser
from gssl_jax.training.state import create_state
from gssl_jax.training.step import transition
from gssl_jax.training.trainable import limited, trained
from tests.runs.recipes import recipe

SIDE = 8


def shapes(network, side):
    image = jax.ShapeDtypeStruct((1, side, side, 3), np.float32)
    return {"backbone": jax.eval_shape(network.init, jax.random.key(0), image)["params"]}


def count(params, rule, blocks=0):
    on = trained(params, rule, blocks)
    return sum(leaf.size for leaf, yes in zip(jax.tree.leaves(params), jax.tree.leaves(on), strict=True) if yes)


def test_norms_of_a_resnet_50_are_its_scales_and_shifts():
    """Specification 3.12, 6: 26,560 channels under batch norm, two numbers each, of 23,508,032."""
    params = shapes(ResNet(image_size=64, **ARCHITECTURES["resnet50"]), 64)
    assert count(params, "norm") == 53120 and count(params, "all") == 23508032 and count(params, "heads") == 0


def test_blocks_are_counted_from_the_end_and_heads_always_train():
    c = recipe("tiny,backbone=vit_micro4", "gated_cifar_lt")
    params = shapes(build_backbone(c), 32) | {"heads": {"classifier": {"kernel": np.zeros((2, 3))}}}
    on = trained(params, "last_k", 2)
    assert set(jax.tree.leaves(on["heads"])) == {True}
    names = {name for name, leaves in on["backbone"].items() if all(jax.tree.leaves(leaves))}
    assert names == {"block_2", "block_3", "norm"}
    assert not any(jax.tree.leaves({k: v for k, v in on["backbone"].items() if k not in names}))
    norms = trained(params, "norm", 0)["backbone"]
    assert norms["block_0"]["norm1"] == {"scale": True, "bias": True} and not norms["block_0"]["fc1"]["kernel"]
    assert not norms["cls_token"] and norms["norm"]["scale"]


def test_what_makes_no_sense_is_refused():
    params = shapes(ResNet(image_size=8, block="basic", depths=(1, 1), widths=(4, 8), stem_width=4), 8)
    with pytest.raises(UserError, match="optim.trains 'norms'; did you mean 'norm'"):
        trained(params, "norms", 0)
    for blocks in (0, 3):
        with pytest.raises(UserError, match=f"last_blocks={blocks}, and the backbone has 2 blocks.*1 up to 2"):
            trained(params, "last_k", blocks)


@pytest.mark.parametrize("rule", ["norm", "heads"])
def test_frozen_leaves_stay_and_the_others_learn_as_if_alone(rule):
    """After two steps with decay, clipping and momentum: frozen leaves are bit-identical, trained ones have moved,
    statistics too; the moments hold nothing for frozen leaves, and the norm of the gradient is that of trained ones."""
    c = recipe("tiny", "gated_cifar_lt")
    c.data.image_size = c.data.canvas = c.method.augment.train.size = SIDE
    c.data.crop, c.optim.clip_norm, c.optim.warmup, c.method.gate.mode = "device", 0.5, 0.0, "sum"
    c.method.pretexts.names = ("flip",)
    network = ResNet(image_size=SIDE, block="basic", depths=(1, 1), widths=(4, 8), stem_width=4)
    free, clock = build(c, network, Clock(6, 1), np.array([5, 4, 3])), Clock(6, 1)
    method, optimiser = limited(free, build_optimiser(c.optim, clock), rule, 0)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (12, 1, SIDE, SIDE, 3)).astype(np.uint8)
    rows = np.arange(12, dtype=np.int32)
    batch = {"train": {"image": images, "index": rows, "draw": rows, "label": rows % 3}}
    state = jax.jit(lambda b, k: create_state(method, optimiser, b, k))(batch, jax.random.key(0))
    step = jax.jit(lambda s, b: transition(method, optimiser, s, b))
    after, metrics, _ = step(state, batch)
    after, _, _ = step(after, batch)
    on = trained(state.params, rule, 0)
    for path, yes in jax.tree_util.tree_leaves_with_path(on):
        old, new = (leaf_at(s.params, path) for s in (state, after))
        assert bool(jnp.array_equal(old, new)) != yes, path
    old, new = (s.method_state["batch_stats"]["norm_stem"]["mean"] for s in (state, after))
    assert not jnp.array_equal(old, new)
    moments = optax.tree.get(after.opt_state, "trace")
    assert sum(leaf.size for leaf in jax.tree.leaves(moments)) == count(state.params, rule)

    views = method.views(batch, jax.random.fold_in(jax.random.key(0), 0), jnp.int32(0))
    keys = (jax.random.key(2), jnp.int32(0), True)
    whole = jax.jit(jax.grad(lambda p: free.loss(p, state.method_state, views, *keys)[0]))(state.params)
    part = jax.jit(jax.grad(lambda p: method.loss(p, state.method_state, views, *keys)[0]))(state.params)
    for (path, yes), full, own in zip(
        jax.tree_util.tree_leaves_with_path(on), jax.tree.leaves(whole), jax.tree.leaves(part), strict=True
    ):
        np.testing.assert_allclose(own, full if yes else jnp.zeros_like(full), rtol=1e-4, atol=1e-6, err_msg=str(path))
    assert float(metrics["train/gradient_norm"]) > 0


def leaf_at(tree, path):
    for key in path:
        tree = tree[key.key]
    return tree


def test_the_patch_embedding_can_stay_as_it_is():
    """MoCo-v3's trick: every other leaf of a ViT trains; a network without patches has nothing to keep."""
    tree = {
        "backbone": {"patch_embed": {"kernel": 0.0, "bias": 0.0}, "block_0": {"fc1": {"kernel": 0.0}}},
        "heads": 0.0,
    }
    found = trained(tree, "all_but_patch_embed", 0)
    assert found["backbone"]["patch_embed"] == {"kernel": False, "bias": False}
    assert found["backbone"]["block_0"]["fc1"]["kernel"] and found["heads"]
    with pytest.raises(UserError, match="no patch embedding: set --config.optim.trains=all"):
        trained({"backbone": {"conv": {"kernel": 0.0}}}, "all_but_patch_embed", 0)
