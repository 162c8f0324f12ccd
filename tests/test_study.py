"""The entry point of a study: help, mistakes, dry run, tables, and the order of things."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gssl_jax import main, study
from gssl_jax.runs import costs, studying
from gssl_jax.runs import study as cells
from tests.report.studies import filled

RECIPE = "--config=configs/study.py:tiny"


def call(*flags):
    return study.main(["study", *flags])


@pytest.fixture
def priced(monkeypatch):
    """No process is begun to count and to time: a step has a million operations and takes a tenth of a second."""

    def look(recipes, reference, path, compiled, cores):
        return {name: costs.Cost(1e6, 1, "") for name in recipes}, 0.1

    monkeypatch.setattr(costs, "look", look)
    monkeypatch.setattr(studying, "side_by_side", lambda works, *_: pytest.fail("ran") if works else 0)


def test_help_names_every_flag(capsys):
    assert call("--help") == 0
    said = capsys.readouterr().out
    assert all(f"--{name}" in said for name in ("config", "workdir", *study.FLAGS, *study.SWITCHES))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((RECIPE, "--dry-rum"), "--dry-run"),
        ((RECIPE, "--config.seed=(0,)"), "seeds"),
        ((RECIPE, "--jobs=none"), "--jobs=none"),
        ((RECIPE, "--jobs=0"), "--jobs=0"),
        ((RECIPE, "--cell=3/2"), "--cell=3/2"),
        ((RECIPE, "--cells=dino-*"), "maskcluster-sinkhorn-sinkhorn-s0"),
        (("--config=configs/study.py:photo",), "photos"),
        ((RECIPE, "--config.preset=tinny"), "tiny"),
        (("--config=configs/objectives.py:tiny",), "python -m gssl_jax.main"),
        ((RECIPE, "--config.budget.reference=ibot"), "maskcluster"),
    ],
)
def test_mistakes_are_refused_in_one_line(flags, words, tmp_path, capsys, priced):
    assert call(*flags, f"--workdir={tmp_path / 'study'}") == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


def test_a_mistake_in_what_cells_change_is_refused_before_anything_runs(tmp_path, capsys, priced):
    recipe = tmp_path / "study.py"
    text = (
        Path("configs/study.py")
        .read_text()
        .replace('presets.beside(__file__, "objectives")', "'configs/objectives.py'")
    )
    recipe.write_text(text.replace("dict(tensorboard=False)", "dict(tensorbord=False)"))
    assert call(f"--config={recipe}:tiny", f"--workdir={tmp_path / 's'}") == 2
    assert "run.tensorboard" in capsys.readouterr().err


def test_a_study_is_nothing_to_train(capsys):
    assert main.main(["main", RECIPE]) == 2
    assert "python -m gssl_jax.study" in capsys.readouterr().err


def test_a_dry_run_prints_cells_and_cost_and_runs_nothing(tmp_path, capsys, priced):
    """8 steps of .1 s and 30 s beside: 30.8 s a cell, four of them about 2 minutes."""
    assert call(RECIPE, "--dry-run", f"--workdir={tmp_path / 'study'}") == 0
    said = capsys.readouterr().out
    assert said.count("-m gssl_jax.main") == 4
    assert "4 cells, 4 to run, 1 at a time" in said
    assert "about 2 min (from 3 steps timed here" in said
    assert not (tmp_path / "study" / "cells").exists()


def test_a_share_of_the_cells_writes_no_report(tmp_path, capsys, priced):
    assert call(RECIPE, "--dry-run", "--cell=2/4", f"--workdir={tmp_path / 'study'}") == 0
    said = capsys.readouterr().out
    assert said.count("-m gssl_jax.main") == 1
    assert "maskcluster-none-none-s0" in said


def value(cell, key):
    return 0.4 + 0.1 * (cell.controls != "none/none") + 0.01 * cell.seed


def test_tables_are_of_what_is_there(tmp_path, capsys):
    config = study.parse(["study", RECIPE], study.USAGE, study.FLAGS, study.SWITCHES, "methods").config
    folder = filled(tmp_path / "study", config, value, judged={"mosaics": {"linear/auroc": 0.6}})
    assert call(RECIPE, "--tables", f"--workdir={folder.path}") == 0
    assert "| MaskCluster sinkhorn/sinkhorn; joint | **50.5 \u00b1 0.7** |" in capsys.readouterr().out
    assert folder.report.exists()
    assert call(RECIPE, "--tables", f"--workdir={tmp_path / 'none'}") == 2
    assert "holds no study yet" in capsys.readouterr().err


def test_a_study_that_is_over_prints_its_headline_and_exits_with_0(tmp_path, capsys, priced, monkeypatch):
    config = study.parse(["study", RECIPE], study.USAGE, study.FLAGS, study.SWITCHES, "methods").config
    folder = filled(tmp_path / "study", config, value, judged={"mosaics": {"linear/auroc": 0.6}})
    monkeypatch.setattr(cells.Folder, "check", lambda *_: None)
    assert call(RECIPE, f"--workdir={folder.path}") == 0
    said = capsys.readouterr().out
    assert "4 cells, 0 to run" in said
    assert "MaskCluster sinkhorn/sinkhorn has the highest mean" in said
    folder.note(cells.Cell("maskcluster", "none/none", 1), 1, 3.0, "ValueError: no", False)
    (folder.run(cells.Cell("maskcluster", "none/none", 1)) / "report.html").unlink()
    assert call(RECIPE, f"--workdir={folder.path}") == 1  # failed before, not run again
    assert "1 cells failed (--retry runs them again), 0 are left" in capsys.readouterr().out


def test_a_study_that_is_interrupted_before_its_first_cell_says_so(tmp_path, capsys, priced, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(costs, "look", interrupted)
    assert call(RECIPE, f"--workdir={tmp_path / 'study'}") == 130
    assert "the same command goes on" in capsys.readouterr().err


@pytest.mark.slow
def test_a_study_from_end_to_end(tmp_path, capsys, monkeypatch):
    """Two cells of two seeds, one share in a process array, the rest by the command without it; then nothing to run."""
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    workdir = f"--workdir={tmp_path / 'study'}"
    assert call(RECIPE, "--cell=1/4", workdir) == 0
    assert not (tmp_path / "study" / "report.html").exists()
    assert call(RECIPE, workdir) == 0
    said = capsys.readouterr().out
    assert "4 cells, 3 to run" in said
    assert "from 1 finished cell of this study" in said
    assert (tmp_path / "study" / "report.html").exists()
    assert call(RECIPE, workdir) == 0
    assert "4 cells, 0 to run" in capsys.readouterr().out
    assert "gssl_jax.main" not in sys.argv
