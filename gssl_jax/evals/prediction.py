"""How well label-free scores predict labelled ones: rank correlations over backbones, with their chance.

A backbone is a cell of a study. Both coefficients ask only whether the order of the backbones is the same.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

LEAST = 3
"""Backbones from which on an order means something."""

EXACT = 7
"""Up to so many backbones all orders are tried (5,040), beyond it some of them."""

CHUNK = 2**22
"""Numbers held at once."""


class RankCorrelation(NamedTuple):
    """One label-free score against one labelled score over `n` backbones.

    `spearman` is the correlation of the ranks, `kendall` tau-b, the share of pairs in the same order less those in the
    other one; both from -1 to 1, ties at their mean rank. The p values are two-sided, from permutations. All four are
    None with fewer than three backbones, or where one of the scores is the same for all.
    """

    health: str
    score: str
    n: int
    spearman: float | None
    spearman_p: float | None
    kendall: float | None
    kendall_p: float | None


def rank_correlations(
    health: Mapping[str, Sequence[float | None]],
    scores: Mapping[str, Sequence[float | None]],
    groups: Sequence[str] | None = None,
    permutations: int = 9999,
    seed: int = 0,
) -> list[RankCorrelation]:
    """Every label-free score against every labelled one.

    Args:
        health: name -> one number a backbone; None or NaN where there is none, which leaves out that backbone there.
        scores: the same for the labelled scores, backbones in the same order.
        groups: a name for each backbone; those of one name, as the seeds of one method, are averaged first: they are
            no independent witnesses, and to permute them as if they were makes p values too small.
        permutations: orders tried where there are too many for all, the one found included beside them.
        seed: of these.

    Returns:
        A row for each pair, in the order of the arguments.

    Raises:
        ValueError: the sequences differ in length.
    """
    lengths = {len(values) for values in (*health.values(), *scores.values(), *([] if groups is None else [groups]))}
    if len(lengths) > 1:
        raise ValueError(f"scores of backbones differ in number: {sorted(lengths)}")
    rows = []
    for one, first in health.items():
        for other, second in scores.items():
            pair = np.asarray([first, second], np.float64)  # None becomes NaN
            kept = np.isfinite(pair).all(0)
            pair = pair[:, kept]
            if groups is not None:
                names = np.asarray(groups, str)[kept]
                members = [names == name for name in np.unique(names)]
                pair = np.stack([pair[:, here].mean(1) for here in members], axis=1) if members else pair
            rows.append(RankCorrelation(one, other, pair.shape[1], *_correlated(pair[0], pair[1], permutations, seed)))
    return rows


def _correlated(
    x: np.ndarray, y: np.ndarray, permutations: int, seed: int
) -> tuple[float | None, float | None, float | None, float | None]:
    """Spearman's coefficient with p, Kendall's with p, of x and y [n]."""
    n = len(x)
    if n < LEAST or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None, None, None, None
    ranks_x, ranks_y = _ranks(x), _ranks(y)
    signs_x, signs_y = (np.sign(v[:, None] - v[None, :]) for v in (x, y))
    scale = math.sqrt(np.square(signs_x).sum() * np.square(signs_y).sum())
    width = float(np.linalg.norm(ranks_x) * np.linalg.norm(ranks_y))
    found = np.array([ranks_x @ ranks_y / width, (signs_x * signs_y).sum() / scale])
    exact = n <= EXACT
    orders = np.asarray(list(itertools.permutations(range(n)))) if exact else _shuffled(n, permutations, seed)
    reached, step = np.zeros(2), max(1, CHUNK // n**2)
    for start in range(0, len(orders), step):
        part = orders[start : start + step]
        moved = signs_y[part[:, :, None], part[:, None, :]]
        tried = ranks_y[part] @ ranks_x / width, np.einsum("ij,pij->p", signs_x, moved) / scale
        reached += [(np.abs(t) >= abs(f) - 1e-9).sum() for t, f in zip(tried, found, strict=True)]
    p = reached / len(orders) if exact else (reached + 1) / (len(orders) + 1)
    return float(found[0]), float(p[0]), float(found[1]), float(p[1])


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from the mean of all on, equal values at the mean of theirs."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[place] - (len(values) + 1) / 2


def _shuffled(n: int, permutations: int, seed: int) -> np.ndarray:
    """int [permutations, n]: random orders."""
    return np.argsort(np.random.default_rng(seed).random((permutations, n)), axis=1)
