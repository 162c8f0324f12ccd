"""All evaluators together: names, numbers and what is written beside them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from ml_collections import ConfigDict

from gssl_jax.errors import UserError
from gssl_jax.evals.lowshot import digest, low_shot
from gssl_jax.evals.multilabel_scores import MEASURES
from gssl_jax.evals.refresh import check_statistics
from gssl_jax.evals.suite import check, evaluate
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
                "shares": (),
                "share_draws": 3,
                "lists": (),
                "feature": "cls_prenorm",
                "l2": 0.075,
                "kfold_from": 5,
                "folds": 5,
                "l2_grid": (0.01, 1.0),
                "msn_transductive": False,
                "max_iterations": 300,
                "tolerance": 1e-4,
            },
            "multilabel": presets.multilabel,
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


def several_labels():
    train, test = features()
    for part in (train, test):
        several = np.eye(3, dtype=np.float32)[part["label"]]
        several[np.arange(len(several)) % 7 == 3, 1] = np.nan  # unknown for one class
        several[:2] = np.nan  # unlabelled
        part["label"] = several
    return train, test


def test_labels_of_several_classes_have_measures_of_their_own():
    train, test = several_labels()
    wanted = settings()
    wanted.lowshot.update(dict(shots=(2,), shares=(0.2,), draws=3, share_draws=2))
    entries = evaluate(train, test, wanted, 0, NAMES)
    assert json.loads(json.dumps(entries)) == entries
    expected = [f"{name}/{m}" for name in ("knn", "linear", "lowshot_2", "lowshot_20pct") for m in MEASURES]
    assert list(entries) == expected
    for name, found in entries.items():
        few = name.startswith("lowshot")
        assert found["n"] == ({"lowshot_2": 3, "lowshot_20pct": 2}[name.partition("/")[0]] if few else 28)
        assert 0.4 < found["value"] <= 1.0 and found["low"] <= found["value"] <= found["high"], name
        assert found["protocol"]["guess"] <= found["value"], name
        assert ("per_class" in found["protocol"]) == (not few and "micro" not in name)
    linear = entries["linear/map"]["protocol"]
    assert linear["converged"] and linear["train_images"] == 43 and list(linear["per_class"]) == list(NAMES)
    assert entries["lowshot_20pct/map"]["protocol"]["images"] == [9, 9]  # a fifth of 43
    assert entries["lowshot_2/f1_macro"]["protocol"]["threshold"] == "probability 0.5"
    train["feat"][3, 2] = np.nan
    broken = evaluate(train, test, wanted, 0, NAMES)
    assert broken["linear/map"]["value"] is None and broken["knn/f1_micro"]["value"] is None
    check(train["label"], settings(), NAMES)
    few = settings()
    few.knn.k = 44
    with pytest.raises(UserError, match="evals.knn.k is 44 but there are 43 labelled"):
        check(train["label"], few, NAMES)


def test_thresholds_are_chosen_on_validation_images_where_asked():
    """Every image has each label but one: predicted where its probability is high, F1 gains from a low threshold."""
    rng = np.random.default_rng(4)
    train, test = ({"feat": rng.normal(size=(n, 4)).astype(np.float32)} for n in (300, 200))
    for part in (train, test):
        part["label"] = (part["feat"][:, :3] + 2 * rng.normal(size=(len(part["feat"]), 3)) > 2).astype(np.float32)
    half, chosen = settings(), settings()
    for one in (half, chosen):
        one.lowshot.shots = ()
    chosen.multilabel.update(dict(threshold="validation", average_precision="eleven_point"))
    first, second = (evaluate(train, test, one, 0, NAMES) for one in (half, chosen))
    for name in ("knn", "linear"):
        assert second[f"{name}/f1_macro"]["value"] > first[f"{name}/f1_macro"]["value"] + 0.05
        assert second[f"{name}/f1_macro"]["protocol"]["threshold"] == "by class, the best F1 on validation images"
        assert second[f"{name}/auroc"] == first[f"{name}/auroc"]
        assert second[f"{name}/map"]["protocol"]["average precision"] == "eleven-point"


def test_shares_and_lists_are_entries_of_their_own(tmp_path):
    train, test = features(unlabelled=3)
    names = [f"/data/{NAMES[i % 3]}/{i}.png" for i in range(45)]
    for folder, rows in (("one", (3, 4, 5, 6)), ("two", (7, 8, 9, 10))):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.txt").write_text("".join(f"{i}.png\n" for i in rows))
    (tmp_path / "single.txt").write_text("ant/12.png\nbee/13.png\ncat/14.png\n")
    wanted = settings()
    files = (str(tmp_path / "one" / "mine.txt"), str(tmp_path / "two" / "mine.txt"), str(tmp_path / "single.txt"))
    wanted.lowshot.update(dict(shots=(), shares=(0.1, 0.5), lists=files))
    entries = evaluate(train, test, wanted, 0, NAMES, names=names)
    assert list(entries)[2:] == [f"lowshot_{name}/top1" for name in ("10pct", "50pct", "mine", "single")]
    few, half, mine, single = list(entries.values())[2:]
    assert (few["n"], mine["n"], single["n"]) == (3, 2, 27)  # draws, draws, test images with a label
    assert few["protocol"]["images"] == [3, 3, 3] and half["protocol"]["images"] == [21, 21, 21]  # of 42, 14 a class
    assert few["protocol"]["lambda"] == 0.075 and half["protocol"]["lambda"] == "5-fold on the draw"
    assert mine["protocol"]["lists"] == list(files[:2]) and single["interval"] == "bootstrap-test"
    assert mine["protocol"]["digest"] == digest([np.arange(0, 4), np.arange(4, 8)])  # rows of labelled images
    by_hand = low_shot(train["cls_prenorm"], train["label"], test["cls_prenorm"][3:], test["label"][3:],
                       [np.array([12, 13, 14])], strength=0.075, folds=0, grid=(), transductive=False,
                       max_iterations=300, tolerance=1e-4, classes=3, seed=0)  # fmt: skip
    assert single["value"] == pytest.approx(by_hand.correct.mean())
    with pytest.raises(UserError, match=r"1 of 4 names in .*mine.txt are no readable.*: 5.png"):
        evaluate(train, test, wanted, 0, NAMES, names=[name.replace("5.png", "x.png") for name in names])


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
        ({"lowshot": {"shares": (0.1, 1.5)}}, r"evals.lowshot.shares is \(0.1, 1.5\): give shares"),
        ({"lowshot": {"share_draws": 1}}, r"evals.lowshot.share_draws is 1: set it to 2"),
        ({"lowshot": {"lists": ("nowhere.txt",)}}, r"evals.lowshot.lists: there is no file 'nowhere.txt'"),
        ({"multilabel": {"threshold": "halve"}}, r"evals.multilabel.threshold 'halve'; did you mean 'half'"),
        ({"multilabel": {"average_precision": "voc"}}, r"unknown evals.multilabel.average_precision 'voc'"),
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
