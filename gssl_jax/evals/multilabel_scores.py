"""How well scores of several labels an image fit: mean average precision, AUROC and F1, as entries of results.json.

Every measure is one number a class (micro F1 apart) and its mean over classes. A class that cannot be measured, without
positive test images or for the AUROC with nothing else, is left out and named.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from gssl_jax.evals.intervals import LEVEL, entry
from gssl_jax.evals.ranked import EXACT, area, average_precision, ranked

MEASURES = ("map", "auroc", "f1_macro", "f1_micro")
HALF, VALIDATION = "half", "validation"
THRESHOLDS = (HALF, VALIDATION)
THRESHOLD_WORDS = {HALF: "probability 0.5", VALIDATION: "by class, the best F1 on validation images"}
CELLS = 2**22  # numbers held at once while images are resampled
PROBLEMS = {
    "map": "no class has positive test images, so there is no average precision",
    "auroc": "no class has both positive and negative test images, so there is no AUROC",
    "f1_macro": "no class has positive test images, so there is no F1",
    "f1_micro": "no class has positive test images, so there is no F1",
}


def multilabel_entries(
    scores: np.ndarray,
    labels: np.ndarray,
    *,
    classes: Sequence[str],
    protocol: Mapping[str, Any],
    seed: int,
    resamples: int,
    thresholds: float | np.ndarray,
    threshold: str = HALF,
    kind: str = EXACT,
) -> dict[str, dict[str, Any]]:
    """An entry for each of `MEASURES`, of scores [N, C] and labels [N, C] (NaN = unknown, left out).

    A label counts as predicted where its score is above `thresholds`, a number or one a class [C]: 0 for logits, .5 for
    probabilities, or those of `thresholds_of`; `threshold` says which, a word of `THRESHOLDS`. `kind` is one of
    `ranked.AVERAGE_PRECISIONS`. Intervals are percentiles over `resamples` draws of N test images with replacement, the
    same draws for all measures; a draw in which a class cannot be measured leaves it out. The protocol holds the value
    of every class, and as `guess` what scores without meaning get: the share of positives for average precision, and
    for F1 what calling every image positive gets.
    """
    each = by_class(scores, labels, thresholds, kind=kind)
    draws = list(_resampled(scores, labels, thresholds, kind, seed, resamples))
    values = mean_values(each)
    guesses = _guesses(labels)
    found: dict[str, dict[str, Any]] = {}
    for measure in MEASURES:
        own = each[measure.removesuffix("_macro").removesuffix("_micro")][0]
        by_name = dict(zip(classes, own, strict=True))
        missing = [name for name, value in by_name.items() if np.isnan(value)]
        words: dict[str, Any] = {**protocol}
        words |= {"mean over": "image-label pairs" if measure == "f1_micro" else "classes", "guess": guesses[measure]}
        if measure == "map":
            words["average precision"] = kind.replace("_", "-")
        if measure.startswith("f1"):
            words["threshold"] = THRESHOLD_WORDS[threshold]
        if measure != "f1_micro":
            words["per_class"] = {name: None if np.isnan(v) else float(v) for name, v in by_name.items()}
            words |= {"left_out": missing} if missing else {}
        if len(missing) == len(classes):
            words["problem"] = PROBLEMS[measure]
            found[measure] = entry(None, None, None, len(labels), words, None)
            continue
        means = np.concatenate([draw[measure] for draw in draws]) if draws else np.zeros(0)
        means = means[~np.isnan(means)]
        low, high = np.percentile(means, [50 * (1 - LEVEL), 50 * (1 + LEVEL)]) if len(means) else (None, None)
        kept = "bootstrap-test" if len(means) else None
        found[measure] = entry(values[measure][0], low, high, len(labels), words, kept)
    return found


def values_of(
    scores: np.ndarray, labels: np.ndarray, thresholds: float | np.ndarray, kind: str = EXACT
) -> dict[str, float]:
    """The number of each of `MEASURES` without intervals; NaN where there is none."""
    return {name: float(value[0]) for name, value in mean_values(by_class(scores, labels, thresholds, kind)).items()}


def mean_average_precision(scores: np.ndarray, labels: np.ndarray, kind: str = EXACT) -> float:
    """Mean over the classes with positive images of scores and labels [N, C]; NaN without any."""
    return values_of(scores, labels, 0.0, kind)["map"]


def thresholds_of(scores: np.ndarray, labels: np.ndarray, otherwise: float) -> np.ndarray:
    """The threshold of each class with the best F1 on validation images, the highest of equals; [N, C] -> [C].

    It lies midway between two scores. A class without positive images there gets `otherwise`.
    """
    found = np.full(labels.shape[1], otherwise, np.float64)
    for c, (own, wanted) in enumerate(zip(scores.T, labels.T, strict=True)):
        known = ~np.isnan(wanted)
        order = np.argsort(-own[known], kind="stable")
        own, hits = own[known][order].astype(np.float64), np.cumsum(wanted[known][order] > 0.5)
        if not len(own) or not hits[-1]:
            continue
        f1 = 2 * hits / (np.arange(1, len(own) + 1) + hits[-1])
        last = np.r_[own[1:] != own[:-1], True]  # of its run of equal scores
        cut = int(np.where(last, f1, -1.0).argmax())
        found[c] = (own[cut] + own[cut + 1]) / 2 if cut + 1 < len(own) else np.nextafter(own[cut], -np.inf)
    return found


def by_class(
    scores: np.ndarray,
    labels: np.ndarray,
    thresholds: float | np.ndarray,
    kind: str = EXACT,
    weights: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Every class by itself, every image counted `weights` [N, R] times: `map`, `auroc` and `f1`, float64 [R, C].

    NaN stands where a class cannot be measured. `pairs` [3, R] are true and false positives and misses of all classes.
    """
    weights = np.ones((len(scores), 1), np.float32) if weights is None else weights
    known, positive = ~np.isnan(labels), labels > 0.5
    found = {name: np.full((weights.shape[1], labels.shape[1]), np.nan) for name in ("map", "auroc")}
    for c in range(labels.shape[1]):
        own = known[:, c]
        runs = ranked(scores[own, c], positive[own, c], weights if own.all() else weights[own])
        found["map"][:, c], found["auroc"][:, c] = average_precision(runs, kind), area(runs)
    chosen = scores > thresholds
    hits, wrong, missed = (
        weights.T.astype(np.float64) @ part
        for part in (chosen & positive, chosen & known & ~positive, ~chosen & positive)
    )
    there = hits + missed > 0
    found["f1"] = np.where(there, 2 * hits / np.where(there, 2 * hits + wrong + missed, 1.0), np.nan)
    return found | {"pairs": np.stack([hits.sum(1), wrong.sum(1), missed.sum(1)])}


def mean_values(each: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Means over the classes that can be measured, and micro F1, of what `by_class` gives; [R], NaN without any."""
    hits, wrong, missed = each["pairs"]
    there = hits + missed > 0
    micro = np.where(there, 2 * hits / np.where(there, 2 * hits + wrong + missed, 1.0), np.nan)
    means = {name: _mean_of_known(each[name]) for name in ("map", "auroc", "f1")}
    return {"map": means["map"], "auroc": means["auroc"], "f1_macro": means["f1"], "f1_micro": micro}


def _mean_of_known(values: np.ndarray) -> np.ndarray:
    known = ~np.isnan(values)
    total = known.sum(1)
    return np.where(total > 0, np.where(known, values, 0.0).sum(1) / np.maximum(total, 1), np.nan)


def _guesses(labels: np.ndarray) -> dict[str, float | None]:
    positive, known = (labels > 0.5).sum(0), (~np.isnan(labels)).sum(0)
    share, every = positive[positive > 0] / known[positive > 0], positive.sum() / max(known.sum(), 1)
    if not len(share):
        return dict.fromkeys(MEASURES)
    f1 = float((2 * share / (1 + share)).mean()), float(2 * every / (1 + every))
    return {"map": float(share.mean()), "auroc": 0.5, "f1_macro": f1[0], "f1_micro": f1[1]}


def _resampled(
    scores: np.ndarray, labels: np.ndarray, thresholds: float | np.ndarray, kind: str, seed: int, resamples: int
) -> Iterator[dict[str, np.ndarray]]:
    """The means over images drawn with replacement, some of the `resamples` draws at a time."""
    rng, count = np.random.default_rng(seed), len(labels)
    together = max(1, CELLS // max(count, 1))
    for start in range(0, resamples, together):
        draws = [rng.integers(count, size=count) for _ in range(min(together, resamples - start))]
        weights = np.stack([np.bincount(draw, minlength=count) for draw in draws], axis=1).astype(np.float32)
        yield mean_values(by_class(scores, labels, thresholds, kind, weights))
