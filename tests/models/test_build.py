"""Backbones from the configuration, and every mistake it names before anything is computed."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from gssl_jax.errors import UserError
from gssl_jax.models.build import build_backbone, compute_dtype, with_remat
from gssl_jax.models.resnet import resnet
from gssl_jax.models.vit import ViT
from tests.tiny import tiny_config


def test_every_setting_reaches_the_network():
    config = tiny_config(
        data__image_size=24, data__channels=3, data__mean=(0.1, 0.2, 0.3), data__std=(0.4, 0.5, 0.6), backbone__patch=8,
        backbone__width=20, backbone__depth=3, backbone__heads=5, backbone__mlp_ratio=3.0, backbone__registers=2,
        backbone__positions="sincos", backbone__drop_path=0.2, backbone__layer_scale=0.1, backbone__layer_norm_eps=1e-5,
        backbone__dtype="bfloat16",
    )  # fmt: skip
    vit = build_backbone(config)
    for name in ("patch", "width", "depth", "heads", "mlp_ratio", "registers", "positions", "drop_path", "layer_scale",
                 "layer_norm_eps"):  # fmt: skip
        assert getattr(vit, name) == config.backbone[name], name
    assert (vit.image_size, vit.channels, vit.dtype) == (24, 3, jnp.bfloat16)
    assert (vit.mean, vit.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    out = jax.eval_shape(lambda x: vit.init_with_output(jax.random.key(0), x)[0], jnp.zeros((2, 24, 24, 3)))
    assert out["map"].shape == (2, 3, 3, 20)


@pytest.mark.parametrize(("changes", "message"), [
    (dict(data__image_size=30), "not divisible by backbone.patch=4: set --config.data.image_size=28"),
    (dict(data__image_size=3), "data.image_size=3 is smaller than backbone.patch=4"),
    (dict(backbone__heads=3), "backbone.width=16 is not divisible by backbone.heads=3"),
    (dict(backbone__positions="sincosine"), "unknown backbone.positions 'sincosine'; did you mean 'sincos'"),
    (dict(backbone__dtype="bfloat61"), "unknown backbone.dtype 'bfloat61'; did you mean 'bfloat16'"),
    (dict(data__mean=(0.1, 0.2, 0.3)), "data.mean has 3 values for 1 channels"),
    (dict(data__std=(0.1, 0.2)), "data.std has 2 values for 1 channels"),
])  # fmt: skip
def test_mistakes_are_named_in_one_line(changes, message):
    with pytest.raises(UserError) as caught:
        build_backbone(tiny_config(**changes))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_auto_is_float32_on_a_cpu_and_bfloat16_elsewhere(monkeypatch):
    assert compute_dtype("auto") == jnp.float32
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert compute_dtype("auto") == jnp.bfloat16
    assert compute_dtype("float32") == jnp.float32


def test_what_is_computed_again_is_for_transformers():
    vit, convolutions = ViT(image_size=8, patch=4, width=8, depth=1, heads=2), resnet("resnet18", image_size=8)
    assert with_remat(vit, "dots") == vit.clone(remat="dots") and with_remat(vit, "none") is vit
    assert with_remat(convolutions, "none") is convolutions
    with pytest.raises(UserError, match="run.remat=none for a ResNet"):
        with_remat(convolutions, "blocks")
    with pytest.raises(UserError, match="unknown run.remat 'block'; did you mean 'blocks'"):
        with_remat(vit, "block")
