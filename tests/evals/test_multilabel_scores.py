"""Measures of several labels against scikit-learn, and what becomes of classes that cannot be measured."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from gssl_jax.evals import multilabel_scores as module
from gssl_jax.evals.multilabel_scores import MEASURES, mean_average_precision, multilabel_entries, thresholds_of

NAMES = ("ant", "bee", "cat", "dog")
SETTINGS = {"classes": NAMES, "protocol": {"feature": "feat"}, "seed": 0, "resamples": 100, "thresholds": 0.6}


def problem(count=60, unknown=0.2):
    rng = np.random.default_rng(0)
    labels = (rng.random((count, 4)) < 0.4).astype(np.float32)
    scores = np.round(labels + rng.normal(size=labels.shape), 1)  # rounded: many ties, at the threshold too
    labels[rng.random(labels.shape) < unknown] = np.nan
    return scores, labels


def by_scikit_learn(scores, labels, rows=slice(None)):
    scores, labels = scores[rows], labels[rows]
    known = ~np.isnan(labels)
    own = [(labels[k, c], scores[k, c]) for c, k in enumerate(known.T)]
    return {
        "map": np.mean([average_precision_score(y, s) for y, s in own]),
        "auroc": np.mean([roc_auc_score(y, s) for y, s in own]),
        "f1_macro": np.mean([f1_score(y, s > 0.6) for y, s in own]),
        "f1_micro": f1_score(labels[known], scores[known] > 0.6),
    }


def test_values_and_intervals_equal_scikit_learn(monkeypatch):
    scores, labels = problem()
    found, expected = multilabel_entries(scores, labels, **SETTINGS), by_scikit_learn(scores, labels)
    assert tuple(found) == MEASURES and json.loads(json.dumps(found)) == found
    rng = np.random.default_rng(0)
    draws = [by_scikit_learn(scores, labels, rng.integers(60, size=60)) for _ in range(100)]
    for name in MEASURES:
        assert found[name]["value"] == pytest.approx(expected[name]), name
        low, high = np.percentile([draw[name] for draw in draws], [2.5, 97.5])
        np.testing.assert_allclose([found[name]["low"], found[name]["high"]], [low, high], err_msg=name)
        assert found[name]["n"] == 60 and found[name]["interval"] == "bootstrap-test"
    known = ~np.isnan(labels[:, 1])
    of_bees = {"map": average_precision_score(labels[known, 1], scores[known, 1]),
               "f1_macro": f1_score(labels[known, 1], scores[known, 1] > 0.6)}  # fmt: skip
    for name, value in of_bees.items():
        assert found[name]["protocol"]["per_class"]["bee"] == pytest.approx(value)
    assert mean_average_precision(scores, labels) == pytest.approx(expected["map"])
    monkeypatch.setattr(module, "CELLS", 180)
    assert multilabel_entries(scores, labels, **SETTINGS) == found


def test_guesses_are_what_scores_without_meaning_get():
    """Many images with scores of no meaning; for F1 everything is called positive."""
    rng = np.random.default_rng(1)
    labels = (rng.random((20_000, 4)) < [0.5, 0.3, 0.1, 0.05]).astype(np.float32)
    found = multilabel_entries(rng.random(labels.shape), labels, **SETTINGS | {"thresholds": -1.0, "resamples": 2})
    for name in MEASURES:
        assert found[name]["value"] == pytest.approx(found[name]["protocol"]["guess"], abs=0.01), name


def test_classes_that_cannot_be_measured_are_left_out_and_named():
    scores, labels = problem(unknown=0.0)
    labels[:, 2], labels[:, 3] = 0.0, 1.0
    found = multilabel_entries(scores, labels, **SETTINGS)
    assert found["map"]["protocol"]["left_out"] == found["f1_macro"]["protocol"]["left_out"] == ["cat"]
    assert found["auroc"]["protocol"]["left_out"] == ["cat", "dog"]
    assert found["map"]["protocol"]["per_class"]["cat"] is None and found["map"]["protocol"]["per_class"]["dog"] == 1.0
    expected = np.mean([average_precision_score(labels[:, c], scores[:, c]) for c in (0, 1, 3)])
    assert found["map"]["value"] == pytest.approx(expected)
    wrong = f1_score(labels.ravel(), scores.ravel() > 0.6)  # what is called a cat is wrong and counts
    assert found["f1_micro"]["value"] == pytest.approx(wrong)
    nothing = multilabel_entries(scores, np.zeros_like(labels), **SETTINGS)
    for name in MEASURES:
        assert nothing[name]["value"] is None and "so there is no" in nothing[name]["protocol"]["problem"]


def test_eleven_points_are_asked_for_by_name():
    scores, labels = problem()
    found = multilabel_entries(scores, labels, **SETTINGS, kind="eleven_point")["map"]
    assert found["protocol"]["average precision"] == "eleven-point"
    assert (
        found["value"]
        == mean_average_precision(scores, labels, "eleven_point")
        != mean_average_precision(scores, labels)
    )


def test_thresholds_have_the_best_f1_of_all_cuts():
    scores, labels = problem()
    labels[:, 3] = np.where(np.isnan(labels[:, 3]), np.nan, 0.0)
    found = thresholds_of(scores, labels, otherwise=0.25)
    assert found[3] == 0.25
    for c in range(3):
        known = ~np.isnan(labels[:, c])
        own, wanted = scores[known, c], labels[known, c]
        cuts = {cut: f1_score(wanted, own >= cut) for cut in np.unique(own)}
        best = max(cuts, key=lambda cut: (round(cuts[cut], 12), cut))
        np.testing.assert_array_equal(own > found[c], own >= best)
