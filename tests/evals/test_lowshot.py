"""The low-shot protocol against the same steps taken with numpy and scikit-learn, where C = 1 / lambda."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from gssl_jax.data.subsets import k_shot
from gssl_jax.errors import UserError
from gssl_jax.evals.lowshot import _folds, low_shot

NAMES = ("ant", "bee", "cat")
OPTIONS = {"draws": 4, "strength": 0.1, "kfold_from": 4, "folds": 4, "grid": (0.01, 1.0, 30.0), "seed": 0,
           "max_iterations": 300, "tolerance": 1e-4}  # fmt: skip


def sets(size: int):
    rng = np.random.default_rng(5)
    centres = rng.normal(size=(3, size))
    labels = np.arange(60) % 3, np.arange(90) % 3
    features = [(centres[y] + 1.5 * rng.normal(size=(len(y), size)) + 3).astype(np.float32) for y in labels]
    return features[0], labels[0], features[1], labels[1]


def prepared(features, mean):
    centred = features.astype(np.float64) - mean
    return centred / np.linalg.norm(centred, axis=1, keepdims=True)


def model(features, labels, strength, count=None):
    # l2 = strength / n and C = 1 / (l2 * images fitted)
    c = (count or len(labels)) / (strength * len(labels))
    return LogisticRegression(C=c, fit_intercept=False, tol=1e-10, max_iter=10_000).fit(features, labels)


def expected(train, train_labels, test, test_labels, shots, transductive):
    accuracy, chosen = [], []
    for draw in range(4):
        rows = k_shot(train_labels, shots, 0, draw)
        mean, labels = train[rows].mean(0), train_labels[rows]
        known = prepared(train[rows], mean)
        wanted = prepared(test, test.mean(0) if transductive else mean)
        strength = 0.1
        if shots >= 4:
            part = _folds(labels, 4, (0, draw))
            right = {
                s: sum(
                    model(known[part != f], labels[part != f], s, len(rows)).score(known[part == f], labels[part == f])
                    for f in range(4)
                )
                for s in OPTIONS["grid"]
            }
            strength = max(right, key=lambda s: (round(right[s], 6), s))
        chosen.append(strength)
        accuracy.append(model(known, labels, strength).score(wanted, test_labels))
    return accuracy, chosen


@pytest.mark.parametrize(
    ("size", "shots", "pad_to", "transductive"),
    [(40, 1, 4, False), (40, 2, 4, True), (40, 4, 4, False), (6, 3, 0, True)],
)
def test_equals_scikit_learn(size, shots, pad_to, transductive):
    data = sets(size)
    result = low_shot(*data, shots=shots, classes=NAMES, transductive=transductive, pad_to=pad_to, **OPTIONS)
    accuracy, chosen = expected(*data, shots, transductive)
    assert result.converged == 4
    np.testing.assert_allclose(result.strength, chosen, rtol=1e-6)
    np.testing.assert_allclose(result.accuracy, accuracy, atol=1e-6)


def test_draws_follow_the_seed_and_the_digest_tells():
    data = sets(6)
    first, again = (low_shot(*data, shots=3, classes=NAMES, transductive=True, **OPTIONS) for _ in range(2))
    other = low_shot(*data, shots=3, classes=NAMES, transductive=True, **{**OPTIONS, "seed": 1})
    assert first.digest == again.digest != other.digest
    np.testing.assert_array_equal(first.accuracy, again.accuracy)


def test_folds_hold_every_class_evenly():
    labels = np.repeat([0, 1, 2], 5)
    part = _folds(labels, 5, (0, 0))
    for fold in range(5):
        assert sorted(labels[part == fold]) == [0, 1, 2]


def test_too_few_images_of_a_class():
    train, labels, test, test_labels = sets(6)
    kept = ~((labels == 1) & (np.arange(60) > 5))  # leaves two bees
    with pytest.raises(UserError, match=r"'bee' has 2 training images but 3 per class"):
        low_shot(train[kept], labels[kept], test, test_labels, shots=3, classes=NAMES, transductive=False, **OPTIONS)
