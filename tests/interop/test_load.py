"""Weights into backbones: features against a transformer written here from timm's conventions, and every account."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from gssl_jax.errors import UserError
from gssl_jax.interop.adapt import other_channels, resampled_patches, resized_grid
from gssl_jax.interop.layouts import ANTIALIASED, TORCH
from gssl_jax.interop.load import drawn, load_backbone
from gssl_jax.models.resnet import resnet
from gssl_jax.models.vit import sincos_positions
from tests.interop.archives import save_zip
from tests.interop.transformer import DEPTH, PATCH, WIDTH, blank, features, images, save, timm_weights, vit


def check(backbone, variables, wanted, registers=0):
    out = backbone.apply(variables, images(backbone.channels))
    np.testing.assert_allclose(out["feat"], wanted[:, 0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(out["tokens"], wanted[:, 1 + registers :], rtol=1e-4, atol=1e-4)


def hugging_face(weights):
    """The same weights under the names of transformers' `ViTModel`, q, k and v apart."""
    renamed = {}
    for name, value in weights.items():
        name = name.replace("cls_token", "embeddings.cls_token").replace("pos_embed", "embeddings.position_embeddings")
        name = name.replace("patch_embed.proj", "embeddings.patch_embeddings.projection")
        name = name.replace("blocks.", "encoder.layer.").replace("attn.proj", "attention.output.dense")
        name = name.replace("norm1", "layernorm_before").replace("norm2", "layernorm_after")
        name = name.replace("mlp.fc1", "intermediate.dense").replace("mlp.fc2", "output.dense")
        if "attn.qkv" in name:
            for part, piece in zip(("query", "key", "value"), np.split(value, 3), strict=True):
                renamed[name.replace("attn.qkv", f"attention.attention.{part}")] = piece
        else:
            renamed[name.replace("norm.", "layernorm.") if name.startswith("norm.") else name] = value
    return renamed


@pytest.mark.parametrize("scaled", [False, True])
def test_timm_weights_give_timm_features(tmp_path, scaled):
    backbone = vit(layer_scale=1e-5 if scaled else 0.0)
    weights = timm_weights(scaled)
    path = save(tmp_path / "w.safetensors", weights | {"head.weight": np.zeros((10, WIDTH), np.float32)})
    variables, table = load_backbone(path, backbone, blank(backbone))
    check(backbone, variables, features(weights, images()))
    assert table.layout == "timm (safetensors)"
    assert {state: table.count(state) for state in ("adapted", "kept", "missing")} == dict.fromkeys(
        ("adapted", "kept", "missing"), 0
    )
    assert table.count("loaded") == len(weights) and table.count("skipped") == 1


def test_hugging_face_weights_from_a_torch_file(tmp_path):
    backbone, weights = vit(), timm_weights()
    save_zip(tmp_path / "pytorch_model.bin", {f"vit.{n}": v for n, v in hugging_face(weights).items()})
    variables, table = load_backbone(tmp_path / "pytorch_model.bin", backbone, blank(backbone))
    check(backbone, variables, features(weights, images()))
    assert table.notes == ("hf_vit has layer norms with eps 1e-12, this backbone 1e-06",)


def test_registers_and_positions_without_the_class_token(tmp_path):
    backbone, weights = vit(registers=3), timm_weights(registers=3)
    weights["pos_embed"] = weights["pos_embed"][:, 1:]
    variables, _ = load_backbone(save(tmp_path / "w", weights), backbone, blank(backbone))
    check(backbone, variables, features(weights, images(), positions_at=1), registers=3)


def test_registers_that_have_positions(tmp_path):
    backbone, weights = vit(registers=2), timm_weights(registers=2)
    extra = np.random.default_rng(5).standard_normal((1, 2, WIDTH)).astype(np.float32)
    table = weights["pos_embed"]
    both = np.concatenate([table[:, :1], extra, table[:, 1:]], 1)
    variables, _ = load_backbone(save(tmp_path / "w", weights | {"pos_embed": both}), backbone, blank(backbone))
    wanted = features(weights | {"reg_token": weights["reg_token"] + extra}, images())
    check(backbone, variables, wanted, registers=2)


def test_half_precision_becomes_float32(tmp_path):
    weights = {name: value.astype(np.float16) for name, value in timm_weights().items()}
    variables, _ = load_backbone(save(tmp_path / "w", weights), vit(), blank(vit()))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    kernel = variables["params"]["block_0"]["fc1"]["kernel"]
    np.testing.assert_array_equal(kernel, weights["blocks.0.mlp.fc1.weight"].T.astype(np.float32))


def test_other_positions_patches_and_channels(tmp_path):
    backbone, weights = vit(channels=1), timm_weights(side=5, patch=6)
    weights["pos_embed"] = weights["pos_embed"][:, : 1 + 25]
    variables, table = load_backbone(save(tmp_path / "w", weights), backbone, blank(backbone))
    grid = resized_grid(weights["pos_embed"][0, 1:], 3, ANTIALIASED)
    kernel = resampled_patches(other_channels(weights["patch_embed.proj.weight"], 1), PATCH)
    fitted = {"pos_embed": np.concatenate([weights["pos_embed"][0, :1], grid])[None], "patch_embed.proj.weight": kernel}
    check(backbone, variables, features(weights | fitted, images(1)))
    notes = {row.leaf: row.note for row in table.rows if row.state == "adapted"}
    assert notes == {
        "positions": "grid 5 -> 3, bicubic a=-0.5, antialiased",
        "patch_embed/kernel": "channels 3 -> 1 (auto), patch 6 -> 4 (FlexiViT)",
    }


def test_the_layout_decides_how_positions_are_resized(tmp_path):
    weights = timm_weights(side=5)
    path = save(tmp_path / "w", weights | {"decoder_embed.weight": np.zeros((1, 1), np.float32)})
    variables, table = load_backbone(path, vit(), blank(vit()))
    wanted = resized_grid(weights["pos_embed"][0, 1:], 3, TORCH)
    np.testing.assert_allclose(variables["params"]["positions"][1:], wanted, atol=1e-6)
    assert table.layout == "mae (safetensors)"


def test_no_bias_in_the_file_is_a_bias_of_zero(tmp_path):
    weights = {name: value for name, value in timm_weights().items() if not name.endswith("qkv.bias")}
    variables, table = load_backbone(save(tmp_path / "w", weights), vit(), blank(vit()))
    check(vit(), variables, features(weights, images()))
    assert table.count("adapted") == DEPTH


def test_fixed_positions_have_to_be_the_same_ones(tmp_path):
    backbone, weights = vit(positions="sincos"), timm_weights()
    fixed = np.concatenate([np.zeros((1, WIDTH)), sincos_positions(3, WIDTH)])[None].astype(np.float32)
    path = save(tmp_path / "w", weights | {"pos_embed": fixed})
    variables, table = load_backbone(path, backbone, blank(backbone))
    check(backbone, variables, features(weights | {"pos_embed": fixed}, images()))
    assert [row.note for row in table.rows if row.leaf == "positions"] == [
        "the fixed positions that this backbone computes"
    ]
    entry = np.array(fixed)
    entry[0, 0, 0] = 1e-3  # a class token with a position of its own
    for other in (weights, weights | {"pos_embed": entry}):
        with pytest.raises(UserError, match="1 in the file but not here: positions"):
            load_backbone(save(tmp_path / "w", other), backbone, blank(backbone))


def test_all_that_does_not_fit_is_one_error_that_says_what_the_file_is(tmp_path):
    path = save(tmp_path / "w", timm_weights(scaled=True))
    backbone = vit(width=16, registers=1)
    with pytest.raises(UserError) as caught:
        load_backbone(path, backbone, blank(backbone))
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    assert "1 not in the file: registers" in message
    assert "of another shape: " in message and "(file [" in message
    assert "4 in the file but not here: block_*/scale1, block_*/scale2" in message
    assert "a ViT with patch=4, width=8, depth=2, mlp_ratio=2, registers=0, layer_scale=1e-5" in message
    assert "image_size=12" in message


@pytest.mark.parametrize("absent", ["norm.weight", "blocks.1.mlp.fc2.bias"])
def test_a_missing_leaf_is_an_error_unless_allowed_by_name(tmp_path, absent):
    weights = {name: value for name, value in timm_weights().items() if name != absent}
    path, leaf = save(tmp_path / "w", weights), {"norm.weight": "norm/scale"}.get(absent, "block_1/fc2/bias")
    with pytest.raises(UserError, match="1 not in the file: "):
        load_backbone(path, vit(), blank(vit()), allow=("block_0/*",))
    variables, table = load_backbone(path, vit(), blank(vit()), allow=("norm/*", "block_?/fc2/bias"))
    assert [row.leaf for row in table.rows if row.state == "missing"] == [leaf]
    part = variables["params"]
    for step in leaf.split("/"):
        part = part[step]
    assert set(np.unique(part)) == {-7.0}


def test_another_shape_allowed_by_name_stays_as_it_was(tmp_path):
    weights = timm_weights() | {"norm.bias": np.zeros(9, np.float32)}
    variables, table = load_backbone(save(tmp_path / "w", weights), vit(), blank(vit()), allow=("norm/bias",))
    assert table.count("kept") == 1 and set(np.unique(variables["params"]["norm"]["bias"])) == {-7.0}


def test_an_unknown_name_is_an_error_unless_allowed(tmp_path):
    path = save(tmp_path / "w", timm_weights() | {"blocks.0.mlp.gate.weight": np.zeros(3, np.float32)})
    with pytest.raises(UserError, match="1 in the file but not here: blocks.0.mlp.gate.weight"):
        load_backbone(path, vit(), blank(vit()))
    _, table = load_backbone(path, vit(), blank(vit()), allow=("*.gate.weight",))
    assert [row.leaf for row in table.rows if row.state == "skipped"] == ["blocks.0.mlp.gate.weight"]


def test_whole_numbers_are_no_weights(tmp_path):
    path = save(tmp_path / "w", timm_weights() | {"norm.bias": np.zeros(WIDTH, np.int64)})
    with pytest.raises(UserError, match="norm.bias holds int64"):
        load_backbone(path, vit(), blank(vit()))


def test_q_without_k_is_an_error(tmp_path):
    weights = hugging_face(timm_weights())
    del weights["encoder.layer.1.attention.attention.key.bias"]
    with pytest.raises(UserError, match="only 2 of the 3 parts of block_1/attn/qkv/bias"):
        load_backbone(save(tmp_path / "w", weights), vit(), blank(vit()))


def test_other_normalisation_is_noted(tmp_path):
    path = save(tmp_path / "w", timm_weights() | {"decoder_embed.weight": np.zeros((1, 1), np.float32)})
    assert "normalised images by mean (0.485" in load_backbone(path, vit(), blank(vit()))[1].notes[0]
    same = vit(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    assert load_backbone(path, same, blank(same))[1].notes == ()


def resnet_weights(bottleneck, channels=3):
    """Random weights under torchvision's names for stages (1, 1) of widths (4, 8); variances are positive."""
    rng, weights, inside = np.random.default_rng(2), {}, 4
    blocks = {"conv1.weight": (4, channels, 7, 7), "bn1": 4}
    for stage, width in ((1, 4), (2, 8)):
        out, place = width * (4 if bottleneck else 1), f"layer{stage}.0."
        kernels = [(width, inside, 1), (width, width, 3), (out, width, 1)] if bottleneck else [
            (width, inside, 3), (width, width, 3)]  # fmt: skip
        for i, (wide, narrow, side) in enumerate(kernels, 1):
            blocks |= {f"{place}conv{i}.weight": (wide, narrow, side, side), f"{place}bn{i}": wide}
        if stage == 2 or bottleneck:
            blocks |= {f"{place}downsample.0.weight": (out, inside, 1, 1), f"{place}downsample.1": out}
        inside = out
    for name, shape in blocks.items():
        if isinstance(shape, tuple):
            weights[name] = rng.standard_normal(shape).astype(np.float32)
        else:
            for part in ("weight", "bias", "running_mean", "running_var"):
                weights[f"{name}.{part}"] = rng.random(shape).astype(np.float32) + 0.5
            weights[f"{name}.num_batches_tracked"] = np.array(3, np.int64)
    return weights


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_a_resnet_takes_every_leaf_and_its_statistics(tmp_path, name):
    """Values by place; that the network is torchvision's is measured against timm in test_published.py."""
    backbone = resnet(name, image_size=32, depths=(1, 1), widths=(4, 8), stem_width=4)
    weights = resnet_weights(name == "resnet50")
    moco = {f"module.encoder_q.{n}": v for n, v in weights.items()}
    save_zip(tmp_path / "moco_v2.pth.tar", moco | {"module.queue": np.zeros((2, 3), np.float32)}, "state_dict")
    variables, table = load_backbone(tmp_path / "moco_v2.pth.tar", backbone, blank(backbone))
    assert table.layout == "moco_v2 (torch archive, under 'state_dict')"
    assert not any((leaf == -7.0).any() for leaf in jax.tree.leaves(variables))
    p, s = variables["params"], variables["batch_stats"]
    np.testing.assert_array_equal(p["stem"]["kernel"], weights["conv1.weight"].transpose(2, 3, 1, 0))
    shortcut = weights["layer2.0.downsample.0.weight"][:, :, 0, 0].T
    np.testing.assert_array_equal(p["block_1"]["shortcut"]["kernel"], shortcut)
    np.testing.assert_array_equal(s["norm_stem"]["var"], weights["bn1.running_var"])
    np.testing.assert_array_equal(s["block_1"]["norm2"]["mean"], weights["layer2.0.bn2.running_mean"])
    np.testing.assert_array_equal(p["block_1"]["norm2"]["scale"], weights["layer2.0.bn2.weight"])


def test_a_resnet_for_one_channel(tmp_path):
    backbone = resnet("resnet18", image_size=32, depths=(1, 1), widths=(4, 8), stem_width=4, channels=1)
    weights = resnet_weights(False)
    variables, _ = load_backbone(save(tmp_path / "w", weights), backbone, blank(backbone), channels="mean")
    wanted = weights["conv1.weight"].mean(1, keepdims=True).transpose(2, 3, 1, 0)
    np.testing.assert_allclose(variables["params"]["stem"]["kernel"], wanted, rtol=1e-6)


def test_the_other_kind_of_network_is_said(tmp_path):
    with pytest.raises(UserError, match="it holds a resnet .timm. and backbone.kind=vit: set it to resnet"):
        load_backbone(save(tmp_path / "w", resnet_weights(False)), vit(), blank(vit()))


def test_the_table_folds_blocks_and_counts(tmp_path):
    path = save(tmp_path / "w", timm_weights(side=5) | {"head.bias": np.zeros(3, np.float32)})
    _, table = load_backbone(path, vit(), blank(vit()))
    console = Console(width=200)
    with console.capture() as capture:
        console.print(drawn(table))
    text = capture.get()
    assert "block_*/attn/qkv/kernel" in text and "block_0" not in text
    line = next(line for line in text.splitlines() if "block_*/fc1/kernel" in line)
    assert "16 x 8" in line and "8 x 16" in line and " 2 " in line
    assert "grid 5 -> 3" in text and "head.bias" in text
    assert "29 loaded, 1 adapted, 0 kept, 0 missing, 1 skipped" in text
