"""Robustness on encoders whose answers are known: entries by hand, attacks in closed form, classes by name."""

from __future__ import annotations

import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gssl_jax.data.sources import earth
from gssl_jax.errors import UserError
from gssl_jax.evals import robustness as module
from gssl_jax.evals.linear import Classifier
from gssl_jax.ops.keys import named, per_sample
from gssl_jax.presets import evaluation
from gssl_jax.training.mesh import make_mesh, on_data, replicated
from tests.runs.recipes import recipe

SIDE = 12
RNG = np.random.default_rng(0)
LABELS = np.arange(40, dtype=np.int32) % 2
PIXELS = np.clip(100 + 40 * LABELS[:, None, None, None] + RNG.normal(0, 12, (40, SIDE, SIDE, 1)), 0, 255)
IMAGES = PIXELS.astype(np.uint8)
TRUE = SimpleNamespace(name="toy", classes=("dark", "bright"), multilabel=False)
SLOPE = 3.0


def encode(variables, images):
    """The mean brightness, and its opposite."""
    mean = images.mean((1, 2, 3)) * variables["scale"]
    return {"feat": jnp.stack([mean, -mean], axis=1)}


def judged(sharding=None):
    """A classifier by the threshold of 120 levels: logits SLOPE (120 / 255 - mean) and its opposite."""
    weight = jnp.asarray([[-SLOPE, SLOPE], [0.0, 0.0]])
    bias = SLOPE * 120 / 255 * jnp.asarray([1.0, -1.0])
    options = dict(feature="feat", told={"l2": 0.1}, seed=0, resamples=50, sharding=sharding)
    return module.Judged(encode, {"scale": jnp.ones(())}, classifier=Classifier(weight, bias), **options)


def batches(size=8, labels=LABELS, images=IMAGES):
    """Padded batches, the last image of each without a label."""

    def opened():
        for start in range(0, len(images), size - 2):
            part = slice(start, start + size - 2)
            count = len(labels[part])
            blank = [(0, size - count)]
            yield {
                "image": np.pad(images[part], [*blank, (0, 0), (0, 0), (0, 0)]),
                "label": np.pad(labels[part], blank, constant_values=-1),
                "valid": np.arange(size) < count + 1,
                "index": np.pad(np.arange(start, start + count, dtype=np.int32), blank, constant_values=-1),
            }

    return opened


def settings(**changes):
    chosen = evaluation("digits", "", "train", "test", SIDE).robustness
    chosen.update(changes)
    return chosen


def test_off_unless_asked_for():
    assert not module.wanted(settings())
    assert module.entries(judged(), settings(), batches(), SIDE) == {}
    for asked in (dict(corruptions=("fog",)), dict(linf=(0.1,)), dict(l2=(0.5,)), dict(shift=(("a", "b", "c"),))):
        assert module.wanted(settings(**asked))


def test_entries_by_hand():
    """Brightness of severity s adds .05, .1, .15, .2, .3: dark images, of mean 100 and threshold 120 levels, stay
    right while 100 + 255 x <= 120, bright ones always."""
    found = module.entries(judged(), settings(corruptions=("brightness", "contrast")), batches(), SIDE)
    assert list(found) == [f"robust_{name}/top1" for name in ("clean", "brightness", "contrast", "mean", "kept")]
    means = IMAGES.mean((1, 2, 3))
    right = np.stack([(means + 255 * more > 120) == LABELS for more in (0.05, 0.1, 0.15, 0.2, 0.3)])
    one = json.loads(json.dumps(found["robust_brightness/top1"]))
    assert one["value"] == pytest.approx(right.mean()) and one["n"] == 40
    assert one["protocol"]["severities"] == pytest.approx({str(s + 1): right[s].mean() for s in range(5)})
    assert one["protocol"]["clean"] == 1.0 and "32 pixels" in one["protocol"]["strengths"]
    assert found["robust_clean/top1"]["value"] == 1.0 == found["robust_contrast/top1"]["value"]
    assert found["robust_mean/top1"]["value"] == pytest.approx((right.mean() + 1) / 2)
    assert found["robust_kept/top1"]["value"] == pytest.approx((right.mean() + 1) / 2)
    assert found["robust_mean/top1"]["low"] <= found["robust_mean/top1"]["value"] <= found["robust_mean/top1"]["high"]


def test_the_share_that_is_kept():
    clean, under = np.array([1, 1, 0, 1], bool), np.array([0.5, 1.0, 0.5, 0.0])
    found = module.kept_share(under, clean, 0, 200, {})
    assert found["value"] == pytest.approx(2 / 3) and found["low"] < 2 / 3 < found["high"]
    assert module.kept_share(under, ~clean & clean, 0, 10, {})["value"] is None


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_an_attack_shifts_the_mean_by_what_theory_says(norm):
    """The worst change of a mean over 144 pixels is epsilon in the maximum norm, and epsilon / sqrt(144) in the
    Euclidean one. The epsilon is chosen between two images."""
    means = IMAGES.mean((1, 2, 3)) / 255
    margin = np.sort(np.abs(means - 120 / 255))
    lost = 10 + int(np.diff(margin[9:31]).argmax())  # those below the widest gap among the middle ones
    middle = (margin[lost - 1] + margin[lost]) / 2
    epsilon = middle if norm == "linf" else middle * SIDE
    found = module.entries(judged(), settings(**{norm: (float(epsilon),)}, steps=100, step=20.0), batches(), SIDE)
    name, one = list(found.items())[-1]
    size = f"{255 * epsilon:.3g}" if norm == "linf" else f"{epsilon:.3g}"
    assert name == f"robust_pgd_{norm}_{size}/top1" and one["value"] == pytest.approx(1 - lost / 40)
    assert one["protocol"]["step_size"] == pytest.approx(20 * epsilon / 100) and one["protocol"]["clean"] == 1.0


def test_an_attack_begins_at_random_and_the_same_for_a_sample():
    change = module.pgd_change(judged(), {"norm": "linf", "epsilon": 0.1, "step_size": 0.0, "steps": 1})
    images, keys = jnp.asarray(IMAGES[:4] / np.float32(255)), per_sample(jax.random.key(0), jnp.arange(4))
    one, other = change(images, LABELS[:4], keys), change(images[::-1], LABELS[3::-1], keys[::-1])
    np.testing.assert_allclose(one, other[::-1], atol=1e-6)
    start = jax.random.uniform(named(keys[1], "pgd_linf"), (SIDE, SIDE, 1), minval=-0.1, maxval=0.1)
    np.testing.assert_allclose(one[1] - images[1], start, atol=1e-5)


def test_one_device_and_eight_give_the_same_entries():
    mesh, asked = make_mesh(), settings(corruptions=("gaussian_noise",), l2=(0.9,), steps=5)
    assert mesh.size == 8
    results = [module.entries(judged(place), asked, batches(), SIDE) for place in (replicated(mesh), on_data(mesh))]
    alone = module.entries(judged(), asked, batches(size=10), SIDE)
    assert 0.02 < alone["robust_pgd_l2_0.9/top1"]["value"] < 0.98
    for name, one in alone.items():
        for other in results:
            assert other[name]["value"] == pytest.approx(one["value"]), name


def test_a_domain_is_judged_by_the_names_of_its_classes():
    turned = SimpleNamespace(name="turned", classes=("bright", "dark"), multilabel=False)
    place = module.matched(turned, TRUE.classes)
    assert place.tolist() == [1, 0]
    found = module.shift_entry(judged(), turned, place, batches(labels=1 - LABELS), TRUE.classes)
    assert found["value"] == 1.0 and found["protocol"]["domain"] == "turned" and "absent" not in found["protocol"]
    part = SimpleNamespace(name="part", classes=("bright",), multilabel=False)
    only = batches(labels=np.where(LABELS == 1, 0, -1).astype(np.int32))
    found = module.shift_entry(judged(), part, module.matched(part, TRUE.classes), only, TRUE.classes)
    assert found["value"] == 1.0 and found["n"] == 20 and found["protocol"]["absent"] == ["dark"]
    assert module.shift_entry(judged(), turned, np.array([0, 1]), batches(), TRUE.classes)["value"] == 1.0


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (SimpleNamespace(name="x", classes=("dark", "grey"), multilabel=False), "'grey' of x are none of"),
        (SimpleNamespace(name="x", classes=(), multilabel=False), "no labels"),
        (SimpleNamespace(name="x", classes=("dark",), multilabel=True), "several labels"),
    ],
)
def test_a_domain_with_other_classes_is_refused(source, said):
    with pytest.raises(UserError, match=said):
        module.matched(source, TRUE.classes)


def test_domains_are_opened_by_source_path_and_split():
    data = recipe("tiny").data
    asked = settings(shift=(("earth", "shaded", "test"), ("earth", "relief", "test")))
    found = module.shifted(asked, tuple(earth.REGIONS), data)
    assert list(found) == ["shaded", "relief"] and len(found["shaded"][0]) == 448
    assert found["shaded"][1].tolist() == list(range(12))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (dict(corruptions=("frost",)), "frost"),
        (dict(corruptions=("fog",), severities=(0,)), "from 1 to 5"),
        (dict(corruptions=("fog",), severities=()), "is empty"),
        (dict(linf=(0.0,)), "evals.robustness.linf"),
        (dict(l2=(0.5,), steps=0), "steps has to be 1 or more"),
        (dict(shift=("earth",)), "source, path, split"),
        (dict(shift=(("earth", "shaded", "test"),) * 2), "two data sets named 'shaded'"),
        (dict(shift=(("earth", "moon", "test"),)), "moon"),
    ],
)
def test_values_that_mean_nothing_are_refused(changes, said):
    source = SimpleNamespace(name="toy", classes=tuple(earth.REGIONS), multilabel=False)
    with pytest.raises(UserError, match=said):
        module.check(settings(**changes), source, recipe("tiny").data)
    several = SimpleNamespace(name="toy", classes=TRUE.classes, multilabel=True)
    with pytest.raises(UserError, match="several labels"):
        module.check(settings(**changes), several, None)
    module.check(settings(), several, None)
