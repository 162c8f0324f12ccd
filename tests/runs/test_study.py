"""The cells of a study, its folder, equal compute, and the estimate, all without training."""

from __future__ import annotations

import json
import signal

import pytest
from ml_collections import ConfigDict
from rich.console import Console

from gssl_jax.cli import alone
from gssl_jax.errors import UserError
from gssl_jax.runs import costs, study, studying
from gssl_jax.runs.cells import Ended
from gssl_jax.runs.study import Cell, Folder


def config(preset="tiny", **changes):
    return alone("study", f"configs/study.py:{preset}", *(f"--config.{key}={value}" for key, value in changes.items()))


def finish(folder, cell, settings=None, training=60.0):
    """A run with all that says it is over."""
    path = folder.run(cell)
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(settings or {}))
    (path / "results.json").write_text(json.dumps({"run": {"seconds": training}}))
    (path / "report.html").write_text("")


def plan_of(cells, folder, method=60.0, jobs=1, flops=1e9):
    """A plan for cells of a minute each."""
    names = {cell.method for cell in cells}
    todo = study.waiting(folder, cells, [], retry=False)
    prices = costs.Prices(1e9, 0.0, dict.fromkeys(names, method), "stub")
    cost = {name: costs.Cost(flops, 1, "") for name in names}
    return studying.Plan(list(cells), todo, dict.fromkeys(names, 60.0), cost, prices, jobs)


@pytest.fixture
def started(monkeypatch):
    """Cells that would have been run, by name; `codes` gives another exit code."""
    begun, codes = [], {}

    def side_by_side(works, jobs, compiled, ended, may_begin=lambda work: True, cwd=None):
        for work in works:
            if may_begin(work):
                begun.append(work.name)
                code = codes.get(work.name, 0)
                ended(work, Ended(code, 30.0, "Traceback\n  ...\nValueError: no\n\n"))
                if code in (-signal.SIGINT, 130):
                    return signal.SIGINT
        return 0

    monkeypatch.setattr(studying, "side_by_side", side_by_side)
    return begun, codes


def quiet():
    return Console(quiet=True)


def test_the_grid_has_every_method_with_its_controls_seeds_outermost():
    found = study.cells(config())
    assert [cell.name for cell in found] == [
        "maskcluster-sinkhorn-sinkhorn-s0",
        "maskcluster-none-none-s0",
        "maskcluster-sinkhorn-sinkhorn-s1",
        "maskcluster-none-none-s1",
    ]


def test_the_default_study_is_what_the_question_asks():
    """Nine methods once, MaskCluster with 3 x 3 pairs and none/none, three seeds: 3 x (9 + 10)."""
    found = study.cells(config("photos"))
    assert len(found) == len(set(found)) == 57
    assert {cell.method for cell in found if cell.controls == ""} == {
        "simclr",
        "moco_v3",
        "mae",
        "simmim",
        "supervised",
    }
    assert len([cell for cell in study.cells(config("full")) if cell.method in ("ibot", "dino")]) == 5 * (16 + 4)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("seeds", "()", "give at least one"),
        ("budget.kind", "flop", "flops"),
        ("budget.reference", "maskclustr", "maskcluster"),
        ("report.method", "ibto", "maskcluster"),
        ("methods.maskcluster.controls", "('sinkhorn/sinkhrn',)", "sinkhorn"),
        ("methods.maskcluster.controls", "('memax/memax','memax/memax')", "each once"),
    ],
)
def test_what_makes_no_study_is_refused(key, value, words):
    with pytest.raises(UserError, match=words):
        study.cells(config(**{key: value}))


def test_cells_are_chosen_by_pattern_and_share():
    every = study.cells(config("photos"))
    assert [c.name for c in study.chosen(every, "mae-*, dino-*-s1", "")] == [
        "mae-s0", "dino-centring-s1", "mae-s1", "mae-s2",
    ]  # fmt: skip
    shares = [study.chosen(every, "", f"{k}/4") for k in range(1, 5)]
    assert sorted(cell for share in shares for cell in share) == sorted(every)
    assert {len(share) for share in shares} == {14, 15}
    for pattern, share, words in (("mea-*", "", "fits no cell"), ("", "5/4", "no share"), ("", "0/4", "no share")):
        with pytest.raises(UserError, match=words):
            study.chosen(every, pattern, share)


def test_a_cell_is_a_run_of_the_recipe_with_its_controls_and_seed(tmp_path):
    folder = Folder(tmp_path)
    c = config(**{"budget.duration": "8.0"})
    with c.unlocked():
        c.judged.mosaics = "--data=mosaics --evals=knn,linear"
    train, judge = study.commands(c, Cell("maskcluster", "sinkhorn/memax", 3), 8.0, folder)
    run = tmp_path / "cells" / "maskcluster-sinkhorn-memax-s3"
    assert train[:2] == ("-m", "gssl_jax.main")
    assert train[2].endswith("objectives.py:tiny,method=maskcluster")
    assert train[3] == f"--workdir={run}"
    assert set(train[4:]) == {
        "--config.run.tensorboard=False", "--config.method.collapse.cls=sinkhorn",
        "--config.method.collapse.patch=memax", "--config.seed=3", "--config.optim.duration=8.0",
    }  # fmt: skip
    out = tmp_path / "judged" / run.name / "mosaics"
    assert judge == ("-m", "gssl_jax.evaluate", f"--backbone={run}", f"--out={out}", "--data=mosaics",
                     "--evals=knn,linear")  # fmt: skip


def test_a_method_without_levels_gets_no_control_and_one_level_is_the_class():
    c = config()
    assert not [f for f in study.overrides(c, Cell("mae", "", 0), None) if "collapse" in f or "duration" in f]
    flags = study.overrides(c, Cell("dino", "centring", 0), None)
    assert [f for f in flags if "collapse" in f] == ["--config.method.collapse.cls=centring"]


def test_what_one_method_changes_comes_after_what_all_change():
    c = config()
    with c.unlocked():
        c.cell.optim = ConfigDict(dict(learning_rate=0.5, warmup=2.0))
        c.cell_of.dino = ConfigDict(dict(optim=dict(learning_rate=0.25)))
    rates = {name: {f for f in study.overrides(c, Cell(name, "", 0), None) if "optim" in f} for name in ("dino", "mae")}
    assert rates == {
        "dino": {"--config.optim.learning_rate=0.25", "--config.optim.warmup=2.0"},
        "mae": {"--config.optim.learning_rate=0.5", "--config.optim.warmup=2.0"},
    }


def test_a_change_to_a_method_that_is_not_studied_is_refused():
    c = config()
    with c.unlocked():
        c.cell_of.maskclustr = ConfigDict(dict(seed=1))
    with pytest.raises(UserError, match="cell_of.*maskcluster"):
        study.cells(c)


def test_equal_compute_by_hand():
    """100 steps of 6 operations are 600: 150 of 4, 86 of 7 (85.7), and never none."""
    assert study.equal_steps(100, 6.0, 4.0) == 150
    assert study.equal_steps(100, 6.0, 7.0) == 86
    assert study.equal_steps(1, 1.0, 100.0) == 1


def test_durations_are_in_the_units_of_each_recipe():
    """The reference trains 2 epochs of 50 steps at 6 operations; a method in steps gets 150 of 4, one of 100 steps an
    epoch 0.5 of them with 12 operations; what could not be counted has no length."""
    c = config(**{"budget.duration": "2.0"})
    with c.unlocked():
        c.methods = {name: c.methods.maskcluster for name in ("maskcluster", "a", "b", "c")}
    found = {
        "maskcluster": costs.Cost(6.0, 50, ""),
        "a": costs.Cost(4.0, 1, ""),
        "b": costs.Cost(12.0, 100, ""),
        "c": costs.Cost(0.0, 1, "", "broken"),
    }
    recipe = alone("x", "configs/objectives.py:tiny")
    assert study.durations(c, found, recipe) == {"maskcluster": 2.0, "a": 150.0, "b": 0.5, "c": None}
    some = {name: found[name] for name in ("b", "maskcluster")}  # as with --cells
    assert study.durations(c, some, recipe) == {"maskcluster": 2.0, "b": 0.5}
    c.budget.kind = "steps"
    assert set(study.durations(c, found, recipe).values()) == {2.0}
    c.budget.duration = 0.0
    assert study.durations(c, found, recipe)["a"] == recipe.optim.duration


def test_finished_cells_are_not_run_again(tmp_path, started):
    folder, c = Folder(tmp_path), config()
    every = study.cells(c)
    finish(folder, every[0])
    ended = studying.run(c, plan_of(every, folder), folder, quiet())
    assert started[0] == [cell.name for cell in every[1:]]
    assert ended == studying.Outcome(0, [], [])


def test_a_failed_cell_is_written_down_and_the_others_go_on(tmp_path, started):
    folder, c = Folder(tmp_path), config()
    every = study.cells(c)
    started[1][every[1].name] = 1
    ended = studying.run(c, plan_of(every, folder), folder, quiet())
    assert (len(started[0]), ended.failed) == (4, [every[1].name])
    entry = folder.entry(every[1])
    assert (entry["state"], entry["code"], entry["reason"]) == ("failed", 1, "ValueError: no")
    assert folder.state(every[1], []) == "failed"
    assert every[1] not in study.waiting(folder, every, [], retry=False)
    assert every[1] in study.waiting(folder, every, [], retry=True)


def test_an_interrupted_cell_goes_on_and_its_seconds_add_up(tmp_path, started):
    folder, c = Folder(tmp_path), config()
    every = study.cells(c)
    started[1][every[0].name] = 130
    ended = studying.run(c, plan_of(every, folder), folder, quiet())
    assert (ended.signal, ended.left) == (signal.SIGINT, [cell.name for cell in every[1:]])
    assert study.waiting(folder, every, [], retry=False) == every
    started[1].clear()
    studying.run(c, plan_of(every, folder), folder, quiet())
    assert folder.entry(every[0])["seconds"] == 60.0  # 30 of each start


def test_no_cell_is_begun_that_would_end_after_the_limit(tmp_path, started):
    """Cells of a minute and a limit of half of one."""
    folder, c = Folder(tmp_path), config(limit=0.5)
    every = study.cells(c)
    assert studying.run(c, plan_of(every, folder), folder, quiet()).left == [cell.name for cell in every]
    assert started[0] == []


def test_an_estimate_above_the_limit_is_refused(tmp_path):
    """Four cells of a minute, one at a time: 4 min; two at a time: 2."""
    folder, c = Folder(tmp_path), config(limit=3.0)
    every = study.cells(c)
    with pytest.raises(UserError, match="about 4 min, more than limit=3"):
        studying.check_limit(c, plan_of(every, folder))
    studying.check_limit(c, plan_of(every, folder, jobs=2))


def test_a_cell_that_another_process_is_at_is_left_to_it(tmp_path, started):
    folder, c = Folder(tmp_path), config()
    every = study.cells(c)
    with Folder(tmp_path).held(every[2]) as mine:
        assert mine
        ended = studying.run(c, plan_of(every, folder), folder, quiet())
    assert ended.left == [every[2].name]


def test_a_cell_is_over_when_it_is_judged_too(tmp_path):
    folder, cell = Folder(tmp_path), Cell("mae", "", 0)
    finish(folder, cell)
    assert (folder.state(cell, []), folder.state(cell, ["mosaics"])) == ("finished", "missing")
    folder.judged(cell, "mosaics").mkdir(parents=True)
    (folder.judged(cell, "mosaics") / "results.json").write_text("{}")
    assert folder.state(cell, ["mosaics"]) == "finished"


def test_a_cell_that_was_trained_by_other_settings_is_refused(tmp_path):
    folder, cell, c = Folder(tmp_path), Cell("maskcluster", "", 0), config()
    finish(folder, cell, {"seed": 0, "optim": {"duration": 8.0}, "run": {"log_every": 1}})
    wanted = type(c)({"seed": 0, "optim": {"duration": 8.0}, "run": {"log_every": 5}})
    folder.check(cell, wanted)
    wanted.optim.duration = 9.0
    with pytest.raises(UserError, match=r"optim.duration: 8.0 -> 9.0"):
        folder.check(cell, wanted)
    folder.check(Cell("maskcluster", "", 1), wanted)  # not run yet


def test_a_folder_of_something_else_is_no_study(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="not a study's folder"):
        Folder(tmp_path).claim(config())


def test_the_estimate_is_of_finished_cells_where_there_are_any():
    """200 operations in 10 s and 100 in 10 s: 20 and 10 a second, median 15, beside them 5 and 7 s, median 6."""
    past = [costs.Spent("a", 15.0, 10.0, 200.0), costs.Spent("b", 17.0, 10.0, 100.0)]
    found = costs.prices(past, None, 0.0, 99.0)
    assert (found.rate, found.overhead) == (15.0, 6.0)
    assert found.seconds("a", 1e9) == 15.0  # what it took
    assert found.seconds("c", 150.0) == 16.0
    assert "2 finished cells" in found.how


def test_else_it_is_of_steps_that_were_timed():
    found = costs.prices([], 0.5, 100.0, 20.0)
    assert found.seconds("a", 1000.0) == 25.0  # 200 a second
    assert "timed here" in found.how


def test_the_rest_is_corrected_by_what_cells_took(tmp_path):
    """Four cells of a minute; the first took two: three are left, or two where one is left out."""
    folder = Folder(tmp_path)
    every = study.cells(config())
    whole, names = plan_of(every, folder), [cell.name for cell in every]
    assert studying.remaining(whole, names[:1], [], {names[0]: 120.0}) == 6.0
    assert studying.remaining(whole, names[:1], names[3:], {names[0]: 120.0}) == 4.0
    assert studying.remaining(whole, [], [], {}) == 4.0


def test_reasons_are_the_last_words_or_the_signal():
    assert study.reason("a\nb: c\n \n", 1) == "b: c"
    assert study.reason("", 3) == "exit code 3 without a word"
    assert "memory" in study.reason("x", -9)
