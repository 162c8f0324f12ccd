"""MoCo-v3: contrast of a query with the keys of a slower network, negatives from the same batch (arXiv 2104.02057).

    L = ctr(q_1, k_2) + ctr(q_2, k_1),   ctr(q, k) = 2 T * mean_i -log exp(q_i k_i / T) / sum_j exp(q_i k_j / T)

q is the predictor's output of the student, k the teacher's projection, both of length 1. As in the paper: no queue;
heads with batch norm after every layer, the last without scale and bias; a momentum from .99 to 1 along half a cosine.
On a ViT its authors keep the random patch embedding as it is, for stability: `optim.trains=all_but_patch_embed` does
that, for any method, and leaves the frozen weights out of decay and clipping too. Their positions are sine-cosine
(`backbone.positions=sincos`).

Ours: the heads' norms have no running averages, as nothing evaluates them; statistics are those of the global batch.

Letters: B images, S side, C channels, D features of a key.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from gssl_jax.errors import UserError
from gssl_jax.methods.base import Clock, Kind, Method, MethodState, Params
from gssl_jax.methods.multi_views import MultiViews, host_views
from gssl_jax.methods.siamese import Siamese
from gssl_jax.models.build import Backbone
from gssl_jax.models.heads import Perceptron
from gssl_jax.models.layers import l2_normalise
from gssl_jax.ops import assignment, contrast
from gssl_jax.ops.keys import named


def build(config: ConfigDict, backbone: Backbone, clock: Clock) -> Method:
    """MoCo-v3 as a `Method`; `config` is the resolved configuration of the stage.

    Raises UserError for other views than two global ones and for numbers that mean nothing.
    """
    settings = config.method
    if settings.views.globals != 2 or settings.views.locals:
        raise UserError(
            "moco_v3 compares two global views: set --config.method.views.globals=2 --config.method.views.locals=0"
        )
    if settings.temperature <= 0:
        raise UserError(f"method.temperature={settings.temperature} has to be above 0")
    network = Siamese.build(config, backbone, clock)
    own = MoCoV3(settings, network)
    draw = MultiViews.build(config).draw
    return Method(("train",), own.init, draw, own.loss, network.after_update, network.variables, None, None)


@dataclass(frozen=True)
class MoCoV3:
    """The settings of one run around its two networks; `settings` is `config.method`."""

    settings: ConfigDict
    network: Siamese

    def _head(self, name: str) -> Perceptron:
        """The `projector` or the `predictor`, which predicts in the space that the projector ends in."""
        head, output = self.settings[name], self.settings.projector.output
        dtype = self.network.encoder.backbone.dtype
        return Perceptron(head.hidden, head.layers, output, "batch", dtype, last_norm=True)

    def init(self, key: Array, views: dict[str, Array]) -> tuple[Params, MethodState]:
        """Fresh parameters, and a teacher that is a copy of them."""
        params, state, features = self.network.encoder.init(key, views["clean"][:, 0])
        params["projector"] = self._head("projector").init(named(key, "projector"), features)["params"]
        embedded = jnp.zeros((1, self.settings.projector.output))
        params["predictor"] = self._head("predictor").init(named(key, "predictor"), embedded)["params"]
        return params, self.network.following(params, state)

    def student(
        self, params: Params, batch_stats: Params, images: Array, key: Array, train: bool
    ) -> tuple[Array, Params]:
        """(queries [B, D] of length 1, statistics after this pass)."""
        features, batch_stats = self.network.encoder.encode(params, batch_stats, images, key, train)
        embedded = self._head("projector").apply({"params": params["projector"]}, features)
        return l2_normalise(self._head("predictor").apply({"params": params["predictor"]}, embedded)), batch_stats

    def teacher(self, teacher: Params, batch_stats: Params, images: Array, train: bool) -> tuple[Array, Params]:
        """(keys [B, D] of length 1, statistics after this pass). No gradient leaves here."""
        features, batch_stats = self.network.encoder.encode(teacher, batch_stats, images, None, train)
        keys = l2_normalise(self._head("projector").apply({"params": teacher["projector"]}, features))
        return jax.lax.stop_gradient((keys, batch_stats))

    def loss(
        self, params: Params, state: MethodState, views: dict[str, Array], key: Array, step: Array, train: bool
    ) -> tuple[Array, tuple[MethodState, dict[str, Array]]]:
        """The contrast of both directions; 4 T ln B where all similarities are equal."""
        learned, taught, queries, keys = state["batch_stats"], state["teacher_batch_stats"], [], []
        for view in range(2):
            images = views["clean"][:, view]
            q, learned = self.student(params, learned, images, named(key, f"view_{view}"), train)
            k, taught = self.teacher(state["teacher"], taught, images, train)
            queries.append(q)
            keys.append(k)
        found = []
        for view in range(2):
            similarities = contrast.all_similarities(queries[view], keys[1 - view])
            temperature = self.settings.temperature
            own = jnp.eye(len(similarities), dtype=bool)
            right = jnp.argmax(similarities, axis=1) == jnp.arange(len(similarities))
            found.append(
                {
                    "train/loss": 2 * (2 * temperature * contrast.in_batch_info_nce(similarities, temperature).mean()),
                    "train/accuracy_contrast": jnp.mean(right.astype(jnp.float32)),
                    "health/positive_cosine": jnp.diagonal(similarities).mean(),
                    "health/negative_cosine": assignment.mean_of(similarities.reshape(-1), ~own.reshape(-1)),
                }
            )
        metrics = {name: (found[0][name] + found[1][name]) / 2 for name in found[0]}
        metrics["train/momentum"] = self.network.momentum(step)
        state = {**state, "batch_stats": learned, "teacher_batch_stats": taught}
        return metrics["train/loss"], (state, metrics)


KIND = Kind(
    lambda config, backbone, clock, counts: build(config, backbone, clock),
    False,
    ("method.projector.hidden", "method.projector.layers", "method.projector.output",
     "method.predictor.hidden", "method.predictor.layers"),
    host_views,
    lambda config, backbone: (),
)  # fmt: skip
