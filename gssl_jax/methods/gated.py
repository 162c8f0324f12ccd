"""G-SSL: supervised training with several pretext tasks beside it, weighed by a gate (arXiv 2301.05865, 2307.14897).

    L = L_sup + weight * sum_i g_i L_i

Every image is transformed by the chosen pretexts (`ops/pretexts`), and the network classifies the transformed image
and recognises each transform by a small head on the shared feature. The gate, a linear layer on that feature, weighs
the pretext losses. At test time images are clean and the classifier alone is left.

From the papers and their code: the transforms, the heads, lambda = .1, both forms of the gate. In the code the gate
gets no gradient (mode `frozen`); a gate that gets one (`learned`) moves to the easiest pretext, see `ops/gating`. The
mode `usefulness` is ours: weights follow how well each pretext's gradient on the shared feature agrees with that of
the labels. With `attack.steps` the images are attacked before they are learned from (arXiv 1706.06083, as in
Hendrycks et al., 2019): the transform first, then the attack on all losses.

Letters: B images, S side, C channels, T pretexts, D features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from ml_collections import ConfigDict

from gssl_jax.methods import gated_settings, mixture
from gssl_jax.methods.base import Batches, Clock, Kind, Method, MethodState, Params, host_crop
from gssl_jax.models.build import Backbone
from gssl_jax.models.classifiers import Classifier
from gssl_jax.models.gate import Gate
from gssl_jax.ops import gating, supervised
from gssl_jax.ops.attacks import pgd
from gssl_jax.ops.augment import augment_batch
from gssl_jax.ops.keys import named, per_sample
from gssl_jax.ops.pretexts import PRETEXTS, relative_position, transform

APART = "relative_position"
"""The pretext that looks at views of its own."""


def host_views(config: ConfigDict) -> dict[str, list[dict[str, Any]]]:
    """One view of each image."""
    return {"global": [host_crop(config.method.augment.train)], "local": []}


def build(config: ConfigDict, backbone: Backbone, clock: Clock, counts: np.ndarray) -> Method:
    """The method as a `Method`; `counts` int [classes] are the training images of each class.

    Raises UserError for a pretext that the images do not fit, and for words and numbers that mean nothing.
    """
    own = compose(config, backbone, clock, counts)
    gated_settings.check_attack(config.method, config.data)
    functions = (own.init, own.views, own.loss, own.after_update, own.variables)
    return Method(("train",), *functions, None, own.predict, own.classify)


def compose(config: ConfigDict, backbone: Backbone, clock: Clock, counts: np.ndarray) -> Gated:
    """The functions that `build` and other methods with pretexts are made of; raises UserError as `build`."""
    settings, data = config.method, config.data
    gated_settings.check(settings, data)
    classes = {name: PRETEXTS[name].classes(settings.pretexts) for name in PRETEXTS if name in settings.pretexts.names}
    crops = data.crop != "host" and tuple(settings.augment.train.scale) != (1.0, 1.0)
    space = gated_settings.exchange_space(settings, data)
    return Gated(
        settings, backbone, clock, tuple(int(n) for n in counts), classes, crops, data.contrast_normalise, space
    )


@dataclass(frozen=True)
class Gated:
    """The modules and settings of one run; its bound methods are the functions of the `Method`."""

    settings: ConfigDict
    backbone: Backbone
    clock: Clock
    counts: tuple[int, ...]
    pretexts: dict[str, int]  # name -> classes, in the order of composition
    crops: bool
    contrast_normalise: bool
    space: tuple[np.ndarray, np.ndarray] | None  # mean and deviation where channels are exchanged; None = pixels

    # -- modules -----------------------------------------------------------------------------------------------------

    def _head(self, name: str) -> Classifier:
        heads = self.settings.heads
        if name == "classifier":
            return Classifier(len(self.counts), heads.normed)
        return Classifier(self.pretexts[name], heads.normed, heads.pretext_scale if heads.normed else 1.0)

    def _gated(self) -> bool:
        """Whether there is a gate of parameters."""
        return bool(self.pretexts) and self.settings.gate.mode in ("learned", "frozen")

    def init(self, key: Array, views: dict[str, Array]) -> tuple[Params, MethodState]:
        """Fresh parameters. A frozen gate is part of the method's state: no optimiser, no weight decay reaches it."""
        variables = self.backbone.init(named(key, "backbone"), views["image"][:1])
        width = jax.eval_shape(lambda v, x: self.backbone.apply(v, x)["feat"], variables, views["image"][:1]).shape[-1]
        heads = {}
        for name in ("classifier", *self.pretexts):
            features = jnp.zeros((1, 2 * width if name == APART else width))
            heads[name] = self._head(name).init(named(key, f"heads/{name}"), features)["params"]
        params: dict[str, Any] = {"backbone": variables["params"], "heads": heads}
        state: dict[str, Any] = {"batch_stats": variables.get("batch_stats", {})}
        if self._gated():
            gate = Gate(len(self.pretexts)).init(named(key, "gate"), jnp.zeros((1, width)))["params"]
            (params if self.settings.gate.mode == "learned" else state)["gate"] = gate
        state |= mixture.fresh(self.settings.gate, len(self.pretexts))
        if self.settings.ema.momentum:
            state["teacher"] = jax.tree.map(jnp.copy, {"backbone": params["backbone"], "heads": heads})
            state["teacher_batch_stats"] = jax.tree.map(jnp.copy, state["batch_stats"])
        return params, state

    def encode(
        self, params: Params, batch_stats: Any, images: Array, key: Array | None, running: bool
    ) -> tuple[dict[str, Array], Any]:
        """(features, batch statistics after this batch). With `running` the network is that of the evaluation,
        without dropout and on running statistics; else it is that of training."""
        variables = {"params": params["backbone"]} | ({"batch_stats": batch_stats} if batch_stats else {})
        if running or key is None:
            return self.backbone.apply(variables, images), batch_stats
        rngs = {name: named(key, name) for name in ("dropout", "drop_path")}
        out, new = self.backbone.apply(variables, images, train=True, rngs=rngs, mutable=["batch_stats"])
        return out, new.get("batch_stats", {})

    # -- views -------------------------------------------------------------------------------------------------------

    def views(self, batches: Batches, key: Array, step: Array) -> dict[str, Array]:
        """`image` float [B, S, S, C] in [0, 1], transformed; `label` int32 [B], `draw` int32 [B], and the label of each
        pretext, `pretext_<name>` int32 [B]. Relative position has patches of its own, `patches` [B, 2, s, s, C]."""
        batch = batches["train"]
        key = jax.random.fold_in(named(key, "train"), step)
        images = self.augmented(named(key, "augment"), batch["draw"], batch["image"][:, 0])
        found, labels = self.transformed(named(key, "pretexts"), batch["draw"], images)
        views = {"image": found, "label": batch["label"], "draw": batch["draw"]}
        if APART in self.pretexts:
            patches = relative_position(named(key, APART), batch["draw"], images, self.settings.pretexts)
            views["patches"], labels[f"pretext_{APART}"] = patches
        return views | labels

    def augmented(self, key: Array, draw: Array, images: Array) -> Array:
        """Images [B, H, W, C], of integers or in [0, 1], cut, shifted and flipped: float [B, S, S, C] in [0, 1]."""
        own = {"crop": self.crops, "contrast_normalise": self.contrast_normalise}
        return augment_batch(key, draw, images, {**dict(self.settings.augment.train.items()), **own})

    def transformed(self, key: Array, draw: Array, images: Array) -> tuple[Array, dict[str, Array]]:
        """Images [B, S, S, C] transformed by the pretexts that compose, and `pretext_<name>` int32 [B] of each."""
        moved = tuple(name for name in self.pretexts if name != APART)
        if self.space is None:
            found, labels = transform(key, draw, images, moved, self.settings.pretexts)
        else:
            mean, std = (value.reshape(1, 1, 1, -1) for value in self.space)
            found, labels = transform(key, draw, (images - mean) / std, moved, self.settings.pretexts)
            found = found * std + mean
        return found, {f"pretext_{name}": value for name, value in labels.items()}

    # -- loss --------------------------------------------------------------------------------------------------------

    def loss(
        self, params: Params, state: MethodState, views: dict[str, Array], key: Array, step: Array, train: bool
    ) -> tuple[Array, tuple[MethodState, dict[str, Array]]]:
        """Supervised loss + weight * gated pretext losses (+ what keeps a learned gate open); see the module."""
        if self.settings.attack.steps:
            views = {**views, "image": self._attacked(params, state, views, key, step)}
        out, batch_stats = self.encode(params, state["batch_stats"], views["image"], named(key, "image"), not train)
        features = {name: out["feat"] for name in self.pretexts}
        if APART in self.pretexts:  # statistics are those of whole images
            patches = views["patches"].reshape(-1, *views["patches"].shape[2:])
            both, _ = self.encode(params, state["batch_stats"], patches, named(key, "patches"), not train)
            features[APART] = both["feat"].reshape(len(out["feat"]), -1)
        total = self.supervised_loss(params, out["feat"], views["label"], step)
        metrics = {"train/loss_supervised": total}
        metrics["train/accuracy"] = self.accuracy(params, "classifier", out["feat"], views["label"])
        state = {**state, "batch_stats": batch_stats}
        if self.pretexts:
            more, state, found = self.pretexts_loss(params, state, features, out["feat"], views, step)
            total, metrics = total + self.settings.pretexts.weight * more, metrics | found
        return total, (state, {"train/loss": total, **metrics})

    def supervised_loss(self, params: Params, features: Array, labels: Array, step: Array) -> Array:
        """Loss of the labels, -1 = none, under the features [B, D] of their images."""
        loss, counts = self.settings.loss, np.asarray(self.counts)
        logits = self.logits(params, "classifier", features)
        start = self.clock.steps(loss.drw_start)
        weights = supervised.class_weights(loss.reweighting, counts, loss.beta, step, start)
        if loss.kind == "ldam":
            return supervised.ldam(logits, labels, supervised.ldam_margins(counts, loss.margin), loss.scale, weights)
        if loss.kind == "focal":
            return supervised.focal(logits, labels, loss.gamma, weights)
        return supervised.cross_entropy(logits, labels, weights)

    def logits(self, params: Params, head: str, features: Array) -> Array:
        """Of the classifier or a pretext's head, [B, classes]."""
        return self._head(head).apply({"params": params["heads"][head]}, features)

    def accuracy(self, params: Params, head: str, features: Array, labels: Array) -> Array:
        logits = self.logits(params, head, jax.lax.stop_gradient(features))
        return supervised.weighted_mean((logits.argmax(-1) == labels).astype(jnp.float32), labels)

    def _pretext_loss(self, params: Params, name: str, features: Array, labels: Array) -> Array:
        """Cross-entropy of every sample, [B]."""
        return optax.softmax_cross_entropy_with_integer_labels(self.logits(params, name, features), labels)

    def pretexts_loss(
        self, params: Params, state: MethodState, features: dict[str, Array], shared: Array, views: dict, step: Array
    ) -> tuple[Array, MethodState, dict[str, Array]]:
        """(weighed pretext losses and penalty, next state, metrics).

        `features` [B, D] by pretext, `shared` [B, D] what the gate reads; `views` hold `label`, -1 where there is none,
        and the label of each pretext."""
        labels = {name: views[f"pretext_{name}"] for name in self.pretexts}
        each = [self._pretext_loss(params, name, features[name], labels[name]) for name in self.pretexts]
        aligned = self._alignment(params, features, shared, labels, views["label"], step)
        logits = self._gate_logits(params, state, shared)
        total, state, metrics = mixture.mixed(
            self.settings.gate, self.pretexts, jnp.stack(each, axis=1), aligned, logits, state
        )
        for name in self.pretexts:
            metrics[f"train/accuracy_{name}"] = self.accuracy(params, name, features[name], labels[name])
        return total, state, metrics

    def _gate_logits(self, params: Params, state: MethodState, features: Array) -> Array | None:
        """[B, T] of a learned or frozen gate; None without one."""
        if not self._gated():
            return None
        own = params["gate"] if self.settings.gate.mode == "learned" else state["gate"]
        return Gate(len(self.pretexts)).apply({"params": own}, features)

    def _alignment(
        self, params: Params, features: dict, shared: Array, labels: dict[str, Array], wanted: Array, step: Array
    ) -> Array:
        """How well each pretext's gradient on the features agrees with that of the labels, [T] in [-1, 1].

        Through the heads alone and over the images that have a label; relative position has other images, so its
        cosine is 0 and says nothing."""
        fixed, f = jax.lax.stop_gradient(params), jax.lax.stop_gradient(shared)
        helpful = jax.grad(lambda x: self.supervised_loss(fixed, x, wanted, step))(f)

        def pull(name: str) -> Array:
            if name == APART:
                return jnp.zeros_like(f)
            gradient = jax.grad(lambda x: self._pretext_loss(fixed, name, x, labels[name]).mean())(f)
            return jnp.where(wanted[:, None] >= 0, gradient, 0.0)

        return gating.alignment(jnp.stack([pull(name) for name in self.pretexts]), helpful)

    def _attacked(self, params: Params, state: MethodState, views: dict[str, Array], key: Array, step: Array) -> Array:
        """The transformed images under attack by the supervised and the pretext losses, weighed as they are learned."""
        attack, moved = self.settings.attack, [name for name in self.pretexts if name != APART]

        def loss(images: Array) -> Array:
            running = attack.statistics == "running"
            out, _ = self.encode(params, state["batch_stats"], images, named(key, "attack"), running)
            total = self.supervised_loss(params, out["feat"], views["label"], step)
            if moved:
                logits = self._gate_logits(params, state, out["feat"])
                weights = mixture.current(self.settings.gate, len(self.pretexts), logits, state)
                own = weights[..., jnp.array([list(self.pretexts).index(name) for name in moved])]
                each = [self._pretext_loss(params, n, out["feat"], views[f"pretext_{n}"]) for n in moved]
                total = total + self.settings.pretexts.weight * gating.gated_loss(jnp.stack(each, axis=1), own)
            return total * len(images)

        return pgd(
            loss,
            views["image"],
            epsilon=attack.epsilon,
            step_size=attack.step_size,
            steps=attack.steps,
            keys=per_sample(named(key, "start"), views["draw"]) if attack.random_start else None,
        )

    # -- after the step ----------------------------------------------------------------------------------------------

    def after_update(self, params: Params, state: MethodState, step: Array) -> MethodState:
        """teacher <- m teacher + (1 - m) student where there is an average; its batch statistics are copied."""
        if not self.settings.ema.momentum:
            return state
        student = {"backbone": params["backbone"], "heads": params["heads"]}
        teacher = optax.incremental_update(student, state["teacher"], 1.0 - self.settings.ema.momentum)
        return {**state, "teacher": teacher, "teacher_batch_stats": state["batch_stats"]}

    def _chosen(self, params: Params, state: MethodState, which: str) -> tuple[Params, Any]:
        """Parameters and statistics of `teacher` or `student`; without an average both are the student."""
        if which == "teacher" and "teacher" in state:
            return state["teacher"], state["teacher_batch_stats"]
        return params, state["batch_stats"]

    def variables(self, params: Params, state: MethodState, which: str) -> dict[str, Any]:
        """Variables of the backbone, for evaluation and hand-over."""
        chosen, batch_stats = self._chosen(params, state, which)
        return {"params": chosen["backbone"]} | ({"batch_stats": batch_stats} if batch_stats else {})

    def predict(self, params: Params, state: MethodState, images: Array) -> Array:
        """Logits [B, classes] of clean images [B, S, S, C] in [0, 1], of the average where there is one."""
        chosen, batch_stats = self._chosen(params, state, "teacher")
        out, _ = self.encode(chosen, batch_stats, images, None, True)
        return self.classify(params, state, out["feat"])

    def classify(self, params: Params, state: MethodState, features: Array) -> Array:
        """Logits [B, classes] of features [B, D] of the same network as in `predict`."""
        chosen, _ = self._chosen(params, state, "teacher")
        return self.logits(chosen, "classifier", features)


KIND = Kind(build, True, (), host_views, mixture.warnings)
