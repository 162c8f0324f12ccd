"""What MoCo and BYOL share: views in pairs, a student, and a teacher whose parameters follow the student's.

Only parameters follow. Running batch statistics do not: teacher and student keep their own, each of its own passes, as
in the published code of both. In training both normalise by the batch before them, so that those of the teacher
matter only where it is evaluated.

Letters: B images, S side, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from gssl_jax.errors import UserError, unknown
from gssl_jax.methods.base import Batches, Clock, MethodState, Params, host_crop
from gssl_jax.methods.encoder import Encoder
from gssl_jax.methods.following import followed, momentum_at
from gssl_jax.models.build import Backbone
from gssl_jax.ops import schedules
from gssl_jax.ops.augment import augment_batch
from gssl_jax.ops.keys import named

VIEWS = ("view_1", "view_2")
TAUGHT = ("backbone", "projector")
"""The prefixes of the student that its teacher follows."""


def host_views(config: ConfigDict) -> dict[str, list[dict[str, Any]]]:
    """The two views, where the host cuts them."""
    return {"global": [host_crop(config.method.augment[name]) for name in VIEWS], "local": []}


@dataclass(frozen=True)
class PairedViews:
    """Draws two views of each image; `settings` is `config.method` (group `augment`)."""

    settings: ConfigDict
    host_crops: bool
    contrast_normalise: bool

    @staticmethod
    def build(config: ConfigDict) -> PairedViews:
        """Raises UserError for views of another size than the images."""
        size = config.data.image_size
        for name in VIEWS:
            if config.method.augment[name].size != size:
                raise UserError(
                    f"method.augment.{name}.size={config.method.augment[name].size} is not data.image_size={size}: set "
                    f"--config.method.augment.{name}.size={size}"
                )
        return PairedViews(config.method, config.data.crop == "host", config.data.contrast_normalise)

    def draw(self, batches: Batches, key: Array, step: Array) -> dict[str, Array]:
        """`view_1`, `view_2` float [B, S, S, C] in [0, 1]. Every draw belongs to (step, view, the sample's `draw`)."""
        batch = batches["train"]
        key = jax.random.fold_in(named(key, "train"), step)
        own = {"crop": not self.host_crops, "contrast_normalise": self.contrast_normalise}
        views = {}
        for place, name in enumerate(VIEWS):
            preset = dict(self.settings.augment[name].items()) | own
            images = batch["image"][:, place if self.host_crops else 0]
            views[name] = augment_batch(named(key, name), batch["draw"], images, preset)
        return views


@dataclass(frozen=True)
class Siamese:
    """The encoder twice, and how one follows the other; `settings` is `config.method`."""

    settings: ConfigDict
    encoder: Encoder
    clock: Clock

    @staticmethod
    def build(config: ConfigDict, backbone: Backbone, clock: Clock) -> Siamese:
        """Raises UserError for a momentum that is none."""
        m = config.method.momentum
        if m.curve not in schedules.CURVES:
            raise unknown("method.momentum.curve", m.curve, schedules.CURVES)
        for name in ("start", "end"):
            if not 0.0 <= m[name] <= 1.0:
                raise UserError(f"method.momentum.{name}={m[name]} is no momentum: give 0.0 (a copy) to 1.0 (fixed)")
        return Siamese(config.method, Encoder(backbone), clock)

    @staticmethod
    def following(params: Params, state: MethodState) -> MethodState:
        """`state` with a teacher that starts as a copy of the student (a copy: donated buffers may not alias)."""
        teacher = {name: params[name] for name in TAUGHT}
        copies = jax.tree.map(jnp.copy, {"teacher": teacher, "teacher_batch_stats": state["batch_stats"]})
        return {**state, **copies}

    def momentum(self, step: Array) -> Array:
        """Momentum of the teacher at a step."""
        return momentum_at(self.settings, self.clock, step)

    def after_update(self, params: Params, state: MethodState, step: Array) -> MethodState:
        """teacher <- m teacher + (1 - m) student, after the optimiser step; parameters only."""
        return followed(params, state, TAUGHT, self.momentum(step))

    @staticmethod
    def variables(params: Params, state: MethodState, which: str) -> dict[str, Any]:
        """Variables of the backbone of the `teacher` or the `student`, for evaluation and hand-over."""
        chosen, statistics = {
            "teacher": (state["teacher"], state["teacher_batch_stats"]),
            "student": (params, state["batch_stats"]),
        }[which]
        return Encoder.variables(chosen, statistics)
