"""HPT's linear protocol: what it changes and what not, what it chooses by, and toy features it must separate."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gssl_jax.evals import sgd_linear as module
from gssl_jax.evals.sgd import Pool
from gssl_jax.evals.sgd_linear import best_of, sgd_linear
from gssl_jax.models.resnet import ResNet
from gssl_jax.presets import evaluation

NAMES = ("dark", "middling", "bright")
OPTIONS = {"feature": "feat", "classes": NAMES, "seed": 0, "resamples": 50}


def encode(variables, images):
    """Brightness and contrast; crops keep both about."""
    flat = images.reshape(len(images), -1)
    return {"feat": jnp.stack([flat.mean(1), flat.std(1), jnp.ones(len(flat))], 1) @ variables["params"]["mix"]}


VARIABLES = {"params": {"mix": jnp.eye(3) * 2}}


def settings(**changes):
    chosen = evaluation("digits", "", "train", "test", 8).sgd_linear
    quick = dict(steps=60, batch_size=16, learning_rate=5.0, milestones=(20, 40), every=5, seeds=1)
    chosen.update(quick | changes)
    return chosen


def images(count, seed, informative=True):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % 3).astype(np.int32)
    shown = labels if informative else rng.permutation(labels)
    pixels = 40 + 80 * shown[:, None, None, None] + rng.integers(-20, 20, (count, 8, 8, 1))
    return pixels.astype(np.uint8), labels


def several(labels):
    found = np.eye(3, dtype=np.float32)[labels]
    found[::5, 1] = np.nan
    return found


def parts(informative=True, kind=lambda labels: labels):
    """(train, validation, test)."""
    (pixels, labels), *others = (images(count, seed, informative) for seed, count in enumerate((60, 30, 30)))
    given = kind(labels)
    train = Pool(given, lambda rows: (pixels[rows], given[rows]), "crops")
    opened = [lambda x=x, y=y: [{"image": x, "label": kind(y), "valid": np.ones(len(x), bool)}] for x, y in others]
    return train, *opened


def test_separable_features_are_told_apart():
    ((name, found),) = sgd_linear(encode, VARIABLES, *parts(), settings=settings(), **OPTIONS).items()
    assert name == "linear_sgd/top1" and found["value"] > 0.95 and found["interval"] == "bootstrap-test"
    told = json.loads(json.dumps(found))["protocol"]
    assert told["curve"]["steps"] == list(range(5, 61, 5)) and told["curve"]["repeats"] == [told["curve"]["validation"]]
    assert told["parameters"] == 3 * 3 + 3 and told["chosen_iterations"][0] >= 40
    assert told["train_images"] == 60 and told["validation_images"] == 30


def test_labels_without_meaning_stay_at_chance_and_repeats_give_an_interval():
    found = sgd_linear(encode, VARIABLES, *parts(False), settings=settings(seeds=3), **OPTIONS)["linear_sgd/top1"]
    assert abs(found["value"] - 1 / 3) < 0.25 and found["interval"] == "t-draws" and found["n"] == 3
    assert found["value"] == pytest.approx(np.mean(found["protocol"]["values"]))
    curve = found["protocol"]["curve"]
    assert len(curve["repeats"]) == len(found["protocol"]["chosen_iterations"]) == 3
    assert len(set(map(tuple, curve["repeats"]))) > 1
    np.testing.assert_allclose(curve["validation"], np.mean(curve["repeats"], 0))


def test_several_labels_are_judged_by_areas():
    found = sgd_linear(encode, VARIABLES, *parts(kind=several), settings=settings(), **OPTIONS)["linear_sgd/auroc"]
    assert found["value"] > 0.8 and set(found["protocol"]["per_class"]) == set(NAMES)
    assert found["protocol"]["per_class"]["dark"] > 0.95


def test_the_test_images_choose_nothing():
    train, validation, test = parts()
    batch = test()[0]
    turned = lambda: [batch | {"label": batch["label"][::-1]}]  # noqa: E731
    runs = [
        sgd_linear(encode, VARIABLES, train, validation, asked, settings=settings(), **OPTIONS)
        for asked in (test, turned)
    ]
    chosen = [run["linear_sgd/top1"]["protocol"]["chosen_iterations"] for run in runs]
    assert chosen[0] == chosen[1] and runs[0]["linear_sgd/top1"]["value"] != runs[1]["linear_sgd/top1"]["value"]


def test_the_first_of_the_best_of_the_later_half_is_taken():
    assert list(module._later_half(50)) == list(range(26, 50))
    assert list(module._later_half(12)) == [7, 8, 9, 10, 11] and list(module._later_half(1)) == [0]
    assert best_of([9, 0, 1, 2, 2, np.nan], [1, 2, 3, 4, 5]) == 3
    assert best_of([np.nan, np.nan], [0, 1]) == 0


def test_a_rate_that_is_too_high_is_no_value():
    wild = {"params": {"mix": jnp.eye(3) * 1e20}}
    found = sgd_linear(encode, wild, *parts(), settings=settings(learning_rate=1e30), **OPTIONS)["linear_sgd/top1"]
    assert found["value"] is None and "lower evals.sgd_linear.learning_rate" in found["protocol"]["problem"]
    broken = {"params": {"mix": jnp.full((3, 3), jnp.nan)}}
    found = sgd_linear(encode, broken, *parts(), settings=settings(), **OPTIONS)["linear_sgd/top1"]
    assert found["value"] is None and found["protocol"]["problem"] == "features are not finite"


def test_the_backbone_and_its_statistics_stay_bit_identical():
    network = ResNet(image_size=8, block="basic", depths=(1,), widths=(4,), stem_width=4, channels=1)
    variables = jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    before = jax.tree.map(np.array, variables)
    quick = settings(steps=4, every=2, batch_size=8)
    found = sgd_linear(network.apply, variables, *parts(), settings=quick, **OPTIONS)["linear_sgd/top1"]
    jax.tree.map(np.testing.assert_array_equal, variables, before)
    assert found["protocol"]["parameters"] == 4 * 3 + 3 and found["value"] is not None


def test_the_layer_sees_running_statistics():
    """The gradient of the head is that of features in eval mode: a step by hand."""
    network = ResNet(image_size=8, block="basic", depths=(1,), widths=(4,), stem_width=4, channels=1)
    variables = jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    pixels, labels = images(6, 0)
    head, key = {"weight": jnp.zeros((4, 3)), "bias": jnp.zeros(3)}, jax.random.key(1)
    options = {"encode": network.apply, "feature": "feat", "scale": (0.5, 1.0), "flip": 0.5}
    new, _ = module._step(head, head, variables, pixels, labels, key, np.float32(2.0), 0.9, **options)
    crop = jax.jit(module.sgd.cropped, static_argnums=(2, 3))(pixels, key, (0.5, 1.0), 0.5)
    features = np.asarray(jax.jit(network.apply)(variables, crop)["feat"])
    error = np.eye(3)[labels] - 1 / 3  # of a layer of zeros
    np.testing.assert_allclose(new["weight"], 2.0 * features.T @ error / 6, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(new["bias"], 2.0 * error.mean(0), rtol=1e-4, atol=1e-6)
