"""Plain words from config.json and results.json."""

import pytest

from gssl_jax.report.facts import duration, facts, feature_notes, leaves_of, protocol_of, summary, text_of
from gssl_jax.report.reading import Metrics, RunFiles, read_run
from gssl_jax.report.words import comparison_table


@pytest.mark.parametrize(("seconds", "words"), [(9.4, "9 s"), (222.4, "3 min 42 s"), (7325, "2 h 2 min")])
def test_durations(seconds, words):
    assert duration(seconds) == words


def test_values_as_somebody_would_write_them():
    assert [text_of(v) for v in (None, True, 0.07, 12345, 400, [1, 2], "x")] == [
        "-", "yes", "0.07", "12,345", "400", "1, 2", "x",
    ]  # fmt: skip
    assert text_of([0.1 * k for k in range(20)]) == "20 values from 0 to 1.9"
    assert leaves_of({"mlp_ratio": 4.0, "a": {"b": 1}}) == "mlp ratio 4 \u00b7 a.b 1"


def test_what_was_trained_on_what(make_folder):
    run = read_run(make_folder())
    assert summary(run) == (
        "MaskCluster pretraining on photos (split pretrain, 4,096 images) for 400 steps in 3 min 42 s on 2 CPU cores "
        "(412 images a second)."
    )
    told = dict(facts(run))
    assert told["Evaluation images"] == (
        "photos, labelled images from train, test images from test (1,140 images), 3 classes"
    )
    assert told["Parameters"] == "1,803,264" and told["Image size"] == "32 x 32 pixels, grey"
    assert "Recipe" not in told  # results.json holds the whole configuration there, not a name


def test_an_empty_run_has_little_to_tell():
    empty = RunFiles({}, {}, Metrics())
    assert summary(empty) == "Pretraining." and facts(empty) == []


def test_protocols(make_results):
    results = make_results({"knn/top1": 0.5, "lowshot_1/top1": 0.5})
    results["eval"]["knn/top1"] |= {"protocol": {"feature": "feat", "k": 20, "digest": "ab" * 32}, "n": 1140,
                                    "interval": "bootstrap-test"}  # fmt: skip
    results["eval"]["lowshot_1/top1"] |= {"protocol": "feature cls_prenorm", "interval": "other"}
    rows = comparison_table(results)
    assert protocol_of(rows[0]) == (
        "feature feat, k 20, digest abababababab. 95 % interval: bootstrap over the test images, n = 1,140."
    )
    assert protocol_of(rows[1]) == "feature cls_prenorm. 95 % interval: other, n = 20."
    assert [name for name, _ in feature_notes(rows[1:])] == ["cls_prenorm"]  # "feature" does not mention "feat"


def test_what_a_labelled_method_was_told(make_folder, labelled_results, gated_config):
    told = dict(facts(read_run(make_folder(labelled_results(), [], gated_config))))
    assert told["Method"] == "supervised training with gated pretext tasks (G-SSL)"
    assert told["Training subset"] == "long tail, exponential, factor 0.1; 100 to 10 of a class"
    assert told["Validation"] == "up to 25 images per class of those the tail leaves out"
    assert told["Loss"] == (
        "LDAM, margin 0.5, scale 30, classes reweighted by their effective number from 320 steps on"
    )
    assert told["Pretexts"] == "LoRot-E, flip; their weight beside the labels 0.1"
    assert told["Gate"] == "a linear gate that learns from the losses it weighs, formula softmax of mean"
    assert "Attack" not in told and "Prototypes" not in told


def test_other_choices_of_a_labelled_method(make_folder, labelled_results, gated_config):
    gated_config["data"]["streams"]["train"]["subset"] |= {"kind": "shots", "count": 5}
    method = gated_config["method"]
    method["loss"] |= {"kind": "ce", "reweighting": "none"}
    method["gate"] |= {"mode": "usefulness", "chance_normalised": True}
    method["attack"]["steps"] = 10
    told = dict(facts(read_run(make_folder(labelled_results(), [], gated_config))))
    assert told["Training subset"].startswith("5 of each class")
    assert told["Validation"] == "a share of 0.1 of every class" and told["Loss"] == "cross-entropy"
    assert told["Gate"].endswith("momentum 0.99, temperature 0.1, losses divided by that of guessing")
    assert told["Attack"] == "10 steps of PGD, within 8/255, step 2/255"


def test_the_protocol_of_the_own_classifier_is_short(labelled_results):
    results = labelled_results(accuracy_pgd20__top1=0.3)
    attack = {
        "attack": "PGD, random start",
        "epsilon": 8 / 255,
        "step_size": 2 / 255,
        "steps": 20,
        "per_class": {"a": 1},
    }
    results["eval"]["accuracy_pgd20/top1"]["protocol"] = attack
    results["eval"]["accuracy/tail"]["protocol"] = {"mean over": "classes", "classes": [f"c{k}" for k in range(14)]}
    told = {row.key: protocol_of(row).split(". 95")[0] for row in comparison_table(results)}
    assert told["accuracy/top1"] == "the method's own classifier"
    assert told["accuracy_pgd20/top1"] == (
        "the method's own classifier, 20 steps of PGD, within 8/255, step 2/255, on the loss of the labels, "
        "random start"
    )
    assert told["accuracy/tail"].endswith(
        "mean over classes, c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11 and 2 more"
    )
