"""Schedules at the points that the specification lists, and where lengths are zero or odd."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gssl_jax.ops import schedules


def at(schedule, steps):
    return [float(schedule(s)) for s in steps]


def test_momentum_of_the_teacher():
    found = at(lambda s: schedules.cosine(s, 0.996, 1.0, 400), (0, 100, 200, 300, 400))
    np.testing.assert_allclose(found, [0.996, 0.996586, 0.998, 0.999414, 1.0], atol=1e-6)


def test_linear_momentum_over_a_stretched_length_ends_early():
    """MSN stretches its schedules by 1.25, so a run ends at .996 + .004 / 1.25."""
    assert float(schedules.linear(400, 0.996, 1.0, 1.25 * 400)) == pytest.approx(0.9992, abs=1e-6)


def test_temperature_of_the_teacher():
    found = at(lambda s: schedules.linear(s, 0.04, 0.07, 29), (0, 1, 15, 28, 29, 30, 1000))
    np.testing.assert_allclose(found, [0.04, 0.041034, 0.055517, 0.068966, 0.07, 0.07, 0.07], atol=1e-6)


def test_weight_decay():
    found = at(lambda s: schedules.cosine(s, 0.04, 0.4, 1000), (0, 250, 500, 750, 1000))
    np.testing.assert_allclose(found, [0.04, 0.092721, 0.22, 0.347279, 0.4], atol=1e-6)


def test_cosine_to_zero_rate():
    found = at(lambda s: schedules.cosine(s, 0.1, 1e-6, 10), (0, 5, 10, 11))
    np.testing.assert_allclose(found, [0.1, 0.0500005, 1e-6, 1e-6], atol=1e-8)


def test_progress():
    np.testing.assert_allclose(at(lambda s: schedules.progress(s, 4), (-1, 0, 1, 4, 9)), [0, 0, 0.25, 1, 1])
    assert at(lambda s: schedules.progress(s, 0), (0, 3)) == [1.0, 1.0]  # a length of zero is already over


@pytest.mark.parametrize("curve", schedules.CURVES.values())
def test_curves_of_no_length_are_at_their_end(curve):
    assert at(lambda s: curve(s, 3.0, 5.0, 0), (0, 1, 7)) == [5.0, 5.0, 5.0]


def test_warm_up_then_cosine():
    """Four steps of ramp to 1, the peak again at step 4, and half a cosine over the other eight."""
    found = at(lambda s: schedules.warmup_cosine(s, 1.0, 0.1, 4, 12), range(14))
    ramp, fall = [0.25, 0.5, 0.75, 1.0], [0.1 + 0.45 * (1 + np.cos(np.pi * s / 8)) for s in range(9)]
    np.testing.assert_allclose(found, [*ramp, *fall, 0.1], atol=1e-6)


def test_without_warm_up_the_first_step_has_the_peak():
    np.testing.assert_allclose(
        at(lambda s: schedules.warmup_cosine(s, 2.0, 0.0, 0, 4), (0, 2, 4)), [2.0, 1.0, 0.0], atol=1e-6
    )


def test_a_warm_up_longer_than_the_run_never_arrives():
    found = at(lambda s: schedules.warmup_cosine(s, 1.0, 0.1, 10, 5), range(5))
    np.testing.assert_allclose(found, [0.1, 0.2, 0.3, 0.4, 0.5], atol=1e-6)


def test_a_warm_up_as_long_as_the_run():
    found = at(lambda s: schedules.warmup_cosine(s, 1.0, 0.1, 4, 4), (0, 3, 4, 5))
    np.testing.assert_allclose(found, [0.25, 1.0, 1.0, 0.1], atol=1e-6)


def test_schedules_trace():
    steps = jnp.arange(12)
    traced = jax.jit(jax.vmap(lambda s: schedules.warmup_cosine(s, 1.0, 0.1, 4, 12)))(steps)
    np.testing.assert_allclose(traced, at(lambda s: schedules.warmup_cosine(s, 1.0, 0.1, 4, 12), range(12)), atol=1e-6)
