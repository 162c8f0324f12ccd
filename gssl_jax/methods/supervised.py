"""Supervised training on the views of the other methods: the upper reference of what the images can teach.

    L = mean over all global views of the cross-entropy of their label, smoothed (arXiv 1512.00567, section 7)

A linear classifier stands on the backbone's feature. Nothing else: no balancing of classes, no pretexts (for those see
gated.py), so that only the labels make the difference.

Letters: B images, V views, S side, C channels, D features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from gssl_jax.errors import UserError
from gssl_jax.methods.base import Batches, Clock, Kind, Method, MethodState, Params
from gssl_jax.methods.encoder import Encoder
from gssl_jax.methods.multi_views import MultiViews, host_views
from gssl_jax.models.build import Backbone
from gssl_jax.models.classifiers import Classifier
from gssl_jax.ops import supervised
from gssl_jax.ops.keys import named


def build(config: ConfigDict, backbone: Backbone, clock: Clock, counts: np.ndarray) -> Method:
    """The method as a `Method`; `counts` int [classes] are the training images of each class.

    Raises UserError for a smoothing that is none and for local views.
    """
    settings = config.method
    if not 0.0 <= settings.label_smoothing < 1.0:
        raise UserError(f"method.label_smoothing={settings.label_smoothing} is no share: give 0.0 up to below 1.0")
    if settings.views.locals:
        raise UserError("supervised has no use for local views: set --config.method.views.locals=0")
    own = Supervised(settings, Encoder(backbone), MultiViews.build(config), len(counts))
    same = lambda params, state, step: state  # noqa: E731
    functions = (own.init, own.views, own.loss, same, own.variables)
    return Method(("train",), *functions, None, own.predict, own.classify)


@dataclass(frozen=True)
class Supervised:
    """The settings of one run around its network; `settings` is `config.method`."""

    settings: ConfigDict
    encoder: Encoder
    crops: MultiViews
    classes: int

    def init(self, key: Array, views: dict[str, Array]) -> tuple[Params, MethodState]:
        """Fresh parameters."""
        params, state, features = self.encoder.init(key, views["clean"][:, 0])
        classifier = Classifier(self.classes).init(named(key, "heads/classifier"), features)["params"]
        return {**params, "heads": {"classifier": classifier}}, state

    def views(self, batches: Batches, key: Array, step: Array) -> dict[str, Array]:
        """Those of `MultiViews`, and `label` int32 [B]."""
        return {**self.crops.draw(batches, key, step), "label": batches["train"]["label"]}

    def loss(
        self, params: Params, state: MethodState, views: dict[str, Array], key: Array, step: Array, train: bool
    ) -> tuple[Array, tuple[MethodState, dict[str, Array]]]:
        """Smoothed cross-entropy of all views; a label of -1 has none."""
        clean = views["clean"]
        images, labels = clean.reshape(-1, *clean.shape[2:]), jnp.repeat(views["label"], clean.shape[1])
        features, batch_stats = self.encoder.encode(params, state["batch_stats"], images, named(key, "image"), train)
        logits = self.classify(params, state, features)
        total = supervised.smoothed_cross_entropy(logits, labels, self.settings.label_smoothing)
        right = (jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32)
        metrics = {"train/loss": total, "train/loss_supervised": total}
        metrics["train/accuracy"] = supervised.weighted_mean(right, labels)
        return total, ({**state, "batch_stats": batch_stats}, metrics)

    @staticmethod
    def variables(params: Params, state: MethodState, which: str) -> dict[str, Any]:
        """Variables of the backbone, for evaluation and hand-over; there is no average, both are the student."""
        return Encoder.variables(params, state["batch_stats"])

    def predict(self, params: Params, state: MethodState, images: Array) -> Array:
        """Logits [B, classes] of clean images [B, S, S, C] in [0, 1]."""
        features, _ = self.encoder.encode(params, state["batch_stats"], images, None, False)
        return self.classify(params, state, features)

    def classify(self, params: Params, state: MethodState, features: Array) -> Array:
        """Logits [B, classes] of features [B, D]."""
        return Classifier(self.classes).apply({"params": params["heads"]["classifier"]}, features)


KIND = Kind(
    build,
    True,
    ("method.views.globals",),
    host_views,
    lambda config, backbone: (),
    needs=("method.label_smoothing", "data.validation.share"),
)
