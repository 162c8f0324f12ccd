"""The linear protocol against the same steps taken with scikit-learn."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from gssl_jax.data.subsets import fraction
from gssl_jax.evals import linear as module
from gssl_jax.evals.linear import linear, validation_part
from gssl_jax.training.mesh import make_mesh, on_data

GRID = (1e-4, 1e-2, 1.0)
OPTIONS = {"classes": 3, "l2_grid": GRID, "validation": 0.2, "train_images": 0, "max_iterations": 300,
           "tolerance": 1e-5, "seed": 0}  # fmt: skip


def problem():
    rng = np.random.default_rng(3)
    centres = rng.normal(size=(3, 10))
    sets = []
    for count in (90, 60):
        labels = np.arange(count) % 3
        sets += [(centres[labels] + 2 * rng.normal(size=(count, 10)) + 5).astype(np.float32), labels]
    return sets


def by_scikit_learn(train, train_labels, test):
    scaler = StandardScaler().fit(train)
    held_out = validation_part(train_labels, 0.2, seed=0)

    def model(l2, kept):
        return LogisticRegression(C=1 / (l2 * kept.sum()), tol=1e-10, max_iter=10_000).fit(
            scaler.transform(train)[kept], train_labels[kept]
        )

    scores = [model(l2, ~held_out).score(scaler.transform(train)[held_out], train_labels[held_out]) for l2 in GRID]
    best = max(zip(scores, GRID, strict=True))[1]
    return best, model(best, np.ones(90, bool)).predict(scaler.transform(test))


@pytest.mark.parametrize("limit", [2**31, 0], ids=["grid at once", "one by one"])
def test_equals_scikit_learn(limit, monkeypatch):
    monkeypatch.setattr(module, "LOGITS_BYTES", limit)
    train, train_labels, test, test_labels = problem()
    result = linear(train, train_labels, test, test_labels, **OPTIONS)
    best, predicted = by_scikit_learn(train, train_labels, test)
    assert result.l2 == best and result.converged
    np.testing.assert_array_equal(result.correct, predicted == test_labels)


def test_the_strongest_of_equals_wins():
    labels = np.arange(30) % 3
    features = 100 * np.eye(3, dtype=np.float32)[labels]
    result = linear(features, labels, features, labels, **OPTIONS)
    assert result.l2 == 1.0 and result.correct.all()


def test_validation_part_is_stratified_and_leaves_every_class_an_image():
    labels = np.array([0] * 50 + [1] * 10 + [2])
    chosen = validation_part(labels, 0.2, seed=1)
    assert [chosen[labels == c].sum() for c in range(3)] == [10, 2, 0]
    assert [validation_part(labels, 0.95, seed=1)[labels == c].sum() for c in range(3)] == [48, 9, 0]
    assert (chosen == validation_part(labels, 0.2, seed=1)).all()
    assert (chosen != validation_part(labels, 0.2, seed=2)).any()


def test_a_limit_draws_the_same_share_of_every_class():
    train, train_labels, test, test_labels = problem()
    limited = linear(train, train_labels, test, test_labels, **OPTIONS | {"train_images": 30})
    some = fraction(train_labels, 30 / 90, seed=0)
    assert limited.images == 30 and np.bincount(train_labels[some]).tolist() == [10, 10, 10]
    same = linear(train[some], train_labels[some], test, test_labels, **OPTIONS)
    np.testing.assert_array_equal(limited.correct, same.correct)
    assert linear(train, train_labels, test, test_labels, **OPTIONS | {"train_images": 91}).images == 90


def test_the_memory_of_the_solver_is_no_less_than_xla_counts():
    images, classes = 4000, 200
    shapes = [jax.ShapeDtypeStruct(s, d) for s, d in (((images, 16), np.float32), ((images,), np.int32),
                                                      ((1,), np.float32), ((1, images), np.float32))]  # fmt: skip
    compiled = module._fit.lower(*shapes, classes=classes, max_iterations=10, tolerance=1e-4).compile()
    counted = compiled.memory_analysis().temp_size_in_bytes
    assert 3 * 4 * images * classes < counted < module.solver_bytes(images, classes)


def test_the_classifier_is_for_features_as_they_are():
    """Its logits decide every test image as the fit on prepared features does; dimensions differ a thousandfold."""
    rng = np.random.default_rng(5)
    labels, asked = rng.integers(0, 3, 90), rng.integers(0, 3, 300)
    middles = rng.normal(size=(3, 7))
    scale, shift = 10.0 ** rng.uniform(-2, 1, 7), rng.normal(size=7)
    known, wanted = (
        ((middles[y] + rng.normal(size=(len(y), 7))) * scale + shift).astype(np.float32) for y in (labels, asked)
    )
    options = dict(classes=3, l2_grid=(1e-2,), validation=0.2, train_images=0, max_iterations=300, tolerance=1e-4)
    found = linear(known, labels, wanted, asked, seed=0, **options)
    logits = wanted @ np.asarray(found.classifier.weight) + np.asarray(found.classifier.bias)
    np.testing.assert_array_equal(logits.argmax(1) == asked, found.correct)
    assert 0.5 < found.correct.mean() < 1


def test_eight_devices_find_what_one_finds():
    train, train_labels, test, test_labels = (part[: len(part) // 8 * 8] for part in problem())
    mesh = make_mesh()
    one = linear(train, train_labels, test, test_labels, **OPTIONS)
    spread = jax.device_put((train, test), on_data(mesh))
    many = linear(spread[0], train_labels, spread[1], test_labels, **OPTIONS)
    assert mesh.size == 8 and one.l2 == many.l2
    np.testing.assert_array_equal(one.correct, many.correct)
