"""What the clustering methods share: cluster layers, targets by the collapse control, health, a teacher that follows.

A level is what is assigned to prototypes: `cls`, the feature of a view, and for some methods `patch`, its tokens. Each
has a projector (one may serve both), prototypes and a collapse control of its own; a method composes a `Clustering`
with its views and says which of its views teaches which.

Letters: B images, V views, N patch tokens, K prototypes, S side, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from gssl_jax.errors import UserError, unknown
from gssl_jax.methods.base import Clock, MethodState, Params
from gssl_jax.methods.collapse import Control, control
from gssl_jax.methods.following import followed, momentum_at
from gssl_jax.models.build import Backbone
from gssl_jax.models.heads import NORMS, Projector, Prototypes
from gssl_jax.ops import assignment, schedules
from gssl_jax.ops.keys import named

READS = {"cls": "feat", "patch": "tokens"}
"""Level -> the output of the backbone that is assigned."""

TAUGHT = ("backbone", "projector", "prototypes")
"""The prefixes of the student that its teacher follows: everything its targets depend on."""


def check_patches(config: ConfigDict) -> None:
    """Raises UserError where a method that hides or assigns patches is given a network without any."""
    if config.backbone.kind != "vit":
        raise UserError(
            f"method.name={config.method.name} needs the patches of a vision transformer and backbone.kind="
            f"{config.backbone.kind} has none: use backbone.kind=vit, or the methods dino or swav"
        )


def check_momentum(settings: ConfigDict) -> None:
    """Raises UserError for a curve of the teacher's momentum that is not known."""
    if settings.momentum.curve not in schedules.CURVES:
        raise unknown("method.momentum.curve", settings.momentum.curve, schedules.CURVES)


@dataclass(frozen=True)
class Clustering:
    """The backbone under cluster layers for some levels; `settings` is `config.method`, `controls` is by level."""

    settings: ConfigDict
    backbone: Backbone
    levels: tuple[str, ...]
    controls: dict[str, Control]
    clock: Clock

    @staticmethod
    def build(config: ConfigDict, backbone: Backbone, clock: Clock, levels: tuple[str, ...]) -> Clustering:
        """Raises UserError for a norm or control that is not known, and for sinkhorn without iterations."""
        settings = config.method
        if settings.projector.norm not in NORMS:
            raise unknown("method.projector.norm", settings.projector.norm, NORMS)
        if settings.sinkhorn.iterations < 1:
            raise UserError(f"method.sinkhorn.iterations={settings.sinkhorn.iterations}: sinkhorn needs at least one")
        controls = {level: control(settings.collapse[level], settings, clock) for level in levels}
        return Clustering(settings, backbone, levels, controls, clock)

    # -- networks ----------------------------------------------------------------------------------------------------

    def _projector(self) -> Projector:
        p = self.settings.projector
        return Projector(p.hidden, p.layers, p.output, p.norm, self.backbone.dtype)

    def _shared(self) -> bool:
        return len(self.levels) > 1 and self.settings.projector.shared

    def init(self, key: Array, images: Array) -> tuple[dict[str, Any], Params]:
        """Fresh (parameters, batch statistics) for images [1, S, S, C]; of a ViT the statistics are empty."""
        variables = self.backbone.init(named(key, "backbone"), images)
        feat = jax.eval_shape(lambda v, x: self.backbone.apply(v, x)["feat"], variables, images)
        features, embedded = jnp.zeros(feat.shape), jnp.zeros((1, self.settings.projector.output))
        names = ("shared",) if self._shared() else self.levels
        params = {
            "backbone": variables["params"],
            "projector": {n: self._projector().init(named(key, f"projector/{n}"), features)["params"] for n in names},
            "prototypes": {
                level: Prototypes(self.settings.prototypes[level]).init(named(key, f"prototypes/{level}"), embedded)[
                    "params"
                ]
                for level in self.levels
            },
        }
        return params, variables.get("batch_stats", {})

    def centre(self) -> dict[str, Array]:
        """The centres at the start: zero."""
        return {level: jnp.zeros((self.settings.prototypes[level],), jnp.float32) for level in self.levels}

    def look(
        self, params: Params, statistics: Params, images: Array, key: Array | None, train: bool, **hidden: Array
    ) -> tuple[dict[str, Array], Params]:
        """(outputs of the backbone for [B * V, S, S, C], statistics after this pass) of images [B, V, S, S, C].

        In training batch norm goes by the batch, and with a `key` dropout and drop path are on. `hidden` are `mask` and
        `mask_token`, or `keep`, of a ViT.
        """
        variables = {"params": params["backbone"]} | ({"batch_stats": statistics} if statistics else {})
        options: dict[str, Any] = {"use_running_average": False} if statistics and train else {}
        rngs = {} if key is None else {"drop_path": key, "dropout": key}
        flat, on = images.reshape(-1, *images.shape[2:]), train and key is not None
        out, new = self.backbone.apply(
            variables, flat, train=on, rngs=rngs, mutable=["batch_stats"], **options, **hidden
        )
        return out, new.get("batch_stats", {})

    def assign(self, params: Params, level: str, out: dict[str, Array], views: int) -> Array:
        """Cosines of a backbone's outputs with the prototypes of a level, [B, views, (N,) K] in [-1, 1]."""
        x = out[READS[level]]
        projector = params["projector"]["shared" if self._shared() else level]
        z = self._projector().apply({"params": projector}, x)
        prototypes = Prototypes(self.settings.prototypes[level])
        cosines = prototypes.apply({"params": params["prototypes"][level]}, z)
        return cosines.reshape(-1, views, *cosines.shape[1:])

    def teach(self, teacher: Params, statistics: Params, clean: Array, train: bool) -> tuple[dict[str, Array], Params]:
        """(cosines of the clean views [B, V, S, S, C] by level, statistics). No gradient leaves here."""
        out, statistics = self.look(teacher, statistics, clean, None, train)
        cosines = {level: self.assign(teacher, level, out, clean.shape[1]) for level in self.levels}
        return jax.lax.stop_gradient((cosines, statistics))

    def learn(
        self,
        params: Params,
        statistics: Params,
        seen: Array,
        local: Array | None,
        key: Array,
        train: bool,
        **hidden: Array,
    ) -> tuple[dict[str, Array], dict[str, Array], Params]:
        """(cosines by level, outputs of the backbone for the global views, statistics) of what the student sees.

        `seen` are its global views [B, V, S, S, C], of which `hidden` says what is hidden; `local` views
        [B, L, s, s, C] follow them at class level.
        """
        out, statistics = self.look(params, statistics, seen, named(key, "global"), train, **hidden)
        cosines = {level: self.assign(params, level, out, seen.shape[1]) for level in self.levels}
        if local is not None:
            found, statistics = self.look(params, statistics, local, named(key, "local"), train)
            more = self.assign(params, "cls", found, local.shape[1])
            cosines["cls"] = jnp.concatenate([cosines["cls"], more], axis=1)
        return cosines, out, statistics

    # -- targets -----------------------------------------------------------------------------------------------------

    def targets(self, level: str, cosines: Array, centre: Array, step: Array, counted: Array | None = None) -> Array:
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

    def next_centre(self, centre: Params, taught: dict[str, Array]) -> dict[str, Array]:
        """The centres after these cosines: for the next step."""
        return {level: self.controls[level].centre(centre[level], taught[level]) for level in self.levels}

    def watch(
        self, level: str, targets: Array, cosines: Array, counted: Array | None = None
    ) -> tuple[Array, dict[str, Array]]:
        """(penalty of the control on the student's probabilities, metrics) of targets and the student's cosines.

        Metrics are the penalty of ME-MAX and the health of the assignments, on the rows that are `counted`.
        """
        rows = None if counted is None else counted.reshape(-1)
        probabilities = jax.nn.softmax(cosines / self.settings.temperature.student, axis=-1)
        penalty = self.controls[level].penalty(probabilities.reshape(-1, probabilities.shape[-1]), rows)
        named_penalty = {f"train/memax_{level}": penalty} if self.settings.collapse[level] == "memax" else {}
        return penalty, named_penalty | self._health(level, targets, cosines, rows)

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

    # -- the teacher -------------------------------------------------------------------------------------------------

    @staticmethod
    def taught(params: Params) -> dict[str, Any]:
        """A teacher as it starts: a copy of what it follows (a copy: donated buffers may not alias)."""
        return jax.tree.map(jnp.copy, {name: params[name] for name in TAUGHT})

    def momentum(self, step: Array) -> Array:
        """Momentum of the teacher at a step."""
        return momentum_at(self.settings, self.clock, step)

    def after_update(self, params: Params, state: MethodState, step: Array) -> MethodState:
        """teacher <- m teacher + (1 - m) student, after the optimiser step, with the momentum of this step."""
        return followed(params, state, TAUGHT, self.momentum(step))

    @staticmethod
    def variables(params: Params, state: MethodState, which: str) -> dict[str, Any]:
        """Variables of the backbone of the `teacher` or the `student`, for evaluation and hand-over."""
        return {"params": {"teacher": state["teacher"], "student": params}[which]["backbone"]}
