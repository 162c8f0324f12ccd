"""MSN: masked anchors are assigned as their clean view is (arXiv 2204.07141).

    L = mean over anchors a of H(P, softmax(l_a / tau)) + w (ln K - H(mean p_a)),   P of the teacher's one clean view

The first global view is the teacher's. The student sees the other global views with patches dropped, its random
anchors, and the local views whole, its focal anchors. From the paper: targets are sharpened, and ME-MAX over all
anchors shares out the prototypes. Ours: batch norm of the projector, where it is on, goes by anchors of one size; the
authors' code balances the sharpened targets by sinkhorn besides, here `method.collapse.cls` is one or the other.

Letters: B images, V global views, A = V - 1 random anchors, L focal ones, K prototypes, S side, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass

from jax import Array
from ml_collections import ConfigDict

from gssl_jax.errors import UserError
from gssl_jax.methods.base import Clock, Kind, Method, MethodState, Params
from gssl_jax.methods.clustering import Clustering, check_momentum, check_patches
from gssl_jax.methods.collapse import starved
from gssl_jax.methods.masked_views import MaskedViews
from gssl_jax.methods.multi_views import host_views
from gssl_jax.models.vit import ViT
from gssl_jax.ops import losses


def build(config: ConfigDict, backbone: ViT, clock: Clock) -> Method:
    """MSN as a `Method`; `config` is the resolved configuration of the stage.

    Raises UserError for a network without patches, a single global view, and a corruption that does not drop.
    """
    check_patches(config)
    check_momentum(config.method)
    if config.method.views.globals < 2:
        raise UserError("MSN needs a view for the teacher and an anchor: set --config.method.views.globals=2")
    if config.method.corruption.kind != "drop":
        raise UserError(
            f"method.corruption.kind={config.method.corruption.kind}: MSN drops patches of its anchors: set "
            "--config.method.corruption.kind=drop"
        )
    own = MSN(Clustering.build(config, backbone, clock, ("cls",)), MaskedViews.build(config))
    functions = (own.init, own.views.draw, own.loss, own.clusters.after_update, own.clusters.variables)
    return Method(("train",), *functions, None, None)


@dataclass(frozen=True)
class MSN:
    """The networks and the views of one run."""

    clusters: Clustering
    views: MaskedViews

    def init(self, key: Array, views: dict[str, Array]) -> tuple[Params, MethodState]:
        """Fresh parameters, and a teacher that is a copy of them."""
        params, _ = self.clusters.init(key, views["clean"][:1, 0])
        return params, {"teacher": self.clusters.taught(params), "centre": self.clusters.centre()}

    def teacher(self, teacher: Params, views: dict[str, Array]) -> Array:
        """Cosines of the first clean view, [B, 1, K]. No gradient leaves here."""
        return self.clusters.teach(teacher, {}, views["clean"][:, :1], False)[0]["cls"]

    def student(self, params: Params, views: dict[str, Array], key: Array, train: bool) -> Array:
        """Cosines of the anchors, random ones first, [B, A + L, K]."""
        anchors = {name: views[name][:, 1:] for name in ("student", "keep")}
        hidden = self.views.hidden(params, anchors)
        return self.clusters.learn(params, {}, anchors["student"], views.get("local"), key, train, **hidden)[0]["cls"]

    def loss(
        self, params: Params, state: MethodState, views: dict[str, Array], key: Array, step: Array, train: bool
    ) -> tuple[Array, tuple[MethodState, dict[str, Array]]]:
        """Cross-entropy of the teacher's targets with every anchor, and the control's penalty on the anchors."""
        taught = self.teacher(state["teacher"], views)
        learned = self.student(params, views, key, train)
        targets = self.clusters.targets("cls", taught, state["centre"]["cls"], step)
        logits = learned / self.clusters.settings.temperature.student
        value = losses.view_pair_cross_entropy(targets, logits, include_same=True)  # no anchor is the teacher's view
        penalty, metrics = self.clusters.watch("cls", targets, learned)
        metrics |= {"train/loss_cls": value, "train/loss": value + penalty}
        metrics["train/momentum"] = self.clusters.momentum(step)
        centre = self.clusters.next_centre(state["centre"], {"cls": taught})
        return value + penalty, ({**state, "centre": centre}, metrics)


KIND = Kind(
    lambda config, backbone, clock, counts: build(config, backbone, clock),
    False,
    ("method.views.globals", "method.prototypes.cls"),
    host_views,
    starved,
)
