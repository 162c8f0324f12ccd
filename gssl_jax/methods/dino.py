"""DINO: self-distillation of the class assignment across clean views, without labels (arXiv 2104.14294).

    L = mean over (u, v), u != v, of H(P_u, softmax(l_v / tau_s)),   u of the teacher's global views,
                                                                    v of the student's global and local ones

From the paper: the teacher sees global views only, its targets are centred and sharpened, its weights follow the
student's. Ours: prototypes are normalised with gain 1 (the paper's default too) and a projector with batch norm may
stand before them; the other collapse controls take the place of centring by `method.collapse.cls`.

Any backbone will do: of a ResNet, teacher and student keep running statistics, each of its own passes, as in the
authors' code. Letters: B images, V global views, L local views, K prototypes, S side, C channels.
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
from gssl_jax.methods.clustering import Clustering, check_momentum
from gssl_jax.methods.collapse import starved
from gssl_jax.methods.multi_views import MultiViews, host_views
from gssl_jax.models.build import Backbone
from gssl_jax.ops import losses


def build(config: ConfigDict, backbone: Backbone, clock: Clock) -> Method:
    """DINO as a `Method`; `config` is the resolved configuration of the stage. Raises UserError for a single view."""
    counts = config.method.views
    if counts.globals + counts.locals < 2:
        raise UserError("one view alone has no cross-view pair: set --config.method.views.globals=2")
    check_momentum(config.method)
    own = DINO(Clustering.build(config, backbone, clock, ("cls",)), MultiViews.build(config))
    functions = (own.init, own.views.draw, own.loss, own.clusters.after_update, own.variables)
    return Method(("train",), *functions, None, None)


@dataclass(frozen=True)
class DINO:
    """The networks and the views of one run."""

    clusters: Clustering
    views: MultiViews

    def init(self, key: Array, views: dict[str, Array]) -> tuple[Params, MethodState]:
        """Fresh parameters, and a teacher that is a copy of them."""
        params, statistics = self.clusters.init(key, views["clean"][:1, 0])
        state = {"teacher": self.clusters.taught(params), "centre": self.clusters.centre()}
        return params, state | {"batch_stats": statistics, "teacher_batch_stats": jax.tree.map(jnp.copy, statistics)}

    def teacher(self, state: MethodState, views: dict[str, Array], train: bool) -> tuple[Array, Params]:
        """(cosines of the clean global views [B, V, K], statistics after this pass). No gradient leaves here."""
        statistics = state["teacher_batch_stats"]
        taught, statistics = self.clusters.teach(state["teacher"], statistics, views["clean"], train)
        return taught["cls"], statistics

    def student(
        self, params: Params, statistics: Params, views: dict[str, Array], key: Array, train: bool
    ) -> tuple[Array, Params]:
        """(cosines of the same views and the local ones [B, V + L, K], statistics after this pass)."""
        seen, local = views["clean"], views.get("local")
        learned, _, statistics = self.clusters.learn(params, statistics, seen, local, key, train)
        return learned["cls"], statistics

    def loss(
        self, params: Params, state: MethodState, views: dict[str, Array], key: Array, step: Array, train: bool
    ) -> tuple[Array, tuple[MethodState, dict[str, Array]]]:
        """Cross-entropy of the teacher's targets with the student's other views, and the control's penalty."""
        taught, teacher_statistics = self.teacher(state, views, train)
        learned, statistics = self.student(params, state["batch_stats"], views, key, train)
        targets = self.clusters.targets("cls", taught, state["centre"]["cls"], step)
        value = losses.view_pair_cross_entropy(targets, learned / self.clusters.settings.temperature.student)
        penalty, metrics = self.clusters.watch("cls", targets, learned)
        metrics |= {"train/loss_cls": value, "train/loss": value + penalty}
        metrics["train/momentum"] = self.clusters.momentum(step)
        after = {"batch_stats": statistics, "teacher_batch_stats": teacher_statistics}
        after["centre"] = self.clusters.next_centre(state["centre"], {"cls": taught})
        return value + penalty, ({**state, **after}, metrics)

    def variables(self, params: Params, state: MethodState, which: str) -> dict[str, Any]:
        """Variables of the backbone of the `teacher` or the `student`, for evaluation and hand-over."""
        statistics = state[{"teacher": "teacher_batch_stats", "student": "batch_stats"}[which]]
        chosen = self.clusters.variables(params, state, which)
        return chosen | ({"batch_stats": statistics} if statistics else {})


KIND = Kind(
    lambda config, backbone, clock, counts: build(config, backbone, clock),
    False,
    ("method.views.globals", "method.prototypes.cls"),
    host_views,
    starved,
)
