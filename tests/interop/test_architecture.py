"""The network in a file from its shapes: every layout as a small file, and what an export wrote beside it."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

from gssl_jax.errors import UserError
from gssl_jax.interop.architecture import inferred, named_network, with_imagenet, written_facts
from gssl_jax.interop.layouts import IMAGENET_MEAN, IMAGENET_STD, LAYOUTS
from gssl_jax.interop.save import safetensors_bytes
from gssl_jax.interop.save import timm_weights as exported
from gssl_jax.models.resnet import resnet
from gssl_jax.presets import VITS
from tests.interop.transformer import blank, save, timm_weights


def hugging_face(weights, scaled):
    """`ViTModel`'s names, or those of `Dinov2Model`."""
    both = {"blocks.": "encoder.layer.", "attn.proj": "attention.output.dense", "cls_token": "embeddings.cls_token",
            "pos_embed": "embeddings.position_embeddings", "reg_token": "embeddings.register_tokens",
            "patch_embed.proj": "embeddings.patch_embeddings.projection"}  # fmt: skip
    vit = {"norm1": "layernorm_before", "norm2": "layernorm_after", "mlp.fc1": "intermediate.dense",
           "mlp.fc2": "output.dense"}  # fmt: skip
    dino = {"ls1.gamma": "layer_scale1.lambda1", "ls2.gamma": "layer_scale2.lambda1"}
    renamed = {}
    for name, value in weights.items():
        for old, new in {**both, **(dino if scaled else vit)}.items():
            name = name.replace(old, new)
        if "attn.qkv" in name:
            parts = zip(("query", "key", "value"), np.split(value, 3), strict=True)
            renamed |= {name.replace("attn.qkv", f"attention.attention.{part}"): piece for part, piece in parts}
        else:
            renamed[f"layernorm.{name[5:]}" if name.startswith("norm.") else name] = value
    return renamed


def dino_registers(weights):
    renamed = {name.replace("reg_token", "register_tokens"): value for name, value in weights.items()}
    return renamed | {"mask_token": np.zeros((1, 8), np.float32)}


def under(prefix, weights):
    return {prefix + name: value for name, value in weights.items()}


def chunked(weights):
    return {name.replace("blocks.", "blocks.0."): value for name, value in weights.items()}


MASK = {"mask_token": np.zeros((1, 8), np.float32)}
VITS_OF = {
    "timm": lambda: timm_weights(),
    "mae": lambda: timm_weights() | {"decoder_embed.weight": np.zeros((4, 8), np.float32)},
    "moco_v3": lambda: under("module.base_encoder.", timm_weights()),
    "dino": lambda: under("module.backbone.", timm_weights()),
    "dinov2": lambda: timm_weights(scaled=True) | MASK,
    "dinov2 in chunks": lambda: chunked(timm_weights(scaled=True)),
    "dinov2_registers": lambda: dino_registers(timm_weights(scaled=True, registers=2)),
    "hf_vit": lambda: hugging_face(timm_weights(), False),
    "hf_dinov2": lambda: hugging_face(timm_weights(scaled=True), True),
    "hf_dinov2_registers": lambda: hugging_face(timm_weights(scaled=True, registers=2), True),
}
IMAGENET = (IMAGENET_MEAN, IMAGENET_STD)


@pytest.mark.parametrize("name", VITS_OF)
def test_a_transformer_of_every_layout(name, tmp_path):
    """Width 8, depth 2, patch 4 on a grid of 3 x 3, an MLP twice as wide: tests/interop/transformer.py."""
    known = inferred(save(tmp_path / "w.safetensors", VITS_OF[name]()), heads=2)
    scaled, layout = "dinov2" in name, name.split()[0]
    assert known.layout == layout and known.image_size == 12 and known.channels == 3 and not known.contrast_normalise
    assert known.backbone == {
        "kind": "vit", "patch": 4, "width": 8, "depth": 2, "heads": 2, "mlp_ratio": 2.0,
        "registers": 2 if "registers" in name else 0, "positions": "learned", "drop_path": 0.0,
        "layer_scale": 1e-5 if scaled else 0.0, "layer_norm_eps": 1e-12 if name == "hf_vit" else 1e-6,
    }  # fmt: skip
    own = next((tuple(one.mean), tuple(one.std)) for one in LAYOUTS if (one.name, one.kind) == (layout, "vit"))
    assert (known.mean, known.std) == own
    given = with_imagenet(known)
    assert (given.mean, given.std) == IMAGENET
    assert any("ImageNet since nothing says them" in said for said in given.said) == (own == ((), ()))


def test_every_layout_of_a_transformer_is_here():
    assert {name.split()[0] for name in VITS_OF} == {layout.name for layout in LAYOUTS if layout.kind == "vit"}


@pytest.mark.parametrize(("extra", "registers"), [(0, 0), (1, 0), (3, 2), (1, 2)])
def test_the_grid_whatever_stands_before_it(extra, registers, tmp_path):
    weights = timm_weights(registers=registers, side=5)
    weights["pos_embed"] = np.zeros((1, extra + 25, 8), np.float32)
    known = inferred(save(tmp_path / "w", weights), heads=1)
    assert known.image_size == 20 and known.backbone["registers"] == registers


def test_heads_are_64_wide_unless_something_says_so(tmp_path):
    path = save(tmp_path / "w", timm_weights())
    with pytest.raises(UserError, match=r"w: its width 8 is not divisible by 64: say by --heads=N"):
        inferred(path)
    with pytest.raises(UserError, match="not divisible by 3 heads"):
        inferred(path, heads=3)
    wide = {n: np.repeat(v, 16, -1) if v.shape[-1:] == (8,) else v for n, v in timm_weights().items()}
    wide["patch_embed.proj.weight"] = np.zeros((128, 3, 4, 4), np.float32)
    known = inferred(save(tmp_path / "w", wide))
    assert known.backbone["heads"] == 2 and "2 heads by width / 64" in known.said


@pytest.mark.parametrize(
    ("prefix", "layout"),
    [("", "timm"), ("module.encoder_q.", "moco_v2"), ("base_encoder.", "moco_v3"), ("backbone.", "dino")],
)
def test_a_resnet_of_every_layout(prefix, layout, tmp_path):
    backbone = resnet("resnet32", image_size=8, stem="cifar", mean=(0.5,), std=(0.5,))
    shapes = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), blank(backbone))
    path = save(tmp_path / "w", under(prefix, exported(backbone, shapes)))
    known = inferred(path)
    assert known.layout == (layout if prefix != "backbone." else "dino") and known.image_size == 0
    assert known.backbone["name"] == "resnet32" and known.backbone["stem"] == "cifar"


@pytest.mark.parametrize(("name", "stem"), [("resnet18", "cifar"), ("resnet18", "imagenet"), ("resnet50", "imagenet")])
def test_a_resnet_by_its_blocks_and_its_stem(name, stem, tmp_path, monkeypatch):
    """A sixteenth of the width, in the table too, for small files."""
    from gssl_jax.interop import architecture

    small = {n: {**form, "widths": tuple(w // 16 for w in form["widths"]), "stem_width": 4}
             for n, form in architecture.ARCHITECTURES.items()}  # fmt: skip
    monkeypatch.setattr(architecture, "ARCHITECTURES", small)
    backbone = resnet(
        name, image_size=8, **{k: small[name][k] for k in ("widths", "stem_width")}, stem=stem, channels=1
    )
    shapes = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), blank(backbone))
    known = inferred(save(tmp_path / "w", exported(backbone, shapes)))
    assert (known.backbone["name"], known.backbone["stem"], known.channels) == (name, stem, 1)


def test_a_resnet_that_cannot_be_built(tmp_path):
    backbone = resnet("resnet18", image_size=8, depths=(1, 1), widths=(4, 8), stem_width=4)
    shapes = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), blank(backbone))
    with pytest.raises(
        UserError, match="a ResNet of 2 basic blocks that ends at width 8: known are resnet18, resnet50"
    ):
        inferred(save(tmp_path / "w", exported(backbone, shapes)))


FACTS = {"images": {"size": 24, "shorter_side": 27, "mean": [0.4], "std": [0.2], "contrast_normalise": True},
         "timm": {"arguments": {"num_heads": 4}, "layer_norm_eps": 1e-5}}  # fmt: skip


@pytest.mark.parametrize("beside", [True, False])
def test_what_an_export_says_of_its_images(beside, tmp_path):
    path = tmp_path / "b.safetensors"
    path.write_bytes(safetensors_bytes(timm_weights(), {} if beside else FACTS))
    if beside:
        (tmp_path / "b.safetensors.json").write_text(json.dumps(FACTS))
    known = inferred(path)
    assert (known.image_size, known.shorter_side, known.mean, known.std) == (24, 27, (0.4,), (0.2,))
    assert known.contrast_normalise and known.backbone["heads"] == 4 and known.backbone["layer_norm_eps"] == 1e-5
    assert "its export says what images it wants" in known.said


def test_a_damaged_account_of_an_export(tmp_path):
    (tmp_path / "w.json").write_text("{")
    with pytest.raises(UserError, match="w.json is not readable JSON"):
        written_facts(tmp_path / "w")
    (tmp_path / "w.json").write_text("{}")  # somebody else's
    assert written_facts(tmp_path / "w") == {}


def test_architectures_by_name():
    assert named_network("vit_s16", VITS)["heads"] == 6 and named_network("resnet50", VITS)["stem"] == "imagenet"
    with pytest.raises(UserError, match="unknown architecture 'vit_s61'; did you mean 'vit_s16'"):
        named_network("vit_s61", VITS)
