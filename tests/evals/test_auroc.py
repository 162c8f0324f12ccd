"""Areas by hand and against scikit-learn, and what becomes of classes that have none."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from gssl_jax.evals.auroc import auroc, class_aurocs, mean_auroc, weighted_auroc

SETTINGS = {"protocol": {"feature": "feat"}, "seed": 0, "resamples": 200}


def problem(count=60, classes=4, unknown=0.2):
    rng = np.random.default_rng(0)
    labels = (rng.random((count, classes)) < 0.4).astype(np.float32)
    scores = np.round(labels + rng.normal(size=labels.shape), 1)  # rounded: many ties
    labels[rng.random(labels.shape) < unknown] = np.nan
    return scores, labels


@pytest.mark.parametrize(
    ("scores", "labels", "area"),
    [
        ([1, 2, 3, 4], [0, 0, 1, 1], 1.0),
        ([4, 3, 2, 1], [0, 0, 1, 1], 0.0),
        ([1, 3, 2, 4], [0, 0, 1, 1], 0.75),  # three of four pairs
        ([1, 2, 2, 4], [0, 0, 1, 1], 0.875),  # three and a tie
        ([5, 5, 5, 5], [0, 1, 0, 1], 0.5),
        ([1, 2], [1, 1], np.nan),
        ([], [], np.nan),
    ],
)
def test_areas_by_hand(scores, labels, area):
    np.testing.assert_equal(auroc(np.array(scores, float), np.array(labels)), area)


def test_equals_scikit_learn_with_ties_and_unknown_labels():
    scores, labels = problem()
    expected = []
    for c in range(4):
        known = ~np.isnan(labels[:, c])
        expected.append(roc_auc_score(labels[known, c], scores[known, c]))
    np.testing.assert_allclose(class_aurocs(scores, labels)[0], expected, rtol=1e-12)
    assert mean_auroc(scores, labels) == pytest.approx(np.mean(expected))


def test_weights_count_images_several_times():
    scores, labels = problem(unknown=0.0)
    draws = np.random.default_rng(1).integers(60, size=(3, 60))
    weights = np.stack([np.bincount(draw, minlength=60) for draw in draws])
    expected = [roc_auc_score(labels[draw, 0], scores[draw, 0]) for draw in draws]
    np.testing.assert_allclose(weighted_auroc(scores[:, 0], labels[:, 0], weights), expected, rtol=1e-12)


def test_a_class_with_a_single_label_is_left_out():
    scores, labels = problem()
    labels[:, 2] = np.where(np.isnan(labels[:, 2]), np.nan, 1.0)
    assert mean_auroc(scores, labels) == pytest.approx(mean_auroc(scores[:, [0, 1, 3]], labels[:, [0, 1, 3]]))
    assert np.isnan(mean_auroc(scores, np.ones_like(labels)))
