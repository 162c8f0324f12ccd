"""Backbones from the configuration."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from ml_collections import ConfigDict

from gssl_jax.errors import UserError, unknown
from gssl_jax.models.resnet import ARCHITECTURES, STEMS, ResNet, resnet
from gssl_jax.models.vit import REMATS, ViT

Backbone = ViT | ResNet

POSITIONS = ("learned", "sincos")
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def compute_dtype(name: str) -> DTypeLike:
    """`float32`, `bfloat16`, or `auto`: float32 on a CPU, where bfloat16 is slower, and bfloat16 elsewhere."""
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    if name not in DTYPES:
        raise unknown("backbone.dtype", name, [*DTYPES, "auto"])
    return DTYPES[name]


def build_backbone(config: ConfigDict) -> Backbone:
    """The network of `config.backbone` for images of `config.data`. Raises UserError naming the key to change."""
    b, data = config.backbone, config.data
    if b.kind not in ("vit", "resnet"):
        raise unknown("backbone.kind", b.kind, ("vit", "resnet"))
    for name in ("mean", "std"):
        if len(data[name]) not in (1, data.channels):
            raise UserError(
                f"data.{name} has {len(data[name])} values for {data.channels} channels: give one, or one each"
            )
    images: dict[str, Any] = dict(
        image_size=data.image_size,
        channels=data.channels,
        mean=tuple(data.mean),
        std=tuple(data.std),
        dtype=compute_dtype(b.dtype),
    )
    return _vit(b, images) if b.kind == "vit" else _resnet(b, images)


def _vit(b: ConfigDict, images: dict[str, Any]) -> ViT:
    size = images["image_size"]
    for name in ("patch", "depth", "heads"):
        if b[name] < 1:
            raise UserError(f"backbone.{name}={b[name]} must be at least 1: set --config.backbone.{name}=1 or more")
    if size < b.patch:
        raise UserError(
            f"data.image_size={size} is smaller than backbone.patch={b.patch}: use larger images or a smaller patch"
        )
    if size % b.patch:
        raise UserError(
            f"data.image_size={size} is not divisible by backbone.patch={b.patch}: set "
            f"--config.data.image_size={size - size % b.patch}"
        )
    if b.width % b.heads:
        raise UserError(f"backbone.width={b.width} is not divisible by backbone.heads={b.heads}")
    if b.positions not in POSITIONS:
        raise unknown("backbone.positions", b.positions, POSITIONS)
    return ViT(
        patch=b.patch,
        width=b.width,
        depth=b.depth,
        heads=b.heads,
        mlp_ratio=b.mlp_ratio,
        registers=b.registers,
        positions=b.positions,
        drop_path=b.drop_path,
        layer_scale=b.layer_scale,
        layer_norm_eps=b.layer_norm_eps,
        **images,
    )


def _resnet(b: ConfigDict, images: dict[str, Any]) -> ResNet:
    if b.name not in ARCHITECTURES:
        raise unknown("backbone.name", b.name, ARCHITECTURES)
    if b.stem not in STEMS:
        raise unknown("backbone.stem", b.stem, STEMS)
    changes = dict(stem=b.stem, dropout=b.dropout, batch_norm_momentum=b.batch_norm_momentum)
    return resnet(b.name, **changes, **images)


def with_remat(backbone: Backbone, remat: str) -> Backbone:
    """`backbone` as it is trained, with `run.remat`. Raises UserError for an unknown value, or one for a ResNet."""
    if remat not in REMATS:
        raise unknown("run.remat", remat, REMATS)
    if remat == "none":
        return backbone
    if not isinstance(backbone, ViT):
        raise UserError(f"run.remat={remat} is for vision transformers: set --config.run.remat=none for a ResNet")
    return backbone.clone(remat=remat)


def least_side(backbone: Backbone) -> int:
    """The smallest side in pixels of an image that this network can see something in."""
    return backbone.patch if isinstance(backbone, ViT) else 1
