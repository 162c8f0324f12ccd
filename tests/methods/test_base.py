"""Durations of the configuration in steps."""

from __future__ import annotations

from gssl_jax.methods.base import Clock


def test_durations_in_units():
    assert Clock(total=800, unit=1).steps(40.0) == 40
    assert Clock(total=800, unit=31).steps(1.5) == 46  # 46.5 steps, to even
    assert Clock(total=800, unit=31).steps(0.0) == 0
