"""The whole path of a labelled method on the tiny recipe: choosing by validation, results, stop and resume."""

import json
import signal

import numpy as np
import pytest

from gssl_jax.main import main
from gssl_jax.runs import stage
from gssl_jax.runs.archive import read_pictures
from gssl_jax.training.metrics import read_rows

TINY = "--config=configs/gated_cifar_lt.py:tiny"
QUICK = "--config.evals.health.images=0"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "gated"
    assert main(["main", TINY, QUICK, f"--workdir={workdir}"]) == 0
    return workdir


def test_results_hold_its_own_accuracy_by_class_and_group(finished):
    results = json.loads((finished / "results.json").read_text())
    assert results["schema"] == 1
    found = results["eval"]
    groups = ("accuracy/top1", "accuracy/balanced")
    for name in (*groups, "knn/top1", "linear/top1"):
        assert 0 <= found[name]["low"] <= found[name]["value"] <= found[name]["high"] <= 1
    assert found["lowshot_1/top1"] is None  # a tail has too few images
    counts = found["accuracy/top1"]["protocol"]["train_images"]
    assert counts[0] == 200 and counts[-1] == 20 and len(counts) == 19
    assert sum(counts) == results["run"]["data"]["train"]["images"] == results["run"]["data"]["eval_train"]["images"]
    assert (finished / "report.html").stat().st_size > 10_000


def test_the_state_is_chosen_by_validation_and_the_last_one_reported_beside_it(finished):
    rows = read_rows(finished / "metrics.jsonl")
    scores = {row["step"]: row["eval/validation"] for row in rows if "eval/validation" in row}
    assert list(scores) == [3, 6]
    results = json.loads((finished / "results.json").read_text())
    best = min(step for step, score in scores.items() if score == max(scores.values()))
    assert results["run"]["selected_step"] == best
    assert ("last/accuracy/top1" in results["eval"]) == (best != 6)
    during = [row["step"] for row in rows if any(name.startswith(("eval/knn", "eval/accuracy")) for name in row)]
    assert set(during) == {6}  # test images are looked at when all is over


def test_the_arrays_of_its_pictures_are_kept(finished):
    """19 classes, ten images: every second class, so that another run on these test images shows the same ones."""
    kept = read_pictures(finished / "pictures.npz")
    assert set(kept.pictures) == {"clusters", "gradcam", "neighbours", "pca", "tsne"} and len(kept.classes) == 19
    evidence = kept.pictures["gradcam"]
    assert evidence["labels"].tolist() == list(range(0, 19, 2)) and evidence["images"].shape == (10, 32, 32, 3)
    assert evidence["maps"].shape == (10, 32, 32) and evidence["maps"].max() == 1.0


def test_gate_and_pretexts_are_logged(finished):
    row = next(row for row in read_rows(finished / "metrics.jsonl") if "gate/entropy" in row)
    names = ("lorot_e", "flip", "channels")
    assert sum(row[f"gate/weight_{name}"] for name in names) == pytest.approx(1.0, abs=1e-5)
    for name in names:
        assert -1 <= row[f"gate/alignment_{name}"] <= 1 and 0 <= row[f"train/accuracy_{name}"] <= 1


@pytest.mark.slow
def test_a_stopped_run_ends_like_one_that_was_not(finished, tmp_path, monkeypatch):
    """Stopped after four steps by SIGINT, then gone on: the same losses, the same choice, the same scores."""
    whole = stage.train

    def interrupted(*args, **options):
        hooks = options["hooks"]

        def stop(step, state):
            if step == 4:
                signal.raise_signal(signal.SIGINT)

        options["hooks"] = hooks._replace(on_boundary=[*hooks.on_boundary, stop])
        return whole(*args, **options)

    monkeypatch.setattr(stage, "train", interrupted)
    assert main(["main", TINY, f"--workdir={tmp_path / 'run'}"]) == 128 + signal.SIGINT
    monkeypatch.setattr(stage, "train", whole)
    assert main(["main", TINY, f"--workdir={tmp_path / 'run'}"]) == 0
    one, two = (json.loads((folder / "results.json").read_text()) for folder in (finished, tmp_path / "run"))
    assert one["eval"] == two["eval"] and one["run"]["selected_step"] == two["run"]["selected_step"]
    first, second = (
        {row["step"]: row["eval/validation"] for row in read_rows(folder / "metrics.jsonl") if "eval/validation" in row}
        for folder in (finished, tmp_path / "run")
    )
    assert first == second
    assert np.isfinite(list(first.values())).all()
