"""A chain of two stages: what is handed over, one killed in each of them and resumed, an earlier one done anew."""

from __future__ import annotations

import json
import os
import signal

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from rich.console import Console

from gssl_jax.runs import chain, stage
from gssl_jax.runs.folder import RunFolder
from gssl_jax.runs.handover import hand_over
from gssl_jax.training.metrics import read_rows
from tests.runs.recipes import recipe

CONSOLE = Console(quiet=True)
STEPS = {"source": 4, "target": 3}


def config():
    """The gated tiny recipe on patches of photographs twice, without pretexts: batch statistics are handed on too."""
    c = recipe("tiny", "gated_cifar_lt")
    c.backbone.name = "resnet14"
    c.method.pretexts.names = ()
    c.method.gate.mode = "none"
    c.method.hand_over = ("backbone", "heads")
    c.stages = tuple(STEPS)
    c.stage = ConfigDict({name: {"optim": {"duration": float(steps)}} for name, steps in STEPS.items()})
    c.optim.milestones, c.optim.factors = (), ()
    c.data.image_size = c.data.canvas = c.method.augment.train.size = c.evals.data.resize = 16
    c.data.validation.per_class = 0
    c.evals.tsne_points, c.evals.bootstrap.resamples, c.evals.picture_images = 10, 10, 20
    c.run.checkpoint_every = c.run.log_every = c.run.health_every = 1
    return c


def arrays(outcome):
    state = jax.tree.map(np.asarray, (outcome.state.params, outcome.state.method_state, outcome.state.opt_state))
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state)}


@pytest.fixture
def watched(monkeypatch):
    """The outcomes of stages by name, and what was handed to each."""
    outcomes, handed, real = {}, {}, stage.run_stage

    def run_stage(parts, number, name, folder, judge, console, given=None, **options):
        handed[name] = given
        outcomes[name] = real(parts, number, name, folder, judge, console, given, **options)
        return outcomes[name]

    monkeypatch.setattr(chain, "run_stage", run_stage)
    return outcomes, handed


@pytest.mark.slow
def test_a_chain_killed_in_each_stage_ends_as_one_that_was_not(tmp_path, watched, monkeypatch):
    outcomes, handed = watched
    folder = RunFolder(tmp_path / "straight")
    assert isinstance(chain.run(config(), folder, CONSOLE), chain.Finished)
    straight = {name: arrays(outcome) for name, outcome in outcomes.items()}
    results, places = folder.read_results(), [folder.stage(k, name) for k, name in enumerate(STEPS)]
    assert results["run"]["started_from"] == outcomes["target"].origin == "stage source"
    assert outcomes["source"].origin == "scratch" and outcomes["source"].watched is None
    assert results["run"]["continuation"]["watch"] == "knn" and outcomes["source"].controls == {}
    assert [(place / "started.json").is_file() for place in places] == [False, True]
    values = {name: entries["knn/top1"]["value"] for name, entries in results["controls"].items()}
    assert values.keys() == {"untrained", "pixels", "started", "refreshed"} and None not in values.values()
    end, given = outcomes["source"], handed["target"]
    assert handed["source"] is None and given.stage == "source"
    for name in ("backbone", "heads"):
        jax.tree.map(np.testing.assert_array_equal, given.params[name], end.state.params[name])
    jax.tree.map(np.testing.assert_array_equal, given.variables["batch_stats"], end.state.method_state["batch_stats"])
    fresh = hand_over(end.state, given, ("backbone",))
    jax.tree.map(np.testing.assert_array_equal, fresh.params["backbone"], given.variables["params"])

    killed = RunFolder(tmp_path / "killed")
    real = stage.Saver.on_boundary
    for name, at in (("source", 2), ("target", 1)):
        outcomes.clear()

        def stopping(self, step, state, name=name, at=at):
            real(self, step, state)
            if step == at and name == ("target" if "source" in outcomes else "source"):
                os.kill(os.getpid(), signal.SIGINT)

        monkeypatch.setattr(stage.Saver, "on_boundary", stopping)
        assert isinstance(chain.run(config(), killed, CONSOLE), chain.Interrupted)
        assert list(outcomes)[-1] == name
    monkeypatch.setattr(stage.Saver, "on_boundary", real)
    assert isinstance(chain.run(config(), killed, CONSOLE), chain.Finished)
    for name, expected in straight.items():
        found = arrays(outcomes[name])
        assert found.keys() == expected.keys()
        for path, value in expected.items():
            np.testing.assert_array_equal(found[path], value, err_msg=f"{name} {path}")
    steps = [(row["stage"], row["step"]) for row in read_rows(killed.metrics) if "train/loss" in row]
    assert steps == [(name, step) for name, total in STEPS.items() for step in range(1, total + 1)]

    changed = config()
    changed.stage.target.optim.duration = 2.0
    killed.redo("target")
    outcomes.clear()
    assert isinstance(chain.run(changed, killed, CONSOLE), chain.Finished)
    for path, value in straight["source"].items():
        np.testing.assert_array_equal(arrays(outcomes["source"])[path], value)
    assert int(outcomes["target"].state.step) == 2 and (tmp_path / "killed" / "stale-1" / "1-target").is_dir()
    assert json.loads(killed.results.read_text())["run"]["steps"] == 2


@pytest.mark.slow
def test_moco_killed_in_its_second_stage_ends_as_one_that_was_not(tmp_path, watched, monkeypatch):
    """Queue, place in it and batch statistics of the keys are part of the state."""
    outcomes, _ = watched

    def moco():
        c = recipe("tiny", "hpt_moco")
        c.stages = ("base", "target")
        c.stage.base.optim.duration, c.optim.duration = 2.0, 4.0
        c.evals.lowshot.shots, c.evals.tsne_points, c.evals.bootstrap.resamples = (), 10, 10
        c.run.checkpoint_every = c.run.log_every = 1
        return c

    assert isinstance(chain.run(moco(), RunFolder(tmp_path / "straight"), CONSOLE), chain.Finished)
    straight, killed = arrays(outcomes["target"]), RunFolder(tmp_path / "killed")
    real = stage.Saver.on_boundary

    def stopping(self, step, state):
        real(self, step, state)
        if step == 3:  # only the target has so many
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(stage.Saver, "on_boundary", stopping)
    assert chain.run(moco(), killed, CONSOLE) == chain.Interrupted(signal.SIGINT, 3)
    monkeypatch.setattr(stage.Saver, "on_boundary", real)
    assert isinstance(chain.run(moco(), killed, CONSOLE), chain.Finished)
    found = arrays(outcomes["target"])
    assert any("queue" in path for path in found) and found.keys() == straight.keys()
    for path, value in straight.items():
        np.testing.assert_array_equal(found[path], value, err_msg=path)
