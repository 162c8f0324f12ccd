"""MAE: most patches are left out, and a light decoder rebuilds them from the others (arXiv 2111.06377).

    L = mean over the hidden patches of |decoder(encoder(visible patches)) - patch|^2 / P

As in the paper: three quarters of the patches are dropped before the encoder, which never meets a mask token; the
decoder sees the encoder's tokens after its last norm, the class token among them, at fixed sine-cosine positions; the
target may be each patch by its own mean and deviation. Decoder and mask token are left behind.

Ours: all global views of an image are masked and rebuilt, each by itself (the paper takes one); views are those of
`method.augment`.

Letters: B images, V views, N patches, n visible ones, S side, C channels, P numbers of a patch, D width.
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
from gssl_jax.models.decoder import Decoder
from gssl_jax.models.vit import ViT
from gssl_jax.ops import losses
from gssl_jax.ops.augment import as_pixels, normalise
from gssl_jax.ops.keys import named
from gssl_jax.ops.patches import patchify, unpatchify


def build(config: ConfigDict, backbone: Backbone, clock: Clock) -> Method:
    """MAE as a `Method`; `config` is the resolved configuration of the stage.

    Raises UserError for a backbone without patches, for patches that are not dropped and a decoder that cannot be.
    """
    settings = config.method
    if not isinstance(backbone, ViT):
        raise UserError(
            f"mae leaves patches out and backbone.kind={config.backbone.kind} has none: set --config.backbone.kind=vit "
            "or another method, e.g. simclr"
        )
    if settings.corruption.kind != "drop":
        raise UserError(
            f"mae drops patches and method.corruption.kind={settings.corruption.kind} does not: set "
            "--config.method.corruption.kind=drop, or take the method simmim"
        )
    if settings.views.locals:
        raise UserError("mae has no use for local views: set --config.method.views.locals=0")
    d = settings.decoder
    if d.width % 4 or d.width % d.heads:
        raise UserError(f"method.decoder.width={d.width} is not divisible by 4 and by method.decoder.heads={d.heads}")
    own = MAE(settings, backbone, MaskedViews.build(config))
    same = lambda params, state, step: state  # noqa: E731
    return Method(("train",), own.init, own.views.draw, own.loss, same, own.variables, own.reconstruct, None)


@dataclass(frozen=True)
class MAE:
    """The modules and settings of one run; `settings` is `config.method`."""

    settings: ConfigDict
    backbone: ViT
    views: MaskedViews

    def _decoder(self) -> Decoder:
        b, d = self.backbone, self.settings.decoder
        return Decoder(b.patch, b.channels, d.width, d.depth, d.heads, b.layer_norm_eps, b.dtype)

    def init(self, key: Array, views: dict[str, Array]) -> tuple[Params, MethodState]:
        """Fresh parameters; the decoder is one of the `heads`."""
        params: dict[str, Any] = {
            "backbone": self.backbone.init(named(key, "backbone"), views["clean"][:1, 0])["params"]
        }
        visible = jnp.zeros((1, views["keep"].shape[-1], self.backbone.width))
        hidden = jnp.arange(self._cells()) >= visible.shape[1]
        decoder = self._decoder().init(named(key, "decoder"), visible[:, 0], visible, hidden[None])
        return {**params, "heads": {"decoder": decoder["params"]}}, {}

    def _cells(self) -> int:
        return (self.backbone.image_size // self.backbone.patch) ** 2

    def predict_patches(self, params: Params, views: dict[str, Array], key: Array, train: bool) -> Array:
        """What the decoder makes of every patch, [B V, N, P], in the space of the targets."""
        clean, keep = views["clean"], views["keep"]
        out = self.backbone.apply(
            {"params": params["backbone"]},
            clean.reshape(-1, *clean.shape[2:]),
            keep=keep.reshape(-1, keep.shape[-1]),
            train=train,
            rngs={"drop_path": named(key, "encoder")},
        )
        decoder = {"params": params["heads"]["decoder"]}
        return self._decoder().apply(decoder, out["feat"], out["tokens"], self._hidden(views))

    def _hidden(self, views: dict[str, Array]) -> Array:
        """bool [B V, N]."""
        return self.views.tokens(views["mask"]).reshape(-1, self._cells())

    def _patches(self, views: dict[str, Array]) -> Array:
        """The clean patches, [B V, N, P], in the normalised space."""
        clean = normalise(views["clean"], self.backbone.mean, self.backbone.std)
        return patchify(clean.reshape(-1, *clean.shape[2:]), self.backbone.patch)

    def loss(
        self, params: Params, state: MethodState, views: dict[str, Array], key: Array, step: Array, train: bool
    ) -> tuple[Array, tuple[MethodState, dict[str, Array]]]:
        """Squared error of the hidden patches."""
        targets = self._patches(views)
        if self.settings.loss.normalised_patches:
            mean, deviation = losses.patch_statistics(targets)
            targets = (targets - mean) / deviation
        rebuilt = self.predict_patches(params, views, key, train)
        total = losses.masked_patch_mse(jax.lax.stop_gradient(targets), rebuilt, self._hidden(views))
        return total, (state, {"train/loss": total})

    @staticmethod
    def variables(params: Params, state: MethodState, which: str) -> dict[str, Any]:
        """Variables of the backbone, for evaluation and hand-over; there is no teacher, both are the student."""
        return {"params": params["backbone"]}

    def reconstruct(self, params: Params, views: dict[str, Array]) -> Array:
        """The views with their hidden patches rebuilt, as pixels [B, V, S, S, C] in [0, 1]; visible ones as they are.

        A target without its patch's mean and deviation gets them back for the picture.
        """
        rebuilt, patches = self.predict_patches(params, views, jax.random.key(0), False), self._patches(views)
        if self.settings.loss.normalised_patches:
            mean, deviation = losses.patch_statistics(patches)
            rebuilt = rebuilt * deviation + mean
        whole = jnp.where(self._hidden(views)[..., None], rebuilt, patches)
        images = unpatchify(whole, self.backbone.patch, self.backbone.channels)
        return as_pixels(images, self.backbone.mean, self.backbone.std).reshape(views["clean"].shape)


KIND = Kind(
    lambda config, backbone, clock, counts: build(config, backbone, clock),
    False,
    ("method.views.globals", "method.decoder.width", "method.decoder.depth", "method.decoder.heads"),
    host_views,
    lambda config, backbone: (),
)
