"""BYOL: one view's prediction of what a slower copy of the network sees in another view (arXiv 2006.07733).

    L = || p(z_1) - t_2 ||^2 + || p(z_2) - t_1 ||^2 of unit vectors,   z of the student's projector, p its predictor,
                                                                       t of the teacher's projector

There are no negatives; the predictor and the average of the teacher keep the features from collapsing. As in the paper:
projector and predictor of two layers with batch norm, both directions, momentum from .996 to 1 along half a cosine.

Ours: the norms inside projector and predictor have no running averages, as nothing evaluates them; the optimiser is the
recipe's (the paper's is LARS). Batch statistics, in the heads too, are those of the global batch, as in the paper's.

Letters: B images, S side, C channels, D features of a target.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from gssl_jax.methods.base import Clock, Kind, Method, MethodState, Params
from gssl_jax.methods.siamese import VIEWS, PairedViews, Siamese, host_views
from gssl_jax.models.build import Backbone
from gssl_jax.models.heads import Perceptron
from gssl_jax.models.layers import l2_normalise
from gssl_jax.ops.contrast import unit_distance
from gssl_jax.ops.keys import named


def build(config: ConfigDict, backbone: Backbone, clock: Clock) -> Method:
    """BYOL as a `Method`; `config` is the resolved configuration of the stage. Raises UserError as its parts do."""
    network = Siamese.build(config, backbone, clock)
    own = BYOL(config.method, network)
    functions = (own.init, PairedViews.build(config).draw, own.loss, network.after_update, network.variables)
    return Method(("train",), *functions, None, None)


@dataclass(frozen=True)
class BYOL:
    """The settings of one run around its two networks; `settings` is `config.method`."""

    settings: ConfigDict
    network: Siamese

    def _head(self, name: str) -> Perceptron:
        """The `projector` or the `predictor`, which predicts in the space that the projector ends in."""
        output = self.settings.projector.output
        return Perceptron(self.settings[name].hidden, 2, output, "batch", self.network.encoder.backbone.dtype)

    def init(self, key: Array, views: dict[str, Array]) -> tuple[Params, MethodState]:
        """Fresh parameters, and a teacher that is a copy of them."""
        params, state, features = self.network.encoder.init(key, views["view_1"])
        params["projector"] = self._head("projector").init(named(key, "projector"), features)["params"]
        embedded = jnp.zeros((1, self.settings.projector.output))
        params["predictor"] = self._head("predictor").init(named(key, "predictor"), embedded)["params"]
        return params, self.network.following(params, state)

    def student(
        self, params: Params, batch_stats: Params, images: Array, key: Array, train: bool
    ) -> tuple[Array, Params]:
        """(predictions [B, D] of length 1, statistics after this pass)."""
        features, batch_stats = self.network.encoder.encode(params, batch_stats, images, key, train)
        embedded = self._head("projector").apply({"params": params["projector"]}, features)
        return l2_normalise(self._head("predictor").apply({"params": params["predictor"]}, embedded)), batch_stats

    def teacher(self, teacher: Params, batch_stats: Params, images: Array, train: bool) -> tuple[Array, Params]:
        """(targets [B, D] of length 1, statistics after this pass). No gradient leaves here."""
        features, batch_stats = self.network.encoder.encode(teacher, batch_stats, images, None, train)
        targets = l2_normalise(self._head("projector").apply({"params": teacher["projector"]}, features))
        return jax.lax.stop_gradient((targets, batch_stats))

    def loss(
        self, params: Params, state: MethodState, views: dict[str, Array], key: Array, step: Array, train: bool
    ) -> tuple[Array, tuple[MethodState, dict[str, Array]]]:
        """The squared distances of both directions, from 0 to 8."""
        learned, taught = state["batch_stats"], state["teacher_batch_stats"]
        predictions, targets = {}, {}
        for name in VIEWS:
            predictions[name], learned = self.student(params, learned, views[name], named(key, name), train)
            targets[name], taught = self.teacher(state["teacher"], taught, views[name], train)
        one, other = VIEWS
        total = unit_distance(predictions[one], targets[other]).mean()
        total = total + unit_distance(predictions[other], targets[one]).mean()
        spread = jnp.std(targets[one], axis=0).mean() * self.settings.projector.output**0.5
        metrics = {
            "train/loss": total,
            "train/momentum": self.network.momentum(step),
            "health/positive_cosine": 1.0 - total / 4.0,
            "health/target_spread": spread,  # 1 where targets point everywhere, 0 where all point one way
        }
        return total, ({**state, "batch_stats": learned, "teacher_batch_stats": taught}, metrics)


KIND = Kind(
    lambda config, backbone, clock, counts: build(config, backbone, clock),
    False,
    ("method.projector.hidden", "method.projector.output", "method.predictor.hidden"),
    host_views,
    lambda config, backbone: (),
)
