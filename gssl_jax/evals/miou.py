"""Intersection over union of predicted and true masks, by image and class, as entries of results.json.

IoU of a class = pixels that are both predicted and truly it / pixels that are either, over all test images together
(as Pascal VOC and ADE20K count, not the mean over images); mIoU is its mean over the classes. Pixels without a class
count nowhere, and a class that is neither there nor predicted is left out of the mean and named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gssl_jax.data.sources import IGNORED
from gssl_jax.evals.intervals import LEVEL, entry


class Counts(NamedTuple):
    """Pixels of every class in each image, int64 [M, C] each: told right, predicted, and true."""

    right: np.ndarray
    predicted: np.ndarray
    true: np.ndarray


def confusion(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Pixels by true class (rows) and predicted one, int64 [classes, classes]; those of the value 255 are left out.

    Raises:
        ValueError: another shape of one than of the other, or a true class of `classes` or more.
    """
    truth, predicted = np.asarray(truth), np.asarray(predicted)
    if truth.shape != predicted.shape:
        raise ValueError(f"truth {truth.shape} and prediction {predicted.shape} have different shapes")
    counted = truth != IGNORED
    pairs = truth[counted].astype(np.int64) * classes + predicted[counted]
    if len(pairs) and pairs.max() >= classes**2:
        raise ValueError(f"a pixel is of class {truth[counted].max()} and there are {classes}")
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def counted(truth: np.ndarray, predicted: np.ndarray, classes: int) -> Counts:
    """The counts of masks [M, S, S], image by image."""
    tables = np.stack([confusion(one, other, classes) for one, other in zip(truth, predicted, strict=True)])
    return Counts(np.diagonal(tables, axis1=1, axis2=2).copy(), tables.sum(1), tables.sum(2))


def joined(parts: Sequence[Counts]) -> Counts:
    """The counts of all images, in order."""
    return Counts(*(np.concatenate(one) for one in zip(*parts, strict=True)))


def class_ious(counts: Counts, weights: np.ndarray | None = None) -> np.ndarray:
    """IoU of each class, float64 [..., C], NaN for one that is neither there nor predicted; `weights` [..., M] counts
    images several times, or not at all."""
    sums = [one.sum(0) if weights is None else weights @ one.astype(np.float64) for one in counts]
    right, either = sums[0], sums[1] + sums[2] - sums[0]
    return np.where(either > 0, right / np.maximum(either, 1), np.nan)


def mean_iou(ious: np.ndarray) -> np.ndarray:
    """Mean over the classes of [..., C], NaN left out; NaN where there is nothing else."""
    known = ~np.isnan(ious)
    return np.where(known.any(-1), np.nansum(ious, -1) / np.maximum(known.sum(-1), 1), np.nan)


def miou(counts: Counts) -> float:
    """The mIoU of all images together."""
    return float(mean_iou(class_ious(counts)))


def pixel_accuracy(counts: Counts) -> float:
    """Share of the pixels with a class that are told right; NaN without any."""
    total = counts.true.sum()
    return float(counts.right.sum() / total) if total else float("nan")


def told(counts: Counts, names: Sequence[str]) -> dict[str, Any]:
    """What the protocol of a measure says beside the mIoU: `per_class`, `pixel_accuracy`, and the classes `absent`."""
    each = class_ious(counts)
    found: dict[str, Any] = {
        "mean over": "classes",
        "per_class": {name: None if np.isnan(iou) else float(iou) for name, iou in zip(names, each, strict=True)},
        "pixel_accuracy": pixel_accuracy(counts),
    }
    absent = [name for name, iou in zip(names, each, strict=True) if np.isnan(iou)]
    return found | ({"absent": absent} if absent else {})


def miou_entry(
    counts: Counts, *, names: Sequence[str], protocol: Mapping[str, Any], seed: int, resamples: int
) -> dict[str, Any]:
    """The entry of results.json: mIoU with the percentile interval over `resamples` draws of the images; a draw that
    has lost a class, and predicts it nowhere, leaves it out of its mean."""
    rng, count = np.random.default_rng(seed), len(counts.true)
    rows = rng.integers(count, size=(resamples, count))
    weights = np.stack([np.bincount(row, minlength=count) for row in rows]).astype(np.float64)
    means = mean_iou(class_ious(counts, weights))
    means = means[~np.isnan(means)]
    low, high = np.percentile(means, [50 * (1 - LEVEL), 50 * (1 + LEVEL)]) if len(means) else (None, None)
    told_more = {**protocol, **told(counts, names)}
    return entry(miou(counts), low, high, count, told_more, "bootstrap-test" if len(means) else None)
