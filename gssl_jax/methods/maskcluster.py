"""MaskCluster: masked image modelling with clustering of class and patch tokens (arXiv 2406.17460, IJCV 2025).

From the paper: the student sees masked global views and the EMA teacher the clean ones; class and patch tokens are
assigned to prototypes by separate cluster layers; cross-entropy from teacher to student across views for class
tokens, in the same view for patch tokens; an l1 loss rebuilds the pixels; collapse is avoided by sinkhorn, ME-MAX or
centring. The paper has no public code: masks, heads, temperatures, local views and the weights of the losses are our
reconstruction from its authors' MC-SSL, SiT and GMML, and each is a value of the configuration.

Letters: B images, V global views, L local views, N patch tokens, K prototypes, S side, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from gssl_jax.errors import UserError
from gssl_jax.methods.base import Clock, Kind, Method, MethodState, Params
from gssl_jax.methods.clustering import Clustering, check_momentum, check_patches
from gssl_jax.methods.collapse import Control, starved
from gssl_jax.methods.masked_views import MaskedViews
from gssl_jax.methods.multi_views import host_views
from gssl_jax.models.heads import ReconstructionHead
from gssl_jax.models.vit import ViT
from gssl_jax.ops import losses
from gssl_jax.ops.augment import normalise
from gssl_jax.ops.keys import named

LEVELS = ("cls", "patch")


def build(config: ConfigDict, backbone: ViT, clock: Clock) -> Method:
    """MaskCluster as a `Method`; `config` is the resolved configuration of the stage.

    Raises UserError for combinations that have no meaning (see `_check`).
    """
    check_patches(config)
    check_momentum(config.method)
    _check(config.method, backbone)
    clusters = Clustering.build(config, backbone, clock, LEVELS)
    own = MaskCluster(config.method, backbone, MaskedViews.build(config), clusters.controls, clock)
    return Method(
        ("train",),
        own.init,
        own.views.draw,
        own.loss,
        clusters.after_update,
        clusters.variables,
        own.reconstruct if config.method.loss.reconstruction else None,
        None,
    )


POSITIVE = ("method.views.globals", "method.prototypes.cls", "method.prototypes.patch")

KIND = Kind(
    lambda config, backbone, clock, counts: build(config, backbone, clock),
    False,
    POSITIVE,
    host_views,
    starved,
    ("method.loss.reconstruction",),
)


def _check(settings: ConfigDict, backbone: ViT) -> None:
    kind, weights = settings.corruption.kind, settings.loss
    if kind == "drop" and weights.reconstruction:
        raise UserError(
            "method.corruption.kind=drop leaves nothing to rebuild the hidden patches from: set "
            "--config.method.loss.reconstruction=0.0 or corrupt by noise, zeros, foreign or token"
        )
    if weights.patch_tokens not in ("all", "masked"):
        raise UserError(f"method.loss.patch_tokens must be 'all' or 'masked', got {weights.patch_tokens!r}")
    if weights.patch_tokens == "masked" and kind == "drop":
        raise UserError("method.loss.patch_tokens=masked has no tokens when method.corruption.kind=drop: use 'all'")
    if weights.patch_tokens == "masked" and settings.corruption.align % backbone.patch:
        raise UserError(
            f"method.loss.patch_tokens=masked needs masks of whole patches: set "
            f"--config.method.corruption.align={backbone.patch}"
        )
    if settings.views.globals + settings.views.locals < 2 and not weights.same_view:
        raise UserError("one view alone has no cross-view pair: set --config.method.views.globals=2")


@dataclass(frozen=True)
class MaskCluster:
    """The modules and settings of one MaskCluster run; its bound methods are the functions of the `Method`."""

    settings: ConfigDict
    backbone: ViT
    views: MaskedViews
    controls: dict[str, Control]
    clock: Clock

    @property
    def clusters(self) -> Clustering:
        """The network and its cluster layers at both levels."""
        return Clustering(self.settings, self.backbone, LEVELS, self.controls, self.clock)

    def _reconstruction(self) -> ReconstructionHead:
        b = self.backbone
        return ReconstructionHead(b.patch, b.channels, self.settings.reconstruction.layers, b.dtype)

    def init(self, key: Array, views: dict[str, Array]) -> tuple[Params, MethodState]:
        """Fresh parameters; the teacher starts as a copy of the student."""
        params, _ = self.clusters.init(key, views["clean"][:1, 0])
        heads, width = {}, self.backbone.width
        if self.settings.loss.reconstruction:
            tokens = jnp.zeros((1, (self.backbone.image_size // self.backbone.patch) ** 2, width))
            heads["reconstruction"] = self._reconstruction().init(named(key, "reconstruction"), tokens)["params"]
        if self.settings.corruption.kind == "token":
            heads["mask_token"] = 0.02 * jax.random.normal(named(key, "mask_token"), (width,))
        if heads:
            params["heads"] = heads
        return params, {"teacher": self.clusters.taught(params), "centre": self.clusters.centre()}

    # -- teacher and student -----------------------------------------------------------------------------------------

    def teacher(self, teacher: Params, views: dict[str, Array]) -> dict[str, Array]:
        """Cosines of the clean global views: `cls` [B, V, K], `patch` [B, V, N, K]. No gradient leaves here."""
        return self.clusters.teach(teacher, {}, views["clean"], False)[0]

    def student(self, params: Params, views: dict[str, Array], key: Array, train: bool) -> dict[str, Array]:
        """Cosines of the masked global views and the local ones: `cls` [B, V + L, K], `patch` [B, V, n, K] (n = N, or
        the visible tokens), and `pixels` [B, V, S, S, C], the reconstruction in the normalised space."""
        seen, hidden = views["student"], self.views.hidden(params, views)
        result, out, _ = self.clusters.learn(params, {}, seen, views.get("local"), key, train, **hidden)
        if self.settings.loss.reconstruction:
            pixels = self._reconstruction().apply({"params": params["heads"]["reconstruction"]}, out["tokens"])
            result["pixels"] = pixels.reshape(seen.shape)
        return result

    # -- loss --------------------------------------------------------------------------------------------------------

    def loss(
        self, params: Params, state: MethodState, views: dict[str, Array], key: Array, step: Array, train: bool
    ) -> tuple[Array, tuple[MethodState, dict[str, Array]]]:
        """E5: class + patch + reconstruction (+ ME-MAX penalties), each with its weight; see the module docstring."""
        weights, tau = self.settings.loss, self.settings.temperature.student
        taught = self.teacher(state["teacher"], views)
        learned = self.student(params, views, key, train)
        counted = {"cls": None, "patch": self._counted(views)}
        targets = {
            level: self._targets(level, taught[level], state["centre"][level], step, counted[level]) for level in LEVELS
        }
        if "keep" in views:
            targets["patch"] = jnp.take_along_axis(targets["patch"], views["keep"][..., None], axis=2)
            counted["patch"] = None  # what is left counts
        parts = {
            "cls": losses.view_pair_cross_entropy(targets["cls"], learned["cls"] / tau, weights.same_view),
            "patch": self._patch_loss(targets["patch"], learned["patch"] / tau, counted["patch"]),
        }
        if weights.reconstruction:
            parts["reconstruction"] = self._reconstruction_loss(views, learned["pixels"])
        total = sum(weights[name] * value for name, value in parts.items())
        metrics = {f"train/loss_{name}": value for name, value in parts.items()}
        for level in LEVELS:
            penalty, told = self.clusters.watch(level, targets[level], learned[level], counted[level])
            total = total + weights[level] * penalty
            metrics |= told
        metrics |= {"train/loss": total, "train/momentum": self.momentum(step)}
        return total, ({**state, "centre": self.clusters.next_centre(state["centre"], taught)}, metrics)

    def _counted(self, views: dict[str, Array]) -> Array | None:
        """The patch tokens that the loss counts, bool [B, V, N]; None for all. Of dropped ones there is no student."""
        if "keep" in views:
            return ~self.views.tokens(views["mask"])
        return self.views.tokens(views["mask"]) if self.settings.loss.patch_tokens == "masked" else None

    def _targets(self, level: str, cosines: Array, centre: Array, step: Array, counted: Array | None = None) -> Array:
        return self.clusters.targets(level, cosines, centre, step, counted)

    def _patch_loss(self, targets: Array, logits: Array, counted: Array | None) -> Array:
        tokens = targets.shape[2]
        flat = (-1, tokens, targets.shape[-1])
        weights = None if counted is None else counted.reshape(-1, tokens)
        return losses.token_cross_entropy(targets.reshape(flat), logits.reshape(flat), weights)

    def _reconstruction_loss(self, views: dict[str, Array], pixels: Array) -> Array:
        clean = normalise(views["clean"], self.backbone.mean, self.backbone.std)
        flat = (-1, *clean.shape[2:])
        return losses.masked_l1(clean.reshape(flat), pixels.reshape(flat), views["mask"].reshape(-1, *clean.shape[2:4]))

    def momentum(self, step: Array) -> Array:
        """Momentum of the teacher at a step."""
        return self.clusters.momentum(step)

    def reconstruct(self, params: Params, views: dict[str, Array]) -> Array:
        """The student's reconstruction of its masked views as pixels in [0, 1], [B, V, S, S, C]."""
        pixels = self.student(params, views, jax.random.key(0), False)["pixels"]
        mean, std = (
            jnp.broadcast_to(jnp.asarray(x), (pixels.shape[-1],)) for x in (self.backbone.mean, self.backbone.std)
        )
        ones = (1,) * (pixels.ndim - 1)
        return jnp.clip(pixels * std.reshape(*ones, -1) + mean.reshape(*ones, -1), 0.0, 1.0)
