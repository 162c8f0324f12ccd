"""The verdict by hand-made numbers: every interval is +- 2 points unless a test says otherwise."""

import pytest

from gssl_jax.report.verdict import verdict
from gssl_jax.report.words import comparison_table


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


def test_a_labelled_method_is_judged_by_its_own_accuracy_and_its_tail(labelled_results):
    judged = verdict(labelled_results(), validated=True)
    assert judged.headline == (
        "This classifier is right for 50.0 % of the test images, and for 20.0 % in the rarest third of classes."
    )
    assert (judged.tone, judged.badge) == ("good", "Better than untrained features")
    assert judged.sentences[0] == (
        "Validation images chose the state at step 300 of 400; no test image chose anything. "
        "The last step has 47.0 %, and 10.0 % in the rarest third of classes."
    )
    assert judged.sentences[1] == (
        "With the same labelled images, a linear classifier on the features of the untrained backbone has 30.0 % "
        "(95 % interval 28.0 to 32.0), 20.0 points less."
    )
    assert [(bar.who, bar.kind) for bar in judged.bars] == [
        ("test images", "trained"), ("rarest third of classes", "trained"), ("untrained, linear", "untrained"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "tone", "badge", "words"),
    [(0.45, "bad", "Worse than untrained features", "5.0 points more: training the backbone has not paid yet"),
     (0.49, "unclear", "Level with untrained features", "no clear difference: the intervals overlap")],
)  # fmt: skip
def test_a_labelled_method_below_its_reference(labelled_results, value, tone, badge, words):
    results = labelled_results(accuracy__top1=value)
    results["controls"]["untrained"]["knn/top1"] |= {"value": 0.5, "low": 0.48, "high": 0.52}
    judged = verdict(results)
    assert (judged.tone, judged.badge) == (tone, badge)
    assert any("k-NN on the features" in one and words in one for one in judged.sentences)  # the better of the two


@pytest.mark.parametrize("missing", ["control", "images"])
def test_a_missing_comparison_is_never_a_gain(labelled_results, missing):
    results = labelled_results()
    if missing == "control":
        results["controls"]["untrained"] = None
    else:  # the linear classifier had other images than the method
        for entry in results["controls"]["untrained"].values():
            entry["protocol"]["train_images"] = 5000
    judged = verdict(results, validated=True)
    assert (judged.tone, judged.badge) == ("unclear", "Nothing to compare with")
    assert any("does not say what training the backbone has brought" in one for one in judged.sentences)
    assert {bar.kind for bar in judged.bars} == {"trained"}


def test_a_classifier_at_chance_is_no_better_than_guessing(labelled_results):
    judged = verdict(labelled_results(accuracy__top1=0.34))  # a third, and an interval of two points
    assert (judged.tone, judged.badge) == ("bad", "No better than guessing")


def test_who_chose_the_state_is_said(labelled_results):
    results = labelled_results(last__accuracy__top1=None)
    results["run"]["selected_step"] = 400
    assert verdict(results, validated=True).sentences[0].startswith("Validation images chose the last step, 400;")
    assert "there were no validation images" in verdict(results, validated=False).sentences[0]


def test_accuracy_under_attack_is_told(labelled_results):
    judged = verdict(labelled_results(accuracy_pgd20__top1=0.3, accuracy_pgd100__top1=0.25))
    assert judged.sentences[1] == (
        "When the images are attacked it is right for 30.0 % (95 % interval 28.0 to 32.0) under PGD-20 and "
        "25.0 % (95 % interval 23.0 to 27.0) under PGD-100."
    )
