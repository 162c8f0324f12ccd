"""Area under the receiver operating characteristic, by class and as a mean over classes, for images of several labels.

A class that has only one of the two labels among the images has no area: it is left out of the mean and named.
"""

from __future__ import annotations

import numpy as np

from gssl_jax.evals.ranked import area, ranked

CELLS = 2**22  # numbers held at once while images are resampled


def auroc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Share of pairs of a positive and a negative image that the scores order rightly, a tie counting one half.

    float [N], {0, 1} [N] -> the Mann-Whitney statistic with mid-ranks over its largest value; NaN where one of the
    labels does not occur.
    """
    return float(weighted_auroc(scores, labels, np.ones((1, len(scores))))[0])


def weighted_auroc(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """`auroc` with every image counted `weights` times: [N], [N], [R, N] -> [R], sorted once for all R."""
    return area(ranked(scores, labels, np.asarray(weights).T))


def class_aurocs(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """The area of every class; scores [N, C], labels [N, C] (NaN = unknown, left out), weights [R, N] or None for
    every image once -> float64 [R or 1, C], NaN for a class without both labels."""
    weights = np.ones((1, len(scores))) if weights is None else weights
    found = np.full((len(weights), labels.shape[1]), np.nan)
    for c in range(labels.shape[1]):
        known = ~np.isnan(labels[:, c])
        found[:, c] = weighted_auroc(scores[known, c], labels[known, c], weights[:, known])
    return found


def mean_over_classes(aurocs: np.ndarray) -> np.ndarray:
    """Mean of [R, C] over the classes that have an area -> [R], NaN where none has."""
    known = ~np.isnan(aurocs)
    total = known.sum(1)
    return np.where(total > 0, np.where(known, aurocs, 0.0).sum(1) / np.maximum(total, 1), np.nan)


def mean_auroc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Mean area over the classes of scores and labels [N, C]; NaN where no class has both labels."""
    return float(mean_over_classes(class_aurocs(scores, labels))[0])
