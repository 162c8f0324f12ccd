"""SimCLR: the views of an image are alike and those of other images are not (arXiv 2002.05709).

    L = mean over all views i of -log exp(z_i z_p / T) / sum_{k != i} exp(z_i z_k / T)      z of length 1, p the other
                                                                                            view of the image of i

Negatives are all other views of the global batch. As in the paper: one network, all views in one pass, so that they
share their batch statistics, and a projector with batch norm after every layer. With more than two views, local ones
too, the loss is the mean over the positives of each.

Ours: the projector's norms have no running averages, as nothing evaluates them; the optimiser is the recipe's (the
paper's is LARS), and its hidden width is a setting of its own.

Letters: B images, V global views, L local views, S side, s of a local view, C channels, D features of an embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from gssl_jax.errors import UserError
from gssl_jax.methods.base import Clock, Kind, Method, MethodState, Params
from gssl_jax.methods.encoder import Encoder
from gssl_jax.methods.multi_views import MultiViews, host_views
from gssl_jax.models.build import Backbone
from gssl_jax.models.heads import Perceptron
from gssl_jax.models.layers import l2_normalise
from gssl_jax.ops import assignment, contrast
from gssl_jax.ops.keys import named


def build(config: ConfigDict, backbone: Backbone, clock: Clock) -> Method:
    """SimCLR as a `Method`; `config` is the resolved configuration of the stage.

    Raises UserError for a single view and for a temperature that is none.
    """
    settings = config.method
    if settings.views.globals + settings.views.locals < 2:
        raise UserError("one view of an image has nothing to be like: set --config.method.views.globals=2")
    if settings.temperature <= 0:
        raise UserError(f"method.temperature={settings.temperature} has to be above 0")
    own = SimCLR(settings, Encoder(backbone))
    draw = MultiViews.build(config).draw
    return Method(("train",), own.init, draw, own.loss, lambda params, state, step: state, own.variables, None, None)


@dataclass(frozen=True)
class SimCLR:
    """The settings of one run around its network; `settings` is `config.method`."""

    settings: ConfigDict
    encoder: Encoder

    def _projector(self) -> Perceptron:
        p = self.settings.projector
        return Perceptron(p.hidden, p.layers, p.output, "batch", self.encoder.backbone.dtype, last_norm=True)

    def init(self, key: Array, views: dict[str, Array]) -> tuple[Params, MethodState]:
        """Fresh parameters."""
        params, state, features = self.encoder.init(key, views["clean"][:, 0])
        params["projector"] = self._projector().init(named(key, "projector"), features)["params"]
        return params, state

    def embed(
        self, params: Params, batch_stats: Any, views: dict[str, Array], key: Array, train: bool
    ) -> tuple[Array, Any]:
        """(embeddings [B, V + L, D] of length 1, statistics after these passes)."""
        found = []
        for name in ("clean", "local"):
            if name in views:
                shown = views[name]
                images = shown.reshape(-1, *shown.shape[2:])
                features, batch_stats = self.encoder.encode(params, batch_stats, images, named(key, name), train)
                found.append(features.reshape(*shown.shape[:2], -1))
        embedded = self._projector().apply({"params": params["projector"]}, jnp.concatenate(found, axis=1))
        return l2_normalise(embedded), batch_stats

    def loss(
        self, params: Params, state: MethodState, views: dict[str, Array], key: Array, step: Array, train: bool
    ) -> tuple[Array, tuple[MethodState, dict[str, Array]]]:
        """NT-Xent over all views of the global batch."""
        embedded, batch_stats = self.embed(params, state["batch_stats"], views, key, train)
        samples, count, width = embedded.shape
        rows = embedded.reshape(-1, width)
        similarities = contrast.all_similarities(rows, rows)
        total = contrast.nt_xent(similarities, count, self.settings.temperature).mean()
        same, itself = contrast.same_image(samples, count), jnp.eye(len(rows), dtype=bool)
        nearest = jnp.argmax(jnp.where(itself, -jnp.inf, similarities), axis=1)
        right = jnp.take_along_axis(same, nearest[:, None], axis=1)
        metrics = {
            "train/loss": total,
            "train/accuracy_contrast": jnp.mean(right.astype(jnp.float32)),
            "health/positive_cosine": assignment.mean_of(similarities.reshape(-1), (same & ~itself).reshape(-1)),
            "health/negative_cosine": assignment.mean_of(similarities.reshape(-1), ~same.reshape(-1)),
        }
        return total, ({**state, "batch_stats": batch_stats}, metrics)

    @staticmethod
    def variables(params: Params, state: MethodState, which: str) -> dict[str, Any]:
        """Variables of the backbone, for evaluation and hand-over; there is no teacher, both are the student."""
        return Encoder.variables(params, state["batch_stats"])


KIND = Kind(
    lambda config, backbone, clock, counts: build(config, backbone, clock),
    False,
    ("method.views.globals", "method.projector.hidden", "method.projector.layers", "method.projector.output"),
    host_views,
    lambda config, backbone: (),
    needs=("method.temperature",),
)
