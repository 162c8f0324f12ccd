"""Paired differences against SciPy, Holm and the two-way layout by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from gssl_jax.evals.paired import Paired, corrected, holm, of_differences, paired, two_way


def test_the_paired_test_is_scipys():
    rng = np.random.default_rng(0)
    one, other = rng.normal(0.5, 0.1, 5), rng.normal(0.4, 0.1, 5)
    found = paired(dict(enumerate(one)), dict(enumerate(other)))
    wanted = stats.ttest_rel(one, other)
    low, high = wanted.confidence_interval(0.95)
    assert (found.low, found.high, found.p) == pytest.approx((low, high, wanted.pvalue))
    assert found.mean == pytest.approx((one - other).mean())
    assert found.half == pytest.approx((high - low) / 2)
    assert found.n == 5


def test_only_seeds_that_both_have_are_paired():
    """Seeds 1 and 2: differences 1 and 3, mean 2; without pairing by seed they would be others."""
    found = paired({0: 9.0, 2: 4.0, 1: 2.0}, {1: 1.0, 2: 1.0, 3: 7.0})
    assert (found.mean, found.n) == (2.0, 2)
    assert found.p == pytest.approx(stats.ttest_1samp([1.0, 3.0], 0.0).pvalue)


def test_one_seed_has_no_interval_and_none_has_no_mean():
    assert paired({0: 0.5}, {0: 0.25}) == Paired(0.25, None, None, None, 1)
    assert math.isnan(paired({0: 0.5}, {1: 0.25}).mean)
    assert not paired({0: 0.5}, {0: 0.25}).clear


def test_equal_differences_leave_no_doubt():
    assert of_differences([0.1, 0.1, 0.1]) == pytest.approx((0.1, 0.1, 0.1, 0.0, 3))
    assert of_differences([0.0, 0.0]).p == 1.0
    assert not of_differences([0.0, 0.0]).clear


def test_an_interval_that_holds_zero_is_not_clear():
    assert of_differences([0.5, 0.6, 0.55]).clear
    assert of_differences([-0.5, -0.6, -0.55]).clear
    assert not of_differences([-0.5, 0.6, 0.55]).clear


def test_holm_multiplies_by_what_is_left_and_never_falls():
    """.01 x 3, .02 x 2, .03 x 1 is less than .04 before it."""
    assert holm([0.03, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.5, 0.9]) == [1.0, 1.0]


def test_what_has_no_p_is_left_out_of_the_correction():
    """Two tests are left: .01 x 2 and .04."""
    found = [Paired(1.0, 0.0, 2.0, 0.04, 3), Paired(1.0, None, None, None, 1), Paired(1.0, 0.0, 2.0, 0.01, 3)]
    assert corrected(found) == [pytest.approx(0.04), None, pytest.approx(0.02)]


def test_main_effects_are_means_over_the_other_factor():
    """Seed 0: rows a (1, 2), b (5, 8): means 1.5 and 6.5, columns 3 and 5. Seed 1 is everywhere 10 more."""
    table = {("a", "x"): {0: 1.0, 1: 11.0, 2: 0.0}, ("a", "y"): {0: 2.0, 1: 12.0},
             ("b", "x"): {0: 5.0, 1: 15.0}, ("b", "y"): {0: 8.0, 1: 18.0}}  # fmt: skip
    found = two_way(table)
    assert found.first == {"a": {0: 1.5, 1: 11.5}, "b": {0: 6.5, 1: 16.5}}
    assert found.second == {"x": {0: 3.0, 1: 13.0}, "y": {0: 5.0, 1: 15.0}}


def test_a_layout_with_a_hole_has_no_main_effects():
    full = {(a, b): {0: 1.0} for a in "ab" for b in "xy"}
    assert two_way(full) is not None
    assert two_way({key: value for key, value in full.items() if key != ("b", "y")}) is None
    assert two_way({key: value for key, value in full.items() if key[0] == "a"}) is None
    assert two_way(full | {("b", "y"): {1: 1.0}}) is None
