"""Accuracy by class, and by groups of classes that had many, some or few training images.

All results are fractions; NaN stands for what no test image can tell (a class without any, a group of such classes).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gssl_jax.errors import UserError


def per_class_accuracy(predictions: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Share of each class's test images that are recognised; int [M], int [M] (-1 = not counted) -> float64 [classes].

    Raises:
        UserError: another number of predictions than of labels, or a label of `classes` or more.
    """
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    if predictions.shape != labels.shape or labels.ndim != 1:
        raise UserError(f"predictions and labels need one form [M], not {predictions.shape} and {labels.shape}")
    counted = labels >= 0
    if labels.max(initial=-1) >= classes:
        raise UserError(f"a test label is {labels.max()}; expected 0 to {classes - 1}, or -1 for no label")
    total = np.bincount(labels[counted], minlength=classes)
    right = np.bincount(labels[counted & (predictions == labels)], minlength=classes)
    return np.where(total > 0, right / np.maximum(total, 1), np.nan)


def balanced_accuracy(accuracies: np.ndarray) -> float:
    """Mean of the accuracies of classes [C], those without test images left out; NaN where there is none at all."""
    known = np.asarray(accuracies, np.float64)
    known = known[~np.isnan(known)]
    return float(known.mean()) if len(known) else float("nan")


def class_groups(training_counts: np.ndarray, many: int = 100, few: int = 20) -> dict[str, np.ndarray]:
    """Which classes belong together by their training images; int [C] -> names and bool [C], the richest first.

    "many" has more than `many` images, "few" fewer than `few`, "medium" what lies between, both ends included (Liu et
    al., 2019, arXiv 1904.05160). Where that leaves "many" or "few" without a class, as in a small or short-tailed set,
    thirds by rank take their place, under other names: "head", "middle" and "tail", larger thirds first and ties in
    the order of classes. Every class is in exactly one group.

    Raises:
        UserError: `few` exceeds `many`.
    """
    if few > many:
        raise UserError(f"the threshold for few-shot classes is {few}; expected at most that for many-shot, {many}")
    counts = np.asarray(training_counts)
    groups = {"many": counts > many, "medium": (counts <= many) & (counts >= few), "few": counts < few}
    if groups["many"].any() and groups["few"].any():
        return groups
    thirds = np.array_split(np.argsort(-counts, kind="stable"), 3)
    classes = np.arange(len(counts))
    return {name: np.isin(classes, third) for name, third in zip(("head", "middle", "tail"), thirds, strict=True)}


def grouped_accuracy(accuracies: np.ndarray, groups: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Balanced accuracy within each group of classes; accuracies [C], bool [C] by name."""
    return {name: balanced_accuracy(np.asarray(accuracies)[members]) for name, members in groups.items()}
