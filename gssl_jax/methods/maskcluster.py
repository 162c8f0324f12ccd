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
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from ml_collections import ConfigDict

from gssl_jax.errors import UserError, unknown
from gssl_jax.methods.base import Clock, Kind, Method, MethodState, Params
from gssl_jax.methods.collapse import Control, control, starved
from gssl_jax.methods.masked_views import MaskedViews
from gssl_jax.methods.multi_views import host_views
from gssl_jax.models.heads import NORMS, Projector, Prototypes, ReconstructionHead
from gssl_jax.models.vit import ViT
from gssl_jax.ops import assignment, losses, schedules
from gssl_jax.ops.augment import normalise
from gssl_jax.ops.keys import named

LEVELS = ("cls", "patch")


def build(config: ConfigDict, backbone: ViT, clock: Clock) -> Method:
    """MaskCluster as a `Method`; `config` is the resolved configuration of the stage.

    Raises UserError for combinations that have no meaning (see `_check`).
    """
    settings = config.method
    _check(settings, backbone)
    if settings.momentum.curve not in schedules.CURVES:
        raise UserError(
            f"method.momentum.curve must be one of {sorted(schedules.CURVES)}, got {settings.momentum.curve!r}"
        )
    controls = {level: control(settings.collapse[level], settings, clock) for level in LEVELS}
    own = MaskCluster(settings, backbone, MaskedViews.build(config), controls, clock)
    return Method(
        ("train",),
        own.init,
        own.views.draw,
        own.loss,
        own.after_update,
        own.variables,
        own.reconstruct if settings.loss.reconstruction else None,
        None,
    )


POSITIVE = ("method.views.globals", "method.prototypes.cls", "method.prototypes.patch")

KIND = Kind(
    lambda config, backbone, clock, counts: build(config, backbone, clock), False, POSITIVE, host_views, starved
)


def _check(settings: ConfigDict, backbone: ViT) -> None:
    kind, weights = settings.corruption.kind, settings.loss
    if settings.projector.norm not in NORMS:
        raise unknown("method.projector.norm", settings.projector.norm, NORMS)
    if settings.sinkhorn.iterations < 1:
        raise UserError(f"method.sinkhorn.iterations={settings.sinkhorn.iterations}: sinkhorn needs at least one")
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

    # -- modules -----------------------------------------------------------------------------------------------------

    def _projector(self) -> Projector:
        p = self.settings.projector
        return Projector(p.hidden, p.layers, p.output, p.norm, self.backbone.dtype)

    def _reconstruction(self) -> ReconstructionHead:
        b = self.backbone
        return ReconstructionHead(b.patch, b.channels, self.settings.reconstruction.layers, b.dtype)

    def _assign(self, params: Params, level: str, x: Array) -> Array:
        """Cosines of embedded tokens [..., D] with the prototypes of a level, [..., K] in [-1, 1]."""
        projector = params["projector"]["shared" if self.settings.projector.shared else level]
        z = self._projector().apply({"params": projector}, x)
        prototypes = Prototypes(self.settings.prototypes[level])
        return prototypes.apply({"params": params["prototypes"][level]}, z)

    def init(self, key: Array, views: dict[str, Array]) -> tuple[Params, MethodState]:
        """Fresh parameters; the teacher starts as a copy of the student (a copy: donated buffers may not alias)."""
        images, width = views["clean"][:1, 0], self.backbone.width
        features, embedded = jnp.zeros((1, width)), jnp.zeros((1, self.settings.projector.output))
        names = ("shared",) if self.settings.projector.shared else LEVELS
        params: dict[str, Any] = {
            "backbone": self.backbone.init(named(key, "backbone"), images)["params"],
            "projector": {n: self._projector().init(named(key, f"projector/{n}"), features)["params"] for n in names},
            "prototypes": {
                level: Prototypes(self.settings.prototypes[level]).init(named(key, f"prototypes/{level}"), embedded)[
                    "params"
                ]
                for level in LEVELS
            },
        }
        heads: dict[str, Any] = {}
        if self.settings.loss.reconstruction:
            tokens = jnp.zeros((1, (self.backbone.image_size // self.backbone.patch) ** 2, width))
            heads["reconstruction"] = self._reconstruction().init(named(key, "reconstruction"), tokens)["params"]
        if self.settings.corruption.kind == "token":
            heads["mask_token"] = 0.02 * jax.random.normal(named(key, "mask_token"), (width,))
        if heads:
            params["heads"] = heads
        centre = {level: jnp.zeros((self.settings.prototypes[level],), jnp.float32) for level in LEVELS}
        return params, {"teacher": jax.tree.map(jnp.copy, self._taught(params)), "centre": centre}

    @staticmethod
    def _taught(params: Params) -> dict[str, Any]:
        """The part of the student that the teacher follows: everything its targets depend on."""
        return {name: params[name] for name in ("backbone", "projector", "prototypes")}

    # -- teacher and student -----------------------------------------------------------------------------------------

    def teacher(self, teacher: Params, views: dict[str, Array]) -> dict[str, Array]:
        """Cosines of the clean global views: `cls` [B, V, K], `patch` [B, V, N, K]. No gradient leaves here."""
        clean = views["clean"]
        out = self.backbone.apply({"params": teacher["backbone"]}, clean.reshape(-1, *clean.shape[2:]))
        cosines = {
            "cls": self._assign(teacher, "cls", out["feat"]),
            "patch": self._assign(teacher, "patch", out["tokens"]),
        }
        return jax.lax.stop_gradient({k: v.reshape(*clean.shape[:2], *v.shape[1:]) for k, v in cosines.items()})

    def student(self, params: Params, views: dict[str, Array], key: Array, train: bool) -> dict[str, Array]:
        """Cosines of the masked global views and the local ones: `cls` [B, V + L, K], `patch` [B, V, n, K] (n = N, or
        the visible tokens), and `pixels` [B, V, S, S, C], the reconstruction in the normalised space."""
        seen = views["student"]
        batch, globals_ = seen.shape[:2]
        hidden = self._hidden(params, views)
        out = self.backbone.apply(
            {"params": params["backbone"]},
            seen.reshape(-1, *seen.shape[2:]),
            train=train,
            rngs={"drop_path": named(key, "global")},
            **hidden,
        )
        cls = self._assign(params, "cls", out["feat"]).reshape(batch, globals_, -1)
        patch = self._assign(params, "patch", out["tokens"]).reshape(batch, globals_, out["tokens"].shape[1], -1)
        result = {"cls": cls, "patch": patch}
        if self.settings.loss.reconstruction:
            pixels = self._reconstruction().apply({"params": params["heads"]["reconstruction"]}, out["tokens"])
            result["pixels"] = pixels.reshape(seen.shape)
        if "local" in views:
            local = views["local"]
            out = self.backbone.apply(
                {"params": params["backbone"]},
                local.reshape(-1, *local.shape[2:]),
                train=train,
                rngs={"drop_path": named(key, "local")},
            )
            more = self._assign(params, "cls", out["feat"]).reshape(batch, local.shape[1], -1)
            result["cls"] = jnp.concatenate([cls, more], axis=1)
        return result

    def _hidden(self, params: Params, views: dict[str, Array]) -> dict[str, Array]:
        """What tells the backbone which patches are hidden, where that is not in the pixels already."""
        kind = self.settings.corruption.kind
        if kind == "drop":
            return {"keep": views["keep"].reshape(-1, views["keep"].shape[-1])}
        if kind == "token":
            tokens = self.views.tokens(views["mask"])
            return {"mask": tokens.reshape(-1, tokens.shape[-1]), "mask_token": params["heads"]["mask_token"]}
        return {}

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
            probabilities = jax.nn.softmax(learned[level] / tau, axis=-1)
            chosen = counted[level]
            rows = None if chosen is None else chosen.reshape(-1)
            penalty = self.controls[level].penalty(probabilities.reshape(-1, probabilities.shape[-1]), rows)
            if self.settings.collapse[level] == "memax":
                metrics[f"train/memax_{level}"] = penalty
            total = total + weights[level] * penalty
            metrics |= self._health(level, targets[level], learned[level], rows)
        metrics |= {"train/loss": total, "train/momentum": self.momentum(step)}
        centre = {level: self.controls[level].centre(state["centre"][level], taught[level]) for level in LEVELS}
        return total, ({**state, "centre": centre}, metrics)

    def _counted(self, views: dict[str, Array]) -> Array | None:
        """The patch tokens that the loss counts, bool [B, V, N]; None for all. Of dropped ones there is no student."""
        if "keep" in views:
            return ~self.views.tokens(views["mask"])
        return self.views.tokens(views["mask"]) if self.settings.loss.patch_tokens == "masked" else None

    def _targets(self, level: str, cosines: Array, centre: Array, step: Array, counted: Array | None = None) -> Array:
        """Assignments of the teacher, the same shape as `cosines`. Sinkhorn balances the rows of all views together, of
        `counted` ones where given, and with `sinkhorn.positionwise` each token position by itself (CAPI)."""
        apart = level == "patch" and self.settings.sinkhorn.positionwise

        def grouped(x: Array) -> Array:
            return (
                jnp.moveaxis(x, 2, 0).reshape(x.shape[2], -1, *x.shape[3:]) if apart else x.reshape(1, -1, *x.shape[3:])
            )

        rows = cosines if cosines.ndim == 4 else cosines[:, :, None]  # class level: one token a view
        selected = None if counted is None else grouped(counted)
        balanced = self.controls[level].targets(grouped(rows), centre, step, selected)
        if apart:
            balanced = jnp.moveaxis(balanced.reshape(rows.shape[2], *rows.shape[:2], -1), 0, 2)
        return jax.lax.stop_gradient(balanced.reshape(cosines.shape))

    def _patch_loss(self, targets: Array, logits: Array, counted: Array | None) -> Array:
        tokens = targets.shape[2]
        flat = (-1, tokens, targets.shape[-1])
        weights = None if counted is None else counted.reshape(-1, tokens)
        return losses.token_cross_entropy(targets.reshape(flat), logits.reshape(flat), weights)

    def _reconstruction_loss(self, views: dict[str, Array], pixels: Array) -> Array:
        clean = normalise(views["clean"], self.backbone.mean, self.backbone.std)
        flat = (-1, *clean.shape[2:])
        return losses.masked_l1(clean.reshape(flat), pixels.reshape(flat), views["mask"].reshape(-1, *clean.shape[2:4]))

    def _health(self, level: str, targets: Array, cosines: Array, counted: Array | None) -> dict[str, Array]:
        """Entropies and prototype use on at most `health_rows` targets, and how often teacher and student agree, on
        the rows that are `counted`, bool [B * V * N], or all."""
        seen = cosines[:, : targets.shape[1]]
        if level == "cls":
            seen = jnp.roll(seen, 1, axis=1)  # across views, as in the loss
        agree = (jnp.argmax(targets, axis=-1) == jnp.argmax(seen, axis=-1)).astype(jnp.float32).reshape(-1)
        agreement = assignment.mean_of(agree, counted)
        rows = targets.reshape(-1, targets.shape[-1])
        if len(rows) > self.settings.health_rows:  # drawn, since a stride would always meet the same token positions
            some = np.random.default_rng(0).choice(len(rows), self.settings.health_rows, replace=False)
            rows, counted = rows[some], None if counted is None else counted[some]
        found = {**assignment.assignment_health(rows, counted), "agreement": agreement}
        return {f"health/{name}_{level}": value for name, value in found.items()}

    # -- after the step ----------------------------------------------------------------------------------------------

    def momentum(self, step: Array) -> Array:
        """Momentum of the teacher at a step."""
        m = self.settings.momentum
        return schedules.CURVES[m.curve](step, m.start, m.end, self.clock.total)

    def after_update(self, params: Params, state: MethodState, step: Array) -> MethodState:
        """teacher <- m teacher + (1 - m) student, after the optimiser step, with the momentum of this step."""
        teacher = optax.incremental_update(self._taught(params), state["teacher"], 1.0 - self.momentum(step))
        return {**state, "teacher": teacher}

    @staticmethod
    def variables(params: Params, state: MethodState, which: str) -> dict[str, Any]:
        """Variables of the backbone of the `teacher` or the `student`, for evaluation and hand-over."""
        return {"params": {"teacher": state["teacher"], "student": params}[which]["backbone"]}

    def reconstruct(self, params: Params, views: dict[str, Array]) -> Array:
        """The student's reconstruction of its masked views as pixels in [0, 1], [B, V, S, S, C]."""
        pixels = self.student(params, views, jax.random.key(0), False)["pixels"]
        mean, std = (
            jnp.broadcast_to(jnp.asarray(x), (pixels.shape[-1],)) for x in (self.backbone.mean, self.backbone.std)
        )
        ones = (1,) * (pixels.ndim - 1)
        return jnp.clip(pixels * std.reshape(*ones, -1) + mean.reshape(*ones, -1), 0.0, 1.0)
