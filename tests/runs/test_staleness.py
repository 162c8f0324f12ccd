"""What becomes stale when a configuration changes, and what is put aside."""

from __future__ import annotations

import json

import pytest
from ml_collections import ConfigDict

from gssl_jax.errors import UserError
from gssl_jax.runs.folder import RunFolder
from gssl_jax.runs.staleness import first_changed


def config(stages=("base", "source", "target"), rate=0.1, **own):
    """`own` is what single stages change: target=dict(optim=...)."""
    names = {name: own.get(name, {}) for name in ("base", "source", "target", "other")}
    run = dict(log_every=10, deterministic=False)
    return ConfigDict(dict(seed=0, stages=stages, stage=names, optim=dict(rate=rate, decay=0.0), run=run))


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
    ],
)
def test_the_first_stage_that_changed(changed, number):
    assert first_changed(plain(config()), plain(changed)) == number


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
