"""The export of a run: the right weights, checked before the file has its name, and every refusal in one line."""

from __future__ import annotations

import dataclasses
import json
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors

from gssl_jax import export
from gssl_jax.errors import UserError
from gssl_jax.interop import graphs
from gssl_jax.runs import continuation, restored
from gssl_jax.runs.folder import RunFolder
from gssl_jax.runs.parts import assemble, stage_config
from gssl_jax.training.checkpoint import Checkpoints
from gssl_jax.training.state import create_state
from gssl_jax.training.step import gather
from tests.runs.recipes import recipe
from tests.tiny import filled

SELECTED, LAST = 4, 8


def state_of(parts, step, seed):
    """A state of the right shapes full of numbers of this seed."""
    config = parts.config
    canvas = (2, config.data.canvas, config.data.canvas, config.data.channels)
    size = config.optim.batch_size
    index = {"index": np.zeros(size, np.int32), "draw": np.zeros(size, np.int32)}
    resident = {"train": {"image": jnp.zeros(canvas, jnp.uint8)}}
    shapes = jax.eval_shape(
        lambda k: create_state(parts.method, parts.optimiser, gather(resident, {"train": index}), k), jax.random.key(0)
    )
    numbers = dataclasses.replace(shapes, key=jax.ShapeDtypeStruct((), jnp.float32))
    numbers = jax.tree.map(lambda x, s: x.astype(s.dtype), filled(numbers, seed, 0.3), numbers)
    return dataclasses.replace(numbers, key=jax.random.key(0), step=jnp.int32(step))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run that kept a best state and went on from there, without having trained."""
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "tiny")
    config = recipe("tiny")
    folder.claim(config)
    parts = assemble(stage_config(config, "target"))
    states = {SELECTED: state_of(parts, SELECTED, 1), LAST: state_of(parts, LAST, 1000)}
    for place, step in ((folder.best(0, "target"), SELECTED), (folder.checkpoints(0, "target"), LAST)):
        with Checkpoints(place, 1) as checkpoints:
            checkpoints.save(states[step], {})
    folder.write_results({"run": {"selected_step": SELECTED, "versions": {"gssl_jax": "0.1.0"}}})
    return folder.path, parts, states


def call(*words):
    return export.main(["export", *map(str, words)])


@pytest.mark.parametrize("form", ["safetensors", "stablehlo"])
def test_the_chosen_teacher_is_written_and_checked(run, form, capsys):
    path, parts, states = run
    assert call(path, f"--format={form}") == 0
    said = capsys.readouterr().out
    assert f"{form} of the teacher at step 4" in said
    assert "checked on 8 images: largest relative difference of feat" in said
    assert sorted(p.name for p in (path / "export").iterdir() if form in p.name) == [
        f"backbone.{form}",
        f"backbone.{form}.json",
    ]
    teacher = states[SELECTED].method_state["teacher"]["backbone"]
    if form == "safetensors":
        with safetensors.safe_open(path / "export" / "backbone.safetensors", "numpy") as file:
            kernel = file.get_tensor("blocks.0.mlp.fc1.weight")
            assert json.loads(file.metadata()["images"])["before_the_file"] == ["contrast_normalise", "mean", "std"]
        np.testing.assert_array_equal(kernel, teacher["block_0"]["fc1"]["kernel"].T)
    else:
        x = np.random.default_rng(0).random((3, 32, 32, 1)).astype(np.float32)
        found = graphs.run_stablehlo(path / "export" / "backbone.stablehlo", x)
        wanted = graphs.encoder(parts.backbone, {"params": teacher}, "feat", True)(x)
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_the_facts_beside_the_file(run, tmp_path):
    path, parts, _ = run
    out = tmp_path / "deep" / "b"
    assert call(path, "--format=stablehlo", f"--out={out}", "--feature=patch_mean") == 0
    facts = json.loads((tmp_path / "deep" / "b.json").read_text())
    data = parts.config.data
    assert facts["feature"] == "patch_mean" and facts["source"] == {"run": "tiny", "step": 4, "which": "teacher"}
    assert facts["images"] == {
        "size": data.image_size,
        "channels": 1,
        "range": [0.0, 1.0],
        "shorter_side": parts.config.evals.data.resize,
        "resize": f"shorter side to {parts.config.evals.data.resize} pixels, then the central 32 x 32",
        "contrast_normalise": True,
        "contrast_normalisation": "of all pixels g in 0..255 of one image: clip((g - mean) / (std + 4) * 50 + 128, 0, "
        "255)",
        "mean": list(data.mean),
        "std": list(data.std),
        "inside_the_file": ["mean", "std", "contrast_normalise"],
        "before_the_file": [],
        "shape": "float32 [batch, size, size, channels]",
    }
    assert graphs.run_stablehlo(out, np.zeros((2, 32, 32, 1), np.float32)).shape == (2, parts.backbone.width)


def test_a_file_that_differs_is_not_written(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(graphs, "run_stablehlo", lambda path, images: np.ones((8, run[1].backbone.width), np.float32))
    assert call(run[0], "--format=stablehlo", f"--out={tmp_path / 'b'}") == 2
    assert "was not written: its features differ from the run's by" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_check_itself(tmp_path):
    wanted = np.array([[2.0, -4.0]], np.float32)
    assert export.checked(wanted + [[0.0, 2e-4]], wanted, tmp_path) == pytest.approx(5e-5, rel=1e-2)
    for found in (wanted + [[0.0, 8e-4]], wanted * np.nan, np.zeros((1, 3))):
        with pytest.raises(UserError, match="was not written"):
            export.checked(found, wanted, tmp_path)


def test_without_a_best_state_the_last_one_is_taken(run):
    folder = RunFolder(run[0])
    moved = folder.best(0, "target").rename(folder.path / "aside")
    try:
        step, params, state = restored.stored(folder, 0, "target", SELECTED)
        assert step == LAST and set(state) >= {"teacher"}
        wanted = run[2][LAST].params["backbone"]["cls_token"]
        np.testing.assert_array_equal(params["backbone"]["cls_token"], wanted)
        with pytest.raises(UserError, match="holds the weights of step 8 and its results are of step 4"):
            export.restore(run[0])
    finally:
        moved.rename(folder.best(0, "target"))


def test_the_state_that_the_watch_kept_is_taken_where_the_results_are_of_it(run):
    folder = RunFolder(run[0])
    moved = folder.best(0, "target").rename(continuation.best(folder.stage(0, "target")))
    try:
        assert export.restore(run[0]).step == SELECTED
        assert restored.stored(folder, 0, "target", LAST)[0] == LAST  # a stage that went on to its end
    finally:
        moved.rename(folder.best(0, "target"))


def edited(run, tmp_path, name="", change=None):
    """A run folder with one JSON file changed and no checkpoints."""
    for file in ("config.json", "results.json"):
        content = json.loads((run[0] / file).read_text())
        if file == name:
            change(content)
        (tmp_path / file).write_text(json.dumps(content))
    return tmp_path


def test_a_folder_that_is_no_finished_run(run, tmp_path, capsys):
    assert call(tmp_path, "--format=stablehlo") == 2
    assert "is no run folder (it has no config.json)" in capsys.readouterr().err
    (tmp_path / "config.json").write_text((run[0] / "config.json").read_text())
    assert call(tmp_path, "--format=stablehlo") == 2
    assert "is not finished: start it again" in capsys.readouterr().err
    edited(run, tmp_path)
    assert call(tmp_path, "--format=stablehlo") == 2
    assert "holds no checkpoint of its stage target" in capsys.readouterr().err


def test_a_configuration_of_another_version(run, tmp_path, capsys):
    edited(run, tmp_path, "config.json", lambda config: config["data"].pop("canvas"))
    assert call(tmp_path, "--format=stablehlo") == 2
    assert "cannot be used here" in (said := capsys.readouterr().err) and "canvas" in said and "version 0.1.0" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--format=onxx", "RUN"], "unknown format 'onxx'; did you mean 'onnx'"),
        (["RUN"], "unknown format ''"),
        (["--format=stablehlo"], "give the folder of one run, not 0"),
        (["--format=stablehlo", "RUN", "RUN"], "give the folder of one run, not 2"),
        (["--fromat=stablehlo", "RUN"], "unknown flag '--fromat'; did you mean '--format'"),
        (["--out", "RUN"], "--out needs a value"),
        (["RUN", "--format=stablehlo", "--feature=fest"], "unknown feature 'fest'; did you mean 'feat'"),
        (["RUN", "--format=stablehlo", "--out=RUN"], "is a folder: give a file"),
    ],
)
def test_refusals_are_one_line(run, words, said, capsys):
    assert call(*(word.replace("RUN", str(run[0])) for word in words)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and said in error


def test_debug_shows_where(run):
    with pytest.raises(UserError, match="unknown format"):
        call(run[0], "--format=x", "--debug")


@pytest.mark.parametrize("words", [["--help"], ["-h"], []])
def test_help(words, capsys):
    assert call(*words) == 0
    assert capsys.readouterr().out == export.USAGE


def test_onnx_of_a_run(run, tmp_path, capsys):
    pytest.importorskip("jax2onnx")
    runtime = pytest.importorskip("onnxruntime")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the converter and what it imports
        assert call(run[0], "--format=onnx", f"--out={tmp_path / 'b.onnx'}") == 0
    session = runtime.InferenceSession(str(tmp_path / "b.onnx"))
    assert [i.name for i in session.get_inputs()] == ["images"]
    assert "checked on 8 images" in capsys.readouterr().out
