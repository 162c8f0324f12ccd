"""MoCo-v2: a query against its key and a queue of earlier keys (arXiv 1911.05722, 2003.04297), the pretraining of HPT.

    L = -log exp(q.k / T) / (exp(q.k / T) + sum_i exp(q.n_i / T)),   q of one view by the student, k of the other by the
                                                                    teacher, n_i the queue before this step's keys

As in the published code (and HPT's, arXiv 2103.12718): a projector of two layers, unit vectors, keys without a
gradient, new keys only after the logits, parameters of the teacher by an average, batch statistics by themselves.

The order. There a step runs the student, moves the teacher towards the student's parameters as they are *before* the
optimiser step, and runs the teacher. Here the teacher moves after the optimiser step, in `after_update`, and so for the
step to come: the parameters after step t are those before step t + 1. At the first step teacher and student are equal
there, which moves nothing. So every key is the same; only the teacher that is left at the end has taken one more
average than the published one.

Shuffled batch norm. There every GPU has statistics of its own, and the images of the keys change GPUs and come back
after they were encoded, since a query and a key with the same statistics could be matched by them. Here the batch is
cut into `shuffle_bn.groups` groups with statistics of their own on any number of devices (`models/batch_norm`): runs of
neighbours for the queries, groups drawn at every step for the keys. No image has to move; the keys are the same. A
network without batch norm has nothing to shuffle.

Ours: a queue that starts `empty` and leaves places without a key out of the sum. In the paper (`noise`) they hold
random directions, which are no image's and easy to tell apart: with K = 65,536 they are gone after 256 steps of 256.
Ours too: with `symmetric` the mean of both directions (MoCo's CIFAR notebook takes the sum); both keys are queued.

Letters: B images, S side, C channels, K places of the queue, D features of a key.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from gssl_jax.errors import UserError, unknown
from gssl_jax.methods.base import Clock, Kind, Method, MethodState, Params
from gssl_jax.methods.siamese import VIEWS, PairedViews, Siamese, host_views
from gssl_jax.models.build import Backbone
from gssl_jax.models.heads import Perceptron
from gssl_jax.models.layers import l2_normalise
from gssl_jax.models.resnet import ResNet
from gssl_jax.ops import assignment, contrast
from gssl_jax.ops.keys import named

STARTS = ("noise", "empty")
"""What `method.queue.start` may be: random directions that count as negatives, or none until a key is there."""


def build(config: ConfigDict, backbone: Backbone, clock: Clock) -> Method:
    """MoCo-v2 as a `Method`; `config` is the resolved configuration of the stage.

    Raises UserError for a queue or groups that the batch does not fit and for numbers that mean nothing.
    """
    check(config, backbone)
    network = Siamese.build(config, backbone, clock)
    own = MoCo(config.method, network)
    functions = (own.init, PairedViews.build(config).draw, own.loss, network.after_update, network.variables)
    return Method(("train",), *functions, None, None)


def check(config: ConfigDict, backbone: Backbone) -> None:
    """Raises UserError naming the key to change."""
    settings, batch = config.method, config.optim.batch_size
    queue, groups = settings.queue, settings.shuffle_bn.groups
    pushed = batch * (2 if settings.symmetric else 1)
    if queue.start not in STARTS:
        raise unknown("method.queue.start", queue.start, STARTS)
    if settings.temperature <= 0:
        raise UserError(f"method.temperature={settings.temperature} has to be above 0")
    if queue.length % pushed:
        lower, upper = queue.length // pushed * pushed, -(-queue.length // pushed) * pushed
        raise UserError(
            f"method.queue.length={queue.length} is not a multiple of the {pushed} keys of a step: set "
            f"--config.method.queue.length={lower or upper}" + (f" or {upper}" if lower else "")
        )
    if groups > 1 and not isinstance(backbone, ResNet):
        raise UserError(
            f"method.shuffle_bn.groups={groups} and backbone.kind={config.backbone.kind} has no batch norm: set "
            "--config.method.shuffle_bn.groups=1"
        )
    if batch % groups or (groups > 1 and batch // groups < 2):
        fitting = [n for n in range(1, batch // 2 + 1) if batch % n == 0] or [1]
        near = min(fitting, key=lambda n: abs(n - groups))
        raise UserError(
            f"method.shuffle_bn.groups={groups} does not cut optim.batch_size={batch} into equal groups of two images "
            f"or more: set --config.method.shuffle_bn.groups={near}"
        )


def warnings(config: ConfigDict, backbone: Backbone) -> tuple[str, ...]:
    """Batch statistics that give the key away, and a queue that this stage does not fill."""
    shuffle, queue, optim = config.method.shuffle_bn, config.method.queue, config.optim
    lines: tuple[str, ...] = ()
    if isinstance(backbone, ResNet) and (shuffle.groups == 1 or not shuffle.shuffle):
        lines += (
            "queries and keys share their batch statistics, by which a network can match them without looking at what "
            "is shown: set method.shuffle_bn.groups=8 and method.shuffle_bn.shuffle=True",
        )
    steps = queue.length // (optim.batch_size * (2 if config.method.symmetric else 1))
    if queue.start == "noise" and optim.unit == "step" and 0 < optim.duration < steps:
        lines += (
            f"a queue of {queue.length} is full after {steps} steps and this stage has {optim.duration:g}: most "
            "negatives are random directions; method.queue.start=empty leaves them out",
        )
    return lines


@dataclass(frozen=True)
class MoCo:
    """The settings of one run around its two networks; `settings` is `config.method`."""

    settings: ConfigDict
    network: Siamese

    def _projector(self) -> Perceptron:
        p = self.settings.projector
        return Perceptron(p.hidden, 2, p.output, "none", self.network.encoder.backbone.dtype)

    def init(self, key: Array, views: dict[str, Array]) -> tuple[Params, MethodState]:
        """Fresh parameters, a teacher that is a copy of them, and a queue of random directions."""
        params, state, features = self.network.encoder.init(key, views["view_1"])
        params["projector"] = self._projector().init(named(key, "projector"), features)["params"]
        state = self.network.following(params, state)
        state["queue"] = contrast.new_queue(
            named(key, "queue"), self.settings.queue.length, self.settings.projector.output
        )
        return params, state

    def student(
        self, params: Params, batch_stats: Params, images: Array, key: Array, train: bool
    ) -> tuple[Array, Params]:
        """(queries [B, D] of length 1, statistics after this pass)."""
        features, batch_stats = self.network.encoder.encode(
            params, batch_stats, images, key, train, self.settings.shuffle_bn.groups
        )
        return l2_normalise(self._projector().apply({"params": params["projector"]}, features)), batch_stats

    def teacher(
        self, teacher: Params, batch_stats: Params, images: Array, key: Array, train: bool
    ) -> tuple[Array, Params]:
        """(keys [B, D] of length 1, statistics after this pass), by groups of its own. No gradient leaves here."""
        groups, members = self.settings.shuffle_bn.groups, None
        if self.settings.shuffle_bn.shuffle and groups > 1:
            members = jax.random.permutation(named(key, "shuffle"), jnp.arange(len(images)) // (len(images) // groups))
        features, batch_stats = self.network.encoder.encode(teacher, batch_stats, images, None, train, groups, members)
        keys = l2_normalise(self._projector().apply({"params": teacher["projector"]}, features))
        return jax.lax.stop_gradient((keys, batch_stats))

    def loss(
        self, params: Params, state: MethodState, views: dict[str, Array], key: Array, step: Array, train: bool
    ) -> tuple[Array, tuple[MethodState, dict[str, Array]]]:
        """InfoNCE against the queue as it was; then the keys of this step take the places of the oldest."""
        queue = jax.lax.stop_gradient(state["queue"])
        counted = None
        if self.settings.queue.start == "empty":
            counted = jnp.arange(len(queue["keys"])) < queue["filled"]
        learned, taught = state["batch_stats"], state["teacher_batch_stats"]
        directions = (VIEWS, VIEWS[::-1]) if self.settings.symmetric else (VIEWS,)
        keys, found = [], []
        for number, (one, other) in enumerate(directions):
            own = named(key, f"direction_{number}")
            q, learned = self.student(params, learned, views[one], own, train)
            k, taught = self.teacher(state["teacher"], taught, views[other], own, train)
            positives, negatives = contrast.similarities(q, k, queue["keys"])
            losses = contrast.info_nce(positives, negatives, self.settings.temperature, counted)
            found.append(
                {
                    "train/loss": losses.mean(),
                    "train/accuracy_contrast": contrast.ranked_first(positives, negatives, counted),
                    "health/positive_cosine": positives.mean(),
                    "health/negative_cosine": assignment.mean_of(negatives.mean(0), counted),
                }
            )
            keys.append(k)
        metrics = {name: jnp.stack([one[name] for one in found]).mean() for name in found[0]}
        metrics |= {"train/momentum": self.network.momentum(step)}
        metrics["health/queue_filled"] = queue["filled"] / len(queue["keys"])
        state = {**state, "batch_stats": learned, "teacher_batch_stats": taught}
        state["queue"] = contrast.enqueued(queue, jnp.concatenate(keys))
        return metrics["train/loss"], (state, metrics)


KIND = Kind(
    lambda config, backbone, clock, counts: build(config, backbone, clock),
    False,
    ("method.queue.length", "method.shuffle_bn.groups", "method.projector.hidden", "method.projector.output"),
    host_views,
    warnings,
)
