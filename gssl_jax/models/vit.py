"""Vision transformer (arXiv 2010.11929) with masked input, registers and outputs by name.

Letters: B images, S image side, p patch, h = w = S / p, N = h w patch tokens, T all tokens, D width, H heads.
The modules take images in [0, 1]: normalisation is the first line of the forward pass, so that corruption,
pretexts and attacks live in pixel space.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from gssl_jax.models.layers import Dense, gelu
from gssl_jax.ops.augment import normalise
from gssl_jax.ops.patches import patchify


def sincos_positions(side: int, width: int) -> Array:
    """Fixed two-dimensional sine-cosine positions, [side * side, width] (MAE, arXiv 2111.06377).

    Half of the width encodes the row and half the column, each as sines then cosines of geometric frequencies.
    """
    if width % 4:
        raise ValueError(f"sine-cosine positions need a width divisible by 4, got {width}")
    frequency = 1.0 / 10000 ** (jnp.arange(width // 4) / (width / 4))
    angle = jnp.arange(side)[:, None] * frequency[None, :]
    axis = jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=1)
    rows = jnp.repeat(axis, side, axis=0)
    columns = jnp.tile(axis, (side, 1))
    return jnp.concatenate([columns, rows], axis=1)


def resized_positions(positions: Array, side: int) -> Array:
    """Patch positions [n * n, D] on another grid [side * side, D], bicubic without antialiasing."""
    old = round(positions.shape[0] ** 0.5)
    if old == side:
        return positions
    grid = positions.reshape(old, old, -1)
    grid = jax.image.resize(grid, (side, side, grid.shape[-1]), "bicubic", antialias=False)
    return grid.reshape(side * side, -1)


class DropPath(nn.Module):
    """Stochastic depth: drops the whole residual branch of a sample with probability `rate` (arXiv 1603.09382)."""

    rate: float

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        if self.rate == 0.0 or not train:
            return x
        keep = jax.random.bernoulli(self.make_rng("drop_path"), 1.0 - self.rate, (x.shape[0], 1, 1))
        return jnp.where(keep, x / (1.0 - self.rate), 0.0)


class Attention(nn.Module):
    """Multi-head self-attention; the softmax is taken in float32. Returns (output, attention or None)."""

    heads: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x_BxTxD: Array, with_weights: bool) -> tuple[Array, Array | None]:
        batch, tokens, width = x_BxTxD.shape
        depth = width // self.heads
        qkv = Dense(3 * width, dtype=self.dtype, name="qkv")(x_BxTxD).reshape(batch, tokens, 3, self.heads, depth)
        q, k, v = qkv.transpose(2, 0, 3, 1, 4)  # [B, H, T, d] each: products over the last two axes, no strides
        scores = jnp.matmul(q, k.swapaxes(-1, -2), preferred_element_type=jnp.float32) / depth**0.5
        weights = jax.nn.softmax(scores, axis=-1)
        out = (weights.astype(v.dtype) @ v).transpose(0, 2, 1, 3).reshape(batch, tokens, width)
        return Dense(width, dtype=self.dtype, name="proj")(out), weights if with_weights else None


class Block(nn.Module):
    """Pre-norm transformer block with optional layer scale (arXiv 2103.17239) and drop path."""

    heads: int
    mlp_ratio: float
    drop_path: float
    layer_scale: float
    layer_norm_eps: float
    dtype: DTypeLike

    def _norm(self, name: str) -> nn.LayerNorm:
        return nn.LayerNorm(epsilon=self.layer_norm_eps, use_fast_variance=False, dtype=jnp.float32, name=name)

    def _scaled(self, x: Array, name: str) -> Array:
        if not self.layer_scale:
            return x
        gamma = self.param(name, nn.initializers.constant(self.layer_scale), (x.shape[-1],))
        return x * gamma.astype(x.dtype)[None, None, :]

    @nn.compact
    def __call__(self, x: Array, train: bool, with_weights: bool = False) -> tuple[Array, Array | None]:
        width = x.shape[-1]
        branch, weights = Attention(self.heads, self.dtype, name="attn")(self._norm("norm1")(x), with_weights)
        x = x + DropPath(self.drop_path, name="drop1")(self._scaled(branch, "scale1"), train).astype(x.dtype)
        branch = Dense(int(width * self.mlp_ratio), dtype=self.dtype, name="fc1")(self._norm("norm2")(x))
        branch = Dense(width, dtype=self.dtype, name="fc2")(gelu(branch))
        return x + DropPath(self.drop_path, name="drop2")(self._scaled(branch, "scale2"), train).astype(
            x.dtype
        ), weights


REMATS = ("none", "dots", "blocks")


def block_class(remat: str) -> type[Block]:
    """`Block`, or one whose activations are computed again in the backward pass.

    `dots` keeps the results of products with weights and recomputes what lies between them, attention included;
    `blocks` keeps nothing but what goes into each block (arXiv 1604.06174).
    """
    if remat == "none":
        return Block
    policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable if remat == "dots" else None
    return nn.remat(Block, static_argnums=(2, 3), policy=policy)  # self is 0: train and with_weights


class ViT(nn.Module):
    """Any patch, width, depth, image size and channel count; one parameter set serves several image sizes.

    Attributes:
      image_size: side in pixels that learned positions are made for; other sizes interpolate them.
      registers: extra tokens without a position (arXiv 2309.16588), never returned among the patch tokens.
      positions: `learned` (patches and class token) or `sincos` (fixed, class token at zero).
      drop_path: rate of the last block; it grows linearly from 0 at the first.
      layer_scale: initial value of the residual scales, 0 for none.
      mean, std: per channel, in units of [0, 1]; one value serves all channels.
      remat: what of a block the backward pass computes again, one of `REMATS`: less memory, no other result.
    """

    image_size: int
    patch: int
    width: int
    depth: int
    heads: int
    mlp_ratio: float = 4.0
    channels: int = 3
    registers: int = 0
    positions: str = "learned"
    drop_path: float = 0.0
    layer_scale: float = 0.0
    layer_norm_eps: float = 1e-6
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)
    dtype: DTypeLike = jnp.float32
    remat: str = "none"

    @nn.compact
    def __call__(
        self,
        images: Array,
        *,
        mask: Array | None = None,
        mask_token: Array | None = None,
        keep: Array | None = None,
        train: bool = False,
        capture: tuple[str, ...] = (),
    ) -> dict[str, Array]:
        """Features of `images`, float [B, S, S, C] in [0, 1].

        Args:
          mask: bool [B, N], True where `mask_token` [D] takes the place of the embedded patch.
          keep: int32 [B, n], the patch tokens that are not dropped (MAE); excludes `map` from the result.
          train: drop path on, which needs the random stream `drop_path`.
          capture: further outputs: `block_<i>` [B, T, D] (all tokens after block i, from 0) and
            `attention_<i>` [B, H, T, T].

        Returns: `feat` [B, D] (class token after the final norm), `cls_prenorm` [B, D], `tokens` [B, N or n, D]
          after the final norm, `patch_mean` [B, D], `map` [B, h, w, D], `last4_cls` [B, 4 D] (class tokens of the
          last four blocks after the final norm, fewer where the network is shallower), and what was captured.
        """
        side = images.shape[1] // self.patch
        x = Dense(self.width, dtype=self.dtype, name="patch_embed")(
            patchify(normalise(images, self.mean, self.std), self.patch).astype(self.dtype)
        )
        if mask is not None:
            if mask_token is None:
                raise ValueError("a mask needs the mask_token that takes the place of the hidden patches")
            x = jnp.where(mask[..., None], mask_token[None, None, :].astype(x.dtype), x)
        x = self._with_positions_and_extra_tokens(x, side, keep)
        norm = nn.LayerNorm(epsilon=self.layer_norm_eps, use_fast_variance=False, dtype=jnp.float32, name="norm")
        out, class_tokens = {}, []
        for i in range(self.depth):
            block = block_class(self.remat)(
                self.heads,
                self.mlp_ratio,
                self.drop_path * i / max(self.depth - 1, 1),
                self.layer_scale,
                self.layer_norm_eps,
                self.dtype,
                name=f"block_{i}",
            )
            x, weights = block(x, train, f"attention_{i}" in capture)
            class_tokens.append(x[:, 0])
            found = {f"block_{i}": x, f"attention_{i}": weights}
            out.update({name: found[name] for name in capture if name in found})
        missing = set(capture) - set(out)
        if missing:
            raise ValueError(f"this ViT has {self.depth} blocks and no output named {sorted(missing)}")
        x = x.astype(jnp.float32)
        normed = norm(x)
        tokens = normed[:, 1 + self.registers :]
        out |= {"feat": normed[:, 0], "cls_prenorm": x[:, 0], "tokens": tokens, "patch_mean": jnp.mean(tokens, axis=1)}
        out["last4_cls"] = norm(jnp.stack(class_tokens[-4:], axis=1).astype(jnp.float32)).reshape(x.shape[0], -1)
        if keep is None:
            out["map"] = tokens.reshape(x.shape[0], side, side, self.width)
        return out

    def _with_positions_and_extra_tokens(self, x: Array, side: int, keep: Array | None) -> Array:
        """Adds positions, drops what `keep` leaves out, and puts class token and registers in front."""
        small = nn.initializers.normal(0.02)
        cls = self.param("cls_token", small, (1, 1, self.width))
        if self.positions == "learned":
            cells = (self.image_size // self.patch) ** 2
            table = self.param("positions", small, (cells + 1, self.width))
            cls, table = cls + table[None, :1], table[1:]
        elif self.positions == "sincos":
            table = sincos_positions(self.image_size // self.patch, self.width)
        else:
            raise ValueError(f"positions must be 'learned' or 'sincos', got {self.positions!r}")
        x = x + resized_positions(table, side)[None].astype(x.dtype)
        if keep is not None:
            x = jnp.take_along_axis(x, keep[..., None], axis=1)
        front = [jnp.broadcast_to(cls, (x.shape[0], 1, self.width))]
        if self.registers:
            registers = self.param("registers", small, (1, self.registers, self.width))
            front.append(jnp.broadcast_to(registers, (x.shape[0], self.registers, self.width)))
        return jnp.concatenate([*(f.astype(x.dtype) for f in front), x], axis=1)
