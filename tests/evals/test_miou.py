"""Intersection over union by hand: ignored pixels, absent classes, images resampled."""

from __future__ import annotations

import numpy as np
import pytest

from gssl_jax.evals import miou as module
from gssl_jax.evals.intervals import bootstrap_interval
from gssl_jax.evals.miou import confusion, counted, joined, miou, miou_entry, pixel_accuracy

# two images of 3 x 3 pixels, classes 0 to 3, 255 = none; 3 is nowhere
TRUTH = np.array([[[0, 0, 1], [1, 255, 2], [2, 2, 0]], [[1, 1, 1], [255, 255, 255], [0, 0, 0]]], np.uint8)
FOUND = np.array([[[0, 1, 1], [1, 2, 2], [0, 2, 0]], [[1, 1, 0], [3, 0, 1], [0, 0, 2]]], np.uint8)
NAMES = ("a", "b", "c", "d")


def test_by_hand():
    """Class 0: true 3 + 3, right 2 + 2, predicted 3 + 3: 4 / (6 + 6 - 4). Class 1: true 2 + 3, right 2 + 2, predicted
    3 + 2: 4 / 6. Class 2: true 3, right 2, predicted 2 + 1: 2 / 4. Class 3 is predicted where no class counts."""
    np.testing.assert_array_equal(confusion(TRUTH, FOUND, 4), [[4, 1, 1, 0], [1, 4, 0, 0], [1, 0, 2, 0], [0, 0, 0, 0]])
    counts = counted(TRUTH, FOUND, 4)
    np.testing.assert_array_equal(counts.right, [[2, 2, 2, 0], [2, 2, 0, 0]])
    np.testing.assert_array_equal(counts.predicted, [[3, 3, 2, 0], [3, 2, 1, 0]])
    np.testing.assert_array_equal(counts.true, [[3, 2, 3, 0], [3, 3, 0, 0]])
    np.testing.assert_allclose(module.class_ious(counts), [1 / 2, 2 / 3, 1 / 2, np.nan])
    assert miou(counts) == pytest.approx((1 / 2 + 2 / 3 + 1 / 2) / 3)
    assert pixel_accuracy(counts) == pytest.approx(10 / 14)
    parts = [counted(TRUTH[i : i + 1], FOUND[i : i + 1], 4) for i in range(2)]
    for one, other in zip(joined(parts), counts, strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_entry_names_what_is_absent():
    entry = miou_entry(counted(TRUTH, FOUND, 4), names=NAMES, protocol={"k": 5}, seed=0, resamples=50)
    assert entry["value"] == pytest.approx(5 / 9) and entry["n"] == 2 and entry["interval"] == "bootstrap-test"
    protocol = entry["protocol"]
    assert protocol["k"] == 5 and protocol["absent"] == ["d"] and protocol["pixel_accuracy"] == pytest.approx(10 / 14)
    assert protocol["per_class"] == {"a": 0.5, "b": pytest.approx(2 / 3), "c": 0.5, "d": None}
    # draws of two images: twice the first, twice the second, or both
    alone = [miou(counted(TRUTH[i : i + 1], FOUND[i : i + 1], 4)) for i in range(2)]
    assert min(alone) == pytest.approx(entry["low"]) and max(alone) == pytest.approx(entry["high"])
    nothing = miou_entry(counted(np.full_like(TRUTH, 255), FOUND, 4), names=NAMES, protocol={}, seed=0, resamples=5)
    assert nothing["value"] is nothing["low"] is nothing["interval"] is None
    assert nothing["protocol"]["absent"] == list(NAMES)


def test_a_class_only_predicted_counts_as_wrong():
    truth, found = np.zeros((1, 2, 2), np.uint8), np.array([[[0, 0], [0, 3]]], np.uint8)
    assert miou(counted(truth, found, 4)) == pytest.approx((3 / 4 + 0) / 2)


def test_images_are_resampled_whole():
    """With one class, every image half of the pixels: mIoU of a draw is the share of right pixels over the images."""
    rng, right = np.random.default_rng(3), np.random.default_rng(1).integers(0, 5, 40)
    truth = np.full((40, 2, 2), 255, np.uint8)
    found = np.ones_like(truth)
    for i, n in enumerate(right):
        truth[i].flat[:4] = 0
        found[i].flat[:n] = 0
    entry = miou_entry(counted(truth, found, 2), names=("x", "y"), protocol={}, seed=3, resamples=400)
    # class 1 is nowhere true: its IoU is 0 in every draw that predicts it
    shares = right / 4
    rows = rng.integers(40, size=(400, 40))
    low, high = np.percentile([shares[row].mean() / 2 for row in rows], [2.5, 97.5])
    assert (entry["low"], entry["high"]) == (pytest.approx(low), pytest.approx(high))
    assert bootstrap_interval(shares / 2, 0, 400)[1] == pytest.approx(low, abs=0.02)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="different shapes"):
        confusion(TRUTH, FOUND[:, :2], 4)
    with pytest.raises(ValueError, match="class 2 and there are 2"):
        confusion(TRUTH, np.zeros_like(FOUND), 2)
