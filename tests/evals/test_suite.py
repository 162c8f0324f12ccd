"""All evaluators together: names, numbers and what is written beside them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from ml_collections import ConfigDict

from gssl_jax.errors import UserError
from gssl_jax.evals.suite import check, check_statistics, evaluate
from gssl_jax.presets import evaluation

NAMES = ("ant", "bee", "cat")


def settings():
    presets = evaluation("digits", "", "train", "test", 8)
    return ConfigDict(
        {
            "knn": {"k": 5, "temperature": 0.07, "feature": "feat", "whiten": 0.0},
            "linear": {
                "feature": "feat",
                "l2_grid": (1e-3, 1e-1),
                "validation": 0.2,
                "train_images": 0,
                "max_iterations": 200,
                "tolerance": 1e-4,
            },
            "lowshot": {
                "shots": (1, 5),
                "draws": 10,
                "feature": "cls_prenorm",
                "l2": 0.075,
                "kfold_from": 5,
                "folds": 5,
                "l2_grid": (0.01, 1.0),
                "msn_transductive": False,
                "max_iterations": 300,
                "tolerance": 1e-4,
            },
            "bootstrap": {"resamples": 200},
            "statistics": "own",
            "sgd_linear": presets.sgd_linear,
            "finetune": presets.finetune,
        }
    )


def features(spread: float = 0.3, unlabelled: int = 0):
    rng = np.random.default_rng(0)
    labels = [np.arange(count) % 3 for count in (45, 30)]
    made = []
    for label in labels:
        values = (np.eye(3, 8)[label] + spread * rng.normal(size=(len(label), 8))).astype(np.float32)
        label = np.where(np.arange(len(label)) < unlabelled, -1, label).astype(np.int32)
        made.append({"feat": values, "cls_prenorm": 2 * values, "label": label})
    return made


def test_entries():
    train, test = features()
    entries = evaluate(train, test, settings(), 0, NAMES)
    assert list(entries) == ["knn/top1", "linear/top1", "lowshot_1/top1", "lowshot_5/top1"]
    assert json.loads(json.dumps(entries)) == entries
    for name, entry in entries.items():
        assert set(entry) == {"value", "low", "high", "n", "protocol", "interval"}
        assert entry["low"] <= entry["value"] <= entry["high"] and entry["value"] > 0.6
        few = name.startswith("lowshot")
        assert entry["interval"] == ("t-draws" if few else "bootstrap-test")
        assert entry["n"] == (10 if few else 30)
        assert entry["protocol"]["feature"] == ("cls_prenorm" if few else "feat")
    assert entries["knn/top1"]["protocol"]["k"] == 5
    assert entries["linear/top1"]["protocol"]["l2"] in (1e-3, 1e-1)
    assert entries["lowshot_1/top1"]["protocol"]["lambda"] == 0.075
    assert len(entries["lowshot_5/top1"]["protocol"]["chosen"]) == 10
    assert entries["lowshot_5/top1"]["protocol"]["lambda"] == "5-fold on the draw"
    assert entries["linear/top1"]["protocol"]["train_images"] == 45
    assert entries == evaluate(train, test, settings(), 0, NAMES)


def test_whitening_helps_knn_past_directions_that_say_nothing():
    train, test = features()
    rng = np.random.default_rng(1)
    for part in (train, test):  # thirty times the spread of what tells the classes apart
        part["feat"] = np.concatenate([part["feat"], 9 * rng.normal(size=(len(part["feat"]), 3))], 1).astype(np.float32)
    plain, whitened = settings(), settings()
    whitened.knn.whiten = 1e-3
    scores = [evaluate(train, test, chosen, 0, NAMES)["knn/top1"] for chosen in (plain, whitened)]
    assert scores[0]["value"] < 0.6 < scores[1]["value"]
    assert (
        scores[1]["protocol"]["preprocessing"] == "whitened, floor 0.001"
        and "preprocessing" not in scores[0]["protocol"]
    )


def test_the_feature_override_serves_the_pixel_control():
    train, test = ({"pixels": part["feat"], "label": part["label"]} for part in features())
    entries = evaluate(train, test, settings(), 0, NAMES, feature="pixels")
    assert {entry["protocol"]["feature"] for entry in entries.values()} == {"pixels"}
    with pytest.raises(UserError, match="unknown feature 'feat'.*known: pixels"):
        evaluate(train, test, settings(), 0, NAMES)


def test_unlabelled_images_are_left_out():
    train, test = features(unlabelled=9)
    quick = settings()
    quick.lowshot.shots = ()
    entries = evaluate(train, test, quick, 0, NAMES)
    assert list(entries) == ["knn/top1", "linear/top1"]
    assert entries["knn/top1"]["n"] == 21 and entries["knn/top1"]["protocol"]["train_images"] == 36
    nothing = [{**part, "label": np.full_like(part["label"], -1)} for part in (train, test)]
    assert evaluate(*nothing, settings(), 0, NAMES) == {}
    assert evaluate(train, test, settings(), 0, ()) == {}


def test_features_that_are_not_finite_have_no_value():
    train, test = features()
    train["feat"][3, 2] = np.nan
    entries = evaluate(train, test, settings(), 0, NAMES)
    for name in ("knn/top1", "linear/top1"):
        assert entries[name]["value"] is None and entries[name]["interval"] is None
        assert entries[name]["protocol"]["problem"] == "features are not finite"
    assert entries["lowshot_1/top1"]["value"] > 0.6  # of another feature


def test_labels_of_several_classes_give_areas_and_no_shots():
    train, test = features()
    for part in (train, test):
        several = np.eye(3, dtype=np.float32)[part["label"]]
        several[np.arange(len(several)) % 7 == 3, 1] = np.nan  # unknown for one class
        several[:2] = np.nan  # unlabelled
        part["label"] = several
    entries = evaluate(train, test, settings(), 0, NAMES)
    assert list(entries) == ["knn/auroc", "linear/auroc"] and json.loads(json.dumps(entries)) == entries
    for name, found in entries.items():
        assert found["n"] == 28 and 0.8 < found["low"] <= found["value"] <= found["high"] <= 1.0, name
        assert list(found["protocol"]["per_class"]) == list(NAMES) and found["protocol"]["train_images"] == 43
    assert entries["linear/auroc"]["protocol"]["converged"] and entries["linear/auroc"]["protocol"]["l2"] in (
        1e-3,
        1e-1,
    )
    train["feat"][3, 2] = np.nan
    assert evaluate(train, test, settings(), 0, NAMES)["linear/auroc"]["value"] is None
    check(train["label"], settings(), NAMES)
    few = settings()
    few.knn.k = 44
    with pytest.raises(UserError, match="evals.knn.k is 44 but there are 43 labelled"):
        check(train["label"], few, NAMES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"knn": {"whiten": -0.1}}, r"evals.knn.whiten is -0.1"),
        ({"knn": {"k": 46}}, r"evals.knn.k is 46 but there are 45 labelled training images"),
        (
            {"lowshot": {"shots": (1, 16)}},
            r"'ant' has 15 training images but evals.lowshot.shots asks for 16 per class",
        ),
        ({"lowshot": {"kfold_from": 1}}, r"evals.lowshot.kfold_from is 1"),
        ({"linear": {"validation": 1.0}}, r"evals.linear.validation is 1.0"),
        ({"linear": {"train_images": -1}}, r"evals.linear.train_images is -1"),
        ({"sgd_linear": {"steps": 50}}, r"every is 100 and there are 50 steps.*evals.sgd_linear.every=2"),
        ({"sgd_linear": {"steps": -1}}, r"evals.sgd_linear.steps is -1"),
        ({"sgd_linear": {"steps": 100, "validation": 1.0}}, r"evals.sgd_linear.validation is 1.0"),
        ({"finetune": {"labels": (9, 2)}}, r"\(9, 2\) and there are 3 classes.*give 3 or more, or 0 for all"),
        ({"finetune": {"labels": (-3,)}}, r"evals.finetune.labels is \(-3,\)"),
        (
            {"finetune": {"labels": (9,), "drops": "inteded"}},
            r"evals.finetune.drops 'inteded'; did you mean 'intended'",
        ),
        ({"finetune": {"labels": (9,), "steps": 0}}, r"evals.finetune.steps and .epochs are both 0"),
        ({"finetune": {"labels": (0,), "learning_rates": ()}}, r"evals.finetune.learning_rates is \(\)"),
    ],
)
def test_mistakes_are_found_before_anything_runs(change, message):
    wanted = settings()
    wanted.update(change)
    train, test = features()
    for call in (lambda: check(train["label"], wanted, NAMES), lambda: evaluate(train, test, wanted, 0, NAMES)):
        with pytest.raises(UserError, match=message):
            call()
    check(np.full(5, -1), wanted, NAMES)
    check(train["label"], wanted, ())


def test_statistics_that_cannot_be_refreshed_are_refused():
    refreshed = settings()
    refreshed.statistics = "refreshed"
    check_statistics(refreshed, True)
    check_statistics(settings(), False)
    with pytest.raises(UserError, match="a vision transformer has not: set --config.evals.statistics=own"):
        check_statistics(refreshed, False)
    refreshed.statistics = "fresh"
    with pytest.raises(UserError, match="unknown evals.statistics 'fresh'; did you mean 'refreshed'"):
        check_statistics(refreshed, True)
