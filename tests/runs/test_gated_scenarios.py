"""Adversarial and semi-supervised runs: what two streams hold, what is refused, and the tiny recipes to the end."""

import json

import numpy as np
import pytest

from gssl_jax.errors import UserError
from gssl_jax.main import main
from gssl_jax.runs.parts import assemble, stage_config
from gssl_jax.runs.stage import Images
from gssl_jax.training.metrics import read_rows
from tests.runs.recipes import recipe


def assembled(**changes):
    """The parts of the tiny semi-supervised recipe; `data__crop="host"` sets a value by its path."""
    config = recipe("tiny", "gated_semi")
    config.update_from_flattened_dict({name.replace("__", "."): value for name, value in changes.items()})
    return assemble(stage_config(config, "target"))


def test_the_unlabelled_stream_holds_all_but_the_validation_images_and_no_label():
    """19 classes of 200: 20 of each for validation, two of the others with a label, all others without."""
    parts = assembled()
    labelled, unlabelled, validation = *parts.streams.values(), parts.validation
    assert list(parts.streams) == ["labelled", "unlabelled"] == list(parts.method.streams)
    assert (len(labelled), len(unlabelled), len(validation)) == (38, 19 * 180, 19 * 20)
    boxes = {
        name: {source.describe(i) for i in range(len(source))}
        for name, source in (("labelled", labelled), ("unlabelled", unlabelled), ("validation", validation))
    }
    assert boxes["labelled"] < boxes["unlabelled"] and not boxes["unlabelled"] & boxes["validation"]
    assert {unlabelled.label(i) for i in range(len(unlabelled))} == {-1} == {unlabelled[7]["label"]}
    assert unlabelled.classes == () and labelled[3]["label"] == labelled.label(3) >= 0
    assert parts.counts.tolist() == [2] * 19 and parts.batch_sizes == {"labelled": 48, "unlabelled": 96}


@pytest.mark.parametrize("crop", ["device", "host"])
def test_a_small_labelled_set_repeats_within_a_batch_with_other_draws(crop):
    """48 of 38 images: some twice, each time another draw; the unlabelled batch is another order without labels."""
    parts = assembled(data__crop=crop)
    images = Images.load(parts)
    with images.batches(0) as batches:
        batch = next(batches)
    one, many = batch["labelled"], batch["unlabelled"]
    assert len(one["index"]) == 48 and len(set(one["index"])) == 38 and len(set(one["draw"])) == 48
    assert len(many["index"]) == 96 == len(set(many["index"])) and "label" not in many
    if crop == "device":
        assert "label" not in images.resident["unlabelled"] and len(images.resident["labelled"]["label"]) == 38
        return
    assert one["label"].tolist() == [parts.streams["labelled"].label(i) for i in one["index"]]
    assert many["image"].shape == (96, 1, 32, 32, 3)


def test_streams_of_one_length_do_not_run_in_step():
    parts = assembled(data__streams__labelled__subset__kind="all", data__streams__unlabelled__ratio=1)
    assert len(set(map(len, parts.streams.values()))) == 1
    with Images.load(parts).batches(0) as batches:
        batch = next(batches)
    assert (batch["labelled"]["index"] != batch["unlabelled"]["index"]).mean() > 0.9


def test_unlabelled_images_of_another_source_are_all_taken():
    parts = assembled(data__streams__unlabelled__split="pretrain", data__streams__unlabelled__size=256)
    assert len(parts.streams["unlabelled"]) == 256
    assert np.unique([parts.streams["unlabelled"].label(i) for i in range(256)]).tolist() == [-1]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(data__streams__unlabelled__ratio=0), "data.streams.unlabelled.ratio=0 must be at least 1"),
        (dict(data__streams__unlabelled__ratio=90), r"3420 images, fewer than data.streams.unlabelled.ratio x.*=32"),
        (dict(data__streams__unlabelled__size=500), "different parts of the same images.*unlabelled.size=0"),
        (dict(data__streams__labelled__subset__count=40), "40 labels in all do not divide among 19.*38 or 57"),
        (dict(data__streams__labelled__subset__kind="shot"), "subset.kind.*'shot'.*did you mean 'shots'"),
        (dict(method__strong__operations=0), "method.strong.operations=0 must be at least 1"),
    ],
)
def test_what_cannot_work_is_refused_before_any_compute(changes, words):
    with pytest.raises(UserError, match=words):
        assembled(**changes)


@pytest.mark.slow
def test_the_semi_supervised_recipe_runs_to_its_end(tmp_path):
    assert main(["main", "--config=configs/gated_semi.py:tiny", f"--workdir={tmp_path / 'run'}"]) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    data = results["run"]["data"]
    assert (data["labelled"]["images"], data["unlabelled"]["images"], data["eval_train"]["images"]) == (38, 3420, 38)
    assert 0 <= results["eval"]["accuracy/top1"]["value"] <= 1
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    row = next(row for row in rows if "train/certain" in row)
    assert 0 < row["train/certain"] <= 1 and row["train/loss_consistency"] > 0 and row["gate/weight_flip"] > 0
    assert [row["step"] for row in rows if "eval/validation" in row] == [3, 6]
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000


@pytest.mark.slow
def test_the_adversarial_recipe_reports_robust_accuracy(tmp_path):
    assert main(["main", "--config=configs/gated_adversarial.py:tiny", f"--workdir={tmp_path / 'run'}"]) == 0
    found = json.loads((tmp_path / "run" / "results.json").read_text())["eval"]
    robust = found["accuracy_pgd2/top1"]
    assert 0 <= robust["low"] <= robust["value"] <= robust["high"] <= 1
    assert robust["protocol"]["steps"] == 2 and robust["protocol"]["epsilon"] == 8 / 255
    assert robust["n"] == found["accuracy/top1"]["n"] == 19 * 60
