"""The decoder of masked autoencoders: from the visible patches to the pixels of all (arXiv 2111.06377).

Letters: B images, N patches, n visible ones, D width of the encoder, p patch side, C channels.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from gssl_jax.models.layers import Dense
from gssl_jax.models.vit import Block, sincos_positions


def placed(visible: Array, token: Array, hidden: Array) -> Array:
    """Visible tokens [B, n, D] at their places among all, `token` [D] at the hidden ones, bool [B, N] -> [B, N, D].

    The visible tokens are in the order of their places.
    """
    batch, count, width = visible.shape
    choices = jnp.concatenate([visible, jnp.broadcast_to(token.astype(visible.dtype), (batch, 1, width))], axis=1)
    place = jnp.where(hidden, count, jnp.cumsum(~hidden, axis=1) - 1)
    return jnp.take_along_axis(choices, place[..., None], axis=1)


class Decoder(nn.Module):
    """A light transformer over all patches, mask tokens at the hidden ones, with fixed sine-cosine positions.

    Attributes:
      patch: side of a patch in pixels.
      channels: of the image.
      width: of the decoder, divisible by 4 and by `heads`.
      depth: blocks.
      heads: of each block.
      layer_norm_eps: of its norms.
    """

    patch: int
    channels: int
    width: int
    depth: int
    heads: int
    layer_norm_eps: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, cls: Array, visible: Array, hidden: Array) -> Array:
        """Class token [B, D] and visible patches [B, n, D] of the encoder, bool [B, N] -> [B, N, p p C] in the space
        of the targets."""
        x = Dense(self.width, dtype=self.dtype, name="embed")(jnp.concatenate([cls[:, None], visible], axis=1))
        token = self.param("mask_token", nn.initializers.normal(0.02), (self.width,))
        patches = placed(x[:, 1:], token, hidden)
        positions = sincos_positions(round(hidden.shape[1] ** 0.5), self.width)
        x = jnp.concatenate([x[:, :1], patches + positions[None].astype(x.dtype)], axis=1)
        for i in range(self.depth):
            x, _ = Block(self.heads, 4.0, 0.0, 0.0, self.layer_norm_eps, self.dtype, name=f"block_{i}")(x, False)
        norm = nn.LayerNorm(epsilon=self.layer_norm_eps, use_fast_variance=False, dtype=jnp.float32, name="norm")
        x = norm(x[:, 1:].astype(jnp.float32))
        return Dense(self.patch * self.patch * self.channels, dtype=jnp.float32, name="pixels")(x)
