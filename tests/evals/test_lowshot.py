"""The low-shot protocol against the same steps taken with numpy and scikit-learn, where C = 1 / lambda."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from gssl_jax.data.subsets import k_shot
from gssl_jax.evals import lowshot as module
from gssl_jax.evals.lowshot import _folds, digest, low_shot
from gssl_jax.training.mesh import make_mesh, on_data

NAMES = ("ant", "bee", "cat")
OPTIONS = {"strength": 0.1, "grid": (0.01, 1.0, 30.0), "seed": 0, "max_iterations": 300, "tolerance": 1e-4,
           "classes": 3}  # fmt: skip


def drawn(labels, shots, seed=0):
    return [k_shot(labels, shots, seed, draw, NAMES) for draw in range(4)]


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
    ("size", "shots", "room", "transductive"),
    [(40, 1, 12, False), (40, 2, 12, True), (40, 4, 12, False), (6, 3, 0, True)],
)
def test_equals_scikit_learn(size, shots, room, transductive):
    data = sets(size)
    folds = 4 if shots >= 4 else 0
    result = low_shot(*data, drawn(data[1], shots), transductive=transductive, room=room, folds=folds, **OPTIONS)
    accuracy, chosen = expected(*data, shots, transductive)
    assert result.converged == 4 and result.correct.shape == (4, 90)
    np.testing.assert_allclose(result.strength, chosen, rtol=1e-6)
    np.testing.assert_allclose(result.correct.mean(1), accuracy, atol=1e-6)


@pytest.mark.parametrize("folds", [0, 4])
def test_draws_of_different_sizes_are_what_each_is_alone(folds, monkeypatch):
    data = sets(6)
    draws = [drawn(data[1], shots)[shots % 4] for shots in (4, 5, 7)]
    together = low_shot(*data, draws, transductive=False, folds=folds, **OPTIONS)
    monkeypatch.setattr(module, "LOGITS_BYTES", 4 * 21 * 3 * 5)  # five of twelve fits side by side
    for place, rows in enumerate(draws):
        alone = low_shot(*data, [rows], transductive=False, folds=folds, **OPTIONS | {"seed": 0})
        if not folds:
            np.testing.assert_array_equal(together.correct[place], alone.correct[0])
    narrow = low_shot(*data, draws, transductive=False, folds=folds, **OPTIONS)
    np.testing.assert_array_equal(narrow.correct, together.correct)
    np.testing.assert_array_equal(narrow.strength, together.strength)


def test_the_digest_tells_draws_apart():
    labels = np.arange(60) % 3
    first, again, other = (digest(drawn(labels, 3, seed)) for seed in (0, 0, 1))
    assert first == again != other


def test_folds_hold_every_class_evenly():
    labels = np.repeat([0, 1, 2], 5)
    part = _folds(labels, 5, (0, 0))
    for fold in range(5):
        assert sorted(labels[part == fold]) == [0, 1, 2]


def test_eight_devices_find_what_one_finds():
    train, labels, test, test_labels = sets(6)
    mesh = make_mesh()
    draws = drawn(labels[:56], 2)
    one = low_shot(train[:56], labels[:56], test[:88], test_labels[:88], draws, transductive=True, folds=0, **OPTIONS)
    spread = jax.device_put((train[:56], test[:88], test_labels[:88]), on_data(mesh))
    many = low_shot(spread[0], labels[:56], *spread[1:], draws, transductive=True, folds=0, **OPTIONS)
    assert mesh.size == 8
    np.testing.assert_array_equal(one.correct, many.correct)


def test_many_classes_are_solved_as_far_as_few():
    """With 400 classes the gradient of one begins below 1 / 400: a tolerance of 4e-3 would end at once."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(400, 30))
    train, test = ((centres + 0.5 * rng.normal(size=centres.shape)).astype(np.float32) for _ in range(2))
    every = np.arange(400)
    loose, tight = (
        low_shot(train, every, test, every, [every], transductive=False, folds=0,
                 **OPTIONS | {"classes": 400, "tolerance": tolerance})
        for tolerance in (4e-3, 1e-6)
    )  # fmt: skip
    assert tight.correct.mean() > 0.9 and loose.correct.mean() > tight.correct.mean() - 0.02
