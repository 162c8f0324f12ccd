"""What becomes stale when a configuration changes, and what is put aside."""

from __future__ import annotations

import json

import pytest
from ml_collections import ConfigDict

from gssl_jax.errors import UserError
from gssl_jax.runs.folder import RunFolder
from gssl_jax.runs.staleness import first_changed


def config(stages=("base", "source", "target"), rate=0.1, points=9, method="moco", arm=("base",), **own):
    """`own` is what single stages change: target=dict(optim=...)."""
    names = {name: own.get(name, {}) for name in ("base", "source", "target", "other")}
    run = dict(log_every=10, deterministic=False)
    optim, evals = dict(rate=rate, decay=0.0), dict(which="student", data=dict(path="a"), knn=dict(k=3), points=points)
    groups = dict(optim=optim, method=dict(name=method), evals=evals, arms=dict(one=arm))
    return ConfigDict(dict(seed=0, stages=stages, stage=names, run=run, **groups))


def plain(c):
    return json.loads(c.to_json())


@pytest.mark.parametrize(
    ("changed", "number"),
    [
        (config(), None),
        (config(rate=0.2), 0),
        (config(source=dict(optim=dict(rate=0.2))), 1),
        (config(target=dict(optim=dict(decay=0.2))), 2),
        (config(other=dict(optim=dict(decay=0.2))), None),  # a stage that is not in the chain
        (config(source=dict(optim=dict(rate=0.1))), None),  # says what the base says
        (config(stages=("base", "source")), 2),
        (config(stages=("base", "source", "target", "other")), 3),
        (config(stages=("base", "target")), 1),
        (config(points=8), None),  # nothing was chosen by how it is judged
        (config(target=dict(evals=dict(points=8))), None),
        (config(source=dict(evals=dict(which="teacher"))), 1),  # what it hands over
        (config(source=dict(evals=dict(knn=dict(k=4)))), 1),
        (config(arm=("target",)), None),
    ],
)
def test_the_first_stage_that_changed(changed, number):
    assert first_changed(plain(config()), plain(changed)) == number


def test_labels_choose_a_state_by_every_setting_of_the_evaluation():
    old, new = (plain(config(method="gated", points=points)) for points in (9, 8))
    assert first_changed(old, new) == 0


def test_another_way_to_judge_puts_the_results_aside_and_no_stage(tmp_path):
    stages = ("base", "source", "target")
    folder = trained(tmp_path / "run", config(), stages)
    folder.pictures.write_bytes(b"old")
    assert folder.claim(config(arm=())) == "" and folder.claim(config(source=dict(evals=dict(points=8)))) == ""
    assert folder.report.exists()
    assert "judged anew" in folder.claim(config(points=8))
    assert sorted(p.name for p in (tmp_path / "run" / "stale-1").iterdir()) == [
        "pictures.npz",
        "report.html",
        "results.json",
    ]
    assert len(list((tmp_path / "run" / "stages").iterdir())) == 3


def trained(path, c, stages, finished=True):
    """The folder of a run of which these stages have been started."""
    folder = RunFolder(path)
    assert folder.claim(c) == ""
    rows = []
    for number, name in enumerate(stages):
        (path / "stages" / f"{number}-{name}" / "checkpoints").mkdir(parents=True)
        rows.append(dict(stage=name, step=3))
    folder.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if finished:
        folder.write_results({"eval": {}})
        folder.report.write_text("old")
    return folder


def test_a_changed_stage_is_refused_with_those_after_it_and_the_earlier_ones_stay(tmp_path):
    folder = trained(tmp_path / "run", config(), ("base", "source", "target"))
    changed = config(source=dict(optim=dict(rate=0.2)))
    words = (
        r"stage.source.optim.rate: '\(absent\)' -> 0.2\); trained with it and stale now: source, target.*--redo=source"
    )
    with pytest.raises(UserError, match=words):
        folder.claim(changed)
    assert folder.report.exists()
    assert "put aside in" in folder.redo("source") and not folder.report.exists() and not folder.results.exists()
    assert folder.claim(changed) == ""
    assert sorted(p.name for p in (tmp_path / "run" / "stages").iterdir()) == ["0-base"]
    shelf = tmp_path / "run" / "stale-1"
    assert sorted(p.name for p in shelf.iterdir()) == ["1-source", "2-target", "report.html", "results.json"]
    assert [json.loads(line)["stage"] for line in folder.metrics.read_text().splitlines()] == ["base"]
    assert json.loads(folder.config.read_text())["stage"]["source"] == {"optim": {"rate": 0.2}}


def test_what_was_not_trained_yet_may_change(tmp_path):
    """A killed run, two of three stages begun: the third may change, and the chain may become longer or shorter."""
    folder = trained(tmp_path / "run", config(), ("base", "source"), finished=False)
    assert folder.claim(config(target=dict(optim=dict(rate=0.2)))) == ""
    assert folder.claim(config(stages=("base", "source"))) == ""
    folder.write_results({"eval": {}})
    assert "earlier results are in" in folder.claim(config())
    assert not folder.results.exists() and (tmp_path / "run" / "stale-1" / "results.json").exists()
    with pytest.raises(UserError, match="stale now: source. Go on.*train it anew with --redo=source"):
        folder.claim(config(stages=("base", "target")))


def test_redo_needs_a_run_and_a_stage_of_it(tmp_path):
    with pytest.raises(UserError, match="holds no run yet"):
        RunFolder(tmp_path / "none").redo("target")
    folder = trained(tmp_path / "run", config(), ())
    with pytest.raises(UserError, match="unknown stage for --redo 'targte'; did you mean 'target'"):
        folder.redo("targte")
    assert "the results" in folder.redo("target") and folder.redo("target") == "nothing to put aside"
