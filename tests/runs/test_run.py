"""The whole path on the tiny recipe: results, report, stop and resume, finished runs, folders of images."""

import dataclasses
import json
import signal

import cv2
import jax
import numpy as np
import pytest

from gssl_jax.main import main
from gssl_jax.runs import stage
from gssl_jax.runs.parts import assemble, stage_config
from gssl_jax.training.checkpoint import Checkpoints
from gssl_jax.training.mesh import put_batch, replicated
from gssl_jax.training.metrics import read_rows
from gssl_jax.training.state import create_state
from gssl_jax.training.step import gather
from tests.runs.recipes import recipe

TINY = "--config=configs/maskcluster_vit.py:tiny"
STEPS = 8


def last_state(workdir):
    """The step of the last checkpoint of a tiny run and every array of its state, by name."""
    parts = assemble(stage_config(recipe("tiny"), "target"))
    images = stage.Images.load(parts)
    batch = put_batch(stage.shape_batch(parts), parts.mesh)
    abstract = jax.eval_shape(
        lambda b, k: create_state(parts.method, parts.optimiser, gather(images.resident, b), k),
        batch,
        jax.random.key(0),
    )
    with Checkpoints(workdir / "stages" / "0-target" / "checkpoints", 2) as checkpoints:
        newest = checkpoints.latest
        state, _ = checkpoints.restore(abstract, replicated(parts.mesh))
    state = dataclasses.replace(state, key=jax.random.key_data(state.key))
    return newest, {jax.tree_util.keystr(p): np.asarray(x) for p, x in jax.tree_util.tree_leaves_with_path(state)}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A tiny run from start to end."""
    workdir = tmp_path_factory.mktemp("runs") / "tiny"
    assert main(["main", TINY, f"--workdir={workdir}"]) == 0
    return workdir


def test_results_follow_the_schema(finished):
    results = json.loads((finished / "results.json").read_text())
    names = {"knn/top1", "linear/top1", "lowshot_1/top1", "lowshot_2/top1", "lowshot_5/top1"}
    assert results["schema"] == 1
    for entries in (results["eval"], results["controls"]["untrained"], results["controls"]["pixels"]):
        assert set(entries) == names
        for name, entry in entries.items():
            assert set(entry) >= {"value", "low", "high", "n", "protocol", "interval"}
            assert 0 <= entry["low"] <= entry["value"] <= entry["high"] <= 1
            assert entry["interval"] == ("t-draws" if name.startswith("lowshot") else "bootstrap-test")
        assert entries["lowshot_5/top1"]["n"] >= 10 and entries["knn/top1"]["n"] == 19 * 60
    run = results["run"]
    assert run["steps"] == STEPS and run["seed"] == 0 and run["seconds"] > 0 and run["images_per_second"] > 0
    assert run["config"]["method"]["collapse"]["cls"] == "sinkhorn" and run["versions"]["jax"] == jax.__version__
    assert "cpu" in run["device"] and run["parameters"] > 1000


def test_the_run_folder_holds_what_it_should(finished):
    for name in ("config.json", "lineage.json", "pictures.npz", "report.html", "metrics.jsonl",
                 "stages/0-target/parameters.txt"):  # fmt: skip
        assert (finished / name).stat().st_size > 0, name
    assert list((finished / "tensorboard").iterdir()) and list((finished / "figures").glob("*.png"))
    rows = read_rows(finished / "metrics.jsonl")
    assert [r["step"] for r in rows if "train/loss" in r] == [2, 4, 6, 8]
    assert {"train/loss_cls", "train/loss_patch", "train/loss_reconstruction", "train/learning_rate", "train/momentum",
            "health/target_entropy_cls", "health/prototypes_in_use_patch"} <= set(rows[0]) | set(rows[1])  # fmt: skip
    assert any("health/rankme" in r for r in rows) and "eval/knn/top1" in rows[-1]


def test_a_finished_run_prints_its_table_again(finished, capsys, monkeypatch):
    monkeypatch.setattr(stage, "train", None)
    before = (finished / "report.html").stat().st_mtime_ns
    assert main(["main", TINY, f"--workdir={finished}"]) == 0
    printed = capsys.readouterr().out
    assert "k-NN" in printed and "report.html" in printed
    assert (finished / "report.html").stat().st_mtime_ns == before


class StopAfter:
    """Stands in for the signals: asks to stop when `steps` dispatches have been looked at."""

    def __init__(self, steps):
        self.left, self.number = steps, 0

    def __call__(self):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    @property
    def asked(self):
        self.left -= 1
        self.number = signal.SIGINT if self.left < 0 else self.number
        return self.number


def test_stopped_and_resumed_equals_a_straight_run_bit_for_bit(finished, tmp_path, monkeypatch, capsys):
    workdir = tmp_path / "stopped"
    monkeypatch.setattr(stage, "StopRequest", StopAfter(5))
    assert main(["main", TINY, f"--workdir={workdir}"]) == 128 + signal.SIGINT
    assert "saved at step 5" in capsys.readouterr().out
    assert last_state(workdir)[0] == 5 and not (workdir / "results.json").exists()
    monkeypatch.undo()
    assert main(["main", TINY, f"--workdir={workdir}"]) == 0
    assert "going on at step 5 of 8" in capsys.readouterr().out
    (step, mine), (_, straight) = last_state(workdir), last_state(finished)
    assert step == STEPS and mine.keys() == straight.keys()
    assert [name for name in mine if not np.array_equal(mine[name], straight[name])] == []
    assert (
        json.loads((workdir / "results.json").read_text())["eval"]
        == json.loads((finished / "results.json").read_text())["eval"]
    )
    rows = [r for r in read_rows(workdir / "metrics.jsonl") if "train/loss" in r]
    assert [r["step"] for r in rows] == [2, 4, 5, 6, 8]
    whole = {r["step"]: r["train/loss"] for r in read_rows(finished / "metrics.jsonl") if "train/loss" in r}
    assert {r["step"]: r["train/loss"] for r in rows if r["step"] in (2, 4, 8)} == {s: whole[s] for s in (2, 4, 8)}


def test_other_images_than_the_run_began_with_are_refused(tmp_path, monkeypatch, capsys):
    images = tmp_path / "images"
    write_classes(images, 6)
    recipe_flag = f"--config=configs/maskcluster_vit.py:folder,path={images},size=32"
    flags = ["main", recipe_flag, f"--workdir={tmp_path / 'run'}", *SMALL]
    monkeypatch.setattr(stage, "StopRequest", StopAfter(1))
    assert main(flags) == 128 + signal.SIGINT
    monkeypatch.undo()
    cv2.imwrite(str(images / "a" / "new.png"), np.zeros((40, 40, 3), np.uint8))
    capsys.readouterr()
    assert main(flags) == 2
    assert "fingerprint" in capsys.readouterr().err


SMALL = [
    "--config.backbone.width=16", "--config.backbone.heads=2", "--config.backbone.depth=1",
    "--config.method.projector.hidden=16", "--config.method.projector.output=8", "--config.optim.batch_size=8",
    "--config.optim.duration=2.0", "--config.evals.lowshot.shots=(1,)", "--config.evals.lowshot.draws=10",
    "--config.evals.knn.k=3", "--config.evals.linear.max_iterations=20", "--config.method.prototypes.cls=8",
    "--config.method.prototypes.patch=8", "--config.data.max_broken=0.2", "--config.method.views.locals=1",
    "--config.evals.health.images=0",
]  # fmt: skip


def write_classes(folder, count, names=("a", "b", "c"), side=40):
    """Class folders of noise whose mean tells the class."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            image = rng.integers(0, 60, (side, side, 3)) + 90 * label
            cv2.imwrite(str(folder / name / f"{i}.png"), np.clip(image, 0, 255).astype(np.uint8))


@pytest.mark.parametrize("crop", ["device", pytest.param("host", marks=pytest.mark.slow)])
def test_a_folder_with_classes_and_a_broken_image(crop, tmp_path, capsys):
    write_classes(tmp_path / "images", 8)
    whole = (tmp_path / "images" / "b" / "3.png").read_bytes()
    (tmp_path / "images" / "b" / "3.png").write_bytes(whole[: len(whole) // 2])
    flags = [
        f"--config=configs/maskcluster_vit.py:folder,path={tmp_path / 'images'},size=32",
        f"--config.data.crop={crop}",
    ]
    assert main(["main", *flags, *SMALL, f"--workdir={tmp_path / 'run'}"]) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["eval"]["knn/top1"]["value"] is not None and results["run"]["data"]["eval_train"]["classes"] == 3
    assert (tmp_path / "run" / "report.html").exists()
    if crop == "device":  # host crops meet it only when its turn comes
        assert "3.png" in capsys.readouterr().out


def test_images_without_labels_end_with_health_and_report(tmp_path, capsys):
    write_classes(tmp_path / "classes", 16, names=("only",))
    flags = [f"--config=configs/maskcluster_vit.py:folder,path={tmp_path / 'classes' / 'only'},size=32"]
    assert main(["main", *flags, *SMALL, f"--workdir={tmp_path / 'run'}"]) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert set(results["eval"].values()) == {None}
    assert (tmp_path / "run" / "report.html").exists() and "no labels" in capsys.readouterr().out


def test_more_prototypes_than_rows_is_warned_of_with_the_numbers():
    config = recipe("tiny")
    config.method.prototypes.cls = 2048
    parts = assemble(stage_config(config, "target"))
    assert len(parts.warnings) == 1
    assert "2048" in parts.warnings[0] and "64 rows" in parts.warnings[0] and "prototypes.cls=64" in parts.warnings[0]
