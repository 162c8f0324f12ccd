"""FixMatch with gated pretexts: few labels, many images without (arXiv 2001.07685; G-SSL's semi-supervised scenario).

    L = L_sup + consistency * L_u + pretexts.weight * sum_i g_i L_i
    L_u = mean over unlabelled images of 1[max p_weak >= threshold] * H(pseudo-label of p_weak, p_strong)

p_weak, from a flipped and shifted image, gets no gradient; its class, or softmax(logits / temperature), is what the
same network has to say of the strong view (`ops/randaugment`, then flip and shift). What is judged is the average of
the parameters with the batch statistics of the student.

Switches say which views the pretexts transform (`method.semi.transformed`) and on which their losses count
(`method.semi.recognised`). G-SSL's code transforms all three views and counts the labelled one; there the pretext loss
of the gated variant ends as a Python float (`.item()`), so that it trains nothing. Here it does. With `consistency` 0
there is no strong view: with both switches at ("weak",) that is the plain variant, the labels on clean images and the
pretexts on unlabelled ones.

All views go through the network in one pass, so batch norm sees labelled and unlabelled images together. FixMatch's
code interleaves them for the same end where every device has statistics of its own; those here are global.

Letters: B labelled images, U unlabelled ones (the ratio of the streams times B), S side, D features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from ml_collections import ConfigDict

from gssl_jax.errors import UserError, unknown
from gssl_jax.methods import gated, mixture
from gssl_jax.methods.base import Batches, Clock, Kind, Method, MethodState, Params
from gssl_jax.methods.gated import Gated
from gssl_jax.models.build import Backbone
from gssl_jax.ops.augment import to_float
from gssl_jax.ops.keys import named
from gssl_jax.ops.randaugment import randaugment_batch

STREAMS = ("labelled", "unlabelled")
VIEWS = {"labelled": "labelled", "weak": "unlabelled", "strong": "unlabelled"}
"""Every view, and the stream it is made of."""


def build(config: ConfigDict, backbone: Backbone, clock: Clock, counts: np.ndarray) -> Method:
    """The method as a `Method`; `counts` int [classes] are the labelled training images of each class.

    Raises UserError for what `gated.build` refuses, and for words and numbers of `method.semi` that mean nothing.
    """
    supervised = gated.compose(config, backbone, clock, counts)
    check(config.method)
    own = FixMatch(config.method, supervised)
    functions = (own.init, own.views, own.loss, supervised.after_update, supervised.variables)
    return Method(STREAMS, *functions, None, supervised.predict, supervised.classify)


def check(settings: ConfigDict) -> None:
    """Raises UserError for what `config.method` cannot mean here."""
    semi, strong = settings.semi, settings.strong
    for key, value, allowed, fits in (
        ("semi.consistency", semi.consistency, "0.0 or more", semi.consistency >= 0),
        ("semi.threshold", semi.threshold, "0.0 to 1.0", 0 <= semi.threshold <= 1),
        ("semi.temperature", semi.temperature, "more than 0.0", semi.temperature > 0),
        ("strong.cutout", strong.cutout, "0.0 to 1.0", 0 <= strong.cutout <= 1),
        ("ema.momentum", settings.ema.momentum, "0.0 (none) to less than 1.0", 0 <= settings.ema.momentum < 1),
    ):
        if not fits:
            raise UserError(f"method.{key}={value}: give {allowed}")
    for key in ("transformed", "recognised"):
        for view in semi[key]:
            if view not in VIEWS:
                raise unknown(f"view in method.semi.{key}", view, VIEWS)
    if gated.APART in settings.pretexts.names:
        raise UserError(
            f"method.pretexts.names: {gated.APART!r} looks at patches, which fixmatch does not make: leave it out"
        )
    if not settings.pretexts.names:
        return
    strange = [view for view in semi.recognised if view not in semi.transformed]
    if strange or not semi.recognised:
        raise UserError(
            f"method.semi.recognised={tuple(semi.recognised)}: give at least one of the transformed views, "
            f"method.semi.transformed={tuple(semi.transformed)}"
        )
    if not semi.consistency and "strong" in semi.recognised:
        raise UserError("method.semi.consistency=0.0 makes no strong view: leave it out of method.semi.recognised")
    if settings.gate.mode == "usefulness" and "labelled" not in semi.recognised:
        raise UserError(
            f"method.gate.mode=usefulness compares pretexts with labels on the same images: put 'labelled' into "
            f"method.semi.recognised={tuple(semi.recognised)}"
        )


@dataclass(frozen=True)
class FixMatch:
    """The settings of one run around the network, heads and pretexts of `gated`."""

    settings: ConfigDict
    supervised: Gated

    def shown(self) -> tuple[str, ...]:
        """The views that go through the network."""
        return tuple(VIEWS) if self.settings.semi.consistency else ("labelled", "weak")

    def init(self, key: Array, views: dict[str, Array]) -> tuple[Params, MethodState]:
        """Fresh parameters, as those of `gated`."""
        return self.supervised.init(key, {"image": views["labelled"]})

    def views(self, batches: Batches, key: Array, step: Array) -> dict[str, Array]:
        """`labelled` [B, S, S, C], `weak` and `strong` [U, S, S, C] in [0, 1]; `label` int32 [B]; and the labels of
        each pretext on the recognised views in turn, `pretext_<name>` int32 [rows]."""
        key, semi = jax.random.fold_in(named(key, "semi"), step), self.settings.semi
        views: dict[str, Array] = {"label": batches["labelled"]["label"]}
        told: dict[str, dict[str, Array]] = {}
        for view in self.shown():
            own, batch = named(key, view), batches[VIEWS[view]]
            images = to_float(batch["image"][:, 0])
            if view == "strong":
                strong = self.settings.strong
                images = randaugment_batch(
                    named(own, "randaugment"), batch["draw"], images, strong.operations, strong.cutout
                )
            views[view] = self.supervised.augmented(named(own, "augment"), batch["draw"], images)
            if view in semi.transformed:
                moved = self.supervised.transformed(named(own, "pretexts"), batch["draw"], views[view])
                views[view], told[view] = moved
        for name in self.supervised.pretexts:
            views[f"pretext_{name}"] = jnp.concatenate([told[view][f"pretext_{name}"] for view in semi.recognised])
        return views

    def loss(
        self, params: Params, state: MethodState, views: dict[str, Array], key: Array, step: Array, train: bool
    ) -> tuple[Array, tuple[MethodState, dict[str, Array]]]:
        """Loss of the labels + consistency + gated pretexts; see the module."""
        shown, semi = self.shown(), self.settings.semi
        images = jnp.concatenate([views[view] for view in shown])
        out, batch_stats = self.supervised.encode(params, state["batch_stats"], images, named(key, "image"), not train)
        ends = np.cumsum([len(views[view]) for view in shown])[:-1]
        features = dict(zip(shown, jnp.split(out["feat"], ends), strict=True))
        total = self.supervised.supervised_loss(params, features["labelled"], views["label"], step)
        metrics = {"train/loss_supervised": total}
        metrics["train/accuracy"] = self.supervised.accuracy(params, "classifier", features["labelled"], views["label"])
        state = {**state, "batch_stats": batch_stats}
        if semi.consistency:
            more, found = self._consistency(params, features["weak"], features["strong"])
            total, metrics = total + semi.consistency * more, metrics | found
        if self.supervised.pretexts:
            more, state, found = self._recognition(params, state, features, views, step)
            total, metrics = total + self.settings.pretexts.weight * more, metrics | found
        return total, (state, {"train/loss": total, **metrics})

    def _consistency(self, params: Params, weak: Array, strong: Array) -> tuple[Array, dict[str, Array]]:
        """L_u of features [U, D] of the two views, and how many weak views are certain of their class."""
        semi = self.settings.semi
        logits = jax.lax.stop_gradient(self.supervised.logits(params, "classifier", weak))
        certain = (jax.nn.softmax(logits).max(-1) >= semi.threshold).astype(jnp.float32)
        hard = jax.nn.one_hot(logits.argmax(-1), logits.shape[-1])
        wanted = hard if semi.hard else jax.nn.softmax(logits / semi.temperature)
        said = self.supervised.logits(params, "classifier", strong)
        loss = jnp.mean(certain * optax.softmax_cross_entropy(said, wanted))
        return loss, {"train/loss_consistency": loss, "train/certain": certain.mean()}

    def _recognition(
        self, params: Params, state: MethodState, features: Mapping[str, Array], views: dict[str, Array], step: Array
    ) -> tuple[Array, MethodState, dict[str, Array]]:
        """The gated pretext losses on the recognised views; usefulness looks at the labelled images among them."""
        recognised = self.settings.semi.recognised
        rows = jnp.concatenate([features[view] for view in recognised])
        none = {view: jnp.full(len(features[view]), -1, jnp.int32) for view in recognised}
        labels = jnp.concatenate([(none | {"labelled": views["label"]})[view] for view in recognised])
        every = {name: rows for name in self.supervised.pretexts}
        return self.supervised.pretexts_loss(params, state, every, rows, {**views, "label": labels}, step)


def warnings(config: ConfigDict, backbone: Backbone) -> tuple[str, ...]:
    """What `gated` warns of, and a classifier that is never certain."""
    lines = mixture.warnings(config, backbone)
    if config.method.heads.normed and config.method.semi.consistency:
        lines += ("method.heads.normed=True bounds the logits to [-1, 1]: no image will be certain of its class",)
    return lines


KIND = Kind(build, True, ("method.strong.operations",), gated.host_views, warnings)
