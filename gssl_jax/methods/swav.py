"""SwAV: swapped prediction of the cluster codes of views, without a second network (arXiv 2006.09882).

    L = mean over (u, v), u != v, of H(Q_u, softmax(l_v / tau)),   u of the global views, v of all views

Q_u are the codes of view u: its own scores, balanced over the batch by sinkhorn; no gradient enters them. From the
paper: multi-crop, codes of the global views only, each view balanced by itself, prototypes of unit length. Ours: no
queue of earlier features (a batch of at least as many images as prototypes does without; see the warning of a run),
GELU in the projector, and the other collapse controls in the place of sinkhorn by `method.collapse.cls`: they turn
the same scores into targets.

Any backbone will do. Letters: B images, V global views, L local views, K prototypes, S side, C channels.
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
from gssl_jax.methods.clustering import Clustering
from gssl_jax.methods.collapse import starved
from gssl_jax.methods.multi_views import MultiViews, host_views
from gssl_jax.models.build import Backbone
from gssl_jax.ops import losses


def build(config: ConfigDict, backbone: Backbone, clock: Clock) -> Method:
    """SwAV as a `Method`; `config` is the resolved configuration of the stage. Raises UserError for a single view."""
    counts = config.method.views
    if counts.globals + counts.locals < 2:
        raise UserError("one view alone has nothing to swap codes with: set --config.method.views.globals=2")
    own = SwAV(Clustering.build(config, backbone, clock, ("cls",)), MultiViews.build(config))
    functions = (own.init, own.views.draw, own.loss, own.after_update, own.variables)
    return Method(("train",), *functions, None, None)


@dataclass(frozen=True)
class SwAV:
    """The network and the views of one run."""

    clusters: Clustering
    views: MultiViews

    def init(self, key: Array, views: dict[str, Array]) -> tuple[Params, MethodState]:
        """Fresh parameters; there is no teacher."""
        params, statistics = self.clusters.init(key, views["clean"][:1, 0])
        return params, {"centre": self.clusters.centre(), "batch_stats": statistics}

    def codes(self, scores: Array, centre: Array, step: Array) -> Array:
        """Targets [B, V, K] from the student's own cosines of the global views, each view by itself. No gradient."""
        scores = jax.lax.stop_gradient(scores)
        views = [self.clusters.targets("cls", scores[:, v : v + 1], centre, step) for v in range(scores.shape[1])]
        return jnp.concatenate(views, axis=1)

    def student(
        self, params: Params, statistics: Params, views: dict[str, Array], key: Array, train: bool
    ) -> tuple[Array, Params]:
        """(cosines of the global and the local views [B, V + L, K], statistics after this pass)."""
        seen, local = views["clean"], views.get("local")
        learned, _, statistics = self.clusters.learn(params, statistics, seen, local, key, train)
        return learned["cls"], statistics

    def loss(
        self, params: Params, state: MethodState, views: dict[str, Array], key: Array, step: Array, train: bool
    ) -> tuple[Array, tuple[MethodState, dict[str, Array]]]:
        """Cross-entropy of the codes of each global view with every other view, and the control's penalty."""
        learned, statistics = self.student(params, state["batch_stats"], views, key, train)
        scores = jax.lax.stop_gradient(learned[:, : views["clean"].shape[1]])
        targets = self.codes(scores, state["centre"]["cls"], step)
        value = losses.view_pair_cross_entropy(targets, learned / self.clusters.settings.temperature.student)
        penalty, metrics = self.clusters.watch("cls", targets, learned)
        metrics |= {"train/loss_cls": value, "train/loss": value + penalty}
        after = {"centre": self.clusters.next_centre(state["centre"], {"cls": scores}), "batch_stats": statistics}
        return value + penalty, (after, metrics)

    @staticmethod
    def after_update(params: Params, state: MethodState, step: Array) -> MethodState:
        """Nothing follows the student."""
        return state

    @staticmethod
    def variables(params: Params, state: MethodState, which: str) -> dict[str, Any]:
        """Variables of the one backbone there is, whichever is asked for."""
        statistics = state["batch_stats"]
        return {"params": params["backbone"]} | ({"batch_stats": statistics} if statistics else {})


KIND = Kind(
    lambda config, backbone, clock, counts: build(config, backbone, clock),
    False,
    ("method.views.globals", "method.prototypes.cls"),
    host_views,
    starved,
)
