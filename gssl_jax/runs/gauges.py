"""What the watch over a stage measures a backbone by: k-NN accuracy, or the effective rank where there are no labels.

Images are those of the evaluation's training set, the same at every look; test images are never looked at.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from gssl_jax.errors import UserError
from gssl_jax.evals.health import rank_me
from gssl_jax.evals.knn import knn_scores
from gssl_jax.runs.evaluation import Judge, spread, stratified

ERRORS = 2.0
"""Standard errors of the paired difference that a fall of the accuracy has to exceed."""

_rank = jax.jit(rank_me)


def bare(value: float) -> str:
    """A share in three digits, without the zero before them."""
    return f"{value:.3f}".removeprefix("0")


def halves(labels: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """At most `count` labelled rows as known ones and those asked about, equally of every class; labels int [N].

    The same rows at every call. Where there are too many classes some are left out, evenly, so that each of the others
    has at least two images in either half if it has four at all.
    """
    labels = np.asarray(labels)
    classes = spread(np.flatnonzero(np.bincount(labels[labels >= 0]) >= 2), count // 4)
    if len(classes) < 2:
        return np.zeros(0, int), np.zeros(0, int)
    order = np.random.default_rng(0).permutation(len(labels))
    rows = order[stratified(np.where(np.isin(labels, classes), labels, -1)[order], count)]  # by class
    turn = np.arange(len(rows)) - np.searchsorted(labels[rows], labels[rows])
    return rows[turn % 2 == 0], rows[turn % 2 == 1]


class Look(NamedTuple):
    """One measurement: the score, and for k-NN which answers were right, as "0" and "1" (empty for the rank)."""

    score: float
    right: str = ""


class NearestNeighbours:
    """k-NN accuracy, from 0 to 1, on half of a fixed sample of labelled images by the other half.

    Feature, temperature and k are those of `evals.knn`, but k is at most the known images of a class on average.
    """

    kind = "knn"

    def __init__(self, judge: Judge, settings: ConfigDict) -> None:
        held = judge.sets["train"]
        some = held if isinstance(held, Mapping) else judge.some("train", settings.images)
        known, asked = halves(some["label"], settings.images)
        self._judge, self._margin, self._known = judge, settings.margin, len(known)
        rows = np.concatenate([known, asked])
        self._images = {name: some[name][rows] for name in ("image", "label")}
        self.size = len(asked)

    def look(self, variables: Any) -> Look:
        """The score of a backbone; 0 where its features are not finite."""
        knn, features = self._judge.settings.knn, self._judge.features(variables, self._images)
        vectors, labels = features[knn.feature], features["label"]
        if not np.isfinite(vectors).all():
            return Look(0.0, "0" * self.size)
        known, asked = vectors[: self._known], vectors[self._known :]
        classes, k = int(labels.max()) + 1, max(1, min(knn.k, self._known // len(np.unique(labels))))
        scores = knn_scores(known, labels[: self._known], asked, k=k, temperature=knn.temperature, classes=classes)
        right = np.asarray(scores).argmax(1) == labels[self._known :]
        return Look(float(right.mean()), "".join("01"[int(one)] for one in right))

    def fallen(self, start: float, best: Look, now: Look) -> bool:
        """Whether `now` is below `best` by more than the margin, and by more than `ERRORS` standard errors of the
        difference on the same images (McNemar)."""
        lost = sum(was > is_ for was, is_ in zip(best.right, now.right, strict=True))
        won = sum(was < is_ for was, is_ in zip(best.right, now.right, strict=True))
        fall = (lost - won) / self.size
        error = math.sqrt(max(lost + won - (lost - won) ** 2 / self.size, 0.0)) / self.size
        return fall > self._margin and fall > ERRORS * error

    def in_words(self, start: float, best: Look, best_step: int, now: Look) -> str:
        """What has happened."""
        since = f"at step {best_step}" if best_step else "at the start"
        return f"k-NN accuracy on {self.size} training images fell from {bare(best.score)} {since} to {bare(now.score)}"


class EffectiveRank:
    """Effective rank (RankMe) of the features of a fixed sample of images, which needs no labels."""

    kind = "health"

    def __init__(self, judge: Judge, settings: ConfigDict) -> None:
        self._judge, self._share = judge, settings.rank_share
        self._images = judge.some("train", settings.images)
        self.size = len(self._images["image"])

    def look(self, variables: Any) -> Look:
        """The rank, at least 1; 0 where features are not finite."""
        features = self._judge.features(variables, self._images)[self._judge.settings.knn.feature]
        rank = float(_rank(features))
        return Look(rank if math.isfinite(rank) else 0.0)

    def fallen(self, start: float, best: Look, now: Look) -> bool:
        """Whether the rank is below its share of that at the start; a rank may well sink a little as a network learns,
        so that it is not held against the best."""
        return now.score < self._share * start

    def in_words(self, start: float, best: Look, best_step: int, now: Look) -> str:
        """What has happened."""
        return f"the effective rank of the features fell from {start:.1f} at the start to {now.score:.1f}"


Gauge = NearestNeighbours | EffectiveRank


def gauge_of(judge: Judge, settings: ConfigDict) -> Gauge | None:
    """What the watch measures by, None for nothing. Raises UserError for `knn` on images without a label each."""
    if settings.watch == "off":
        return None
    single = judge.labelled and judge.some("train", 1)["label"].ndim == 1  # one class per image, as k-NN wants it
    if settings.watch != "health" and single:
        found = NearestNeighbours(judge, settings)
        if found.size:
            return found
    if settings.watch == "knn":
        raise UserError(
            "continuation.watch=knn needs evals.data with one label per image: set --config.continuation.watch=health"
        )
    rank = EffectiveRank(judge, settings)
    return rank if rank.size else None
