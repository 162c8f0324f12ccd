"""Intervals by hand and against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from gssl_jax.evals.intervals import bootstrap_interval, entry, paired, t_interval


def test_t_interval_by_hand():
    # mean .2, standard deviation .1, t(.975, 2 degrees) = 4.302653: half width 4.302653 * .1 / sqrt(3) = .248414.
    np.testing.assert_allclose(t_interval([0.1, 0.2, 0.3]), (0.2, -0.048414, 0.448414), atol=1e-6)


def test_t_interval_equals_scipy():
    values = np.random.default_rng(0).uniform(size=12)
    expected = stats.t.interval(0.95, 11, loc=values.mean(), scale=stats.sem(values))
    np.testing.assert_allclose(t_interval(values)[1:], expected, rtol=1e-12)


def test_one_draw_has_no_interval():
    assert t_interval([0.5]) == (0.5, None, None)


def test_bootstrap_interval():
    assert bootstrap_interval(np.ones(30, bool), 0, 50) == (1.0, 1.0, 1.0)
    # A share of .3 of 900 images has standard error sqrt(.3 * .7 / 900) = .015275; 1.96 of them are .02994.
    value, low, high = bootstrap_interval(np.arange(900) % 10 < 3, 0, 4000)
    assert value == pytest.approx(0.3)
    assert (low, high) == pytest.approx((0.3 - 0.02994, 0.3 + 0.02994), abs=2e-3)
    assert (value, low, high) == bootstrap_interval(np.arange(900) % 10 < 3, 0, 4000)


def test_entry():
    assert entry(0.5, float("nan"), None, 7, {"k": 20}, "bootstrap-test") == {
        "value": 0.5,
        "low": None,
        "high": None,
        "n": 7,
        "protocol": {"k": 20},
        "interval": "bootstrap-test",
    }


def test_paired_differences_are_those_of_the_pairs():
    """Two scores that rise and fall together by more than they differ: the pairs tell them apart."""
    one, other = np.array([0.2, 0.5, 0.8, 0.4]), np.array([0.1, 0.4, 0.72, 0.3])
    found = paired(one, other, "t-draws", 0, 10)
    spread = stats.t.ppf(0.975, 3) * np.std([0.1, 0.1, 0.08, 0.1], ddof=1) / 2
    assert found["value"] == pytest.approx(0.095) and found["n"] == 4 and found["interval"] == "paired-t-draws"
    assert (found["low"], found["high"]) == pytest.approx((0.095 - spread, 0.095 + spread))
    assert found["low"] > 0 > t_interval(one)[1] - t_interval(other)[2]
    images = np.array([1, 1, 0, 1, 0, 1.0]), np.array([1, 0, 0, 1, 1, 0.0])
    found = paired(*images, "bootstrap-test", 5, 200)
    assert (found["value"], found["low"], found["high"]) == bootstrap_interval(images[0] - images[1], 5, 200)
    same = paired(one, one, "bootstrap-test", 0, 10)
    assert (same["value"], same["low"], same["high"]) == (0.0, None, None)


def test_samples_stand_beside_an_entry_and_not_in_it():
    found = entry(0.5, None, None, 2, {}, "t-draws", samples=np.array([0, 1]))
    assert found == entry(0.5, None, None, 2, {}, "t-draws") and "samples" not in found
    np.testing.assert_array_equal(found.samples, [0.0, 1.0])
    assert entry(None, None, None, 0, {}, None).samples is None
