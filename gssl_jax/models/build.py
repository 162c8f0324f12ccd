"""Backbones from the configuration."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from ml_collections import ConfigDict

from gssl_jax.errors import UserError, unknown
from gssl_jax.models.vit import ViT

POSITIONS = ("learned", "sincos")
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def compute_dtype(name: str) -> DTypeLike:
    """`float32`, `bfloat16`, or `auto`: float32 on a CPU, where bfloat16 is slower, and bfloat16 elsewhere."""
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    if name not in DTYPES:
        raise unknown("backbone.dtype", name, [*DTYPES, "auto"])
    return DTYPES[name]


def build_backbone(config: ConfigDict) -> ViT:
    """The ViT of `config.backbone` for images of `config.data`. Raises UserError naming the key to change."""
    b, data = config.backbone, config.data
    if data.image_size < b.patch:
        raise UserError(
            f"data.image_size={data.image_size} is smaller than backbone.patch={b.patch}: use larger "
            f"images or a smaller patch"
        )
    if data.image_size % b.patch:
        raise UserError(
            f"data.image_size={data.image_size} is not divisible by backbone.patch={b.patch}: set "
            f"--config.data.image_size={data.image_size - data.image_size % b.patch}"
        )
    if b.width % b.heads:
        raise UserError(f"backbone.width={b.width} is not divisible by backbone.heads={b.heads}")
    if b.positions not in POSITIONS:
        raise unknown("backbone.positions", b.positions, POSITIONS)
    for name in ("mean", "std"):
        if len(data[name]) not in (1, data.channels):
            raise UserError(
                f"data.{name} has {len(data[name])} values for {data.channels} channels: give one, or one each"
            )
    return ViT(
        image_size=data.image_size,
        patch=b.patch,
        width=b.width,
        depth=b.depth,
        heads=b.heads,
        mlp_ratio=b.mlp_ratio,
        channels=data.channels,
        registers=b.registers,
        positions=b.positions,
        drop_path=b.drop_path,
        layer_scale=b.layer_scale,
        layer_norm_eps=b.layer_norm_eps,
        mean=tuple(data.mean),
        std=tuple(data.std),
        dtype=compute_dtype(b.dtype),
    )
