"""95 % intervals, and the form in which results are written."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

LEVEL = 0.95


def t_interval(values: Sequence[float] | np.ndarray) -> tuple[float, float | None, float | None]:
    """Mean and Student's t interval of independent draws; (mean, None, None) for a single one."""
    values = np.asarray(values, np.float64)
    mean = float(values.mean())
    if len(values) < 2:
        return mean, None, None
    half = stats.t.ppf((1 + LEVEL) / 2, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return mean, mean - float(half), mean + float(half)


def bootstrap_interval(correct: np.ndarray, seed: int, resamples: int) -> tuple[float, float, float]:
    """Mean of `correct` [M] and the percentile interval of the mean over `resamples` draws of M with replacement."""
    correct = np.asarray(correct, np.float64)
    rng = np.random.default_rng(seed)
    means = [correct[rng.integers(len(correct), size=len(correct))].mean() for _ in range(resamples)]
    low, high = np.percentile(means, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return float(correct.mean()), float(low), float(high)


def entry(
    value: float | None,
    low: float | None,
    high: float | None,
    n: int | None,
    protocol: Mapping[str, Any],
    interval: str | None,
) -> dict[str, Any]:
    """One entry of results.json, in fractions; `n` counts draws (`t-draws`) or test images (`bootstrap-test`).

    NaN becomes None.
    """
    numbers = [None if number is None or not math.isfinite(number) else float(number) for number in (value, low, high)]
    return {
        "value": numbers[0],
        "low": numbers[1],
        "high": numbers[2],
        "n": n,
        "protocol": dict(protocol),
        "interval": interval,
    }
