"""What can be read off images ranked by score: area under the ROC curve and average precision, for many weightings.

A resample of images is a weighting of them, so that the scores of a bootstrap are sorted once.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

EXACT, ELEVEN_POINT = "exact", "eleven_point"
AVERAGE_PRECISIONS = (EXACT, ELEVEN_POINT)
RECALLS = np.linspace(0, 1, 11)


class Ranked(NamedTuple):
    """Weight of positive and of negative images in runs of one rank, the highest score first; float64 [T, R].

    A run is all images of one score where a positive is among them, or all negatives between two such scores.
    """

    ups: np.ndarray
    downs: np.ndarray


def ranked(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> Ranked:
    """Images [N] by score; labels {0, 1} [N], weights [N, R] for R weightings."""
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    places, positive = np.asarray(scores)[order], np.asarray(labels)[order] > 0.5
    if not len(order):
        return Ranked(*np.zeros((2, 0, weights.shape[1])))
    begins = np.flatnonzero(np.r_[True, places[1:] != places[:-1]])  # of runs of equal scores
    held = np.add.reduceat(positive, begins, dtype=np.int64) > 0
    begins = begins[held | np.r_[True, held[:-1]]]  # negatives between two runs with positives become one run
    weights = weights[order]
    ups = np.add.reduceat(weights * positive[:, None], begins, axis=0, dtype=np.float64)
    return Ranked(ups, np.add.reduceat(weights, begins, axis=0, dtype=np.float64) - ups)


def area(one: Ranked) -> np.ndarray:
    """Share of pairs of a positive and a negative image that are ordered rightly, a tie counting one half; -> [R].

    The Mann-Whitney statistic with mid-ranks over its largest value; NaN where one of the labels does not occur.
    """
    pairs = one.ups.sum(0) * one.downs.sum(0)
    above = np.cumsum(one.downs, axis=0) - one.downs / 2
    wrong = (one.ups * above).sum(0)
    return np.where(pairs > 0, 1 - wrong / np.where(pairs > 0, pairs, 1.0), np.nan)


def average_precision(one: Ranked, kind: str = EXACT) -> np.ndarray:
    """Average precision [R]; NaN where there is no positive image.

    `exact` is the sum over ranks of the gain in recall times the precision there, without interpolation, as
    scikit-learn has it; `eleven_point` the mean over recalls 0, .1, ..., 1 of the best precision at that recall or
    more, as PASCAL VOC had it up to 2009. Images of equal score enter together.
    """
    found = np.cumsum(one.ups, axis=0)
    total, seen = found[-1:].sum(0), found + np.cumsum(one.downs, axis=0)
    precision = found / np.where(seen > 0, seen, 1.0)
    positives = np.where(total > 0, total, 1.0)
    if kind == EXACT:
        value = (one.ups * precision).sum(0) / positives
    else:
        recall = found / positives[None]
        best = [np.where(recall >= r - 1e-9, precision, 0.0).max(0, initial=0.0) for r in RECALLS]
        value = np.mean(best, axis=0)
    return np.where(total > 0, value, np.nan)
