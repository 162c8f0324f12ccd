"""Rates by layer and by step, and an update of either optimiser, by hand and against optax."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from gssl_jax import protocols
from gssl_jax.errors import UserError
from gssl_jax.evals import sgd, tuning
from gssl_jax.models.resnet import ResNet, resnet
from gssl_jax.models.vit import ViT
from gssl_jax.presets import evaluation

VIT = ViT(image_size=8, patch=4, width=8, depth=3, heads=2, channels=1, registers=1, drop_path=0.1)
RESNET = ResNet(image_size=8, block="preactivation", depths=(2, 1), widths=(4, 8), stem_width=4, channels=1)


def settings(**changes):
    chosen = evaluation("digits", "", "train", "test", 8).finetune
    chosen.update(changes)
    return chosen


def params_of(network):
    shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1))))["params"]
    ones = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), shapes)
    return {"backbone": ones, "head": {"weight": jnp.ones((8, 3)), "bias": jnp.ones(3)}}


def by_name(network, decay):
    """Factor of every part of the network; each part has one."""
    factors = tuning.layer_factors(params_of(network), network, decay)
    found = {
        name: set(jax.tree.leaves(part)) for name, part in {**factors["backbone"], "head": factors["head"]}.items()
    }
    assert all(len(one) == 1 for one in found.values())
    return {name: one.pop() for name, one in found.items()}


def test_a_transformer_of_three_blocks_has_five_layers():
    """Patches, class token, positions: layer 0 of 4, so .5^4; blocks .5^3, .5^2, .5; norm and head 1."""
    assert by_name(VIT, 0.5) == {
        **{name: 0.0625 for name in ("patch_embed", "cls_token", "positions", "registers")},
        **{"block_0": 0.125, "block_1": 0.25, "block_2": 0.5, "norm": 1.0, "head": 1.0},
    }
    assert set(by_name(VIT, 1.0).values()) == {1.0}


def test_a_residual_network_has_its_stages_as_layers():
    """Stem .5^3, two blocks of the first stage .5^2, the second stage .5, the last norm and the head 1."""
    assert by_name(RESNET, 0.5) == {
        "stem": 0.125,
        "block_0": 0.25,
        "block_1": 0.25,
        "block_2": 0.5,
        "norm": 1.0,
        "head": 1.0,
    }
    own = resnet("resnet18", image_size=8, stem="cifar", channels=1)
    shapes = jax.eval_shape(lambda: own.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1))))["params"]
    factors = tuning.layer_factors({"backbone": shapes, "head": {}}, own, 0.5)["backbone"]
    assert factors["norm_stem"]["scale"] == 2**-5 and factors["block_7"]["conv1"]["kernel"] == 0.5


def test_rates_of_a_ramp_and_a_cosine_by_hand():
    """40 steps, of which 4 warm up; then cos from 0 to pi over 36 steps: half of it at step 22."""
    cosine = settings(schedule="cosine", warmup=0.1)
    found = [tuning.rate_at(step, 0.2, cosine, 40, ()) for step in (0, 3, 4, 22, 13, 39)]
    quarter = 0.2 * 0.5 * (1 + np.cos(np.pi / 4))
    np.testing.assert_allclose(found, [0.05, 0.2, 0.2, 0.1, quarter, 0.1 * (1 + np.cos(np.pi * 35 / 36))], rtol=1e-5)
    plain = settings()
    for step in (0, 832, 833, 2000):
        assert tuning.rate_at(step, 0.1, plain, 2500, (833, 1667)) == sgd.rate_at(step, 0.1, (833, 1667), 0.1)


@pytest.mark.parametrize("optimiser", tuning.OPTIMISERS)
def test_two_updates_against_optax(optimiser):
    """With one rate for all, no layer decay and nothing frozen; what decays are the matrices."""
    rule = tuning.rule_of(settings(optimiser=optimiser, weight_decay=0.1, head_rate=1.0))
    params = jax.tree.map(lambda leaf: leaf * 0.3, params_of(VIT))
    mask = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf.ndim > 1 and path[-1].key not in ("cls_token", "positions", "registers"), params
    )
    reference = {
        "adamw": optax.adamw(0.01, 0.9, 0.999, weight_decay=0.1, mask=mask),
        "sgd": optax.chain(optax.add_decayed_weights(0.1, mask), optax.sgd(0.01, 0.9)),
    }[optimiser]
    state, other, wanted = tuning.moments(rule).init(params), reference.init(params), params
    for step in range(2):
        gradients = jax.tree.map(lambda leaf, s=step: jnp.cos(leaf * (s + 2)), params)
        params, state = tuning.moved(params, state, gradients, 0.01, rule, VIT)
        updates, other = reference.update(gradients, other, wanted)
        wanted = optax.apply_updates(wanted, updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5), params, wanted)


def test_every_layer_moves_at_its_rate():
    rule = tuning.rule_of(settings(layer_decay=0.5, head_rate=10.0))
    params = params_of(VIT)
    new, _ = tuning.moved(params, tuning.moments(rule).init(params), params, 0.1, rule, VIT)
    moves = jax.tree.map(lambda a, b: np.unique(np.round(b - a, 6)).item(), params, new)
    assert moves["head"]["weight"] == pytest.approx(-1.0) and moves["backbone"]["norm"]["scale"] == pytest.approx(-0.1)
    assert moves["backbone"]["block_0"]["fc1"]["kernel"] == pytest.approx(-0.0125)
    assert moves["backbone"]["positions"] == pytest.approx(-0.00625)


def test_smoothing_by_hand():
    """.1 spread over 4 classes: .925 for the label and .025 for each other."""
    logits, labels = jnp.asarray([[1.0, 2.0, 0.0, -1.0]]), jnp.asarray([1])
    log_p = np.asarray(jax.nn.log_softmax(logits))[0]
    wanted = -(np.asarray([0.025, 0.925, 0.025, 0.025]) * log_p).sum()
    assert float(sgd.class_loss(logits, labels, 0.1)) == pytest.approx(wanted, rel=1e-5)
    several, told = jnp.asarray([[2.0, -1.0]]), jnp.asarray([[1.0, jnp.nan]])
    p = 1 / (1 + np.exp(-2.0))
    assert float(sgd.class_loss(several, told, 0.1)) == pytest.approx(
        -(0.95 * np.log(p) + 0.05 * np.log(1 - p)), rel=1e-5
    )


def test_what_a_backbone_cannot_follow():
    tuning.check_backbone(settings(trains="last_k", last_blocks=3), VIT)
    tuning.check_backbone(settings(drop_path=0.3), VIT)
    for changes, network in (
        (dict(trains="last_k", last_blocks=4), VIT),
        (dict(trains="last_k", last_blocks=0), RESNET),
        (dict(drop_path=0.1), RESNET),
        (dict(drop_path=1.0), VIT),
    ):
        with pytest.raises(UserError, match="evals.finetune"):
            tuning.check_backbone(settings(**changes), network)
    assert tuning.with_drop_path(VIT, -1.0) is VIT and tuning.with_drop_path(VIT, 0.0).drop_path == 0.0


def test_the_protocol_of_transformers_is_one_that_is_known():
    c = ConfigDict({"evals": evaluation("digits", "", "train", "test", 8)})
    protocols.vit_finetuning(c)
    tuning.check(c.evals.finetune)
    assert tuning.rule_of(c.evals.finetune) == ("adamw", "all", 1, 0.9, 0.999, 0.05, 0.75, 1.0, 0.1)
