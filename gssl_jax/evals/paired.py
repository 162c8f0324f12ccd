"""Differences between settings that share their seeds: paired intervals and tests, Holm's correction, two factors.

A seed chooses the initial network and every draw of a run, for all settings alike, so that settings are compared seed
by seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from gssl_jax.evals.intervals import t_interval


class Paired(NamedTuple):
    """Mean difference with Student's 95 % interval and the two-sided p-value of a paired t test, over `n` seeds that
    both settings have. With one seed there is neither interval nor p, with none there is no mean either (NaN)."""

    mean: float
    low: float | None
    high: float | None
    p: float | None
    n: int

    @property
    def half(self) -> float | None:
        """Half the width of the interval."""
        return None if self.high is None else self.high - self.mean

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def paired(one: Mapping[int, float], other: Mapping[int, float]) -> Paired:
    """`one - other` by seed."""
    return of_differences([one[seed] - other[seed] for seed in sorted(one) if seed in other])


def of_differences(values: Sequence[float] | np.ndarray) -> Paired:
    """What differences by seed say. Equal ones leave no doubt: p is 0, or 1 where they are zero."""
    values = np.asarray(values, np.float64)
    if not len(values):
        return Paired(math.nan, None, None, None, 0)
    mean, low, high = t_interval(values)
    if len(values) < 2:
        return Paired(mean, None, None, None, 1)
    error = float(values.std(ddof=1)) / math.sqrt(len(values))
    if error <= 1e-12 * max(1.0, abs(mean)):  # nothing but rounding
        return Paired(mean, mean, mean, float(abs(mean) <= 1e-12), len(values))
    return Paired(mean, low, high, float(2 * stats.t.sf(abs(mean) / error, len(values) - 1)), len(values))


def holm(values: Sequence[float]) -> list[float]:
    """p-values after Holm's step-down correction (Scand. J. Statist. 6, 1979), in the order given."""
    order, corrected, running = np.argsort(values), [0.0] * len(values), 0.0
    for rank, place in enumerate(order):
        running = max(running, min(1.0, (len(values) - rank) * values[place]))
        corrected[place] = running
    return corrected


def corrected(found: Sequence[Paired]) -> list[float | None]:
    """The p-values of comparisons made together, after Holm's correction; None where there is none."""
    known = [k for k, one in enumerate(found) if one.p is not None]
    values = dict(zip(known, holm([found[k].p or 0.0 for k in known]), strict=True))
    return [values.get(k) for k in range(len(found))]


class Factors(NamedTuple):
    """Two factors and every pair of their levels: for each level its mean over the levels of the other factor, by seed,
    of the seeds that have every pair."""

    first: dict[str, dict[int, float]]
    second: dict[str, dict[int, float]]


def two_way(table: Mapping[tuple[str, str], Mapping[int, float]]) -> Factors | None:
    """Main effects of a full layout: `table` holds the scores of (level of the first, level of the second) by seed.

    None where a pair of levels is missing, where a factor has one level, and where no seed has every pair. The
    difference between two levels of one factor is then `paired` of their means.
    """
    rows, columns = ([*dict.fromkeys(key[k] for key in table)] for k in (0, 1))
    if min(len(rows), len(columns)) < 2 or any((a, b) not in table for a in rows for b in columns):
        return None
    seeds = sorted(set.intersection(*(set(scores) for scores in table.values())))
    if not seeds:
        return None
    values = np.array([[[table[a, b][seed] for seed in seeds] for b in columns] for a in rows])

    def by_seed(levels: Sequence[str], means: np.ndarray) -> dict[str, dict[int, float]]:
        return {name: dict(zip(seeds, map(float, row), strict=True)) for name, row in zip(levels, means, strict=True)}

    return Factors(by_seed(rows, values.mean(1)), by_seed(columns, values.mean(0)))
