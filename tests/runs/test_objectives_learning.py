"""Does every objective learn? A small network on the embedded photographs, about a minute each."""

import json

import pytest

from gssl_jax.main import main
from gssl_jax.training.metrics import read_rows

SMALL = [
    "--config.backbone.patch=8", "--config.backbone.width=64", "--config.backbone.depth=2", "--config.backbone.heads=2",
    "--config.data.streams.train.size=1024", "--config.optim.duration=150.0",
    "--config.evals.lowshot.shots=()", "--config.evals.linear.max_iterations=50", "--config.evals.tsne_points=100",
]  # fmt: skip


def trained(tmp_path, method, *flags, preset="photos"):
    """(results, alarms) of a small run."""
    recipe = f"--config=configs/objectives.py:{preset},method={method}"
    assert main(["main", recipe, *SMALL, *flags, f"--workdir={tmp_path}"]) == 0
    rows = read_rows(tmp_path / "metrics.jsonl")
    return json.loads((tmp_path / "results.json").read_text()), [row for row in rows if "alarm" in row]


WHOLE_PATCHES = "--config.method.corruption.align=8"


@pytest.mark.slow
@pytest.mark.parametrize(("method", "flags"), [
    ("simclr", ()),
    ("moco_v3", ()),
    ("mae", (WHOLE_PATCHES,)),
    ("simmim", (WHOLE_PATCHES,)),
    ("supervised", ()),
])  # fmt: skip
def test_contrast_masks_and_labels_beat_the_untrained_backbone(method, flags, tmp_path):
    results, alarms = trained(tmp_path, method, *flags)
    assert results["eval"]["knn/top1"]["value"] > results["controls"]["untrained"]["knn/top1"]["value"]
    assert alarms == []
