"""Heads of the clustering, contrastive and reconstruction objectives."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from gssl_jax.models.classifiers import KAIMING_NORMAL
from gssl_jax.models.layers import Dense, gelu, l2_normalise, rows
from gssl_jax.ops.patches import unpatchify

NORMS = ("none", "batch")
"""What `norm` of a `Projector` or a `Perceptron` may be."""


class BatchStandardise(nn.Module):
    """Batch norm without running averages: each feature of [..., D] to zero mean and unit variance over all rows,
    then, if `affine`, a learned scale and bias.

    A projector only ever sees training batches, so there is nothing for running averages to serve. Under jit on a
    mesh the rows are those of the global batch.
    """

    affine: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        rows = x.astype(jnp.float32)
        axes = tuple(range(x.ndim - 1))
        centred = rows - jnp.mean(rows, axis=axes, keepdims=True)
        unit = centred * jax.lax.rsqrt(jnp.mean(centred * centred, axis=axes, keepdims=True) + 1e-5)
        if not self.affine:
            return unit.astype(x.dtype)
        shape = (1,) * (x.ndim - 1) + (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, shape[-1:])
        return (unit * scale.reshape(shape) + bias.reshape(shape)).astype(x.dtype)


class Projector(nn.Module):
    """MLP with GELU between its layers and an l2-normalised output: [..., D] -> [..., output].

    `norm` stands before each GELU and, as in SimCLR v2 and MoCo v3, after the last layer: `none` (DINO, MC-SSL) or
    `batch`. At the start a backbone's features hardly differ between images; batch statistics enlarge what differs
    and centre the cosines, which is what prototypes need to take hold within few steps.
    """

    hidden: int
    layers: int
    output: int
    norm: str
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for _ in range(self.layers - 1):
            x = Dense(self.hidden, dtype=self.dtype)(x)
            x = gelu(BatchStandardise()(x) if self.norm == "batch" else x)
        x = Dense(self.output, dtype=self.dtype)(x)
        return l2_normalise(BatchStandardise()(x) if self.norm == "batch" else x)


class Perceptron(nn.Module):
    """MLP with ReLU between its layers, Kaiming-normal weights and an unbounded output: [..., D] -> [..., output].

    `norm` stands before each ReLU: `none` is the projector of MoCo-v2 (arXiv 2003.04297; two layers), `batch` the
    projector and predictor of BYOL (arXiv 2006.07733, section 3.3). With `last_norm` the output has batch norm too,
    without scale and bias: the heads of MoCo-v3 (arXiv 2104.02057, section 4) and SimCLR (arXiv 2002.05709).
    """

    hidden: int
    layers: int
    output: int
    norm: str
    dtype: DTypeLike = jnp.float32
    last_norm: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for _ in range(self.layers - 1):
            x = Dense(self.hidden, kernel_init=KAIMING_NORMAL, dtype=self.dtype)(x)
            x = nn.relu(BatchStandardise()(x) if self.norm == "batch" else x)
        x = Dense(self.output, kernel_init=KAIMING_NORMAL, dtype=self.dtype)(x)
        return BatchStandardise(affine=False)(x) if self.last_norm else x


class Prototypes(nn.Module):
    """Weight-normed linear layer without bias, gain fixed at 1: cosines of unit features with K prototypes.

    [..., d] -> [..., K], every value in [-1, 1]. Prototypes are normalised along the feature axis, in float32.
    """

    count: int

    @nn.compact
    def __call__(self, z: Array) -> Array:
        directions = self.param("directions", nn.initializers.normal(1.0), (z.shape[-1], self.count))
        # The default precision of a float32 product is bfloat16 on TPU and TF32 on recent GPUs.
        highest = jax.lax.Precision.HIGHEST
        cosines = jnp.matmul(rows(z.astype(jnp.float32)), l2_normalise(directions, axis=0), precision=highest)
        return cosines.reshape(*z.shape[:-1], self.count)


class ReconstructionHead(nn.Module):
    """Patch tokens [B, N, D] to pixels [B, S, S, C] in the normalised space: `layers` x (Dense, GELU), then one
    linear map to the pixels of a patch (MC-SSL's transposed convolution of stride = patch is the same map)."""

    patch: int
    channels: int
    layers: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, tokens: Array) -> Array:
        x = tokens
        for _ in range(self.layers):
            x = gelu(Dense(tokens.shape[-1], dtype=self.dtype)(x))
        pixels = Dense(self.patch * self.patch * self.channels, dtype=jnp.float32)(x)
        return unpatchify(pixels, self.patch, self.channels)
