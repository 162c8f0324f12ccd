"""A backbone as a method runs it, residual network or transformer: first parameters, passes and batch statistics.

Letters: B images, S side, C channels, D features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gssl_jax.methods.base import MethodState, Params
from gssl_jax.models.build import Backbone
from gssl_jax.ops.keys import named


@dataclass(frozen=True)
class Encoder:
    """A backbone whose batch statistics, where it has some, are handed in and out."""

    backbone: Backbone

    def init(self, key: Array, images: Array) -> tuple[dict[str, Any], MethodState, Array]:
        """(fresh parameters under `backbone`, its statistics under `batch_stats`, zeros [1, D] in the shape of its
        features), from images [B, S, S, C]."""
        variables = self.backbone.init(named(key, "backbone"), images[:1])
        feat = jax.eval_shape(lambda v, x: self.backbone.apply(v, x)["feat"], variables, images[:1])
        state = {"batch_stats": variables.get("batch_stats", {})}
        return {"backbone": variables["params"]}, state, jnp.zeros(feat.shape, feat.dtype)

    def encode(
        self,
        params: Params,
        batch_stats: Any,
        images: Array,
        key: Array | None,
        train: bool,
        groups: int = 1,
        members: Array | None = None,
    ) -> tuple[Array, Any]:
        """(features [B, D], statistics after this pass) of images [B, S, S, C] in [0, 1].

        In training batch norm goes by the batch, or by `groups` of it (`members` int32 [B] says who is in which), and
        with a `key` dropout and drop path are on: the teacher, which gets none, is the whole network.
        """
        variables = self.variables(params, batch_stats)
        if not train:
            return self.backbone.apply(variables, images)["feat"], batch_stats
        backbone = self.backbone
        options: dict[str, Any] = {}
        if batch_stats:
            options["use_running_average"] = False
        if groups > 1:
            backbone, options["members"] = backbone.clone(batch_norm_groups=groups), members
        rngs = {} if key is None else {name: named(key, name) for name in ("dropout", "drop_path")}
        out, new = backbone.apply(
            variables, images, train=key is not None, rngs=rngs, mutable=["batch_stats"], **options
        )
        return out["feat"], new.get("batch_stats", {})

    @staticmethod
    def variables(params: Params, batch_stats: Any) -> dict[str, Any]:
        """Variables of the backbone, for evaluation and hand-over."""
        return {"params": params["backbone"]} | ({"batch_stats": batch_stats} if batch_stats else {})
