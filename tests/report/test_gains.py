"""The verdict on a backbone that started from another one, by hand-made numbers; every interval is +- 2 points."""

import pytest

from gssl_jax.report.html import write_report
from gssl_jax.report.verdict import verdict
from gssl_jax.report.words import columns_of, comparison_table
from tests.report.conftest import entry
from tests.report.page import Page

KEY = "lowshot_5/top1"


@pytest.fixture
def make_started(make_results):
    """make_started(trained, started, refreshed=None, untrained=.1, pixels=.05) of one measure; None leaves one out."""

    def make(trained, started, refreshed=None, untrained=0.1, pixels=0.05, key=KEY, origin="weights.safetensors"):
        results = make_results({key: trained}, {key: untrained}, {key: pixels})
        results["controls"] |= {"started": {key: entry(started, 0.02)}}
        if refreshed is not None:
            results["controls"]["refreshed"] = {key: entry(refreshed, 0.02)}
        if origin is not None:
            results["run"]["started_from"] = origin
        return results

    return make


def test_the_start_comes_before_the_untrained_one(make_started):
    """48.2 against 35.9: the 12.3 points of the product's promise."""
    judged = verdict(make_started(0.482, 0.359))
    assert (judged.tone, judged.badge) == ("good", "Clear gain")
    assert judged.headline == "At 5 images per class this backbone is 12.3 points above the one you started from."
    assert judged.sentences[0] == (
        "48.2 % (95 % interval 46.2 to 50.2) against 35.9 % (95 % interval 33.9 to 37.9) of what it started from, "
        "weights.safetensors."
    )
    assert judged.sentences[1:3] == (
        "It is 38.2 points above the untrained one (10.0 %).",
        "It is 43.2 points above the same classifier on raw pixels (5.0 %).",
    )
    assert [bar.kind for bar in judged.bars] == ["trained", "started", "untrained", "pixels"]
    assert [bar.who for bar in judged.bars][1] == "what it started from"


def test_below_the_start_is_said_plainly_however_bad_the_untrained_one(make_started):
    judged = verdict(make_started(0.30, 0.40))
    assert (judged.tone, judged.badge) == ("bad", "Worse than what you started from")
    assert judged.headline.endswith("10.0 points below the one you started from: training made it worse.")


def test_within_the_intervals_of_the_start_is_no_difference(make_started):
    judged = verdict(make_started(0.41, 0.40))
    assert (judged.tone, judged.badge) == ("unclear", "No clear difference")


@pytest.mark.parametrize(
    ("refreshed", "tone", "badge", "end"),
    [
        (0.42, "good", "Clear gain", "20.0 points above the one you started from."),
        # half of 20 is 10, so 11 is most of it
        (0.51, "good", "Clear gain, most of it from batch statistics",
         "20.0 points above the one you started from, 11.0 of them from refreshed batch statistics alone."),
        # 57 to 61 meets 58 to 62
        (0.59, "unclear", "Gain from batch statistics, not from training",
         "20.0 points above the one you started from, but refreshed batch statistics alone bring 19.0 of them."),
        (0.70, "unclear", "Gain from batch statistics, not from training",
         "20.0 points above the one you started from, but refreshed batch statistics alone bring as much."),
    ],
)  # fmt: skip
def test_what_batch_statistics_bring_alone_is_named(make_started, refreshed, tone, badge, end):
    judged = verdict(make_started(0.60, 0.40, refreshed))
    assert (judged.tone, judged.badge) == (tone, badge) and judged.headline.endswith(end)


def test_the_sentence_on_batch_statistics(make_started):
    said = verdict(make_started(0.60, 0.40, 0.59)).sentences[1]
    assert said == (
        "Batch statistics of the evaluation images alone, without any training, bring the start to 59.0 % "
        "(95 % interval 57.0 to 61.0), +19.0 points; this backbone is 1.0 points above that, within the intervals: "
        "training itself shows no gain."
    )
    assert "would have done better" in verdict(make_started(0.39, 0.40, 0.59)).sentences[1]


def test_no_gain_over_raw_pixels_is_said_of_a_start_too(make_started):
    judged = verdict(make_started(0.60, 0.40, pixels=0.59))
    assert (judged.tone, judged.badge) == ("unclear", "Gain over the start, not over raw pixels")


def test_a_start_that_was_not_measured_is_named(make_results):
    results = make_results({KEY: 0.5}, {KEY: 0.3})
    results["controls"] |= {"started": None, "refreshed": {KEY: None}}
    results["run"]["started_from"] = "stage base"
    judged = verdict(results)
    assert judged.headline.endswith("above the untrained one.")
    assert judged.sentences[1].startswith("What it started from, stage base, was not measured")
    results["run"]["started_from"] = "scratch"
    assert not any("What it started" in one for one in verdict(results).sentences)


def test_the_other_measures_are_compared_with_the_start(make_started):
    results = make_started(0.5, 0.4)
    results["eval"]["knn/top1"], results["controls"]["started"]["knn/top1"] = entry(0.3, 0.02), entry(0.35, 0.02)
    results["eval"]["linear/top1"] = entry(0.3, 0.02)  # which the start lacks
    said = verdict(results).sentences
    assert "The other measures, in points against the one you started from. Clearly below: k-NN (−5.0)." in said


def test_areas_are_no_accuracy_and_their_chance_is_a_half(make_started):
    """Without a per cent sign, and with the dotted line at 50."""
    judged = verdict(make_started(0.812, 0.752, key="linear/auroc"))
    assert judged.headline.startswith("In mean AUROC with a linear classifier on all labels this backbone is 6.0")
    assert judged.sentences[0].startswith("81.2 (95 % interval 79.2 to 83.2) against 75.2 (")
    assert (judged.measure, judged.guess) == ("Mean AUROC, linear", 0.5)
    assert verdict(make_started(0.8, 0.7)).guess is None


def test_mean_average_precision_leads_and_is_compared_with_the_share_of_positives(make_folder, make_started):
    results = make_started(0.412, 0.352, key="lowshot_5/map")
    for table in (results["eval"], *results["controls"].values()):
        table |= {"knn/auroc": table["lowshot_5/map"], "lowshot_1pct/map": table["lowshot_5/map"]}
        table["lowshot_5/map"] = table["lowshot_5/map"] | {"protocol": {"guess": 0.123}}
    judged = verdict(results)
    assert judged.headline.startswith("In mAP at 5 images per class this backbone is 6.0 points above the one you")
    assert judged.sentences[0].startswith("41.2 % (95 % interval 39.2 to 43.2) against 35.2 % (")
    assert (judged.measure, judged.guess, judged.unit) == ("mAP, 5 images per class", 0.123, " %")
    page = Page(write_report(make_folder(results=results, rows=[]), {}, ("a", "b", "c")).read_text())
    assert "Dotted: guessing, 12.3 %." in page.said and "Mean average precision (mAP) over the labels" in page.said
    assert "5 images per class 41.2 39.2–43.2" in page.said and "that have a label before the others" in page.said


def test_the_page_has_a_column_for_every_control_with_values(make_folder, make_started):
    folder = make_folder(results=make_started(0.482, 0.359, 0.40))
    page = Page(write_report(folder, {}, ("a", "b", "c")).read_text())
    heads = "trained what it started from the same, batch statistics refreshed untrained raw pixels"
    assert heads in page.said
    assert "48.2 46.2–50.2 35.9 33.9–37.9 40.0 38.0–42.0 10.0 8.0–12.0 5.0 3.0–7.0" in page.said
    assert 'class="bar started"' in page.text and 'class="bar refreshed"' in page.text
    assert "“refreshed” is that one with the batch statistics" in page.said
    page = Page(write_report(make_folder(), {}, ("a", "b", "c")).read_text())
    shown = page.said.split("Verdict")[1]  # the style sheet knows all of them
    assert "started from" not in shown and "refreshed" not in shown
    assert "“untrained” is the same backbone before any of this training." in shown


def test_the_page_of_areas_calls_nothing_an_accuracy(make_folder, make_started):
    folder = make_folder(results=make_started(0.812, 0.752, key="knn/auroc"), rows=[])
    page = Page(write_report(folder, {}, ("a", "b", "c")).read_text())
    shown = page.said.split("Verdict")[1]
    assert "this is no accuracy" in shown and "ccuracy" not in shown.replace("this is no accuracy", "")
    assert 'style="left:50.00%"' in page.text and "Dotted: guessing, 50.0." in page.said
    assert "k-NN 81.2 79.2–83.2" in page.said  # the caption says what it is, the row need not


def test_controls_that_nobody_knows_have_a_column_of_their_own(make_results):
    results = make_results({KEY: 0.5}, {KEY: 0.3}, {KEY: 0.2})
    results["controls"]["some_other"] = {KEY: entry(0.4, 0.02)}
    assert list(columns_of(comparison_table(results)).values()) == ["untrained", "raw pixels", "some other"]


def test_a_labelled_method_is_compared_with_the_start_too(labelled_results):
    """The start has 45 % with the same 150 images, the untrained backbone 30 %."""
    results = labelled_results()
    results["controls"]["started"] = {"linear/top1": entry(0.45, 0.02, train_images=150)}
    judged = verdict(results)
    assert (judged.tone, judged.badge) == ("good", "Better than the start's features")
    assert any("on the features of the backbone it started from has 45.0 %" in one for one in judged.sentences)
    assert judged.bars[-1].kind == "started" and judged.bars[-1].who == "what it started from, linear"
