"""Arms: chains over shared stages. That a stage is trained once is shown by a run; the rest by folders alone."""

from __future__ import annotations

import json

import pytest
from rich.console import Console

from gssl_jax import arms as command
from gssl_jax.errors import UserError
from gssl_jax.report import run
from gssl_jax.runs import arms, chain
from gssl_jax.runs.folder import RunFolder
from gssl_jax.training.metrics import append_rows, read_rows
from tests.runs.recipes import recipe

ALL = {
    "base": ("base", "judged"),
    "base_refreshed": ("base", "refreshed"),
    "target": ("scratch",),
    "hpt": ("base", "target"),
    "hpt_bn": ("base", "norm"),
    "base_source": ("base", "source", "judged"),
    "base_source_target": ("base", "source", "target"),
}


def tiny(**changes):
    c = recipe("tiny", "hpt_moco")
    for name, value in changes.items():
        c.update_from_flattened_dict({name.replace("__", "."): value})
    return c.lock()


def test_the_arms_of_the_paper():
    found = arms.chosen(tiny(), ())
    assert {name: arm.stages for name, arm in found.items()} == ALL
    assert list(arms.chosen(tiny(), ("hpt", "base"))) == [
        "hpt",
        "base",
    ]  # the first one is what others are compared with


@pytest.mark.parametrize(
    ("config", "names", "said"),
    [
        (recipe("photos", "hpt_moco"), (), "has no arms"),
        (tiny(), ("htp",), "unknown arm 'htp'; did you mean 'hpt'"),
        (tiny(arms__hpt=("base", "targte")), (), "unknown stage of the arm 'hpt' 'targte'; did you mean 'target'"),
    ],
)
def test_arms_that_do_not_exist(config, names, said):
    with pytest.raises(UserError, match=said):
        arms.chosen(config, names)


def test_a_stage_is_known_by_its_settings_and_by_what_led_there(tmp_path):
    where = {name: arms.places(arm, tmp_path) for name, arm in arms.chosen(tiny(), ()).items()}
    firsts = {name: found[0] for name, found in where.items() if name != "target"}
    assert len(set(firsts.values())) == 1 and firsts["hpt"].name.endswith("-base")
    assert where["base_source"][1] == where["base_source_target"][1]
    # the same stage after another one is another one
    assert where["hpt"][1] != where["base_source_target"][2] and where["base"][1] != where["base_source"][2]
    longer = arms.chosen(tiny(stage__base__optim__duration=5.0), ())["hpt"]
    assert set(arms.places(longer, tmp_path)).isdisjoint(where["hpt"])
    later = arms.chosen(tiny(optim__duration=9.0), ())["hpt"]  # of the target: the base has its own
    assert arms.places(later, tmp_path)[0] == where["hpt"][0] and arms.places(later, tmp_path)[1] != where["hpt"][1]


def rows(folder):
    return [(row["stage"], row["step"]) for row in read_rows(folder.metrics)]


def test_rows_follow_the_stage_into_other_arms_and_scores_stay_with_their_own(tmp_path):
    found, shared = arms.chosen(tiny(), ()), tmp_path / "stages"
    base, hpt = RunFolder(tmp_path / "base"), RunFolder(tmp_path / "hpt")
    assert arms.prepare(found["base"], base, shared) == ""
    for stage, step, name in (("base", 2, "train/loss"), ("base", 4, "train/loss"), ("judged", 0, "eval/knn/top1")):
        append_rows(base.metrics, [{"stage": stage, "step": step, name: 0.5}])
    arms.share(base)
    arms.prepare(found["hpt"], hpt, shared)
    assert rows(hpt) == [("base", 2), ("base", 4)]
    assert hpt.stage(0, "base").resolve() == base.stage(0, "base").resolve() != hpt.stage(1, "target").resolve()
    arms.prepare(found["hpt"], hpt, shared)
    assert rows(hpt) == [("base", 2), ("base", 4)]  # once
    assert read_rows(base.stage(1, "judged") / arms.ROWS) == []  # what the arm scored is the arm's


def test_a_changed_stage_leads_elsewhere_and_its_undoing_back(tmp_path):
    shared, folder = tmp_path / "stages", RunFolder(tmp_path / "hpt")
    first, second = (arms.chosen(tiny(optim__duration=steps), ())["hpt"] for steps in (8.0, 9.0))
    arms.prepare(first, folder, shared)
    before = [folder.stage(k, name).resolve() for k, name in enumerate(first.stages)]
    append_rows(folder.metrics, [{"stage": s, "step": k, "train/loss": 1.0} for s, k in (("base", 4), ("target", 8))])
    folder.write_results({})
    arms.share(folder)
    assert "earlier results are in" in arms.prepare(second, folder, shared)
    after = [folder.stage(k, name).resolve() for k, name in enumerate(first.stages)]
    assert after[0] == before[0] and after[1] != before[1] and before[1].is_dir()
    assert rows(folder) == [("base", 4)] and not folder.results.exists()
    arms.prepare(first, folder, shared)
    assert [folder.stage(k, name).resolve() for k, name in enumerate(first.stages)] == before
    assert rows(folder) == [("base", 4), ("target", 8)]


def test_a_stage_that_was_trained_elsewhere_is_not_overwritten(tmp_path):
    folder = RunFolder(tmp_path / "hpt")
    config = arms.chosen(tiny(), ())["hpt"]
    folder.claim(config)
    folder.stage(0, "base").mkdir(parents=True)
    with pytest.raises(UserError, match="0-base was trained outside of these arms"):
        arms.prepare(config, folder, tmp_path / "stages")


def test_two_processes_do_not_train_the_same_stages(tmp_path):
    first, second = tmp_path / "1-base", tmp_path / "2-target"
    with arms.held([first]):
        with arms.held([second]):
            pass
        with pytest.raises(UserError, match="another process trains the stage in .*1-base"):
            with arms.held([second, first]):
                pass
    with arms.held([first, second]):  # both are free again
        arms.close([first])
    with arms.held([first]), arms.held([first]):  # what is over may be read by many
        pass


def test_the_command_checks_every_stage_first_and_stops_where_an_arm_is_interrupted(tmp_path, monkeypatch):
    ran = []

    def train_and_report(config, workdir, console):
        ran.append(workdir.name)
        return 130 if len(ran) == 2 else 0

    monkeypatch.setattr(run, "train_and_report", train_and_report)
    quiet = Console(quiet=True)
    with pytest.raises(UserError, match="knn.k"):
        command.run(tiny(evals__knn__k=10**6), ("base", "hpt_bn"), tmp_path, tmp_path / "stages", quiet)
    assert ran == []
    assert command.run(tiny(), ("base", "target", "hpt"), tmp_path, tmp_path / "stages", quiet) == 130
    assert ran == ["base", "target"]


def test_the_flags(tmp_path, capsys):
    assert command.main(["arms", "--help"]) == 0 and "--shared=DIR" in capsys.readouterr().out
    assert command.main(["arms", "--config=configs/hpt_moco.py:tiny", "--arm=hpt"]) == 2
    assert "did you mean '--arms'" in capsys.readouterr().err
    assert command.main(["arms", "--config=configs/hpt_moco.py:tiny", "--arms=htp", f"--workdir={tmp_path}"]) == 2
    assert "did you mean 'hpt'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_shared_stage_is_trained_once(tmp_path, monkeypatch):
    trained, real = [], chain.run_stage

    def run_stage(parts, number, name, folder, *more, **named):
        before = sorted(path.name for path in folder.checkpoints(number, name).glob("*"))
        outcome = real(parts, number, name, folder, *more, **named)
        if before != sorted(path.name for path in folder.checkpoints(number, name).glob("*")):
            trained.append((folder.path.name, name))
        return outcome

    monkeypatch.setattr(chain, "run_stage", run_stage)
    c = tiny(evals__lowshot__shots=(), evals__tsne_points=10, evals__bootstrap__resamples=10)
    names = ("base", "hpt", "hpt_bn")
    assert command.run(c, names, tmp_path, tmp_path / "stages", Console(quiet=True)) == 0
    # what was judged without a step is kept too: it can be exported
    assert trained == [("base", "base"), ("base", "judged"), ("hpt", "target"), ("hpt_bn", "norm")]
    results = {name: json.loads((tmp_path / name / "results.json").read_text()) for name in names}
    assert [results[name]["run"]["steps"] for name in names] == [0, 8, 8]
    assert (tmp_path / "compare" / "compare.html").exists()
    lineages = [json.loads((tmp_path / name / "lineage.json").read_text())["stages"] for name in names]
    assert (
        len({chain[0]["settings"] for chain in lineages})
        == len({chain[1]["parent"]["backbone"] for chain in lineages})
        == 1
    )
    knn = [result["eval"]["knn/top1"]["value"] for result in results.values()]
    assert len(set(knn)) == 3
