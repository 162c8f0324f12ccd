"""What protocols that train by SGD share: schedule, momentum, crops, batches, and loss and score by the kind of label.

Labels are int [N], one class an image (-1 = none), or float [N, C] of 0, 1 and NaN (unknown).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from gssl_jax.errors import UserError
from gssl_jax.evals.intervals import bootstrap_interval, entry, t_interval
from gssl_jax.evals.linear import validation_part
from gssl_jax.evals.multilabel_scores import MEASURES, mean_average_precision, multilabel_entries, values_of
from gssl_jax.ops.augment import augment_batch

Batches = Callable[[], Iterable[Mapping[str, np.ndarray]]]
"""Opens padded batches of images to judge on, as `features.extract` reads them."""

RATIO = (3 / 4, 4 / 3)  # torchvision's bounds of a crop's aspect ratio


class Pool(NamedTuple):
    """Labelled images to train on.

    `labels` are those of every image; `pick(rows)` reads images uint8 [B, S, S, C] and their labels (those of an image
    that cannot be read are unknown); `images` says where their pixels come from.
    """

    labels: np.ndarray
    pick: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
    images: str


def divided(labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on and rows to choose by, int64 each and sorted: `share` of the labelled images is held out.

    With one class an image it is that share of every class, which keeps at least one. Raises UserError where none is
    held out.
    """
    rows = np.flatnonzero(labels >= 0 if labels.ndim == 1 else ~np.isnan(labels).all(1))
    if labels.ndim == 1:
        held = validation_part(labels[rows], share, seed)
    else:
        held = np.zeros(len(rows), bool)
        held[np.random.default_rng(seed).permutation(len(rows))[: round(share * len(rows))]] = True
    if held.all() or not held.any():
        raise UserError(
            f"a validation share of {share} leaves {held.sum()} of {len(rows)} labelled images to choose by: add images"
            " or change evals.sgd_linear.validation or evals.finetune.validation"
        )
    return rows[~held], rows[held]


def rate_at(step: int, rate: float, milestones: Sequence[int], factor: float) -> np.float32:
    """The learning rate of a step counted from 0: multiplied by `factor` at every milestone."""
    return np.float32(rate * factor ** sum(step >= milestone for milestone in milestones))


def moved(values: Any, moments: Any, gradients: Any, rates: Any, momentum: float) -> tuple[Any, Any]:
    """One step of SGD with momentum as torch takes it: m <- momentum m + g, w <- w - rate m; `rates` by leaf."""
    moments = jax.tree.map(lambda m, g: momentum * m + g, moments, gradients)
    return jax.tree.map(lambda w, m, rate: w - rate * m, values, moments, rates), moments


def rows_of(count: int, batch_size: int, seed: Sequence[int]) -> Iterator[np.ndarray]:
    """Batches of row numbers without end: one random order of all rows after the other, cut into `batch_size`."""
    rng, waiting = np.random.default_rng(seed), np.zeros(0, np.int64)
    while True:
        while len(waiting) < batch_size:
            waiting = np.append(waiting, rng.permutation(count))
        yield waiting[:batch_size]
        waiting = waiting[batch_size:]


def cropped(images: Array, key: Array, scale: tuple[float, float], flip: float) -> Array:
    """Random crops of `scale` times the area, resized to the images' own size, flipped with probability `flip`;
    uint8 [B, S, S, C] -> float32 in [0, 1]."""
    none = {"probability": 0.0}
    view = dict(size=images.shape[1], crop=True, pad=0, scale=scale, ratio=RATIO, interpolation="bilinear", flip=flip)
    view |= dict(contrast_normalise=False, jitter=none, grey=0.0, blur=none | {"sigma": (0.1, 2.0)})
    return augment_batch(key, jnp.arange(len(images)), images, view | {"solarise": none | {"threshold": 0.5}})


def new_head(key: Array, size: int, classes: int) -> dict[str, Array]:
    """A linear layer with weights from N(0, .01^2) and no bias yet."""
    return {"weight": 0.01 * jax.random.normal(key, (size, classes)), "bias": jnp.zeros(classes)}


def decide(head: Mapping[str, Array], features: Array) -> Array:
    """Logits [B, C] of features [B, D], float32."""
    product = jnp.matmul(features.astype(jnp.float32), head["weight"], precision=jax.lax.Precision.HIGHEST)
    return product + head["bias"][None]


def class_loss(logits: Array, labels: Array, smoothing: float = 0.0) -> Array:
    """Mean cross-entropy over the images with a label, or mean binary cross-entropy over the known labels.

    `smoothing` is the share of a label that is spread evenly over all classes (arXiv 1512.00567), or over yes and no.
    """
    known = labels >= 0 if labels.ndim == 1 else ~jnp.isnan(labels)
    if labels.ndim == 1:
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
        if smoothing:
            losses = (1 - smoothing) * losses - smoothing * jax.nn.log_softmax(logits).mean(-1)
    else:
        target = jnp.where(known, labels, 0.0) * (1 - smoothing) + 0.5 * smoothing
        losses = optax.sigmoid_binary_cross_entropy(logits, target)
    return jnp.where(known, losses, 0.0).sum() / jnp.maximum(known.sum(), 1)


Entries = dict[str, dict[str, Any]]


def metric_of(labels: np.ndarray) -> str:
    """What validation images choose by: `top1`, or `map` where there are several labels."""
    return "top1" if labels.ndim == 1 else "map"


def without_value(labels: np.ndarray, protocol: Mapping[str, Any], problem: str) -> Entries:
    """The entries of `scored` where there is nothing to score."""
    names = ("top1",) if labels.ndim == 1 else MEASURES
    return {name: entry(None, None, None, None, {**protocol, "problem": problem}, None) for name in names}


def score_of(scores: np.ndarray, labels: np.ndarray) -> float:
    """Top-1 accuracy over the images with a label, or the mean average precision of several labels; NaN where there is
    nothing to tell it from."""
    if labels.ndim == 2:
        return mean_average_precision(scores, labels)
    known = labels >= 0
    return float((scores.argmax(1) == labels)[known].mean()) if known.any() else float("nan")


def scored(
    scores: np.ndarray,
    labels: np.ndarray,
    *,
    classes: Sequence[str],
    protocol: Mapping[str, Any],
    seed: int,
    resamples: int,
) -> Entries:
    """Entries of results.json by measure for logits [M, C] of test images, with bootstrap intervals over them: `top1`,
    or those of `multilabel_scores.MEASURES`."""
    if labels.ndim == 2:
        options: dict[str, Any] = {"classes": classes, "protocol": protocol, "seed": seed, "resamples": resamples}
        return multilabel_entries(scores, labels, thresholds=0.0, **options)
    known = labels >= 0
    correct = (scores.argmax(1) == labels)[known]
    interval = bootstrap_interval(correct, seed, resamples)
    return {"top1": entry(*interval, len(correct), protocol, "bootstrap-test", samples=correct)}


def over_draws(scores: Sequence[np.ndarray], labels: np.ndarray, protocol: Mapping[str, Any]) -> Entries:
    """The same entries for the logits [M, C] of several draws or repeats, with Student's t intervals over them."""
    if labels.ndim == 2:
        found = [values_of(one, labels, 0.0) for one in scores]
    else:
        found = [{"top1": score_of(one, labels)} for one in scores]
    entries: Entries = {}
    for name in found[0]:
        values = [one[name] for one in found]
        words = {**protocol, "values": values}
        entries[name] = entry(*t_interval(values), len(values), words, "t-draws", samples=np.asarray(values))
    return entries
