"""Every layout against names that the release really has, written out."""

from __future__ import annotations

import pytest

from gssl_jax.errors import UserError
from gssl_jax.interop.layouts import LAYOUTS, detect

BLOCK = """norm1.weight norm1.bias attn.qkv.weight attn.qkv.bias attn.proj.weight attn.proj.bias norm2.weight norm2.bias
mlp.fc1.weight mlp.fc1.bias mlp.fc2.weight mlp.fc2.bias""".split()
OURS = """norm1/scale norm1/bias attn/qkv/kernel attn/qkv/bias attn/proj/kernel attn/proj/bias norm2/scale norm2/bias
fc1/kernel fc1/bias fc2/kernel fc2/bias""".split()
FRAME = ["cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias", "norm.weight", "norm.bias"]
OUR_FRAME = ["cls_token", "positions", "patch_embed/kernel", "patch_embed/bias", "norm/scale", "norm/bias"]
TIMM_VIT = dict(zip(FRAME, OUR_FRAME, strict=True))
TIMM_VIT |= {f"blocks.{i}.{n}": f"block_{i}/{o}" for i in (0, 11) for n, o in zip(BLOCK, OURS, strict=True)}
SCALED = TIMM_VIT | {f"blocks.{i}.ls{k}.gamma": f"block_{i}/scale{k}" for i in (0, 11) for k in (1, 2)}
DINO_HEAD = ["head.mlp.0.weight", "head.mlp.0.bias", "head.last_layer.weight_g", "head.last_layer.weight_v"]
DECODER = ["mask_token", "decoder_pos_embed", "decoder_embed.weight", "decoder_blocks.0.norm1.weight",
           "decoder_blocks.7.mlp.fc2.bias", "decoder_norm.bias", "decoder_pred.weight"]  # fmt: skip

HF_FRAME = {
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "positions",
    "embeddings.patch_embeddings.projection.weight": "patch_embed/kernel",
    "embeddings.patch_embeddings.projection.bias": "patch_embed/bias",
    "layernorm.weight": "norm/scale",
    "layernorm.bias": "norm/bias",
}
HF_ATTENTION = {
    "encoder.layer.0.attention.attention.query.weight": ("block_0/attn/qkv/kernel", 0, 3),
    "encoder.layer.0.attention.attention.query.bias": ("block_0/attn/qkv/bias", 0, 3),
    "encoder.layer.0.attention.attention.key.weight": ("block_0/attn/qkv/kernel", 1, 3),
    "encoder.layer.0.attention.attention.key.bias": ("block_0/attn/qkv/bias", 1, 3),
    "encoder.layer.0.attention.attention.value.weight": ("block_0/attn/qkv/kernel", 2, 3),
    "encoder.layer.0.attention.attention.value.bias": ("block_0/attn/qkv/bias", 2, 3),
    "encoder.layer.0.attention.output.dense.weight": "block_0/attn/proj/kernel",
    "encoder.layer.0.attention.output.dense.bias": "block_0/attn/proj/bias",
}
HF_VIT = {
    **HF_FRAME,
    **HF_ATTENTION,
    "encoder.layer.0.layernorm_before.weight": "block_0/norm1/scale",
    "encoder.layer.0.layernorm_before.bias": "block_0/norm1/bias",
    "encoder.layer.0.layernorm_after.weight": "block_0/norm2/scale",
    "encoder.layer.0.layernorm_after.bias": "block_0/norm2/bias",
    "encoder.layer.0.intermediate.dense.weight": "block_0/fc1/kernel",
    "encoder.layer.0.intermediate.dense.bias": "block_0/fc1/bias",
    "encoder.layer.0.output.dense.weight": "block_0/fc2/kernel",
    "encoder.layer.0.output.dense.bias": "block_0/fc2/bias",
}
HF_DINOV2 = {
    **HF_FRAME,
    **HF_ATTENTION,
    "encoder.layer.0.norm1.weight": "block_0/norm1/scale",
    "encoder.layer.0.norm1.bias": "block_0/norm1/bias",
    "encoder.layer.0.norm2.weight": "block_0/norm2/scale",
    "encoder.layer.0.norm2.bias": "block_0/norm2/bias",
    "encoder.layer.0.layer_scale1.lambda1": "block_0/scale1",
    "encoder.layer.0.layer_scale2.lambda1": "block_0/scale2",
    "encoder.layer.0.mlp.fc1.weight": "block_0/fc1/kernel",
    "encoder.layer.0.mlp.fc1.bias": "block_0/fc1/bias",
    "encoder.layer.0.mlp.fc2.weight": "block_0/fc2/kernel",
    "encoder.layer.0.mlp.fc2.bias": "block_0/fc2/bias",
}
RESNET = {
    "conv1.weight": "stem/kernel",
    "bn1.weight": "norm_stem/scale",
    "bn1.bias": "norm_stem/bias",
    "bn1.running_mean": "norm_stem/mean",
    "bn1.running_var": "norm_stem/var",
    "layer1.0.conv1.weight": "block_0/conv1/kernel",
    "layer1.0.bn1.weight": "block_0/norm1/scale",
    "layer1.1.conv2.weight": "block_1/conv2/kernel",
    "layer1.1.bn2.running_var": "block_1/norm2/var",
    "layer2.0.conv3.weight": "block_2/conv3/kernel",
    "layer2.0.bn3.bias": "block_2/norm3/bias",
    "layer2.0.downsample.0.weight": "block_2/shortcut/kernel",
    "layer2.0.downsample.1.weight": "block_2/norm_shortcut/scale",
    "layer2.0.downsample.1.running_mean": "block_2/norm_shortcut/mean",
}
COUNTERS = ["bn1.num_batches_tracked", "layer1.0.bn1.num_batches_tracked", "layer2.0.downsample.1.num_batches_tracked"]
FC = ["fc.weight", "fc.bias"]
MOCO_FC = ["fc.0.weight", "fc.0.bias", "fc.2.weight", "fc.2.bias"]
MOCO_V3_HEAD = ["0.weight", "1.weight", "1.running_mean", "1.num_batches_tracked", "3.weight"]

# (release, layout, kind, prefix, names with their leaves, what it holds beside them)
RELEASES = [
    ("timm vit", "timm", "vit", "", TIMM_VIT, ["head.weight", "head.bias"]),
    ("timm vit in a DataParallel", "timm", "vit", "module.", TIMM_VIT, ["module.head.weight"]),
    ("timm dinov2 with registers", "timm", "vit", "", SCALED | {"reg_token": "registers"}, []),
    ("deit distilled", "timm", "vit", "", TIMM_VIT, ["head.weight", "head_dist.weight"]),
    ("dino full checkpoint", "dino", "vit", "module.backbone.", TIMM_VIT, [f"module.{n}" for n in DINO_HEAD]),
    ("dino teacher", "dino", "vit", "backbone.", TIMM_VIT, DINO_HEAD),
    ("dinov2", "dinov2", "vit", "", SCALED, ["mask_token"]),
    ("dinov2 with registers", "dinov2_registers", "vit", "", SCALED | {"register_tokens": "registers"}, ["mask_token"]),
    ("dinov2 in training, blocks in chunks", "dinov2", "vit", "backbone.",
     {n.replace("blocks.", "blocks.0."): leaf for n, leaf in SCALED.items()},
     ["backbone.mask_token", "dino_head.mlp.0.weight", "ibot_head.last_layer.weight_g"]),
    ("mae with its decoder", "mae", "vit", "", TIMM_VIT, DECODER),
    ("moco v3 vit", "moco_v3", "vit", "module.base_encoder.", TIMM_VIT,
     [f"module.base_encoder.head.{n}" for n in MOCO_V3_HEAD]
     + ["module.momentum_encoder.cls_token", "module.momentum_encoder.blocks.0.norm1.weight",
        "module.predictor.0.weight"]),
    ("transformers ViTModel", "hf_vit", "vit", "", HF_VIT, ["pooler.dense.weight", "pooler.dense.bias"]),
    ("transformers ViTForImageClassification", "hf_vit", "vit", "vit.", HF_VIT, ["classifier.weight"]),
    ("transformers ViTMAEForPreTraining", "hf_vit", "vit", "vit.", HF_VIT,
     ["decoder.mask_token", "decoder.decoder_embed.weight"]),
    ("transformers Dinov2Model", "hf_dinov2", "vit", "", HF_DINOV2, ["embeddings.mask_token"]),
    ("transformers Dinov2ForImageClassification", "hf_dinov2", "vit", "dinov2.", HF_DINOV2,
     ["dinov2.embeddings.mask_token", "classifier.weight"]),
    ("transformers Dinov2WithRegistersModel", "hf_dinov2_registers", "vit", "",
     HF_DINOV2 | {"embeddings.register_tokens": "registers"}, ["embeddings.mask_token"]),
    ("torchvision resnet", "timm", "resnet", "", RESNET, COUNTERS + FC),
    ("moco v2", "moco_v2", "resnet", "module.encoder_q.", RESNET,
     [f"module.encoder_q.{n}" for n in COUNTERS + MOCO_FC]
     + ["module.encoder_k.conv1.weight", "module.encoder_k.bn1.running_mean", "module.queue", "module.queue_ptr"]),
    ("moco v3 resnet", "moco_v3", "resnet", "module.base_encoder.", RESNET,
     ["module.base_encoder.fc.0.weight", "module.momentum_encoder.conv1.weight", "module.predictor.1.running_var"]),
    ("dino resnet", "dino", "resnet", "module.backbone.", RESNET, [f"module.{n}" for n in DINO_HEAD]),
]  # fmt: skip


@pytest.mark.parametrize(("layout", "kind", "prefix", "leaves", "beside"), [r[1:] for r in RELEASES],
                         ids=[r[0] for r in RELEASES])  # fmt: skip
def test_a_release_by_its_names(layout, kind, prefix, leaves, beside):
    found = detect([prefix + name for name in leaves] + beside)
    assert (found.layout.name, found.layout.kind) == (layout, kind)
    wanted = {prefix + n: (leaf, 0, 1) if isinstance(leaf, str) else leaf for n, leaf in leaves.items()}
    assert found.parts == wanted
    assert set(found.skipped) == set(beside)
    assert found.unknown == ()


def test_every_layout_has_a_release_here():
    assert {(layout.name, layout.kind) for layout in LAYOUTS} == {(r[1], r[2]) for r in RELEASES}


def test_a_name_that_is_new_is_not_taken_for_a_head():
    found = detect([*TIMM_VIT, "blocks.0.mlp.w12.weight", "head.weight"])
    assert found.unknown == ("blocks.0.mlp.w12.weight",) and found.skipped == ("head.weight",)


def test_a_bare_backbone_of_dino_can_be_named():
    assert detect(TIMM_VIT).layout.name == "timm"
    named = detect(TIMM_VIT, "dino")
    assert named.layout.bicubic == (-0.75, False, 0.1) and len(named.parts) == len(TIMM_VIT)


@pytest.mark.parametrize(
    ("layout", "a", "antialias", "offset", "eps"),
    [
        ("timm", -0.5, True, 0.0, 1e-6),  # timm layers/pos_embed.py: antialias=True
        ("dino", -0.75, False, 0.1, 1e-6),
        ("dinov2", -0.75, False, 0.1, 1e-6),
        ("dinov2_registers", -0.5, True, 0.0, 1e-6),
        ("hf_dinov2", -0.75, False, 0.0, 1e-6),  # transformers asks for a size, not for a scale
        ("hf_dinov2_registers", -0.5, True, 0.0, 1e-6),
        ("hf_vit", -0.75, False, 0.0, 1e-12),
        ("mae", -0.75, False, 0.0, 1e-6),
    ],
)
def test_what_releases_differ_in_beside_names(layout, a, antialias, offset, eps):
    rows = [row for row in LAYOUTS if row.name == layout and row.kind == "vit"]
    assert rows and all(row.bicubic == (a, antialias, offset) and row.layer_norm_eps == eps for row in rows)


def test_a_file_of_no_known_layout_says_what_is_in_it_and_what_is_known():
    with pytest.raises(UserError, match=r"its names \(conv_stem.weight, .*no known layout; known: dino \(resnet\)"):
        detect(["conv_stem.weight", "bn1.weight"])
    with pytest.raises(UserError, match="unknown layout of weights 'dinov3'; did you mean 'dinov2'"):
        detect(TIMM_VIT, "dinov3")
