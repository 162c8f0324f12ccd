"""One regression for each label against scikit-learn's, with labels that are not known."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, roc_auc_score
from sklearn.preprocessing import StandardScaler

from gssl_jax.evals import multilabel as module
from gssl_jax.evals.multilabel import one_vs_rest
from gssl_jax.training.mesh import make_mesh, on_data

GRID = (1e-3, 1e-1, 10.0)
OPTIONS = {"l2_grid": GRID, "validation": 0.2, "train_images": 0, "max_iterations": 300, "tolerance": 1e-6, "seed": 0}


def problem():
    rng = np.random.default_rng(3)
    directions, sets = rng.normal(size=(10, 5)), []
    for count in (120, 80):
        features = (rng.normal(size=(count, 10)) * np.linspace(2, 0.2, 10) + 3).astype(np.float32)
        labels = ((features - 3) @ directions + 2 * rng.normal(size=(count, 5)) > 0.5).astype(np.float32)
        labels[rng.random(labels.shape) < 0.15] = np.nan
        sets += [features, labels]
    return sets


def by_scikit_learn(train, labels, test):
    scaler = StandardScaler().fit(train)
    held_out = np.zeros(len(train), bool)
    held_out[np.random.default_rng(0).permutation(len(train))[: round(0.2 * len(train))]] = True

    def decide(l2, kept, asked):
        found = []
        for label in labels.T:
            known = kept & ~np.isnan(label)
            model = LogisticRegression(C=1 / (l2 * known.sum()), tol=1e-10, max_iter=10_000)
            found.append(model.fit(scaler.transform(train)[known], label[known]).decision_function(asked))
        return np.stack(found, 1)

    areas = []
    for l2 in GRID:
        scores = decide(l2, ~held_out, scaler.transform(train)[held_out])
        known = ~np.isnan(labels[held_out])
        areas.append(np.mean([roc_auc_score(labels[held_out][k, c], scores[k, c]) for c, k in enumerate(known.T)]))
    best = max(zip(areas, GRID, strict=True))[1]
    return best, decide(best, np.ones(len(train), bool), scaler.transform(test))


@pytest.mark.parametrize("limit", [2**31, 2 * 8 * 120], ids=["classes at once", "two by two"])
def test_equals_scikit_learn(limit, monkeypatch):
    monkeypatch.setattr(module, "LOGITS_BYTES", limit)
    train, labels, test, _ = problem()
    found = one_vs_rest(train, labels, test, **OPTIONS)
    best, scores = by_scikit_learn(train, labels, test)
    assert found.converged and found.images == 120 and found.l2 == best
    np.testing.assert_allclose(found.scores, scores, rtol=1e-3, atol=2e-3)


def test_a_limit_draws_images_and_an_unknown_class_scores_alike():
    train, labels, test, _ = problem()
    labels[:, 4] = np.nan
    found = one_vs_rest(train, labels, test, **OPTIONS | {"train_images": 60})
    assert found.images == 60 and np.ptp(found.scores[:, 4]) == 0 and np.ptp(found.scores[:, 0]) > 0.1
    some = np.random.default_rng(0).permutation(120)[:60]
    model = StandardScaler().fit(train[some])
    known = ~np.isnan(labels[some, 0])
    by_hand = LogisticRegression(C=1 / (found.l2 * known.sum()), tol=1e-10, max_iter=10_000)
    by_hand.fit(model.transform(train[some])[known], labels[some][known, 0])
    np.testing.assert_allclose(found.scores[:, 0], by_hand.decision_function(model.transform(test)), atol=2e-3)


def test_thresholds_come_from_the_images_that_chose_the_strength():
    train, labels, test, _ = problem()
    found = one_vs_rest(train, labels, test, threshold="validation", **OPTIONS)
    held_out = np.zeros(120, bool)
    held_out[np.random.default_rng(0).permutation(120)[:24]] = True
    scaler = StandardScaler().fit(train)
    for c in range(5):
        known = ~held_out & ~np.isnan(labels[:, c])
        model = LogisticRegression(C=1 / (found.l2 * known.sum()), tol=1e-10, max_iter=10_000)
        model.fit(scaler.transform(train)[known], labels[known, c])
        asked = held_out & ~np.isnan(labels[:, c])
        scores, wanted = model.decision_function(scaler.transform(train)[asked]), labels[asked, c]
        best = max(f1_score(wanted, scores >= cut) for cut in scores)
        assert f1_score(wanted, scores > found.thresholds[c]) == pytest.approx(best)
    assert one_vs_rest(train, labels, test, **OPTIONS).thresholds == 0.0


def test_eight_devices_find_what_one_finds():
    train, labels, test, _ = problem()
    mesh = make_mesh()
    one = one_vs_rest(train, labels, test, **OPTIONS)
    spread = jax.device_put((train, test), on_data(mesh))
    many = one_vs_rest(spread[0], labels, spread[1], **OPTIONS)
    assert mesh.size == 8 and one.l2 == many.l2
    np.testing.assert_allclose(one.scores, many.scores, atol=2e-3)
