"""Rank correlations against SciPy, with ties, gaps and groups."""

import math

import numpy as np
import pytest
from scipy import stats

from gssl_jax.evals.prediction import rank_correlations


def one(x, y, **options):
    (found,) = rank_correlations({"h": x}, {"s": y}, **options)
    return found


@pytest.mark.parametrize("ties", [False, True])
def test_coefficients_are_those_of_scipy(ties):
    rng = np.random.default_rng(0)
    x = rng.normal(size=25)
    y = x + rng.normal(size=25)
    if ties:
        x, y = np.round(x), np.round(2 * y) / 2
    found = one(x, y)
    assert found.spearman == pytest.approx(stats.spearmanr(x, y).statistic, rel=1e-9)
    assert found.kendall == pytest.approx(stats.kendalltau(x, y).statistic, rel=1e-9)
    assert (found.health, found.score, found.n) == ("h", "s", 25)


def test_p_values_of_few_backbones_are_exact():
    """Five in the same order: of 120 orders that one and its reverse reach it."""
    found = one([1, 2, 3, 4, 5], [1, 4, 9, 16, 25])
    assert (found.spearman, found.kendall) == (pytest.approx(1), pytest.approx(1))
    assert found.spearman_p == found.kendall_p == pytest.approx(2 / 120)
    x, y = [3.0, 1.0, 4.0, 1.5, 5.0, 9.0], [2.0, 7.0, 1.0, 8.0, 2.5, 0.5]
    assert one(x, y).kendall_p == pytest.approx(stats.kendalltau(x, y, method="exact").pvalue)

    def statistic(shuffled):
        return stats.spearmanr(shuffled, y).statistic

    wanted = stats.permutation_test((x,), statistic, permutation_type="pairings", n_resamples=np.inf).pvalue
    assert one(x, y).spearman_p == pytest.approx(wanted)


def test_p_values_of_many_backbones_approach_those_of_scipy():
    rng = np.random.default_rng(3)
    x = rng.normal(size=20)
    y = 0.5 * x + rng.normal(size=20)
    found = one(x, y)
    assert found.kendall_p == pytest.approx(stats.kendalltau(x, y, method="exact").pvalue, abs=0.01)
    assert found.spearman_p == pytest.approx(stats.spearmanr(x, y).pvalue, abs=0.01)
    assert one(x, x).spearman_p == pytest.approx(1 / 10_000)  # none of 9,999 orders comes up to it
    assert one(x, y) == found and one(x, y, seed=1).kendall_p != found.kendall_p


def test_what_is_missing_leaves_the_backbone_out_there():
    found = one([1.0, None, 2.0, 3.0, 4.0], [2.0, 9.0, math.nan, 3.0, 4.0])
    assert found.n == 3 and found.spearman == pytest.approx(1)
    assert one([1.0, 2.0, None], [1.0, 2.0, 3.0])[2:] == (2, None, None, None, None)
    assert one([1.0, 1.0, 1.0, 1.0], [1.0, 2.0, 3.0, 4.0])[2:] == (4, None, None, None, None)
    assert one([], []).n == 0


def test_the_seeds_of_a_method_are_one_witness():
    """Three methods, two seeds: means 1, 2, 3 against 5, 3, 4; one pair of three in order: tau -1/3."""
    found = one([0.5, 2, 3, 1.5, 2, 3], [4, 3, 3, 6, 3, 5], groups=["a", "b", "c", "a", "b", "c"])
    assert (found.n, found.kendall) == (3, pytest.approx(-1 / 3))


def test_every_pair_has_a_row_and_lengths_have_to_agree():
    rows = rank_correlations({"h": [1, 2, 3], "g": [3, 2, 1]}, {"s": [1, 2, 3], "t": [2, 1, 3]})
    assert [(row.health, row.score) for row in rows] == [("h", "s"), ("h", "t"), ("g", "s"), ("g", "t")]
    assert [row.kendall for row in rows] == pytest.approx([1, 1 / 3, -1, -1 / 3])
    with pytest.raises(ValueError, match=r"differ in number: \[2, 3\]"):
        rank_correlations({"h": [1, 2, 3]}, {"s": [1, 2]})
