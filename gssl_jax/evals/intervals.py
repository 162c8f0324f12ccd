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


class Entry(dict[str, Any]):
    """One entry of results.json. `samples` float [n], which are not written there, are what its interval is of: right
    or wrong by test image, or the score of each draw; None where nobody kept them."""

    samples: np.ndarray | None = None


def entry(
    value: float | None,
    low: float | None,
    high: float | None,
    n: int | None,
    protocol: Mapping[str, Any],
    interval: str | None,
    *,
    samples: np.ndarray | None = None,
) -> Entry:
    """One entry of results.json, in fractions; `n` counts draws (`t-draws`) or test images (`bootstrap-test`).

    NaN becomes None; `samples` as of `Entry`.
    """
    numbers = [None if number is None or not math.isfinite(number) else float(number) for number in (value, low, high)]
    names = ("value", "low", "high", "n", "protocol", "interval")
    found = Entry(zip(names, (*numbers, n, dict(protocol), interval), strict=True))
    found.samples = None if samples is None else np.asarray(samples, np.float64)
    return found


def paired(one: np.ndarray, other: np.ndarray, interval: str, seed: int, resamples: int) -> dict[str, Any]:
    """The difference one - other of samples of the same images, or of the same draws: `value`, `low`, `high`, `n` and
    `interval`, the kind of interval that the entries have and `paired-` before it.

    Since pairs are resampled, a difference can be told that is small beside the spread that both have in common. There
    is no interval where all differences are equal.
    """
    difference = np.asarray(one, np.float64) - np.asarray(other, np.float64)
    found: tuple[float | None, ...]
    if not difference.std():
        found = (float(difference.mean()), None, None)  # the same everywhere: no spread to tell
    else:
        found = t_interval(difference) if interval == "t-draws" else bootstrap_interval(difference, seed, resamples)
    return {
        **dict(zip(("value", "low", "high"), found, strict=True)),
        "n": len(difference),
        "interval": f"paired-{interval}",
    }


def drawn_entry(values: np.ndarray, protocol: Mapping[str, Any]) -> dict[str, Any]:
    """The entry of independent draws [G]: their mean with Student's t interval, none where they are all alike."""
    mean, lowest, highest = t_interval(values)
    if len(set(map(float, values))) == 1:
        lowest = highest = None  # a class with just these images gives the same draw every time: no spread to tell
        protocol = {**protocol, "problem": "all draws gave the same value, so there is no interval"}
    kind = None if lowest is None else "t-draws"
    return entry(mean, lowest, highest, len(values), protocol, kind, samples=values)
