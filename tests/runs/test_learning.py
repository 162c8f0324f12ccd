"""Does it learn, and is a collapse called? Small networks on the embedded photographs, about a minute each."""

import json

import pytest

from gssl_jax.main import main
from gssl_jax.training.metrics import read_rows

SMALL = [
    "--config=configs/maskcluster_vit.py:photos", "--config.backbone.patch=8", "--config.backbone.width=64",
    "--config.backbone.depth=2", "--config.backbone.heads=2", "--config.method.views.locals=2",
    "--config.method.projector.hidden=128", "--config.method.projector.output=64",
    "--config.data.streams.train.size=1024",
    "--config.optim.duration=150.0", "--config.evals.lowshot.shots=(1,)", "--config.evals.lowshot.draws=10",
]  # fmt: skip


def trained(tmp_path, *flags):
    """(results, alarms) of a small run."""
    assert main(["main", *SMALL, *flags, f"--workdir={tmp_path}"]) == 0
    rows = read_rows(tmp_path / "metrics.jsonl")
    return json.loads((tmp_path / "results.json").read_text()), [r for r in rows if "alarm" in r]


@pytest.mark.slow
def test_training_beats_the_untrained_backbone_and_no_alarm_goes(tmp_path):
    results, alarms = trained(tmp_path)
    for name in ("knn/top1", "linear/top1", "lowshot_1/top1"):
        assert results["eval"][name]["value"] > results["controls"]["untrained"][name]["value"], name
    assert results["eval"]["knn/top1"]["low"] > results["controls"]["untrained"]["knn/top1"]["high"]
    assert alarms == []


@pytest.mark.slow
def test_without_collapse_control_the_assignment_alarm_goes(tmp_path):
    """The paper's temperature and projector: batch norm and soft targets alone would hold a collapse off for long."""
    none = ("--config.method.collapse.cls=none", "--config.method.collapse.patch=none")
    paper = ("--config.method.temperature.teacher_end=0.04", "--config.method.projector.norm=none")
    _, alarms = trained(tmp_path, *none, *paper)
    assert any("prototype" in row["alarm"] for row in alarms)
    rows = [row for row in read_rows(tmp_path / "metrics.jsonl") if "health/mean_target_entropy_cls" in row]
    collapsed = min(row["step"] for row in rows if row["health/mean_target_entropy_cls"] < 0.2)
    assert min(row["step"] for row in alarms) <= collapsed + 50
