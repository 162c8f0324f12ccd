"""The alarm by hand-made rows: it waits twenty steps, speaks once, and names the knob; the probe likewise."""

import math

import jax.numpy as jnp
import pytest

from gssl_jax.methods.base import Method
from gssl_jax.runs.watch import CollapseAlarm, HealthProbe
from gssl_jax.training.loop import Every
from gssl_jax.training.state import TrainState

HEALTHY = {"health/mean_target_entropy_cls": 0.98, "health/target_entropy_cls": 0.6,
           "health/mean_target_entropy_patch": 0.97, "health/target_entropy_patch": 0.3}  # fmt: skip

CONFIG = {
    "method": {"collapse": {"cls": "none", "patch": "centring"}, "temperature": {"teacher_end": 0.07}},
    "optim": {"learning_rate": 0.003},
}


def alarm():
    said = []
    return CollapseAlarm(lambda step, row: said.append((step, row["alarm"])), CONFIG), said


@pytest.mark.parametrize(
    ("key", "bad", "good", "words"),
    [
        ("health/mean_target_entropy_patch", 0.09, 0.11, "Try --config.method.collapse.patch=sinkhorn"),
        ("health/mean_target_entropy_cls", 0.0, 0.11, "method.collapse.cls=sinkhorn"),
        ("health/prototypes_in_use_cls", 0.09, 0.11, "Only 9 % of the cls prototypes"),
        ("health/target_entropy_cls", 0.995, 0.985, "method.temperature.teacher_end=0.035"),
        ("health/target_entropy_patch", 1.0, 0.985, "patch targets are nearly uniform"),
    ],
)
def test_a_collapse_that_lasts_twenty_steps_is_called_once(key, bad, good, words):
    watch, said = alarm()
    for step in (10, 20, 30):
        watch.on_log(step, HEALTHY)
    watch.on_log(40, HEALTHY | {key: bad})  # steps 31 to 40
    assert said == []
    watch.on_log(50, HEALTHY | {key: bad})
    assert [step for step, _ in said] == [50] and words in said[0][1]
    watch.on_log(60, HEALTHY | {key: bad})
    assert len(said) == 1


def test_a_collapse_that_passes_is_not_called():
    watch, said = alarm()
    for step, value in ((10, 0.05), (20, 0.2), (30, 0.05), (40, 0.2)):
        watch.on_log(step, HEALTHY | {"health/mean_target_entropy_cls": value})
    assert said == []


def test_one_long_interval_is_enough():
    watch, said = alarm()
    watch.on_log(50, HEALTHY | {"health/mean_target_entropy_cls": 0.01})
    assert [step for step, _ in said] == [50]


@pytest.mark.parametrize(("left", "rank", "fires"), [(1.0, 50.0, False), (0.02, 2.1, False), (0.009, 50.0, True),
                                                    (1.0, 1.9, True), (math.nan, 5.0, True)])  # fmt: skip
def test_collapsed_features(left, rank, fires):
    watch, said = alarm()
    watch.on_health(40, {"health/feature_std_of_start": left, "health/rankme": rank})
    watch.on_health(60, {"health/feature_std_of_start": left, "health/rankme": rank})
    assert len(said) == fires


def test_the_probe_measures_spread_rank_uniformity_and_alignment_without_compiling_again():
    """Images on the axes, e1 and e2: uniformity -2 x 2, rank 2; their spread is that at the start, where
    features are a quarter as long. The views of either image stand at a right angle: alignment 2."""
    images = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    pairs = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 3.0]])
    rows = []
    method = Method((), None, None, None, None, lambda params, state, which: params[which], None, None)
    probe = HealthProbe(
        method, lambda w, x: x * w, images, pairs, "teacher", Every(10, 0), lambda step, row: rows.append((step, row))
    )
    probe.begin(1.0)
    for step in (10, 20):
        state = TrainState(jnp.int32(step), {"teacher": 4.0}, {}, {}, None, jnp.int32(0), jnp.int32(0))
        probe.on_boundary(step, state)
    probe.finish()
    assert [step for step, _ in rows] == [10, 20]
    row = rows[0][1]
    assert row["health/uniformity"] == pytest.approx(-4.0, rel=1e-5)
    assert row["health/alignment"] == pytest.approx(2.0, rel=1e-5)
    assert row["health/rankme"] == pytest.approx(2.0, rel=1e-5)
    assert row["health/feature_std"] == pytest.approx(0.5) and row["health/feature_std_of_start"] == pytest.approx(1.0)
    assert probe._measure._cache_size() == 1


def test_the_probe_of_a_few_images_leaves_alignment_out():
    rows = []
    method = Method((), None, None, None, None, lambda params, state, which: params, None, None)
    probe = HealthProbe(
        method, lambda w, x: x * w, jnp.eye(3), None, "teacher", Every(1, 0), lambda s, r: rows.append(r)
    )
    probe.begin(1.0)
    probe.on_boundary(1, TrainState(jnp.int32(1), 1.0, {}, {}, None, jnp.int32(0), jnp.int32(0)))
    probe.finish()
    assert "health/alignment" not in rows[0] and rows[0]["health/uniformity"] == pytest.approx(-4.0, rel=1e-5)
