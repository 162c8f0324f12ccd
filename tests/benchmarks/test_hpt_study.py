"""The study of HPT: its cells, and what it makes of scores written by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gssl_jax.cli import parse
from gssl_jax.runs import arms
from tests.benchmarks.scripts import benchmark


@pytest.fixture(scope="module")
def study():
    return benchmark("hpt_study")


def write(study, workdir, one, seed, top1):
    folder = study.folder(workdir, one, seed)
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps({"eval": {study.MEASURE: {"value": top1}}}))
    (folder / "report.html").write_text("")


def test_cells_are_few_and_each_is_there_once(study):
    found = study.settings(study.PARTS)
    # 2 bases, 1 refreshed, 3 arms x 5 lengths, base_source_target; HPT at 100 and Target at 200 are there already, with
    # four sets each; three arms with two shares each
    assert len(found) == len(set(found)) == 2 + 1 + 15 + 1 + 8 + 6
    assert study.settings(["sequential"])[:2] == study.settings(["data"])[:2]  # what trains the shared stages


def test_every_cell_is_a_command_that_parses_and_has_its_arm(study, tmp_path):
    for one in study.settings(study.PARTS):
        cell = study.cell(tmp_path, one, 2)
        options = parse(["arms", *cell.command[2:]], "", ("arms", "shared"))
        arm = arms.chosen(options.config, options.more["arms"].split(","))[one.arm]
        assert cell.folder == options.workdir / one.arm and arm.seed == 2
        assert arm.continuation.watch == "off"
        assert arm.optim.duration == (one.steps or study.MIDDLE)
        assert arm.data.streams.train.share == one.percent / 100
        assert cell.expected < 300


def curves(study, workdir):
    """Target reaches .5 at its last length, HPT has it from 50 steps on, HPT-BN never."""
    for seed in range(2):
        for n, target, hpt in zip(study.LENGTHS, (0.1, 0.2, 0.3, 0.4, 0.5), (0.4, 0.5, 0.6, 0.6, 0.6), strict=True):
            for arm, value in (("target", target), ("hpt", hpt + 0.01 * seed), ("hpt_bn", 0.45)):
                write(study, workdir, study.Setting(arm, n), seed, value)


def test_the_speed_up_is_the_ratio_of_steps(study, tmp_path):
    curves(study, tmp_path)
    target, hpt, norm = (study.curve(tmp_path, arm, [0, 1, 2]) for arm in ("target", "hpt", "hpt_bn"))
    assert target.shape == (2, 5)
    assert study.speed_up(target, hpt) == (8.0, 8.0, 8.0)  # 400 steps against 50, whichever seeds are drawn
    assert study.speed_up(target, norm) == (0.0, 0.0, 0.0)  # not reached
    assert study.first_reached(np.array([0.4, 0.5, 0.6, 0.6, 0.6]), 0.45) == 50.0


def test_differences_are_paired_and_judged_by_their_interval(study, tmp_path):
    one, other = study.Setting("hpt", 200), study.Setting("target", 200)
    for seed, (here, there) in enumerate(((0.5, 0.4), (0.7, 0.6), (0.6, 0.5))):
        write(study, tmp_path, one, seed, here)
        write(study, tmp_path, other, seed, there)
    values = study.paired(tmp_path, one, other, [0, 1, 2, 3])
    assert values == pytest.approx([0.1, 0.1, 0.1])
    assert study.judged(values) == "reproduced" and study.judged([-v for v in values]) == "the opposite"
    assert study.judged([0.1, -0.1, 0.2]) == "not to be told apart" and study.judged([0.1]) == "too few seeds"


def test_tables_and_figure_are_made_of_what_is_there(study, tmp_path, capsys):
    curves(study, tmp_path)
    for seed in range(2):
        write(study, tmp_path, study.Setting("base", 0), seed, 0.3)
        write(study, tmp_path, study.Setting("base_source_target", study.MIDDLE), seed, 0.9)
        write(study, tmp_path, study.Setting("hpt", study.SHORT, "crop"), seed, 0.5)
    for part in (study.convergence, study.sequential, study.augmentation, study.data):
        part(tmp_path, [0, 1])
    printed = capsys.readouterr().out
    assert "| target | 10.0 +- 0.0 | 20.0 +- 0.0 |" in printed and "base: 30.0 +- 0.0" in printed
    assert "speed-up of hpt: 8 (8 to 8" in printed
    assert "base_source_target above base: 60.0 +- 0.0 points: reproduced" in printed
    assert "| crop | -10.5 +- 6.4 | - | - | too few seeds |" in printed  # .5 - .6 and .5 - .61; 12.706 x .005 = .0635
    study.draw(tmp_path, [0, 1], tmp_path / "docs" / "plot.png")
    assert (tmp_path / "docs" / "plot.png").stat().st_size > 5000
