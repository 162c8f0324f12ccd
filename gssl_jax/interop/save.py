"""Trained backbones under timm's names, and files that appear whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from flax import traverse_util

from gssl_jax.errors import UserError
from gssl_jax.models.build import Backbone
from gssl_jax.models.resnet import ResNet
from gssl_jax.models.vit import ViT, sincos_positions

Weights = dict[str, np.ndarray]


def timm_weights(backbone: Backbone, variables: Mapping[str, Any]) -> Weights:
    """The variables of a backbone as the state dict of its model in timm (without a head), float32.

    A ViT is `timm.models.vision_transformer.VisionTransformer`, a ResNet timm's or torchvision's ResNet. Raises
    UserError for wide networks of pre-activation blocks, which neither has.
    """
    flat = {
        leaf: np.asarray(value, np.float32)
        for tree in variables.values()
        for leaf, value in traverse_util.flatten_dict(tree, sep="/").items()
    }
    return _vit(backbone, flat) if isinstance(backbone, ViT) else _resnet(backbone, flat)


def _affine(flat: Weights, ours: str, theirs: str) -> Weights:
    return {f"{theirs}.weight": flat[f"{ours}/scale"], f"{theirs}.bias": flat[f"{ours}/bias"]}


def _linear(flat: Weights, ours: str, theirs: str) -> Weights:
    return {f"{theirs}.weight": flat[f"{ours}/kernel"].T, f"{theirs}.bias": flat[f"{ours}/bias"]}


def _vit(backbone: ViT, flat: Weights) -> Weights:
    """timm has registers without positions only where the class token has none either: its entry is added to it."""
    width, patch = backbone.width, backbone.patch
    if backbone.positions == "learned":
        table = flat["positions"]
    else:
        fixed = np.asarray(sincos_positions(backbone.image_size // patch, width), np.float32)
        table = np.concatenate([np.zeros((1, width), np.float32), fixed])
    cls = flat["cls_token"]
    named = {"cls_token": cls, "pos_embed": table[None]}
    if backbone.registers:
        named = {"cls_token": cls + table[None, :1], "reg_token": flat["registers"], "pos_embed": table[None, 1:]}
    kernel = flat["patch_embed/kernel"].reshape(patch, patch, backbone.channels, width).transpose(3, 2, 0, 1)
    named |= {"patch_embed.proj.weight": kernel, "patch_embed.proj.bias": flat["patch_embed/bias"]}
    for i in range(backbone.depth):
        ours, theirs = f"block_{i}", f"blocks.{i}"
        named |= _affine(flat, f"{ours}/norm1", f"{theirs}.norm1")
        for part in ("qkv", "proj"):
            named |= _linear(flat, f"{ours}/attn/{part}", f"{theirs}.attn.{part}")
        named |= _affine(flat, f"{ours}/norm2", f"{theirs}.norm2")
        for part in ("fc1", "fc2"):
            named |= _linear(flat, f"{ours}/{part}", f"{theirs}.mlp.{part}")
        if backbone.layer_scale:
            named |= {f"{theirs}.ls{k}.gamma": flat[f"{ours}/scale{k}"] for k in (1, 2)}
    return named | _affine(flat, "norm", "norm")


def _norm(flat: Weights, ours: str, theirs: str) -> Weights:
    """A batch norm; torch counts its batches too, which matters only where its momentum is None."""
    statistics = {f"{theirs}.running_mean": flat[f"{ours}/mean"], f"{theirs}.running_var": flat[f"{ours}/var"]}
    return _affine(flat, ours, theirs) | statistics | {f"{theirs}.num_batches_tracked": np.zeros((), np.int64)}


def _convolution(kernel: np.ndarray) -> np.ndarray:
    """[h, w, in, out], or [in, out] for one of 1x1, as torch's [out, in, h, w]."""
    return (kernel if kernel.ndim == 4 else kernel[None, None]).transpose(3, 2, 0, 1)


def _resnet(backbone: ResNet, flat: Weights) -> Weights:
    if backbone.block == "preactivation":
        raise UserError(
            "a wide network of pre-activation blocks has no names in timm or torchvision: use --format=stablehlo or "
            "--format=onnx"
        )
    named = {"conv1.weight": _convolution(flat["stem/kernel"])} | _norm(flat, "norm_stem", "bn1")
    i = 0
    for stage, depth in enumerate(backbone.depths, 1):
        for block in range(depth):
            ours, theirs = f"block_{i}", f"layer{stage}.{block}"
            for k in (1, 2, 3) if backbone.block == "bottleneck" else (1, 2):
                named[f"{theirs}.conv{k}.weight"] = _convolution(flat[f"{ours}/conv{k}/kernel"])
                named |= _norm(flat, f"{ours}/norm{k}", f"{theirs}.bn{k}")
            if f"{ours}/shortcut/kernel" in flat:
                named[f"{theirs}.downsample.0.weight"] = _convolution(flat[f"{ours}/shortcut/kernel"])
                named |= _norm(flat, f"{ours}/norm_shortcut", f"{theirs}.downsample.1")
            i += 1
    return named


def timm_model(backbone: Backbone) -> dict[str, Any]:
    """What to build in timm to load the weights: `{"class", "arguments"}`, or why timm has no such model.

    A ViT is `VisionTransformer(**arguments)`; ours are made with `norm_layer=partial(LayerNorm, eps=...)`, whose eps is
    given apart since JSON holds no function. A ResNet is `ResNet(**arguments)` with `block` by name.
    """
    if isinstance(backbone, ViT):
        arguments: dict[str, Any] = {
            "img_size": backbone.image_size, "patch_size": backbone.patch, "in_chans": backbone.channels,
            "embed_dim": backbone.width, "depth": backbone.depth, "num_heads": backbone.heads,
            "mlp_ratio": backbone.mlp_ratio, "num_classes": 0,
        }  # fmt: skip
        if backbone.layer_scale:
            arguments["init_values"] = backbone.layer_scale
        if backbone.registers:
            arguments |= {"reg_tokens": backbone.registers, "no_embed_class": True}
        return {"class": "timm.models.vision_transformer.VisionTransformer", "arguments": arguments,
                "layer_norm_eps": backbone.layer_norm_eps}  # fmt: skip
    standard = backbone.stem == "imagenet" and backbone.shortcut == "projection" and backbone.stem_width == 64
    if not standard or backbone.widths != (64, 128, 256, 512):
        return {"class": "", "why": "timm names the weights so but builds no ResNet of this stem, width or shortcut"}
    block = {"basic": "BasicBlock", "bottleneck": "Bottleneck"}[backbone.block]
    arguments = {"layers": list(backbone.depths), "in_chans": backbone.channels, "num_classes": 0}
    return {"class": "timm.models.resnet.ResNet", "block": f"timm.models.resnet.{block}", "arguments": arguments}


def safetensors_bytes(weights: Weights, facts: Mapping[str, Any]) -> bytes:
    """A safetensors file whose metadata hold every one of `facts` as JSON, and `format` as timm expects it."""
    metadata = {"format": "pt"} | {name: json.dumps(value) for name, value in facts.items()}
    return safetensors.numpy.save({n: np.array(value, order="C") for n, value in weights.items()}, metadata)


def write_checked(path: Path, content: bytes, check: Callable[[Path], float]) -> float:
    """Writes a file beside `path`, hands it to `check`, and only then gives it its name; returns what `check` did.

    Where `check` raises, nothing is left behind and a file that was there before stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        temporary.write_bytes(content)
        found = check(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return found
