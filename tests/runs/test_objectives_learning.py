"""Does every objective learn, and is a collapse called? Small networks on the embedded photographs, a minute each."""

import json

import pytest

from gssl_jax.main import main
from gssl_jax.training.metrics import read_rows

SMALL = [
    "--config.backbone.patch=8", "--config.backbone.width=64", "--config.backbone.depth=2", "--config.backbone.heads=2",
    "--config.data.streams.train.size=1024", "--config.optim.duration=150.0",
    "--config.evals.lowshot.shots=()", "--config.evals.linear.max_iterations=50", "--config.evals.tsne_points=100",
    "--config.evals.health.images=0",
]  # fmt: skip
CLASS_TOKEN = ("--config.evals.knn.feature=feat", "--config.evals.knn.whiten=0.0")
WHOLE_PATCHES = ("--config.method.corruption.align=8",)
HEADS = (
    "--config.method.projector.hidden=128", "--config.method.projector.output=64", "--config.method.views.locals=2",
)  # fmt: skip
CLUSTERING = {
    "dino": HEADS,
    "ibot": (*HEADS, *WHOLE_PATCHES),
    "msn": (*HEADS, *WHOLE_PATCHES),
    "swav": HEADS,
}
"""Clustering method -> the sizes of its heads and masks on this network."""

CLEARLY = {**CLUSTERING, "simclr": (), "moco_v3": (), "supervised": ()}
"""Methods that teach the class token, by which they are judged."""
MASKED = {"mae": WHOLE_PATCHES, "simmim": WHOLE_PATCHES}
"""Methods that rebuild pixels alone, which nearest neighbours profit from slowly: they are judged by the recipe's
whitened features, and no more than ahead is asked for."""


def trained(tmp_path, method, *flags):
    """(results, alarms) of a small run."""
    config = f"--config=configs/objectives.py:photos,method={method}"
    assert main(["main", config, *SMALL, *flags, f"--workdir={tmp_path}"]) == 0
    rows = read_rows(tmp_path / "metrics.jsonl")
    return json.loads((tmp_path / "results.json").read_text()), [row for row in rows if "alarm" in row]


@pytest.mark.slow
@pytest.mark.parametrize("method", [*CLEARLY, *MASKED])
def test_training_beats_the_untrained_backbone(tmp_path, method):
    flags = (*CLEARLY[method], *CLASS_TOKEN) if method in CLEARLY else MASKED[method]
    results, _ = trained(tmp_path, method, *flags)
    before, after = results["controls"]["untrained"]["knn/top1"], results["eval"]["knn/top1"]
    if method in CLEARLY:
        assert after["low"] > before["high"]
    assert after["value"] > before["value"]


@pytest.mark.slow
@pytest.mark.parametrize("method", CLUSTERING)
def test_without_collapse_control_the_assignment_alarm_goes(tmp_path, method):
    """The papers' temperature and projector: batch norm and soft targets alone would hold a collapse off for long."""
    levels = ("cls", "patch") if method == "ibot" else ("cls",)
    none = [f"--config.method.collapse.{level}=none" for level in levels]
    paper = ("--config.method.temperature.teacher_end=0.04", "--config.method.projector.norm=none")
    _, alarms = trained(tmp_path, method, *CLUSTERING[method], *none, *paper)
    assert any("prototype" in row["alarm"] for row in alarms)
