"""The table of plans, with a stand-in for the plans themselves."""

from __future__ import annotations

import json
import types
from pathlib import Path

import jax
import pytest

from gssl_jax.cli import alone
from gssl_jax.runs import planning
from gssl_jax.runs.chips import CHIPS, Target
from gssl_jax.training.mesh import make_mesh
from tests.benchmarks.scripts import benchmark
from tests.runs.recipes import CONFIGS

FOUND = {
    "batch": 1024, "devices": 8, "fits": True, "bytes": 5 * 2**30, "bytes_there": 16 * 2**30, "largest_batch": 2048,
    "flops": 4e12, "bytes_touched": 8e10, "collectives": {"all-reduce": {"times": 2, "bytes": 90_000_000}},
    "least_seconds": {"operations": 0.02, "memory": 0.1, "links": 0.001}, "images_per_second_at_most": 10_240.0,
}  # fmt: skip


@pytest.fixture
def script():
    return benchmark("tpu_plan")


@pytest.fixture
def plans(script, monkeypatch):
    """Commands that were run; each writes `FOUND`."""
    run = []

    def started(command, **_):
        run.append(command)
        (path,) = [flag.partition("=")[2] for flag in command if flag.startswith("--json=")]
        Path(path).write_text(json.dumps(FOUND))
        return types.SimpleNamespace(stderr="", stdout="", returncode=0)

    monkeypatch.setattr(script.subprocess, "run", started)
    return run


def cells(row):
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_every_recipe_is_a_file(script):
    assert all((CONFIGS.parent / config.split(":")[0]).exists() for config, _ in script.RECIPES.values())


def test_a_row_says_what_the_plan_found(script, plans, tmp_path):
    found = script.planned("G-SSL ResNet-32", "v5e:2x4", False, tmp_path)
    assert cells(script.row("G-SSL ResNet-32", "v5e:2x4", found)) == [
        "G-SSL ResNet-32", "v5e:2x4", "1,024 (128)", "5.0 GiB of 16.0 GiB", "2,048", "4.00", "80.0", "90",
        "100.0 (memory)", "10,240",
    ]  # fmt: skip
    assert "--images=50000" in plans[0] and "--quick" not in plans[0]


def test_a_plan_is_made_once(script, plans, tmp_path):
    first = script.planned("MaskCluster ViT-S/16", "v6e:2x4", True, tmp_path)
    again = script.planned("MaskCluster ViT-S/16", "v6e:2x4", True, tmp_path)
    assert first == again and len(plans) == 1 and "--quick" in plans[0]


def test_what_does_not_fit_and_what_was_refused_have_rows_too(script, monkeypatch, tmp_path):
    row = cells(script.row("a", "b", FOUND | {"fits": False, "bytes": 0, "largest_batch": 256}))
    assert row[3:5] == ["no: too much", "256"] and len(row) == 10
    said = types.SimpleNamespace(stderr="one\nerror: no compiler\n", stdout="", returncode=2)
    monkeypatch.setattr(script.subprocess, "run", lambda *_, **__: said)
    refused = script.planned("MaskCluster ViT-S/16", "v5e:2x4", True, tmp_path)
    assert refused["problem"] == "error: no compiler"
    assert len(cells(script.row("a", "b", refused))) == 10


@pytest.mark.parametrize("recipe", ["MaskCluster ViT-S/16", "HPT MoCo-v2 ResNet-50", "G-SSL ResNet-32"])
def test_the_step_of_every_recipe_can_be_laid_out(script, recipe):
    """Imagined data serve every kind of method, labelled ones too."""
    config, (images, classes) = script.RECIPES[recipe]
    target = Target("v5e:2x4", CHIPS["v5e"], jax.devices()[:1])
    stage = planning.for_target(alone("plan", config), target, images, classes)
    parts = planning.assemble(stage)
    state, _, batch = planning.abstract_state(parts, make_mesh(1))
    assert all(len(source) > 0.1 * images for source in parts.streams.values())
    assert planning.bytes_of(state) > 2**20 and planning.bytes_of(batch) > 0
