"""Where a classifier looks: Grad-CAM on a feature map, and attention roll-out of a transformer.

Both end in a coarse map [B, h, w], which `enlarged` brings to the size of the image and `overlay` lays over it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from matplotlib import colormaps


def grad_cam(
    logits_from_map: Callable[[Array], Array],
    features: Array,
    labels: Array,
    grid: tuple[int, int] | None = None,
) -> Array:
    """relu(sum over channels of weight x feature), weight = spatial mean of d logit / d feature (arXiv 1610.02391).

    Equations 1 and 2 of the paper. On a map that is averaged and classified by one linear layer the result is
    relu(class vector . feature) / (h w): the class activation map of arXiv 1512.04150, scaled.

    Args:
        logits_from_map: the rest of the network, features in their given form -> logits [B, C]. It must not couple the
            samples (batch statistics of evaluation). Patch tokens after the last attention say nothing where the
            logits come from the class token: take them before it, and let the closure run what follows.
        features: [B, h, w, D], or patch tokens [B, N, D] in row order.
        labels: int [B], the class to explain; where it is negative, the class with the largest logit. A label of
            C or more gives zeros.
        grid: (h, w) of tokens that do not form a square.

    Returns:
        float32 [B, h, w], at least 0, in the units of the logits; see `enlarged`.

    Raises:
        ValueError: the features are neither map nor tokens, or the tokens do not fill the grid.
    """
    if features.ndim not in (3, 4):
        raise ValueError(f"Grad-CAM needs a map [B, h, w, D] or tokens [B, N, D], not {features.shape}")
    shape = features.shape[1:3] if features.ndim == 4 else _grid(features.shape[1], grid)
    logits_BxC, pull_back = jax.vjp(logits_from_map, features)
    chosen_B = jnp.where(labels < 0, jnp.argmax(logits_BxC, axis=-1), labels)
    (slope,) = pull_back(jax.nn.one_hot(chosen_B, logits_BxC.shape[-1], dtype=logits_BxC.dtype))
    batch, width = features.shape[0], features.shape[-1]
    slope_BxNxD = slope.astype(jnp.float32).reshape(batch, -1, width)
    features_BxNxD = features.astype(jnp.float32).reshape(batch, -1, width)
    evidence_BxN = jnp.einsum("bnd,bd->bn", features_BxNxD, jnp.mean(slope_BxNxD, axis=1))
    return jax.nn.relu(evidence_BxN).reshape(batch, *shape)


def attention_rollout(
    attention: Array, grid: tuple[int, int] | None = None, *, residual: float = 0.5, skip: int = 1
) -> Array:
    """How much of every patch reaches the class token through all layers (arXiv 2005.00928, section 3).

    With A the mean over heads, each layer passes on residual I + (1 - residual) A, its rows scaled to the sum 1; the
    result is the class token's row of their product, the last layer first.

    Args:
        attention: [L, B, H, N, N], rows sum to 1, layers from the first to the last; token 0 is the class token.
        grid: (h, w) of patches that do not form a square.
        residual: share of the skip connection.
        skip: tokens in front of the patches: the class token and registers.

    Returns:
        float32 [B, h, w], at least 0; with what stays on the skipped tokens it sums to 1.

    Raises:
        ValueError: attention is not square, or the patches do not fill the grid.
    """
    if attention.ndim != 5 or attention.shape[-1] != attention.shape[-2]:
        raise ValueError(f"attention needs the form [layers, B, heads, N, N], not {attention.shape}")
    tokens = attention.shape[-1]
    shape = _grid(tokens - skip, grid)
    mean_LxBxNxN = jnp.mean(attention.astype(jnp.float32), axis=2)
    passed_LxBxNxN = residual * jnp.eye(tokens)[None, None] + (1.0 - residual) * mean_LxBxNxN
    passed_LxBxNxN /= jnp.sum(passed_LxBxNxN, axis=-1, keepdims=True)

    def down(row_BxN: Array, layer_BxNxN: Array) -> tuple[Array, None]:
        return jnp.einsum("bn,bnm->bm", row_BxN, layer_BxNxN), None

    top_BxN = jnp.zeros((attention.shape[1], tokens)).at[:, 0].set(1.0)
    row_BxN, _ = jax.lax.scan(down, top_BxN, passed_LxBxNxN, reverse=True)
    return row_BxN[:, skip:].reshape(-1, *shape)


def enlarged(coarse: Array, size: tuple[int, int]) -> Array:
    """Maps [B, h, w] of values from 0 up, bilinearly enlarged to `size` (H, W) and divided by each one's largest value.

    float32 [B, H, W] in [0, 1]; a map of zeros stays 0. The least value is not subtracted: 0 means no evidence.
    """
    fine = jax.image.resize(coarse.astype(jnp.float32), (coarse.shape[0], *size), "bilinear")
    largest = jnp.max(fine, axis=(1, 2), keepdims=True)
    return fine / jnp.where(largest == 0, 1.0, largest)


def overlay(image: np.ndarray, heat: np.ndarray, alpha: float) -> np.ndarray:
    """A picture with heat laid over it: alpha x image + (1 - alpha) x colour of the heat (black, red, bright yellow).

    Args:
        image: uint8, uint16 or float in [0, 1], [..., H, W, C], C = 1 or 3.
        heat: [..., H, W] in [0, 1].
        alpha: share of the image, in [0, 1].

    Returns:
        uint8 [..., H, W, 3].

    Raises:
        ValueError: another number of channels, or heat of another size than the image.
    """
    image, heat = np.asarray(image), np.asarray(heat, np.float32)
    if image.shape[:-1] != heat.shape or image.shape[-1] not in (1, 3):
        raise ValueError(
            f"an overlay needs images [..., H, W, 1 or 3] and heat [..., H, W], not {image.shape} and {heat.shape}"
        )
    largest = np.iinfo(image.dtype).max if np.issubdtype(image.dtype, np.integer) else 1.0
    mixed = alpha * (image / largest) + (1.0 - alpha) * colormaps["inferno"](heat)[..., :3]
    return np.asarray(np.round(255 * np.clip(mixed, 0.0, 1.0)), np.uint8)


def _grid(tokens: int, grid: tuple[int, int] | None) -> tuple[int, int]:
    """(h, w) of so many patches: as given, or a square."""
    shape = grid or (math.isqrt(max(tokens, 0)),) * 2
    if shape[0] * shape[1] != tokens or tokens < 1:
        wanted = f"a grid of {shape[0]} x {shape[1]}" if grid else "a square; give the grid"
        raise ValueError(f"{tokens} patch tokens do not form {wanted}")
    return shape
