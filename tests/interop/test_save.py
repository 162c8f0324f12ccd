"""Weights out: names written out, features of the transformer written from timm's conventions, and the way back."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from gssl_jax.errors import UserError
from gssl_jax.interop.load import load_backbone
from gssl_jax.interop.save import safetensors_bytes, timm_model, timm_weights, write_checked
from gssl_jax.models.resnet import resnet
from tests.interop.transformer import blank, features, images, save, vit

BLOCK = ["norm1.weight", "norm1.bias", "attn.qkv.weight", "attn.qkv.bias", "attn.proj.weight", "attn.proj.bias",
         "norm2.weight", "norm2.bias", "mlp.fc1.weight", "mlp.fc1.bias", "mlp.fc2.weight", "mlp.fc2.bias"]  # fmt: skip
VIT = ["cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias", "norm.weight", "norm.bias"]
NORM = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]


def drawn(backbone):
    """Random variables; variances are positive."""
    rng = np.random.default_rng(0)

    def values(path, leaf):
        x = rng.standard_normal(leaf.shape).astype(np.float32)
        return np.abs(x) + 0.5 if path[-1].key == "var" else x

    return jax.tree_util.tree_map_with_path(values, blank(backbone))


VITS = {
    "plain": dict(),
    "layer scale": dict(layer_scale=0.1),
    "registers": dict(registers=2),
    "fixed positions": dict(positions="sincos"),
    "grey": dict(channels=1),
}


@pytest.mark.parametrize("changes", VITS.values(), ids=VITS)
def test_a_vit_has_timm_s_names_and_its_features_under_them(changes):
    backbone = vit(**changes)
    variables = drawn(backbone)
    weights = timm_weights(backbone, variables)
    names = {*VIT, *(f"blocks.{i}.{name}" for i in (0, 1) for name in BLOCK)}
    if "layer_scale" in changes:
        names |= {f"blocks.{i}.ls{k}.gamma" for i in (0, 1) for k in (1, 2)}
    if "registers" in changes:
        names |= {"reg_token"}
    assert set(weights) == names
    assert weights["pos_embed"].shape == (1, 9 if "registers" in changes else 10, 8)
    x, registers = images(backbone.channels), backbone.registers
    wanted = features(weights, x, positions_at=1 if registers else 0)
    out = backbone.apply(variables, x)
    np.testing.assert_allclose(out["feat"], wanted[:, 0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(out["tokens"], wanted[:, 1 + registers :], rtol=1e-4, atol=1e-4)


def resnet_names(stages, convolutions, shortcuts):
    """Names of torchvision's ResNet without fc."""
    names = {"conv1.weight", *(f"bn1.{n}" for n in NORM)}
    for stage, depth in enumerate(stages, 1):
        for block in range(depth):
            place = f"layer{stage}.{block}"
            for k in range(1, convolutions + 1):
                names |= {f"{place}.conv{k}.weight", *(f"{place}.bn{k}.{n}" for n in NORM)}
            if place in shortcuts:
                names |= {f"{place}.downsample.0.weight", *(f"{place}.downsample.1.{n}" for n in NORM)}
    return names


@pytest.mark.parametrize(
    ("name", "convolutions", "shortcuts"),
    [("resnet18", 2, {"layer2.0"}), ("resnet50", 3, {"layer1.0", "layer2.0"}), ("resnet14", 2, set())],
)
def test_a_resnet_has_torchvision_s_names_and_comes_back(tmp_path, name, convolutions, shortcuts):
    backbone = resnet(name, image_size=32, depths=(2, 1), widths=(4, 8), stem_width=4)
    variables = drawn(backbone)
    weights = timm_weights(backbone, variables)
    assert set(weights) == resnet_names((2, 1), convolutions, shortcuts)
    assert weights["bn1.num_batches_tracked"].dtype == np.int64
    read, table = load_backbone(save(tmp_path / "w", weights), backbone, blank(backbone))
    jax.tree.map(np.testing.assert_array_equal, read, variables)
    assert table.layout == "timm (safetensors)"


def test_a_vit_comes_back_bit_for_bit(tmp_path):
    backbone = vit(layer_scale=0.1)
    variables = drawn(backbone)
    read, _ = load_backbone(save(tmp_path / "w", timm_weights(backbone, variables)), backbone, blank(backbone))
    jax.tree.map(np.testing.assert_array_equal, read, variables)


def test_wide_networks_have_no_names():
    backbone = resnet("wrn_28_2", image_size=8, depths=(1, 1), widths=(4, 6))
    with pytest.raises(UserError, match="no names in timm.*--format=stablehlo"):
        timm_weights(backbone, drawn(backbone))


def test_the_model_to_build_in_timm():
    found = timm_model(vit(registers=4, layer_scale=0.1, layer_norm_eps=1e-5))
    assert found["class"] == "timm.models.vision_transformer.VisionTransformer" and found["layer_norm_eps"] == 1e-5
    assert found["arguments"] == {
        "img_size": 12, "patch_size": 4, "in_chans": 3, "embed_dim": 8, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0,
        "num_classes": 0, "init_values": 0.1, "reg_tokens": 4, "no_embed_class": True,
    }  # fmt: skip
    found = timm_model(resnet("resnet50", image_size=224, channels=5))
    assert found == {"class": "timm.models.resnet.ResNet", "block": "timm.models.resnet.Bottleneck",
                     "arguments": {"layers": [3, 4, 6, 3], "in_chans": 5, "num_classes": 0}}  # fmt: skip
    assert timm_model(resnet("resnet18", image_size=32, stem="cifar"))["class"] == ""


def test_facts_travel_in_the_file(tmp_path):
    weights = {"a": np.arange(6, dtype=np.float32).reshape(2, 3).T, "n": np.zeros((), np.int64)}
    (tmp_path / "w").write_bytes(safetensors_bytes(weights, {"images": {"mean": [0.5]}}))
    with safetensors.safe_open(tmp_path / "w", "numpy") as file:
        metadata = file.metadata()
    assert metadata["format"] == "pt" and json.loads(metadata["images"]) == {"mean": [0.5]}
    np.testing.assert_array_equal(safetensors.numpy.load_file(tmp_path / "w")["a"], [[0, 3], [1, 4], [2, 5]])


def test_a_file_gets_its_name_only_after_the_check(tmp_path):
    path = tmp_path / "new" / "w"
    assert write_checked(path, b"one", lambda p: float(p.read_bytes() == b"one" and not path.exists())) == 1.0
    assert path.read_bytes() == b"one"

    def refuse(_):
        raise UserError("no")

    with pytest.raises(UserError, match="no"):
        write_checked(path, b"two", refuse)
    assert path.read_bytes() == b"one" and [p.name for p in path.parent.iterdir()] == ["w"]
