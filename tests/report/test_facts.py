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
        "Maskcluster pretraining on photos (split pretrain, 4,096 images) for 400 steps in 3 min 42 s on 2 CPU cores "
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
