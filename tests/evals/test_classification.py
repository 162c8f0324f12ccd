"""Accuracy of a method's own classifier: by class, in groups, and under attack, against numbers by hand."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from gssl_jax.data.arrays import evaluation_batches
from gssl_jax.evals import classification

NAMES = ("ant", "bee", "cat", "dog")


def test_entries_by_hand():
    """ant 3 of 4, bee 1 of 2, cat 0 of 2: 4 of 8 right, mean over the classes with images (.75 + .5 + 0) / 3."""
    wanted = np.array([0, 0, 0, 0, 1, 1, 2, 2])
    found = np.array([0, 0, 0, 1, 1, 0, 0, 1])
    options = dict(classes=NAMES, seed=0, resamples=200)
    entries = classification.entries(found, wanted, counts=np.array([200, 60, 10, 5]), **options)
    assert list(entries) == [f"accuracy/{name}" for name in ("top1", "balanced", "many", "medium", "few")]
    values = {name.split("/")[1]: entry["value"] for name, entry in entries.items()}
    expected = {"top1": 0.5, "balanced": 1.25 / 3, "many": 0.75, "medium": 0.5, "few": 0.0}
    assert values == pytest.approx(expected)
    assert entries["accuracy/top1"]["protocol"]["per_class"] == {"ant": 0.75, "bee": 0.5, "cat": 0.0, "dog": None}
    assert entries["accuracy/few"]["protocol"]["classes"] == ["cat", "dog"]
    for entry in entries.values():
        assert entry["low"] <= entry["value"] <= entry["high"] and entry["n"] == 8
    assert entries["accuracy/few"]["low"] == entries["accuracy/few"]["high"] == 0.0
    assert entries["accuracy/top1"]["low"] < 0.5 < entries["accuracy/top1"]["high"]
    thirds = classification.entries(found, wanted, counts=np.array([9, 6, 4, 2]), prefix="last", **options)
    assert list(thirds)[2:] == ["last/head", "last/middle", "last/tail"]
    even = classification.entries(found, wanted, counts=np.full(4, 200), **options)
    assert list(even) == ["accuracy/top1", "accuracy/balanced"]


def brightness(weight, images):
    """Class 1 where an image is brighter than a half, by a linear classifier."""
    score = weight * (images.mean((1, 2, 3)) - 0.5)
    return jnp.stack([-score, score], axis=1)


def test_padding_and_unlabelled_images_do_not_count():
    images = np.zeros((5, 2, 2, 1), np.uint8)
    images[2:] = 200
    arrays = {"image": images, "label": np.array([0, 1, 1, -1, 1], np.int32)}
    found, wanted = classification.predictions(brightness, jnp.float32(40), evaluation_batches(arrays, 4))
    assert found.tolist() == [0, 0, 1, 1] and wanted.tolist() == [0, 1, 1, 1]


def test_an_attack_turns_what_lies_within_its_reach():
    """Grey 120 and 136 lie 7.5 and 8.5 from the border at 127.5: an attack of 8 turns the first alone."""
    arrays = {"image": np.full((2, 2, 2, 1), 120, np.uint8), "label": np.array([0, 1], np.int32)}
    arrays["image"][1] = 136
    attack = {"epsilon": 8 / 255, "step_size": 2 / 255, "steps": 20, "seed": 0}
    batches = list(evaluation_batches(arrays, 2))
    assert classification.predictions(brightness, jnp.float32(40), batches)[0].tolist() == [0, 1]
    assert classification.predictions(brightness, jnp.float32(40), batches, attack)[0].tolist() == [1, 1]
