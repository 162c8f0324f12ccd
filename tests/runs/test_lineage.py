"""Digests that say what a stage came from."""

from __future__ import annotations

import hashlib
import json

import numpy as np
from ml_collections import ConfigDict

from gssl_jax.runs import lineage
from gssl_jax.runs.handover import Handed
from gssl_jax.runs.parts import assemble, stage_config
from tests.runs.recipes import recipe


def test_equal_arrays_have_equal_digests_and_every_difference_shows():
    tree = {"b": {"x": np.arange(6, dtype=np.float32)}, "a": np.ones(2)}
    same = {"a": np.ones(2), "b": {"x": np.arange(6, dtype=np.float32)}}
    assert lineage.arrays_digest(tree) == lineage.arrays_digest(same)
    others = [
        {"a": np.ones(2), "b": {"y": np.arange(6, dtype=np.float32)}},
        {"a": np.ones(2), "b": {"x": np.arange(6, dtype=np.float64)}},
        {"a": np.ones(2), "b": {"x": np.arange(6, dtype=np.float32).reshape(2, 3)}},
        {"a": np.ones(2), "b": {"x": np.arange(6, dtype=np.float32)[::-1]}},
    ]
    assert len({lineage.arrays_digest(other) for other in [tree, *others]}) == 5


def test_settings_have_one_digest_wherever_they_are_written():
    run = {"log_every": 1, "deterministic": False}
    method = {"name": "moco"}
    base = {"seed": 0, "stages": ["a"], "stage": {"a": {}}, "optim": {"rate": 0.1}, "method": method, "run": run}
    written = {**base, "optim": {"rate": 0.5}, "stage": {"a": {"optim": {"rate": 0.1}}}}
    assert lineage.settings_digest(base, "a") == lineage.settings_digest(written, "a")
    assert lineage.settings_digest(base, "a") == lineage.settings_digest({**base, "run": {**run, "log_every": 5}}, "a")
    assert lineage.settings_digest(base, "a") != lineage.settings_digest({**base, "seed": 1}, "a")


def test_a_stage_names_its_parent_or_its_file(tmp_path):
    c = recipe("tiny")
    config = json.loads(ConfigDict(c).to_json_best_effort())
    parts = assemble(stage_config(c, "target"))
    scratch = lineage.of_stage(config, "target", parts, None)
    assert scratch["parent"] is None and scratch["steps"] == 8 and len(scratch["fingerprint"]) == 64
    handed = Handed("source", {"params": {"w": np.ones(3)}}, {}, {})
    parent = lineage.of_stage(config, "target", parts, handed)["parent"]
    assert parent == {
        "stage": "source", "parts": ["backbone"], "backbone": lineage.arrays_digest(handed.variables)
    }  # fmt: skip
    (tmp_path / "net.pth").write_bytes(b"weights")
    parts.config.backbone.weights = str(tmp_path / "net.pth")
    found = lineage.of_stage(config, "target", parts, None)["parent"]
    assert found == {"file": str(tmp_path / "net.pth"), "sha256": hashlib.sha256(b"weights").hexdigest()}
    lineage.write(tmp_path / "stages" / "0-target" / "lineage.json", scratch)
    assert json.loads((tmp_path / "stages" / "0-target" / "lineage.json").read_text()) == scratch
