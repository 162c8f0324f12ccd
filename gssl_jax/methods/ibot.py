"""iBOT: DINO's class loss across views, and the same for masked patch tokens within a view (arXiv 2111.07832).

    L = w_c mean over (u, v), u != v, of H(P_u, softmax(l_v / tau)) + w_p mean over views of the mean over hidden
    tokens i of H(P_i, softmax(l_i / tau))

The teacher sees clean global views, the student the same with blocks of patches replaced by a learned token, and local
views whole, which serve the class loss only. From the paper: of half of the images nothing is hidden, of the others
10 to 50 % of the patches (`method.corruption.images`, `.ratio`, `.spread`); the projector is one for both levels; each
view's patch loss is divided by its own number of hidden tokens. Ours: blocks are MC-SSL's boxes; one temperature
serves both levels; the centre of the patch level moves by all tokens of the teacher.

Letters: B images, V global views, L local views, N patch tokens, K prototypes, S side, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
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
from gssl_jax.ops.keys import named

LEVELS = ("cls", "patch")


def build(config: ConfigDict, backbone: ViT, clock: Clock) -> Method:
    """iBOT as a `Method`; `config` is the resolved configuration of the stage.

    Raises UserError for a network without patches, a single view, and a corruption without a mask token.
    """
    check_patches(config)
    check_momentum(config.method)
    settings = config.method
    if settings.views.globals + settings.views.locals < 2:
        raise UserError("one view alone has no cross-view pair: set --config.method.views.globals=2")
    if settings.corruption.kind != "token":
        raise UserError(
            f"method.corruption.kind={settings.corruption.kind}: iBOT hides patches behind a learned token: set "
            "--config.method.corruption.kind=token"
        )
    own = IBOT(Clustering.build(config, backbone, clock, LEVELS), MaskedViews.build(config))
    functions = (own.init, own.views.draw, own.loss, own.clusters.after_update, own.clusters.variables)
    return Method(("train",), *functions, None, None)


@dataclass(frozen=True)
class IBOT:
    """The networks and the views of one run."""

    clusters: Clustering
    views: MaskedViews

    def init(self, key: Array, views: dict[str, Array]) -> tuple[Params, MethodState]:
        """Fresh parameters, and a teacher that is a copy of them; it needs no mask token."""
        params, _ = self.clusters.init(key, views["clean"][:1, 0])
        width = self.clusters.backbone.width
        params["heads"] = {"mask_token": 0.02 * jax.random.normal(named(key, "mask_token"), (width,))}
        return params, {"teacher": self.clusters.taught(params), "centre": self.clusters.centre()}

    def teacher(self, teacher: Params, views: dict[str, Array]) -> dict[str, Array]:
        """Cosines of the clean global views: `cls` [B, V, K], `patch` [B, V, N, K]. No gradient leaves here."""
        return self.clusters.teach(teacher, {}, views["clean"], False)[0]

    def student(self, params: Params, views: dict[str, Array], key: Array, train: bool) -> dict[str, Array]:
        """Cosines of the masked global views and the local ones: `cls` [B, V + L, K], `patch` [B, V, N, K]."""
        hidden = self.views.hidden(params, views)
        return self.clusters.learn(params, {}, views["student"], views.get("local"), key, train, **hidden)[0]

    def loss(
        self, params: Params, state: MethodState, views: dict[str, Array], key: Array, step: Array, train: bool
    ) -> tuple[Array, tuple[MethodState, dict[str, Array]]]:
        """The class and the patch loss and the controls' penalties, each level with its weight."""
        weights, tau = self.clusters.settings.loss, self.clusters.settings.temperature.student
        taught = self.teacher(state["teacher"], views)
        learned = self.student(params, views, key, train)
        hidden = self.views.tokens(views["mask"])
        counted = {"cls": None, "patch": hidden}
        targets = {
            level: self.clusters.targets(level, taught[level], state["centre"][level], step, counted[level])
            for level in LEVELS
        }
        flat = (-1, *targets["patch"].shape[2:])
        logits = learned["patch"].reshape(flat) / tau
        parts = {
            "cls": losses.view_pair_cross_entropy(targets["cls"], learned["cls"] / tau),
            "patch": losses.token_cross_entropy(
                targets["patch"].reshape(flat), logits, hidden.reshape(-1, hidden.shape[2])
            ),
        }
        total = sum(weights[level] * value for level, value in parts.items())
        metrics = {f"train/loss_{level}": value for level, value in parts.items()}
        for level in LEVELS:
            penalty, told = self.clusters.watch(level, targets[level], learned[level], counted[level])
            total = total + weights[level] * penalty
            metrics |= told
        metrics |= {"train/loss": total, "train/momentum": self.clusters.momentum(step)}
        return total, ({**state, "centre": self.clusters.next_centre(state["centre"], taught)}, metrics)


KIND = Kind(
    lambda config, backbone, clock, counts: build(config, backbone, clock),
    False,
    ("method.views.globals", "method.prototypes.cls", "method.prototypes.patch"),
    host_views,
    starved,
)
