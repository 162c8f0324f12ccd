"""Cells of a study: which are run, when it stops, and what is said of their differences."""

from __future__ import annotations

import json

import pytest

from tests.benchmarks.scripts import benchmark


@pytest.fixture(scope="module")
def cells():
    return benchmark("cells")


def over(folder, value):
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps({"value": value}))
    (folder / "report.html").write_text("")


def test_a_study_stops_where_its_limit_will_not_hold(cells, tmp_path, monkeypatch, capsys):
    """Three cells of at least a hundredth of a second against a limit of no time at all: two of them are not begun."""
    monkeypatch.setattr(cells, "LIMIT", 0.0)
    slow = [cells.Cell(("-c", "import time; time.sleep(0.01)"), tmp_path / f"few-{seed}", 1.0) for seed in range(3)]
    with pytest.raises(SystemExit, match="more than 0 min"):
        cells.run(slow, tmp_path / "compiled", 1)
    assert capsys.readouterr().out.count("left") == 1
    with pytest.raises(SystemExit, match="few-0 failed with 1:\nbroken"):
        cells.run([cells.Cell(("-c", "raise SystemExit('broken')"), tmp_path / "few-0", 1.0)], tmp_path / "compiled", 1)


def test_what_an_earlier_round_took_counts(cells, tmp_path, monkeypatch):
    monkeypatch.setattr(cells, "LIMIT", 1.0)
    quick = [cells.Cell(("-c", ""), tmp_path / f"few-{seed}", 1.0) for seed in range(2)]
    assert 2.0 > cells.run(quick, tmp_path / "compiled", 1) > 0.0
    with pytest.raises(SystemExit, match="more than 1 min"):
        cells.run(quick, tmp_path / "compiled", 1, before=1.0)


def test_what_is_over_is_not_run_again(cells, tmp_path, capsys):
    over(tmp_path / "a", 0.5)
    every = [
        cells.Cell(("-c", "raise SystemExit(1)"), tmp_path / "a", 90.0),
        cells.Cell(("-c", ""), tmp_path / "b", 60.0),
    ]
    assert [cell.folder.name for cell in cells.missing(every)] == ["b"]
    assert cells.minutes(every, 2) == 1.25  # (90 + 60) / 2 seconds
    cells.run(every, tmp_path / "compiled", 1)
    assert "1/1 b" in capsys.readouterr().out
    assert cells.by_seed({0: tmp_path / "a", 1: tmp_path / "b"}, lambda results: results["value"]) == {0: 0.5}


def test_a_spread_is_that_of_student(cells):
    """Mean 60, half width t(.975, 1) s / sqrt 2 = 12.706 x 10 = 127.1."""
    assert cells.spread([0.5, 0.7]) == "60.0 +- 127.1"
    assert (cells.spread([0.5]), cells.spread([])) == ("50.0", "-")
