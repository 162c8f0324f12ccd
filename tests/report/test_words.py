"""The verdict by hand-made numbers: every interval is +- 2 points unless a test says otherwise."""

import pytest
from rich.console import Console

from gssl_jax.report.words import comparison_table, console_table, score, verdict


def test_a_clear_gain(make_results):
    judged = verdict(make_results({"lowshot_5/top1": 0.482}, {"lowshot_5/top1": 0.359}, {"lowshot_5/top1": 0.2}))
    assert judged.tone == "good" and judged.badge == "Clear gain"
    assert judged.headline == "At 5 images per class this backbone is 12.3 points above the untrained one."
    assert judged.sentences[0] == "48.2 % (95 % interval 46.2 to 50.2) against 35.9 % (95 % interval 33.9 to 37.9)."
    assert judged.sentences[1] == "It is 28.2 points above the same classifier on raw pixels (20.0 %)."


def test_a_loss_is_called_worse(make_results):
    judged = verdict(make_results({"lowshot_1/top1": 0.2}, {"lowshot_1/top1": 0.25}))
    assert judged.tone == "bad"
    assert judged.headline == (
        "At 1 image per class this backbone is 5.0 points below the untrained one: pretraining made it worse."
    )


@pytest.mark.parametrize(
    ("value", "size"), [(0.37, "1.0 points above"), (0.34, "2.0 points below"), (0.36, "level with")]
)
def test_a_difference_within_the_intervals_is_no_difference(make_results, value, size):
    judged = verdict(make_results({"linear/top1": value}, {"linear/top1": 0.36}))
    assert judged.tone == "unclear" and judged.badge == "No clear difference"
    assert judged.headline == (
        f"With a linear classifier on all labels this backbone is {size} the untrained one, "
        "within the intervals: this run shows no difference."
    )


def test_intervals_that_just_part_are_a_difference(make_results):
    apart = verdict(make_results({"knn/top1": 0.401}, {"knn/top1": 0.36}))
    touching = verdict(make_results({"knn/top1": 0.399}, {"knn/top1": 0.36}))
    assert (apart.tone, touching.tone) == ("good", "unclear")


def test_no_gain_over_raw_pixels_is_said_even_with_a_gain_over_untrained(make_results):
    level = verdict(make_results({"knn/top1": 0.5}, {"knn/top1": 0.3}, {"knn/top1": 0.49}))
    assert level.tone == "unclear" and level.badge == "Gain over untrained, not over raw pixels"
    assert level.sentences[1] == (
        "It is not clearly better than (+1.0 points) the same classifier on raw pixels, "
        "49.0 % (95 % interval 47.0 to 51.0)."
    )
    below = verdict(make_results({"knn/top1": 0.5}, {"knn/top1": 0.3}, {"knn/top1": 0.6}))
    assert below.sentences[1].startswith("It is 10.0 points below the same classifier on raw pixels, 60.0 %")


def test_the_other_measures_are_grouped(make_results):
    trained = {"knn/top1": 0.5, "linear/top1": 0.4, "lowshot_1/top1": 0.2, "lowshot_5/top1": 0.45}
    untrained = {"knn/top1": 0.3, "linear/top1": 0.39, "lowshot_1/top1": 0.3, "lowshot_5/top1": 0.3}
    judged = verdict(make_results(trained, untrained))
    assert judged.row is not None and judged.row.key == "lowshot_5/top1"
    assert judged.sentences[1] == (
        "The other measures, in points against the untrained one. Clearly above: k-NN (+20.0). "
        "Within the intervals: linear (+1.0). Clearly below: 1 image per class (\u221210.0)."
    )
    assert judged.sentences[-1].startswith("One training run with one seed")


def test_without_labels_there_is_no_verdict_and_no_table(make_results):
    for results in (make_results(None), make_results({}) | {"controls": None}):
        judged = verdict(results)
        assert judged.tone == "none" and judged.row is None
        assert judged.headline == "The images came without labels, so this report cannot say how good the backbone is."
        assert comparison_table(results) == []


def test_null_entries_count_as_absent(make_results):
    results = make_results({"lowshot_5/top1": 0.5, "knn/top1": 0.5}, {"knn/top1": 0.3})
    results["eval"]["lowshot_5/top1"] = None
    assert [row.key for row in comparison_table(results)] == ["knn/top1"]
    assert verdict(results).headline.startswith("By nearest neighbours (k-NN) this backbone is 20.0 points above")


def test_broken_features_are_not_taken_for_missing_labels(make_results):
    results = make_results({"knn/top1": 0.5}, {"knn/top1": 0.3})
    results["eval"]["knn/top1"] |= {"value": None, "low": None, "high": None,
                                    "protocol": {"problem": "features are not finite"}}  # fmt: skip
    judged = verdict(results)
    assert judged.tone == "bad" and "could not be measured" in judged.headline
    assert "features are not finite" in judged.sentences[0]


def test_no_control_and_no_interval_are_said(make_results):
    alone = verdict(make_results({"knn/top1": 0.5}))
    assert alone.headline == "By nearest neighbours (k-NN) this backbone reaches 50.0 % (95 % interval 48.0 to 52.0)."
    assert "cannot say whether pretraining helped" in alone.sentences[0]
    results = make_results({"knn/top1": 0.5}, {"knn/top1": 0.3})
    results["eval"]["knn/top1"] |= {"low": None, "high": None}
    judged = verdict(results)
    assert judged.tone == "unclear" and judged.headline.endswith("without intervals to judge it by.")
    assert verdict({}).badge == "No results"


def test_alarms_come_before_the_numbers(make_results):
    judged = verdict(make_results({"knn/top1": 0.5}, {"knn/top1": 0.3}), alarms=2)
    assert judged.sentences[0] == "The health section names 2 alarms: read it before using this backbone."


def test_rows_stand_in_order_and_unknown_measures_follow(make_results):
    trained = {"voc/map": 0.4, "lowshot_10/top1": 0.6, "lowshot_2/top1": 0.3, "knn/top1": 0.5}
    rows = comparison_table(make_results(trained, {"lowshot_1/top1": 0.2}))
    assert [row.label for row in rows] == [
        "k-NN", "1 image per class", "2 images per class", "voc/map", "10 images per class",
    ]  # fmt: skip
    assert rows[1].trained is None and rows[1].untrained is not None and rows[1].pixels is None


def test_a_score_needs_a_finite_value():
    assert score(None) is None and score({"value": None}) is None and score({"value": float("nan")}) is None
    one = score({"value": 0.5, "low": 0.4, "high": None, "n": 7})
    assert one is not None and (one.value, one.low, one.high, one.n) == (0.5, None, None, 7)


def test_the_console_prints_the_same_numbers(make_results):
    table = console_table(make_results({"knn/top1": 0.612}, {"knn/top1": 0.302}))
    console = Console(width=120)
    with console.capture() as caught:
        console.print(table)
    line = next(line for line in caught.get().splitlines() if "k-NN" in line)
    assert "61.2 (59.2 to 63.2)" in line and "30.2 (28.2 to 32.2)" in line and line.rstrip(" \u2502").endswith("-")
