"""The four controls as functions of cosines, centre and step; what they do to a loss is in test_maskcluster_loss."""

from __future__ import annotations

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from gssl_jax.errors import UserError
from gssl_jax.methods.base import Clock
from gssl_jax.methods.collapse import CONTROLS, control, starved
from tests import reference
from tests.tiny import tiny_config

COSINES = np.tanh(np.random.default_rng(0).standard_normal((2, 20, 6))).astype(np.float32)
CENTRE = np.linspace(-0.2, 0.3, 6, dtype=np.float32)


def made(name, unit=1, **changes):
    return control(name, tiny_config(**changes).method, Clock(100, unit))


def targets(name, step=0, **changes):
    return np.asarray(made(name, **changes).targets(jnp.asarray(COSINES), jnp.asarray(CENTRE), jnp.int32(step), None))


@pytest.mark.parametrize("name", CONTROLS)
def test_targets_of_each_group_equal_plain_loops(name):
    """Two groups of 20 rows: sinkhorn balances each by itself, for the others groups mean nothing."""
    for group in range(2):
        expected = reference.targets(name, COSINES[group], CENTRE, 0.04, tiny_config().method)
        np.testing.assert_allclose(targets(name)[group], expected, atol=5e-6)


def test_every_setting_of_a_control_counts():
    for name, change in (
        ("sinkhorn", dict(method__sinkhorn__eps=0.5)),
        ("sinkhorn", dict(method__sinkhorn__iterations=20)),
        ("memax", dict(method__memax__sharpen=0.5)),
        ("memax", dict(method__temperature__student=0.2)),
        ("centring", dict(method__temperature__teacher_start=0.06)),
        ("none", dict(method__temperature__teacher_start=0.06)),
    ):
        assert np.abs(targets(name, **change) - targets(name)).max() > 0.01, change


@pytest.mark.parametrize("name", ["centring", "none"])
def test_the_temperature_rises_over_units_and_then_stays(name):
    """Over 30 epochs of 7 steps: .04 during the first, .055517 during the 16th, .07 from the 30th on."""
    for step, temperature in ((0, 0.04), (6, 0.04), (7, 0.041034), (15 * 7, 0.055517), (29 * 7, 0.07), (5000, 0.07)):
        expected = reference.targets(name, COSINES, CENTRE, temperature, tiny_config().method)
        np.testing.assert_allclose(targets(name, step, unit=7), expected, atol=2e-4)


@pytest.mark.parametrize("warmup", [0.0, 1.0])
def test_without_a_warm_up_the_temperature_is_at_its_end(warmup):
    found = targets("none", method__temperature__teacher_warmup=warmup)
    np.testing.assert_allclose(found, reference.softmax(COSINES / 0.07), atol=5e-6)


@pytest.mark.parametrize("name", CONTROLS)
def test_penalty_and_centre_belong_to_one_control_each(name):
    chosen, p = made(name, method__memax__weight=3.0), jnp.eye(6)[jnp.zeros(20, int)]
    assert float(chosen.penalty(p, None)) == pytest.approx(3 * np.log(6) if name == "memax" else 0.0, rel=1e-5)
    moved = 0.9 * CENTRE + 0.1 * COSINES.reshape(-1, 6).mean(axis=0)
    after = chosen.centre(jnp.asarray(CENTRE), jnp.asarray(COSINES))
    np.testing.assert_allclose(after, moved if name == "centring" else CENTRE, atol=1e-6)


def test_momentum_of_the_centre():
    after = made("centring", method__centring__momentum=0.0).centre(jnp.asarray(CENTRE), jnp.asarray(COSINES))
    np.testing.assert_allclose(after, COSINES.reshape(-1, 6).mean(axis=0), atol=1e-6)


def test_unknown_control():
    with pytest.raises(UserError, match="unknown collapse control 'centering'; did you mean 'centring'"):
        made("centering")


def test_starved_levels_are_named_and_only_those_there_are():
    """A batch of 2 with 2 views has 4 rows and 36 patches: up to 64 and 576 prototypes pass."""
    changes = dict(optim__batch_size=2, method__prototypes__cls=65, method__prototypes__patch=577)
    config = tiny_config(**changes)
    found = starved(config, SimpleNamespace(patch=4))
    assert len(found) == 2 and "the 4 rows" in found[0] and "--config.method.prototypes.cls=4 " in found[0]
    assert "the 36 rows" in found[1] and "--config.method.prototypes.patch=32 " in found[1]
    del config.method.prototypes["patch"]
    assert starved(config, object()) == found[:1]  # a network without patches
    config.method.prototypes.cls = 64
    assert starved(config, object()) == ()
