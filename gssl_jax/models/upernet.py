"""A light UperNet decoder (Xiao et al., arXiv 1807.10221): pyramid pooling on the last map, lateral sums, one fusion.

Layer norms over channels stand in the place of the batch norms of its usual code: batches here are small, and a frozen
backbone's maps come at any scale.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gssl_jax.models.layers import Dense
from gssl_jax.models.resnet import ResNet
from gssl_jax.models.vit import ViT

BINS = (1, 2, 3, 6)
"""Cells a side of the pooled maps."""

SCALES = (4.0, 2.0, 1.0, 0.5)
"""Sides of the four maps of a ViT over the side of its own, as BEiT and iBOT have them."""

LEVELS = 4


def captured(backbone: ViT | ResNet) -> tuple[str, ...]:
    """Names of the four maps that a decoder reads, from the first block to the last: evenly spaced blocks of a ViT (one
    may stand twice where there are fewer than four), the last four of stem and stages of a ResNet."""
    if isinstance(backbone, ViT):
        return tuple(f"block_{-(-backbone.depth * level // LEVELS) - 1}" for level in range(1, LEVELS + 1))
    return ("stem", *(f"stage_{i + 1}" for i in range(len(backbone.depths))))[-LEVELS:]


def pyramid(backbone: ViT | ResNet, out: dict[str, Array], names: Sequence[str]) -> list[Array]:
    """The maps `names` among the outputs of a backbone, [B, h, w, D] each, the finest first.

    All blocks of a ViT have one size: theirs are resized to `SCALES` by bilinear interpolation.
    """
    if isinstance(backbone, ResNet):
        return [out[name] for name in names]
    side, found = out["map"].shape[1], []
    for name, scale in zip(names, SCALES, strict=True):
        tokens = out[name][:, 1 + backbone.registers :]
        grid = tokens.reshape(len(tokens), side, side, -1).astype(jnp.float32)
        found.append(resized(grid, max(1, round(side * scale))))
    return found


def resized(grid: Array, side: int) -> Array:
    """[B, h, w, D] -> [B, side, side, D], bilinear, antialiased where it shrinks."""
    return jax.image.resize(grid, (grid.shape[0], side, side, grid.shape[-1]), "bilinear")


def pooling(length: int, bins: int) -> np.ndarray:
    """[bins, length] weights of adaptive average pooling: cell i is the mean from floor(i n / b) to
    ceil((i + 1) n / b), as torch's `AdaptiveAvgPool2d`."""
    weights = np.zeros((bins, length), np.float32)
    for i in range(bins):
        start, stop = i * length // bins, -(-(i + 1) * length // bins)
        weights[i, start:stop] = 1 / (stop - start)
    return weights


class UperNet(nn.Module):
    """Four maps [B, h_i, w_i, D_i], the finest first -> logits [B, h_0, w_0, classes], float32."""

    width: int
    classes: int

    @nn.compact
    def __call__(self, maps: Sequence[Array]) -> Array:
        maps = [nn.LayerNorm(use_fast_variance=False, name=f"norm_{i}")(one) for i, one in enumerate(maps)]
        levels = [self._layer(one, 1, f"lateral_{i}") for i, one in enumerate(maps[:-1])]
        levels.append(self._pooled(maps[-1]))
        for i in range(len(levels) - 2, -1, -1):
            levels[i] = levels[i] + resized(levels[i + 1], levels[i].shape[1])
        finest = levels[0].shape[1]
        levels = [self._layer(one, 3, f"smooth_{i}") for i, one in enumerate(levels[:-1])] + levels[-1:]
        fused = jnp.concatenate([resized(one, finest) for one in levels], -1)
        return Dense(self.classes, name="classify")(self._layer(fused, 3, "fuse"))

    def _pooled(self, x: Array) -> Array:
        """The last map beside its means over the cells of every grid of `BINS`."""
        found, side = [x], x.shape[1]
        for bins in BINS:
            weights = pooling(side, bins)
            cells = jnp.einsum("ih,jw,bhwd->bijd", weights, weights, x)
            found.append(resized(self._layer(cells, 1, f"pool_{bins}"), side))
        return self._layer(jnp.concatenate(found, -1), 3, "pyramid")

    def _layer(self, x: Array, kernel: int, name: str) -> Array:
        """A convolution, a layer norm and a ReLU."""
        if kernel == 1:
            x = Dense(self.width, use_bias=False, name=name)(x)
        else:
            x = nn.Conv(self.width, (kernel, kernel), padding="SAME", use_bias=False, name=name)(x)
        return nn.relu(nn.LayerNorm(use_fast_variance=False, name=f"{name}_norm")(x))
