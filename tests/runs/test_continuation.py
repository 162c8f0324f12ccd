"""What a stage starts from as a control, and the watch over it: by hand-made scores, then on a stage from a file."""

from __future__ import annotations

import dataclasses
import io
import json
import signal
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rich.console import Console

from gssl_jax import export, presets
from gssl_jax.errors import UserError
from gssl_jax.evals.refresh import refreshed
from gssl_jax.interop.save import safetensors_bytes, timm_weights
from gssl_jax.models.build import build_backbone
from gssl_jax.models.resnet import ResNet
from gssl_jax.runs import chain, continuation, stage
from gssl_jax.runs.continuation import Watch
from gssl_jax.runs.evaluation import Judge
from gssl_jax.runs.folder import RunFolder
from gssl_jax.runs.gauges import Look, NearestNeighbours
from gssl_jax.runs.parts import assemble, stage_config
from gssl_jax.training.checkpoint import Checkpoints
from gssl_jax.training.mesh import make_mesh, replicated
from gssl_jax.training.metrics import read_rows
from tests.runs.recipes import recipe
from tests.tiny import leaves, tiny_config
from tests.toy import toy_method, toy_state

CONSOLE = Console(quiet=True)
MESH = make_mesh(1)


class Scripted:
    """In the place of a gauge: the score of step n is the n-th; a fall is .1 below the best."""

    kind, size = "knn", 10

    def __init__(self, scores):
        self.scores, self.seen = scores, []

    def look(self, variables):
        step = int(variables["step"])
        self.seen.append(step)
        return Look(self.scores[step], f"{step}")

    def fallen(self, start, best, now):
        return now.score < best.score - 0.1

    def in_words(self, start, best, best_step, now):
        return f"from {best.score} at {best_step} to {now.score}"


def toy_parts(total, **changes):
    config = recipe("tiny")
    config.continuation.update({"every": 1 / total} | changes)
    method = toy_method()._replace(backbone=lambda params, state, which: {"step": params["step"]})
    return SimpleNamespace(config=config, method=method, clock=SimpleNamespace(total=total), mesh=MESH)


def at(step):
    """A state of this step, told from others by its parameters."""
    state = toy_state(toy_method(), optax.sgd(0.1), MESH)
    return dataclasses.replace(state, step=jnp.int32(step), params={**state.params, "step": jnp.int32(step)})


def watched(folder, scores, memory=None, done=0, **changes):
    """(watch, its gauge, what it logged) on `folder`."""
    gauge, rows = Scripted(scores), []
    kept = Checkpoints(folder, 1)
    watch = Watch(toy_parts(len(scores) - 1, **changes), gauge, kept, done, lambda *row: rows.append(row), memory)
    return watch, gauge, rows


def drive(watch, first, last):
    """Boundaries until the watch stops; the step it ended at."""
    for step in range(first, last + 1):
        watch.on_boundary(step, at(step))
        if watch.stopped_step is not None:
            return step
    return last


FALLING = [0.5, 0.6, 0.45, 0.6, 0.45, 0.3, 0.2]
"""Best at step 1; one look below it at 2, which passes; then two in a row."""


def test_two_looks_in_a_row_stop_the_stage_and_the_best_comes_back(tmp_path):
    watch, _, rows = watched(tmp_path, FALLING)
    watch.begin(at(0))
    assert drive(watch, 1, 6) == 5 and watch.stopped_step == 5
    assert rows == [(step, {"watch/score": FALLING[step]}) for step in range(6)]
    back = watch.restored(at(5), replicated(MESH))
    assert leaves(back).keys() == leaves(at(1)).keys()
    for path, value in leaves(at(1)).items():
        np.testing.assert_array_equal(leaves(back)[path], value)
    found = watch.report(1)
    assert found == {"watch": "knn", "start": 0.5, "best": 0.6, "best_step": 1, "last": 0.3, "stopped_step": 5,
                     "restored_step": 1, "why": "from 0.6 at 1 to 0.3"}  # fmt: skip
    words = watch.sentence(1, "net.safetensors")
    assert "from 0.6 at 1 to 0.3, so the stage ends here with the state of step 1" in words
    assert "--config.optim.learning_rate=" in words and "--config.optim.trains=norm" in words
    assert "what you started from (net.safetensors)" in watch.sentence(0, "net.safetensors")


def test_the_untouched_start_may_be_the_best(tmp_path):
    watch, _, _ = watched(tmp_path, [0.5, 0.3, 0.3, 0.9])
    watch.begin(at(0))
    assert drive(watch, 1, 3) == 2
    assert int(watch.restored(at(2), replicated(MESH)).params["step"]) == 0
    assert watch.report(0)["restored_step"] == 0


def test_what_does_not_last_or_is_not_wanted_changes_nothing(tmp_path):
    watch, _, _ = watched(tmp_path / "dips", [0.5, 0.3, 0.45, 0.3, 0.45])
    watch.begin(at(0))
    assert drive(watch, 1, 4) == 4 and watch.stopped_step is None
    last = at(4)
    assert watch.restored(last, replicated(MESH)) is last
    found = watch.report(4)
    assert (found["stopped_step"], found["restored_step"], found["why"]) == (None, None, None)
    watch, _, _ = watched(tmp_path / "kept", [0.5, 0.3, 0.3, 0.9], restore=False)
    watch.begin(at(0))
    assert drive(watch, 1, 3) == 2 and watch.restored(last, replicated(MESH)) is last
    assert watch.report(2)["restored_step"] is None


def test_looks_are_as_far_apart_as_every_says_and_one_is_at_the_end(tmp_path):
    watch, gauge, _ = watched(tmp_path, [0.5] * 11, every=0.3)
    watch.begin(at(0))
    drive(watch, 1, 10)
    assert gauge.seen == [0, 3, 6, 9, 10]


@pytest.mark.parametrize("killed", [1, 2, 3, 4, 5])
def test_a_watch_that_goes_on_from_its_memory_ends_as_one_that_was_not_killed(tmp_path, killed):
    """The process dies at step 5 at the latest, its last checkpoint is of step `killed`; memory is JSON there."""
    straight, _, _ = watched(tmp_path / "straight", FALLING)
    straight.begin(at(0))
    drive(straight, 1, 6)
    watch, _, _ = watched(tmp_path / "killed", FALLING)
    watch.begin(at(0))
    drive(watch, 1, killed)
    memory = json.loads(json.dumps(watch.memory()))
    drive(watch, killed + 1, 4)  # steps after the checkpoint, done again below
    again, gauge, _ = watched(tmp_path / "killed", FALLING, memory, killed)
    again.begin(at(killed))
    assert gauge.seen == []  # the start is not measured twice
    if again.stopped_step is None:
        drive(again, killed + 1, 6)
    assert again.memory() == straight.memory()
    for path, value in leaves(at(1)).items():
        np.testing.assert_array_equal(leaves(again.restored(at(5), replicated(MESH)))[path], value)


def test_a_best_state_that_is_gone_is_named(tmp_path):
    watch, _, _ = watched(tmp_path / "one", [0.5, 0.3, 0.3, 0.9])
    watch.begin(at(0))
    drive(watch, 1, 3)
    moved, _, _ = watched(tmp_path / "empty", [0.5, 0.3, 0.3, 0.9], watch.memory(), 2)
    with pytest.raises(UserError, match="watched/, is gone.*--redo"):
        moved.restored(at(2), replicated(MESH))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("watch", "nn", "unknown continuation.watch 'nn'"),
        ("every", 0.0, "continuation.every=0.0: give a share above 0 and at most 1"),
        ("rank_share", 1.5, "continuation.rank_share=1.5"),
        ("margin", 1.0, "continuation.margin=1.0"),
        ("images", 7, "continuation.images=7 must be at least 8"),
        ("patience", 0, "continuation.patience=0 must be at least 1"),
    ],
)
def test_values_that_mean_nothing_are_refused(key, value, words):
    settings = presets.continuation()
    continuation.check(settings)
    settings[key] = value
    with pytest.raises(UserError, match=words):
        continuation.check(settings)


def test_the_origin_in_words():
    config = recipe("tiny")
    parts = SimpleNamespace(config=config)
    before = SimpleNamespace(stage="base")
    assert continuation.origin(parts, None) == "scratch" and continuation.origin(parts, before) == "stage base"
    config.backbone.weights = "somewhere/net.pth"
    assert continuation.origin(parts, None) == "net.pth" and continuation.origin(parts, before) == "stage base"
    config.method.hand_over = ("prototypes",)
    assert continuation.origin(parts, before) == "scratch"


def test_what_was_judged_by_other_settings_is_judged_again(tmp_path):
    """One number per judging; a start that was judged is not built again."""
    config, judged = recipe("tiny"), iter([0.25, 0.5])
    method = SimpleNamespace(backbone=lambda params, state, which: {"params": params})
    parts = SimpleNamespace(config=config, method=method, mesh=MESH)
    judge = SimpleNamespace(
        labelled=True,
        judge=lambda v: {"knn/top1": {"value": next(judged)}},
        teach=lambda v: {},
        settings=config.evals,
        _parts=parts,
    )
    said, states = io.StringIO(), []

    def first():
        states.append(SimpleNamespace(params={}, method_state={}))
        return states[-1]

    def value():
        console = Console(file=said, width=200)
        found = continuation.judged_start(tmp_path, parts, judge, first, console, "stage base")
        assert found.keys() == {"started"}
        return found["started"]["knn/top1"]["value"]

    assert (value(), value(), len(states)) == (0.25, 0.25, 1)
    config.evals.linear.max_iterations = 7
    assert (value(), value(), len(states)) == (0.5, 0.5, 2)
    assert said.getvalue().splitlines() == [f"what you start from (stage base): k-NN {n}" for n in (".250", ".500")]


def test_refreshed_statistics_are_those_of_the_evaluations_training_images():
    backbone = ResNet(image_size=8, block="basic", depths=(1, 1), widths=(4, 8), stem_width=4, mean=(0.4,), std=(0.2,))
    variables = jax.jit(backbone.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    pixels = {name: np.random.default_rng(i).integers(0, 255, (6, 8, 8, 3)).astype(np.uint8)
              for i, name in enumerate(("train", "test"))}  # fmt: skip
    batches = [{"image": pixels["train"], "valid": np.ones(6, bool)}]
    judge = SimpleNamespace(
        labelled=True,
        sets=pixels,
        judge=lambda v: v,
        batches=lambda images: batches if images is pixels["train"] else [],
    )
    found = continuation.refreshed_control(SimpleNamespace(backbone=backbone), judge, variables)
    expected = refreshed(backbone, variables, batches)
    jax.tree.map(np.testing.assert_array_equal, found["refreshed"], expected)
    bare = {"params": variables["params"]}
    assert continuation.refreshed_control(SimpleNamespace(backbone=backbone), judge, bare) == {}  # a ViT


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A file of the weights of the smallest ViT, and its variables."""
    backbone = build_backbone(tiny_config())
    variables = jax.jit(backbone.init)(jax.random.key(7), jnp.zeros((1, 12, 12, 1)))
    path = tmp_path_factory.mktemp("released") / "net.safetensors"
    path.write_bytes(safetensors_bytes(timm_weights(backbone, variables), {}))
    return path, variables


def config_of(path, **changes):
    """A stage of eight steps from the file, that looks at every step."""
    options = {"optim__duration": 8.0, "continuation__every": 0.125, "continuation__images": 400}
    c = tiny_config(**options | changes)
    c.backbone.weights = str(path)
    c.evals.lowshot.shots, c.evals.linear.max_iterations, c.evals.bootstrap.resamples = (), 5, 10
    c.evals.tsne_points, c.evals.picture_images = 10, 40
    c.run.tensorboard, c.run.checkpoint_every, c.run.log_every = False, 2, 4
    return c


def staged(config, folder, judged=True):
    """The outcome of the one stage in `folder`."""
    parts = assemble(stage_config(config, "target"))
    folder.stage(0, "target").mkdir(parents=True, exist_ok=True)
    return stage.run_stage(parts, 0, "target", folder, Judge(parts, 0), CONSOLE, judged=judged)


@pytest.fixture
def boundary(monkeypatch):
    """Registers functions (step, state) that are called last at every boundary of a stage."""
    added, whole = [], stage.train

    def train(*args, **options):
        hooks = options["hooks"]
        options["hooks"] = hooks._replace(on_boundary=[*hooks.on_boundary, *added])
        return whole(*args, **options)

    monkeypatch.setattr(stage, "train", train)
    return added


class Killed(Exception):
    """What a killed process does not raise."""


@pytest.mark.slow
def test_a_backbone_that_falls_is_stopped_restored_and_explained(released, tmp_path, boundary):
    """Weights of 1e20 after one step leave nothing. After two looks the start is back, its heads too."""
    path, variables = released
    fierce = {"optim__learning_rate": 5.0, "optim__weight_decay": 1e20, "optim__final_weight_decay": 1e20}
    config, folder, said = config_of(path, **fierce), RunFolder(tmp_path / "run"), io.StringIO()
    judged, seen = folder.stage(0, "target") / "started.json", []
    boundary.append(lambda step, state: seen.append((step, judged.is_file())))
    results = chain.run(config, folder, Console(file=said, width=400)).results
    assert seen == [(step, True) for step in (1, 2)]  # what it starts from was judged before the first step
    run, found = results["run"], results["run"]["continuation"]
    assert run["started_from"] == "net.safetensors" and (run["steps"], run["selected_step"]) == (2, 0)
    assert found == {"watch": "knn", "start": found["start"], "best": found["start"], "best_step": 0,
                     "last": found["last"], "stopped_step": 2, "restored_step": 0, "why": found["why"]}  # fmt: skip
    assert found["last"] < 0.1 < found["start"]  # 1 / 19 is chance
    assert found["why"].startswith("k-NN accuracy on 191 training images fell from .")
    words = " ".join(said.getvalue().split())
    assert "what you start from (net.safetensors): k-NN ." in words
    assert f"{found['why']}, so the stage ends here with what you started from (net.safetensors). Try" in words
    assert [row["step"] for row in read_rows(folder.metrics) if "watch/score" in row] == [0, 1, 2]
    (alarm,) = [row for row in read_rows(folder.metrics) if "ends here" in row.get("alarm", "")]
    assert alarm["step"] == 2

    parts = assemble(stage_config(config, "target"))
    by_hand = json.loads(json.dumps(Judge(parts, 0).judge({"params": variables["params"]})))
    started = {name: entry for name, entry in results["controls"]["started"].items() if entry is not None}
    assert started == by_hand and results["eval"]["knn/top1"] == by_hand["knn/top1"]
    assert "refreshed" not in results["controls"]  # a ViT has no batch norm
    exported = export.restore(folder.path)
    assert exported.step == 0
    jax.tree.map(np.testing.assert_array_equal, exported.variables["params"], variables["params"])

    boundary[:] = [lambda step, state: pytest.fail("a stage that was stopped trained on")]
    again = staged(config, folder)
    assert again.watched == found and again.controls["started"] == by_hand
    assert 0 < again.seconds <= run["seconds"]
    whole = leaves(stage.start(parts, Checkpoints(tmp_path / "none", 1), again.images, None, CONSOLE).state)
    for name, value in leaves(again.selected).items():
        np.testing.assert_array_equal(value, whole[name], err_msg=name)


@pytest.mark.slow
def test_one_that_was_killed_falls_in_the_same_way(released, tmp_path, boundary, monkeypatch):
    """Scores by step, real states: killed after the best look at step 3, which no checkpoint has seen, and again by a
    signal at the very step at which the watch stops."""
    path, _ = released
    scores = [0.5, 0.6, 0.45, 0.7, 0.7, 0.3, 0.2, 0.9, 0.9]
    monkeypatch.setattr(Watch, "_look", lambda self, state: Look(scores[int(state.step)], ""))
    monkeypatch.setattr(NearestNeighbours, "fallen", lambda self, start, best, now: now.score < best.score - 0.1)
    config, states = config_of(path), {}
    boundary.append(lambda step, state: states.update({step: leaves(state)}))
    straight = staged(config, RunFolder(tmp_path / "straight"))
    assert straight.watched["stopped_step"] == max(states) == 6 and straight.watched["restored_step"] == 3
    for name, value in leaves(straight.selected).items():
        np.testing.assert_array_equal(value, states[3][name], err_msg=name)

    def die(step, state):
        if step == 3:
            raise Killed

    folder = RunFolder(tmp_path / "killed")
    boundary[:] = [die]
    with pytest.raises(Killed):
        staged(config, folder)
    (folder.stage(0, "target") / "started.json").unlink()
    boundary[:] = [lambda step, state: step < 6 or signal.raise_signal(signal.SIGINT)]
    assert staged(config, folder).signal == signal.SIGINT
    assert (folder.stage(0, "target") / "started.json").is_file()
    boundary[:] = [lambda step, state: pytest.fail("a stage that was stopped trained on")]
    again = staged(config, folder)
    assert again.watched == straight.watched and again.controls == straight.controls and not again.signal
    for one, other in ((straight.state, again.state), (straight.selected, again.selected)):
        for name, value in leaves(one).items():
            np.testing.assert_array_equal(leaves(other)[name], value, err_msg=name)
    rows = read_rows(folder.metrics)
    assert [row["step"] for row in rows if "watch/score" in row] == list(range(7))
    assert [row["step"] for row in rows if "alarm" in row] == [6]


@pytest.mark.slow
def test_looking_changes_nothing(released, tmp_path):
    path, _ = released
    outcomes = {
        watch: staged(config_of(path, continuation__watch=watch), RunFolder(tmp_path / watch), judged=False)
        for watch in ("auto", "health", "off")
    }
    assert [outcomes[watch].watched and outcomes[watch].watched["watch"] for watch in outcomes] == [
        "knn",
        "health",
        None,
    ]
    assert outcomes["auto"].watched["stopped_step"] is None and outcomes["auto"].watched["why"] is None
    expected = leaves(outcomes["off"].selected)
    for watch in ("auto", "health"):
        assert int(outcomes[watch].selected.step) == 8
        for name, value in leaves(outcomes[watch].selected).items():
            np.testing.assert_array_equal(value, expected[name], err_msg=f"{watch} {name}")


def test_heads_warm_up_on_a_backbone_from_a_file_alone(released):
    path, _ = released
    config = stage_config(config_of(path, optim__duration=40.0), "target")
    assert config.optim.freeze_backbone == -1.0
    assert assemble(config).config.optim.freeze_backbone == 2.0
    config.backbone.weights = ""
    assert assemble(config).config.optim.freeze_backbone == 0.0
