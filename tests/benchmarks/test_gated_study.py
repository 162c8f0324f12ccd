"""The study of gated pretexts: which cells it would run, and its table from results written by hand."""

from __future__ import annotations

import json
import sys

import pytest

from gssl_jax.cli import parse
from tests.benchmarks.scripts import benchmark


@pytest.fixture(scope="module")
def study():
    return benchmark("gated_study")


def write(folder, top1):
    folder.mkdir(parents=True)
    entries = {
        name: {"value": top1 / 2 if name == "accuracy/tail" else top1} for name in ("accuracy/top1", "accuracy/tail")
    }
    (folder / "results.json").write_text(json.dumps({"eval": entries}))
    (folder / "report.html").write_text("")
    rows = [{"step": s, "gate/entropy": 1.0, "gate/weight_flip": s / 100} for s in range(10, 101, 10)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_every_cell_is_a_command_that_parses(study, tmp_path):
    kinds = {"long_tail": "long_tail", "few": "shots", "adversarial": "all", "semi": "labels"}
    for setting in study.SETTINGS:
        for arm in study.ARMS:
            line = study.command(setting, arm, 3, tmp_path)
            config = parse(["main", *line[2:]]).config
            stream = next(iter(config.data.streams.values()))
            assert config.seed == stream.subset.seed == 3 and stream.subset.kind == kinds[setting]
            assert config.method.gate.mode == study.ARMS[arm]["method.gate.mode"]
            if arm == study.CONTROL and setting == "semi":
                assert (tuple(config.method.semi.transformed), tuple(config.method.semi.recognised)) == ((), ())


def two_seeds(study, workdir):
    """.5 and .7 against .4 and .4."""
    for seed, (own, control) in enumerate(((0.5, 0.4), (0.7, 0.4))):
        write(study.folder(workdir, "long_tail", "sum", seed), own)
        write(study.folder(workdir, "long_tail", "supervised", seed), control)


def test_the_tables_take_differences_seed_by_seed(study, tmp_path):
    """Mean 60, half width t(.975, 1) s / sqrt 2 = 12.706 x 10 = 127.1; differences 10 and 30: t = 2 of one degree of
    freedom, p = 1 - 2 atan(2) / pi = .295."""
    two_seeds(study, tmp_path)
    lines = study.table("long_tail", ["supervised", "sum"], [0, 1], tmp_path).splitlines()
    assert lines[2] == "| supervised | 40.0 +- 0.0 | 20.0 +- 0.0 |"
    assert lines[3] == "| sum | 60.0 +- 127.1 | 30.0 +- 63.5 |"
    lines = study.contrasts("long_tail", "accuracy/top1", ["supervised", "sum"], [0, 1], tmp_path).splitlines()
    assert lines[2:] == ["| sum - supervised | 20.0 +- 127.1 | 0.295 | 0.295 |"]
    assert study.gate_ends("long_tail", "sum", [0, 1], tmp_path) == "weight_flip 1.000 (1.000-1.000)"


def test_the_figure_is_drawn_from_what_is_there(study, tmp_path):
    two_seeds(study, tmp_path)
    study.draw(["long_tail"], ["supervised", "sum", "learned"], [0, 1], tmp_path, tmp_path / "docs" / "plot.png")
    assert (tmp_path / "docs" / "plot.png").stat().st_size > 5000


def test_a_cell_that_is_there_is_not_run_again(study, tmp_path, monkeypatch, capsys):
    write(study.folder(tmp_path, "few", "sum", 0), 0.5)
    flags = ["--arms=sum,uniform", "--settings=few", "--seeds=1", f"--workdir={tmp_path}", "--dry-run"]
    monkeypatch.setattr(sys, "argv", ["gated_study.py", *flags])
    study.main()
    printed = capsys.readouterr().out
    assert (
        "2 cells, 1 to run, 2 at a time: about 1 min" in printed
        and "few-uniform-0" in printed
        and "few-sum-0" not in printed
    )
    monkeypatch.setattr(sys, "argv", ["gated_study.py", "--arms=summ"])
    with pytest.raises(SystemExit, match="'summ' is not known: choose from supervised"):
        study.main()
