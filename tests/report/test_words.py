"""Rows of scores and their tables; every interval is +- 2 points unless a test says otherwise."""

import pytest
from rich.console import Console

from gssl_jax.report.measures import label
from gssl_jax.report.words import class_scores, comparison_table, console_table, pretext_words, rarest, score


def test_rows_stand_in_order_and_unknown_measures_follow(make_results):
    trained = {"voc/map": 0.4, "lowshot_10/top1": 0.6, "lowshot_2/top1": 0.3, "knn/top1": 0.5}
    rows = comparison_table(make_results(trained, {"lowshot_1/top1": 0.2}))
    assert [row.label for row in rows] == [
        "k-NN", "1 image per class", "2 images per class", "voc/map", "10 images per class",
    ]  # fmt: skip
    assert rows[1].trained is None and list(rows[1].controls) == ["untrained"]


def test_a_score_needs_a_finite_value():
    assert score(None) is None and score({"value": None}) is None and score({"value": float("nan")}) is None
    one = score({"value": 0.5, "low": 0.4, "high": None, "n": 7})
    assert one is not None and (one.value, one.low, one.high, one.n) == (0.5, None, None, 7)


def test_the_console_prints_the_same_numbers(make_results):
    table = console_table(make_results({"knn/top1": 0.612}, {"knn/top1": 0.302}, {"linear/top1": 0.2}))
    console = Console(width=120)
    with console.capture() as caught:
        console.print(table)
    line = next(line for line in caught.get().splitlines() if "k-NN" in line)
    assert "61.2 (59.2\u201363.2)" in line and "30.2 (28.2\u201332.2)" in line and line.rstrip(" \u2502").endswith("-")


def test_a_labelled_method_has_its_own_rows_first_and_the_last_step_beside_them(labelled_results):
    rows = comparison_table(labelled_results(accuracy_pgd20__top1=0.3))
    assert [row.label for row in rows] == [
        "accuracy", "mean over classes", "richest third of classes", "middle third of classes",
        "rarest third of classes", "accuracy under PGD-20", "k-NN", "linear",
    ]  # fmt: skip
    assert [row.own for row in rows] == 6 * [True] + 2 * [False]
    assert rows[0].last is not None and rows[0].last.value == 0.47
    assert rows[2].last is None and not rows[0].controls and rows[6].of("untrained") is not None
    assert rarest(rows) == rows[4]


def test_groups_of_a_balanced_set_are_left_out(labelled_results):
    results = labelled_results()
    for images, shown in (([40, 40, 40], False), ([79, 60, 40], False), ([80, 60, 40], True)):
        results["eval"]["accuracy/top1"]["protocol"]["train_images"] = images
        assert ("accuracy/tail" in {row.key for row in comparison_table(results)}) == shown
    del results["eval"]["accuracy/top1"]["protocol"]["train_images"]  # nothing is known about balance
    assert rarest(comparison_table(results)) is not None and class_scores(results) is None


def test_names_of_measures():
    assert [label(key) for key in ("accuracy_pgd_100/top1", "accuracy_strong/top1", "accuracy/few", "voc/map")] == [
        "accuracy under PGD-100", "accuracy under strong", "classes with few images", "voc/map",
    ]  # fmt: skip
    assert [pretext_words(name) for name in ("lorot_e", "relative_position", "my_own")] == [
        "LoRot-E", "relative position", "my own",
    ]  # fmt: skip


@pytest.mark.parametrize("last", [True, False])
def test_the_console_fits_into_eighty_columns_without_cutting_a_word(labelled_results, last):
    changes = {} if last else {f"last__accuracy__{name}": None for name in ("top1", "balanced", "tail")}
    table = console_table(labelled_results(accuracy_pgd100__top1=0.3, **changes))
    console = Console(width=80)
    with console.capture() as caught:
        console.print(table)
    lines = caught.get().splitlines()
    assert max(map(len, lines)) <= 80 and not any("\u2026" in line for line in lines)
    assert sum("accuracy" in line and "50.0 (48.0\u201352.0)" in line for line in lines) == 1
    assert any("rarest third of classes" in line and ("10.0 (8.0\u201312.0)" in line) == last for line in lines)
    assert any("chosen, step 300" in line and "last, step 400" in line for line in lines) == last
    attacked = next(line for line in lines if "accuracy under PGD-100" in line)
    assert not last or attacked.rstrip(" \u2502").endswith("-")  # nothing stored for the last step


def test_five_columns_fit_into_eighty_characters_with_every_interval_whole(make_results):
    scores = {"linear_sgd/top1": 0.612, "knn/auroc": 0.812}
    results = make_results(scores, scores, scores)
    results["controls"] |= {name: results["controls"]["pixels"] for name in ("started", "refreshed")}
    console = Console(width=80)
    with console.capture() as caught:
        console.print(console_table(results))
    lines = caught.get().splitlines()
    assert max(map(len, lines)) <= 80 and not any("\u2026" in line for line in lines)
    assert sum(line.count("59.2\u201363.2") for line in lines) == 5
    accuracy, area = (n for n, line in enumerate(lines) if "on test images" in line)
    assert "Mean AUROC" in lines[area] and "Accuracy" in lines[accuracy]
    assert any("81.2" in line for line in lines[area:]) and not any("81.2" in line for line in lines[:area])
