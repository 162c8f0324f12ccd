"""Intervals by hand and against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from gssl_jax.evals.intervals import bootstrap_interval, entry, t_interval


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
