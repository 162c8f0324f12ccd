"""Average precision and areas by hand and against scikit-learn, with ties and weights."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from gssl_jax.evals.ranked import area, average_precision, ranked

ONCE = np.ones((4, 1))


@pytest.mark.parametrize(
    ("scores", "labels", "exact", "eleven"),
    [
        ([4, 3, 2, 1], [1, 1, 0, 0], 1.0, 1.0),
        ([4, 3, 2, 1], [1, 0, 1, 0], (1 + 2 / 3) / 2, (6 * 1 + 5 * 2 / 3) / 11),  # recall .5 at precision 1
        ([4, 3, 2, 1], [0, 0, 0, 1], 1 / 4, 1 / 4),
        ([1, 1, 1, 1], [0, 1, 0, 1], 1 / 2, 1 / 2),
        ([2, 1, 1, 0], [0, 1, 0, 1], (1 / 3 + 1 / 2) / 2, 1 / 2),  # the best precision from there on
        ([4, 3, 2, 1], [0, 0, 0, 0], np.nan, np.nan),
    ],
)
def test_average_precision_by_hand(scores, labels, exact, eleven):
    runs = ranked(np.array(scores, float), np.array(labels), ONCE)
    np.testing.assert_allclose(average_precision(runs), [exact])
    np.testing.assert_allclose(average_precision(runs, "eleven_point"), [eleven])


def test_weightings_are_images_counted_several_times():
    rng = np.random.default_rng(0)
    labels = (rng.random(70) < 0.3).astype(np.float32)
    scores = np.round(labels + rng.normal(size=70), 1)  # many ties
    draws = rng.integers(70, size=(5, 70))
    weights = np.stack([np.bincount(draw, minlength=70) for draw in draws], axis=1)
    runs = ranked(scores, labels, weights)
    expected = [average_precision_score(labels[draw], scores[draw]) for draw in draws]
    np.testing.assert_allclose(average_precision(runs), expected, rtol=1e-12)
    np.testing.assert_allclose(area(runs), [roc_auc_score(labels[d], scores[d]) for d in draws], rtol=1e-12)
    assert len(runs.ups) <= 2 * len(np.unique(scores[labels == 1])) + 1  # negatives in a row are one run


def test_no_image_has_no_value():
    runs = ranked(np.zeros(0), np.zeros(0), np.ones((0, 2)))
    assert np.isnan(area(runs)).all() and np.isnan(average_precision(runs)).all() and area(runs).shape == (2,)
