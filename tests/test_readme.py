"""The README's commands: what they name is there, and every recipe they start can be read."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from gssl_jax import evaluate, study
from gssl_jax.cli import parse
from gssl_jax.protocols import evaluation
from gssl_jax.runs import arms, judging
from gssl_jax.runs.study import cells
from tests.runs.recipes import module

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text()
COMMANDS = [line.strip().partition("  #")[0].strip() for line in TEXT.splitlines() if line.startswith("    ")]
RECIPES = [f"configs/maskcluster_vit.py{preset}" for preset in re.findall(r"`\.\.\.(:[^`]+)`", TEXT)]
RECIPES += re.findall(r"`(configs/\w+\.py:[^`]+)`", TEXT)


def test_there_are_commands():
    assert {"make demo", "make test"} <= set(COMMANDS) and len(RECIPES) >= 7


@pytest.mark.parametrize("command", [line for line in COMMANDS if line.startswith("make ")])
def test_make_knows_its_targets(command):
    subprocess.run([*command.split(), "--dry-run"], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize("command", [line for line in COMMANDS if "gssl_jax.main" in line])
def test_a_run_that_is_written_out_can_be_parsed(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert parse(["main", *command.split("gssl_jax.main", 1)[1].split()]) is not None


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_preset_of_a_table_can_be_parsed(recipe, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert parse(["main", f"--config={recipe}"]) is not None


@pytest.mark.parametrize("command", [line for line in COMMANDS if "gssl_jax.arms" in line])
def test_arms_that_are_written_out_are_there(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    options = parse(["arms", *command.split("gssl_jax.arms", 1)[1].split()], more=("arms", "shared"))
    assert len(arms.chosen(options.config, ())) == 7


@pytest.mark.parametrize("command", [line for line in COMMANDS if "gssl_jax.study" in line])
def test_a_study_that_is_written_out_has_cells(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    options = parse(
        ["study", *command.split("gssl_jax.study", 1)[1].split()], "", study.FLAGS, study.SWITCHES, "methods"
    )
    assert options is not None and len(cells(options.config)) > 50


def test_the_methods_it_names_are_those_of_the_recipe():
    written = TEXT.partition("`method=` is ")[2].partition("on the same network")[0]
    assert set(re.findall(r"`(\w+)`", written)) == set(module("objectives").METHODS)


@pytest.mark.parametrize("command", [line for line in COMMANDS if "gssl_jax.evaluate" in line])
def test_a_judging_that_is_written_out_can_be_read(command):
    options = evaluate.read(["evaluate", *shlex.split(command.split("gssl_jax.evaluate", 1)[1])])
    assert options is not None
    changed = evaluate.changed(evaluation("photos", "", "train", "test", 32), options.changes)
    judging.chosen(options.values["evals"].split(","), changed)


@pytest.mark.parametrize("path", sorted(set(re.findall(r"[\w/]+/[\w/]+\.(?:py|sh|ipynb|md)", TEXT))))
def test_files_it_names_are_there(path):
    assert (ROOT / path).exists()
