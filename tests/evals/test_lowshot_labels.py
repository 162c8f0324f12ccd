"""Several labels from few images against the same steps taken with numpy and scikit-learn."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from gssl_jax.data.draws import k_shot_labels
from gssl_jax.evals.lowshot_labels import low_shot_labels
from gssl_jax.training.mesh import make_mesh, on_data

GRID = (0.01, 1.0, 30.0)
OPTIONS = {"strength": 0.1, "grid": GRID, "seed": 0, "max_iterations": 300, "tolerance": 1e-6}


def sets():
    rng = np.random.default_rng(2)
    directions, made = rng.normal(size=(12, 3)), []
    for count in (64, 40):
        features = (rng.normal(size=(count, 12)) + 2).astype(np.float32)
        labels = ((features - 2) @ directions + rng.normal(size=(count, 3)) > 1).astype(np.float32)
        labels[rng.random(labels.shape) < 0.1] = np.nan
        made += [features, labels]
    return made


def unit(features, mean):
    centred = features.astype(np.float64) - mean
    return centred / np.linalg.norm(centred, axis=1, keepdims=True)


def model(features, labels, l2):
    known = ~np.isnan(labels)
    return LogisticRegression(C=1 / (l2 * known.sum()), tol=1e-10, max_iter=10_000).fit(features[known], labels[known])


@pytest.mark.parametrize(("folds", "transductive"), [(0, False), (0, True), (4, False)])
def test_equals_scikit_learn(folds, transductive):
    train, labels, test, _ = sets()
    shots = 9 if folds else 4
    draws = [k_shot_labels(labels, shots, 0, draw) for draw in range(2)]
    assert len(draws[0]) != len(draws[1])
    options = OPTIONS | {"folds": folds, "transductive": transductive}
    found = list(low_shot_labels(train, labels, test, draws, room=30, **options))
    size = max(30, *map(len, draws))
    for draw, (rows, one) in enumerate(zip(draws, found, strict=True)):
        mean = train[rows].mean(0)
        known, wanted, own = unit(train[rows], mean), unit(test, test.mean(0) if transductive else mean), labels[rows]
        strength = 0.1
        if folds:
            part = np.random.default_rng((0, draw)).permutation(np.arange(size) % folds)[: len(rows)]
            losses = {}
            for asked in GRID:
                losses[asked] = sum(
                    log_loss(own[held, c], model(known[part != f], own[part != f, c], asked / len(rows))
                             .predict_proba(known[held])[:, 1], labels=[0, 1], normalize=False)
                    for f in range(folds) for c in range(3) if (held := (part == f) & ~np.isnan(own[:, c])).any()
                )  # fmt: skip
            strength = min(losses, key=losses.get)
        assert one.converged and one.strength == strength
        by_hand = [model(known, own[:, c], strength / len(rows)).decision_function(wanted) for c in range(3)]
        np.testing.assert_allclose(one.scores, np.stack(by_hand, 1), rtol=1e-3, atol=2e-3)


def test_eight_devices_find_what_one_finds_and_a_label_without_positives_is_flat():
    train, labels, test, _ = sets()
    labels[:, 2] = np.where(np.isnan(labels[:, 2]), np.nan, 0.0)
    draws, mesh = [k_shot_labels(labels, 6, 0, 0)], make_mesh()
    options = OPTIONS | {"folds": 0, "transductive": False}
    one = next(low_shot_labels(train, labels, test, draws, **options))
    spread = jax.device_put((train, test), on_data(mesh))
    many = next(low_shot_labels(spread[0], labels, spread[1], draws, **options))
    assert mesh.size == 8
    np.testing.assert_allclose(one.scores, many.scores, atol=1e-4)
    assert np.ptp(one.scores[:, 2]) < 0.01 < np.ptp(one.scores[:, 0])
