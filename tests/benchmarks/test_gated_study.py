"""The study of gated pretexts: which cells it would run, and its table from results written by hand."""

from __future__ import annotations

import importlib.util
import json
import sys

import pytest

from gssl_jax.cli import parse
from tests.runs.recipes import CONFIGS


@pytest.fixture(scope="module")
def study():
    spec = importlib.util.spec_from_file_location("gated_study", CONFIGS.parent / "benchmarks" / "gated_study.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(folder, top1):
    folder.mkdir(parents=True)
    entries = {
        name: {"value": top1 / 2 if name == "accuracy/few" else top1} for name in ("accuracy/top1", "accuracy/few")
    }
    (folder / "results.json").write_text(json.dumps({"eval": entries}))
    (folder / "report.html").write_text("")
    rows = [{"step": s, "gate/entropy": 1.0, "gate/weight_flip": s / 100} for s in range(10, 101, 10)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_every_cell_is_a_command_that_parses(study, tmp_path):
    for setting in study.SETTINGS:
        for arm in study.ARMS:
            line = study.command(setting, arm, 3, tmp_path)
            config = parse(["main", *line[3:]]).config
            assert config.seed == config.data.streams.train.subset.seed == 3
            assert config.method.gate.mode == study.ARMS[arm]["method.gate.mode"]
            assert config.data.streams.train.subset.kind == ("shots" if setting == "few" else "long_tail")


def test_the_table_takes_differences_seed_by_seed(study, tmp_path):
    """.5, .7 against .4, .4: mean 60, half width t(.975, 1) s / sqrt 2 = 12.706 x 10 = 127.1; differences 10 and 30."""
    for seed, (own, control) in enumerate(((0.5, 0.4), (0.7, 0.4))):
        write(study.folder(tmp_path, "long_tail", "sum", seed), own)
        write(study.folder(tmp_path, "long_tail", "supervised", seed), control)
    lines = study.table("long_tail", ["supervised", "sum"], [0, 1], tmp_path).splitlines()
    assert lines[2] == "| supervised | 40.0 +- 0.0 | - | 20.0 +- 0.0 | - |"
    assert lines[3] == "| sum | 60.0 +- 127.1 | 20.0 +- 127.1 | 30.0 +- 63.5 | 10.0 +- 63.5 |"
    assert study.gate_ends("long_tail", "sum", [0, 1], tmp_path) == "weight_flip 1.000 (1.000-1.000)"


def test_a_cell_that_is_there_is_not_run_again(study, tmp_path, monkeypatch, capsys):
    write(study.folder(tmp_path, "few", "sum", 0), 0.5)
    flags = ["--arms=sum,uniform", "--settings=few", "--seeds=1", f"--workdir={tmp_path}", "--dry-run"]
    monkeypatch.setattr(sys, "argv", ["gated_study.py", *flags])
    study.main()
    printed = capsys.readouterr().out
    assert "2 cells, 1 to run, at most 2 min" in printed and "few-uniform-0" in printed and "few-sum-0" not in printed
    monkeypatch.setattr(sys, "argv", ["gated_study.py", "--arms=summ"])
    with pytest.raises(SystemExit, match="'summ' is not known: choose from supervised"):
        study.main()
