"""The entry point: a run judged again gives its own numbers, whatever way its backbone comes; flags and refusals."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gssl_jax import evaluate, export
from gssl_jax.errors import UserError
from gssl_jax.evaluate import changed, joined, named, read
from gssl_jax.main import main as train
from gssl_jax.protocols import evaluation
from gssl_jax.runs import judging
from gssl_jax.runs.evaluation import Judge
from gssl_jax.runs.folder import RunFolder
from gssl_jax.runs.parts import assemble, stage_config
from gssl_jax.training.checkpoint import Checkpoints
from gssl_jax.training.mesh import replicated
from gssl_jax.training.state import create_state
from gssl_jax.training.step import gather
from tests.runs.recipes import recipe
from tests.tiny import filled

SHORT = {"evals.lowshot.draws": 3, "evals.lowshot.shots": (1,), "evals.bootstrap.resamples": 50, "seed": 3}
STEP = 2


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """What a tiny run leaves behind, with its export; judged as a run is, but with random numbers for training."""
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "tiny")
    config = recipe("tiny")
    config.update_from_flattened_dict(SHORT)
    folder.claim(config)
    parts = assemble(stage_config(config, "target"))
    index = {"index": np.zeros(32, np.int32), "draw": np.zeros(32, np.int32)}
    resident = {"train": {"image": jnp.zeros((2, config.data.canvas, config.data.canvas, 1), jnp.uint8)}}

    def begin(key):
        return create_state(parts.method, parts.optimiser, gather(resident, {"train": index}), key)

    fresh = jax.jit(begin)(jax.random.key(config.seed))
    grown = jax.tree.map(lambda x, y: x + y, fresh.method_state, filled(fresh.method_state, 1, 0.1))
    with Checkpoints(folder.checkpoints(0, "target"), 1) as checkpoints:
        checkpoints.save(dataclasses.replace(fresh, method_state=grown, step=jnp.int32(STEP)), {})
    judge = Judge(parts, config.seed)
    trained, untrained = (
        judge.judge(jax.device_put(parts.method.backbone(fresh.params, state, "teacher"), replicated(parts.mesh)))
        for state in (grown, fresh.method_state)
    )
    controls = {"untrained": untrained, "pixels": judge.judge_pixels()}
    said = {"selected_step": STEP, "versions": {"gssl_jax": "0.1.0"}}
    folder.write_results({"schema": 1, "eval": trained, "controls": controls, "run": said})
    assert export.main(["export", str(folder.path), "--format=safetensors"]) == 0
    return folder.path


def call(*words):
    return evaluate.main(["evaluate", *map(str, words)])


@pytest.mark.slow
def test_a_run_that_was_trained_gives_its_own_numbers(tmp_path, capsys, monkeypatch):
    given = [f"--config.{key}={value}" for key, value in SHORT.items()] + ["--config.optim.duration=2.0"]
    assert train(["main", "--config=configs/maskcluster_vit.py:tiny", f"--workdir={tmp_path / 'tiny'}", *given]) == 0
    assert export.main(["export", str(tmp_path / "tiny"), "--format=safetensors"]) == 0
    test_a_run_gives_its_own_numbers_and_so_does_its_export(tmp_path / "tiny", tmp_path, capsys, monkeypatch)


def test_a_run_gives_its_own_numbers_and_so_does_its_export(run, tmp_path, capsys, monkeypatch):
    exported = run / "export" / "backbone.safetensors"
    words = (f"--backbone={run}", "--backbone=random", f"--backbone=deployed={exported}", "--backbone=pixels",
             f"--out={tmp_path / 'out'}")  # fmt: skip
    assert call(*words) == 0
    said = capsys.readouterr().out
    wanted = json.loads((run / "results.json").read_text())
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert found["schema"] == 1 and set(found["eval"]) == {"knn/top1", "linear/top1", "lowshot_1/top1"}
    for name, entry in found["eval"].items():
        assert entry == wanted["eval"][name], name
        assert found["controls"]["random"][name] == wanted["controls"]["untrained"][name]  # the same keys
        assert found["controls"]["deployed"][name] == entry
        assert found["controls"]["pixels"][name] == wanted["controls"]["pixels"][name]
        assert found["differences"]["deployed"][name]["value"] == 0
    backbones = found["run"]["backbones"]
    assert backbones["tiny"]["digest"] == backbones["deployed"]["digest"] != backbones["random"]["digest"]
    assert backbones["tiny"]["step"] == 2 and backbones["tiny"]["images"] == backbones["deployed"]["images"]
    assert backbones["random"]["seed"] == 3 and backbones["pixels"]["side"] == 8
    assert "tiny: knn ..." in said and "deployed: knn was judged before" in said and "1 image per" in said
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Neighbours by tiny" in page and "tiny − pixels" in page

    monkeypatch.setattr(judging, "Judge", None)  # nothing is read or computed a second time
    (tmp_path / "out" / "results.json").unlink()
    assert call(*words) == 0
    again = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {key: again[key] for key in ("eval", "controls", "differences")} == {
        key: found[key] for key in ("eval", "controls", "differences")
    }


def test_the_backbone_before_its_first_step_on_other_images(run, tmp_path, capsys):
    words = (f"--backbone={run}:untrained", "--data=digits", "--evals=knn", "--evals.knn.k=5", "--size=16")
    assert call(*words, f"--out={tmp_path}", "--evals.bootstrap.resamples=20") == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results["eval"]) == ["knn/top1"] and results["eval"]["knn/top1"]["protocol"]["k"] == 5
    assert results["eval"]["knn/top1"]["value"] > 0.5  # ten digits, by an untrained network
    assert results["run"]["data"]["eval_test"]["name"] == "digits/test"
    one = results["run"]["backbones"]["tiny untrained"]
    assert one["step"] == 0 and one["images"]["image_size"] == 16


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--bacbone=random"], "unknown flag '--bacbone'; did you mean '--backbone'"),
        (["--backbone=random", "--evls=knn"], "unknown flag '--evls'; did you mean '--evals'"),
        (["--backbone"], "--backbone needs a value"),
        (["--data=photos"], "no backbone: give --backbone=RUN"),
        (["--backbone=random", "word"], "'word' is not a flag"),
        (["--backbone=random", "--backbone=random"], "two backbones are called 'random'"),
        (["--backbone=random"], "nothing says on which images to judge"),
        (["--backbone=random", "--data=fotos"], "unknown data source 'fotos'; did you mean 'photos'"),
        (["--backbone=random", "--data=photos", "--evals=lienar"], "unknown evaluator 'lienar'; did you mean 'linear'"),
        (["--backbone=random", "--data=photos", "--evals.knn.kk=1"], "unknown key 'evals.knn.kk'; did you mean"),
        (["--backbone=random", "--data=photos", "--evals.knn.k=x"], "--evals.knn.k=x: this is no int (it is 20 now)"),
        (["--backbone=random", "--data=photos", "--evals=sgd_linear"], "give --evals.sgd_linear.steps=5000"),
        (["--backbone=random", "--data=photos", "--seed=x"], "--seed=x: give a whole number"),
        (["--backbone=random", "--data=photos", "--mean=a"], "--mean=a: give numbers"),
        (["--backbone=random", "--data=photos"], "of which network random weights shall be: give --architecture"),
        (["--backbone=random", "--data=photos", "--architecture=vit_micro4"], "how large the images shall be: give"),
        (["--backbone=random:x", "--data=photos", "--size=8"], "random:x: what follows random is its seed"),
        (["--backbone=none/such/file.pth", "--data=photos"], "none/such/file.pth: there is no such file or run folder"),
        (["--backbone=resnet50.none", "--data=photos"], "its weights are not on this machine: looked for"),
        (["--backbone=random", "--config=configs/none.py"], "there is no such recipe"),
        (["--backbone=TMP", "--data=photos"], "is no run folder (it has no config.json)"),
        (["--backbone=random", "--data=photos", "--architecture=vit_micro4", "--size=30"], "give --size=28"),
        (["--backbone=random", "--data=folder:NONE", "--architecture=vit_micro4", "--size=32"], "NONE"),
        (["--backbone=random", "--config=configs/maskcluster_vit.py:tiny", "--evals.knn.k=99999"], "knn.k is 99999"),
    ],
)  # fmt: skip
def test_refusals_are_one_line(words, said, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    out = [] if words == ["--backbone"] else [f"--out={tmp_path / 'out'}"]
    assert call(*(word.replace("TMP", str(tmp_path)) for word in words), *out) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and said in error
    assert not (tmp_path / "out").exists()


def test_a_run_folder_is_not_written_over(run, capsys):
    assert call(f"--backbone={run}", f"--out={run}") == 2
    assert "is a run folder, whose results would be lost" in capsys.readouterr().err


def test_debug_shows_where():
    with pytest.raises(UserError, match="unknown flag"):
        call("--bacbone=x", "--debug")


@pytest.mark.parametrize("words", [["--help"], ["-h"], [], ["--backbone=random", "--help"]])
def test_help(words, capsys):
    assert call(*words) == 0
    assert capsys.readouterr().out == evaluate.USAGE


def test_flags_of_a_call():
    options = read(
        ["p", "--backbone=a=random:1", "--backbone=pixels", "--evals.knn.k=3", "--data=folder:x=y", "--debug"]
    )
    assert options.backbones == {"a": "random:1", "pixels": "pixels"} and options.changes == {"knn.k": "3"}
    assert options.values["data"] == "folder:x=y" and options.values["evals"] == "knn,linear,lowshot"


def test_names_of_backbones(tmp_path):
    (tmp_path / "a=b").mkdir()
    (tmp_path / "w.pth.tar").write_text("")
    assert named(f"{tmp_path}/a=b") == ("a=b", f"{tmp_path}/a=b")
    assert named(f"mine={tmp_path}/a=b") == ("mine", f"{tmp_path}/a=b")
    assert named(f"{tmp_path}:untrained") == (f"{tmp_path.name} untrained", f"{tmp_path}:untrained")
    assert named(f"{tmp_path}/w.pth.tar")[0] == "w.pth" and named("random:2") == ("random-2", "random:2")
    assert joined({"tiny untrained": 1, "a/b": 2}) == "tiny_untrained-a_b" and len(joined({"x" * 99: 1})) == 60


def test_values_of_protocols_have_the_kind_that_they_had():
    evals = evaluation("photos", "", "train", "test", 32)
    given = {"lowshot.shots": "(1, 3)", "knn.whiten": "1", "linear.l2_grid": "0.5", "knn.feature": "patch_mean"}
    found = changed(evals, given)
    assert found.lowshot.shots == (1, 3) and found.linear.l2_grid == (0.5,) and found.knn.feature == "patch_mean"
    assert found.knn.whiten == 1.0 and isinstance(found.knn.whiten, float)
    assert evals.lowshot.shots == (1, 2, 5)
    for wrong in ("0.5", "(", "True x", "'a'"):
        with pytest.raises(UserError, match="this is no int"):
            changed(evals, {"knn.k": wrong})


def test_data_is_a_kind_a_kind_with_a_path_or_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()  # a folder that is called like a kind
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine.csv").write_text("path\n")
    expected = {
        "photos": ("photos", ""),
        "folder:photos": ("folder", "photos"),
        "mine": ("folder", "mine"),
        "mine.csv": ("index", "mine.csv"),
        "gone:x": ("gone", "x"),
        "": ("", ""),
    }
    assert {data: evaluate.kind_and_path(data) for data in expected} == expected
