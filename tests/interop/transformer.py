"""A transformer in float64 written from timm's conventions alone, random weights under timm's names, and backbones."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from scipy.special import erf

from gssl_jax.models.vit import ViT

WIDTH, DEPTH, HEADS, PATCH, SIDE = 8, 2, 2, 4, 12
PLAIN = dict(
    image_size=SIDE, patch=PATCH, width=WIDTH, depth=DEPTH, heads=HEADS, mlp_ratio=2.0, mean=(0.4,), std=(0.3,)
)


def vit(**changes):
    return ViT(**(PLAIN | changes))


def blank(backbone):
    """Variables of the right shapes and kinds, all of them -7, so that what was not loaded is seen."""
    images = jnp.zeros((1, backbone.image_size, backbone.image_size, backbone.channels))
    shapes = jax.eval_shape(lambda k: backbone.init(k, images), jax.random.key(0))
    return jax.tree.map(lambda s: jnp.full(s.shape, -7.0, s.dtype), shapes)


def timm_weights(scaled=False, registers=0, side=SIDE // PATCH, channels=3, patch=PATCH):
    """Random weights under timm's names."""
    rng = np.random.default_rng(0)
    shapes = {"cls_token": (1, 1, WIDTH), "pos_embed": (1, 1 + side**2, WIDTH),
              "patch_embed.proj.weight": (WIDTH, channels, patch, patch), "patch_embed.proj.bias": (WIDTH,),
              "norm.weight": (WIDTH,), "norm.bias": (WIDTH,)}  # fmt: skip
    if registers:
        shapes["reg_token"] = (1, registers, WIDTH)
    for i in range(DEPTH):
        for name, wide, narrow in (("attn.qkv", 3 * WIDTH, WIDTH), ("attn.proj", WIDTH, WIDTH),
                                   ("mlp.fc1", 2 * WIDTH, WIDTH), ("mlp.fc2", WIDTH, 2 * WIDTH)):  # fmt: skip
            shapes |= {f"blocks.{i}.{name}.weight": (wide, narrow), f"blocks.{i}.{name}.bias": (wide,)}
        vectors = ["norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"]
        shapes |= {f"blocks.{i}.{n}": (WIDTH,) for n in vectors + (["ls1.gamma", "ls2.gamma"] if scaled else [])}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def features(w, images, positions_at=0):
    """All tokens [B, T, WIDTH] of a pre-norm transformer in float64, by weights under timm's names.

    `positions_at` 0: positions for the class token and the patches; 1: for patches only (`no_embed_class`).
    """
    w = {name: value.astype(np.float64) for name, value in w.items()}
    x = (images.astype(np.float64).transpose(0, 3, 1, 2) - 0.4) / 0.3  # torch: channels first
    kernel, h = w["patch_embed.proj.weight"], SIDE // PATCH
    tokens = [np.einsum("bcyx,dcyx->bd", x[:, :, i * PATCH : i * PATCH + PATCH, j * PATCH : j * PATCH + PATCH], kernel)
              for i in range(h) for j in range(h)]  # fmt: skip
    x = np.stack(tokens, 1) + w["patch_embed.proj.bias"]
    repeat = lambda token: np.repeat(token, len(images), 0)  # noqa: E731
    if not positions_at:
        x = np.concatenate([repeat(w["cls_token"]), x], 1) + w["pos_embed"]
    else:
        x = np.concatenate([repeat(w["cls_token"]), x + w["pos_embed"]], 1)
    if "reg_token" in w:
        x = np.concatenate([x[:, :1], repeat(w["reg_token"]), x[:, 1:]], 1)

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0.0)

    for i in range(DEPTH):
        b = f"blocks.{i}."
        q, k, v = np.split(linear(norm(x, b + "norm1"), b + "attn.qkv"), 3, -1)
        heads = []
        for c in np.split(np.arange(WIDTH), HEADS):
            scores = np.einsum("btd,bsd->bts", q[..., c], k[..., c]) / np.sqrt(WIDTH / HEADS)
            p = np.exp(scores - scores.max(-1, keepdims=True))
            heads.append(np.einsum("bts,bsd->btd", p / p.sum(-1, keepdims=True), v[..., c]))
        x = x + linear(np.concatenate(heads, -1), b + "attn.proj") * w.get(b + "ls1.gamma", 1.0)
        y = linear(norm(x, b + "norm2"), b + "mlp.fc1")
        y = linear(0.5 * y * (1 + erf(y / np.sqrt(2))), b + "mlp.fc2")
        x = x + y * w.get(b + "ls2.gamma", 1.0)
    return norm(x, "norm")


def images(channels=3, side=SIDE):
    return np.random.default_rng(1).random((2, side, side, channels)).astype(np.float32)


def save(path, weights):
    path.write_bytes(safetensors.numpy.save({n: np.array(v, order="C") for n, v in weights.items()}))
    return path
