"""SimMIM: hidden patches are rebuilt by one linear layer on the tokens of a whole network (arXiv 2111.09886).

    L = sum over hidden pixels and channels of |x - rebuilt| / (their number)

As in the paper: random cells, larger than a patch, give way to a learned mask token, the encoder sees visible and
hidden tokens alike, the head is one linear layer, the loss l1. With `method.corruption.kind` noise, zeros or foreign
the pixels themselves are replaced, by blocks of any size, and it is GMML (arXiv 2205.14986); its heads have two hidden
layers more (`method.reconstruction.layers`). Head and mask token are left behind.

Ours: all global views of an image are masked and rebuilt, each by itself (the paper takes one); views are those of
`method.augment`.

Letters: B images, V views, N patches, S side, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from gssl_jax.errors import UserError
from gssl_jax.methods.base import Clock, Kind, Method, MethodState, Params
from gssl_jax.methods.masked_views import MaskedViews
from gssl_jax.methods.multi_views import host_views
from gssl_jax.models.build import Backbone
from gssl_jax.models.heads import ReconstructionHead
from gssl_jax.models.vit import ViT
from gssl_jax.ops import losses
from gssl_jax.ops.augment import as_pixels, normalise
from gssl_jax.ops.keys import named


def build(config: ConfigDict, backbone: Backbone, clock: Clock) -> Method:
    """SimMIM as a `Method`; `config` is the resolved configuration of the stage.

    Raises UserError for a backbone without patches and for patches that are dropped.
    """
    settings = config.method
    if not isinstance(backbone, ViT):
        raise UserError(
            f"simmim hides patches and backbone.kind={config.backbone.kind} has none: set --config.backbone.kind=vit "
            "or another method, e.g. simclr"
        )
    if settings.corruption.kind == "drop":
        raise UserError(
            "method.corruption.kind=drop leaves simmim no token to rebuild a patch from: set "
            "--config.method.corruption.kind=token, or take the method mae"
        )
    if settings.views.locals:
        raise UserError("simmim has no use for local views: set --config.method.views.locals=0")
    own = SimMIM(settings, backbone, MaskedViews.build(config))
    same = lambda params, state, step: state  # noqa: E731
    return Method(("train",), own.init, own.views.draw, own.loss, same, own.variables, own.reconstruct, None)


@dataclass(frozen=True)
class SimMIM:
    """The modules and settings of one run; `settings` is `config.method`."""

    settings: ConfigDict
    backbone: ViT
    views: MaskedViews

    def _head(self) -> ReconstructionHead:
        b = self.backbone
        return ReconstructionHead(b.patch, b.channels, self.settings.reconstruction.layers, b.dtype)

    def init(self, key: Array, views: dict[str, Array]) -> tuple[Params, MethodState]:
        """Fresh parameters; head and mask token are `heads`."""
        b = self.backbone
        tokens = jnp.zeros((1, (b.image_size // b.patch) ** 2, b.width))
        heads: dict[str, Any] = {"reconstruction": self._head().init(named(key, "reconstruction"), tokens)["params"]}
        if self.settings.corruption.kind == "token":
            heads["mask_token"] = 0.02 * jax.random.normal(named(key, "mask_token"), (b.width,))
        backbone = b.init(named(key, "backbone"), views["clean"][:1, 0])["params"]
        return {"backbone": backbone, "heads": heads}, {}

    def rebuilt(self, params: Params, views: dict[str, Array], key: Array, train: bool) -> Array:
        """What the head makes of every view, [B, V, S, S, C], in the normalised space."""
        seen = views["student"]
        hidden: dict[str, Array] = {}
        if self.settings.corruption.kind == "token":
            tokens = self.views.tokens(views["mask"])
            hidden = {"mask": tokens.reshape(-1, tokens.shape[-1]), "mask_token": params["heads"]["mask_token"]}
        out = self.backbone.apply(
            {"params": params["backbone"]},
            seen.reshape(-1, *seen.shape[2:]),
            train=train,
            rngs={"drop_path": named(key, "encoder")},
            **hidden,
        )
        pixels = self._head().apply({"params": params["heads"]["reconstruction"]}, out["tokens"])
        return pixels.reshape(seen.shape)

    def loss(
        self, params: Params, state: MethodState, views: dict[str, Array], key: Array, step: Array, train: bool
    ) -> tuple[Array, tuple[MethodState, dict[str, Array]]]:
        """l1 distance over the hidden pixels."""
        clean = jax.lax.stop_gradient(normalise(views["clean"], self.backbone.mean, self.backbone.std))
        pixels, flat = self.rebuilt(params, views, key, train), (-1, *clean.shape[2:])
        mask = views["mask"].reshape(-1, *clean.shape[2:4])
        total = losses.masked_l1(clean.reshape(flat), pixels.reshape(flat), mask)
        return total, (state, {"train/loss": total})

    @staticmethod
    def variables(params: Params, state: MethodState, which: str) -> dict[str, Any]:
        """Variables of the backbone, for evaluation and hand-over; there is no teacher, both are the student."""
        return {"params": params["backbone"]}

    def reconstruct(self, params: Params, views: dict[str, Array]) -> Array:
        """The views with their hidden pixels rebuilt, [B, V, S, S, C] in [0, 1]; visible ones as they are."""
        pixels = self.rebuilt(params, views, jax.random.key(0), False)
        pixels = as_pixels(pixels, self.backbone.mean, self.backbone.std)
        return jnp.where(views["mask"][..., None], pixels, views["clean"])


KIND = Kind(
    lambda config, backbone, clock, counts: build(config, backbone, clock),
    False,
    ("method.views.globals",),
    host_views,
    lambda config, backbone: (),
)
