"""Label-free scores at the end of a run: from views drawn alike for every backbone, null where nothing can be told."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from ml_collections import ConfigDict

from gssl_jax.evals.health import label_free
from gssl_jax.protocols import evaluation
from gssl_jax.runs.health import judged_health, label_free_scores, last_logged, pairs, view_drawer

DATA = ConfigDict({"image_size": 8, "contrast_normalise": False})


@pytest.fixture
def judge():
    """Stands for a `Judge` of 20 images whose feature is their first pixels to the power of the variables, which settle
    one higher."""
    e = evaluation("photos", "", train="train", test="test", resize=8)
    e.health.images, e.health.views = 12, 2
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), np.uint8)

    def encoded(settled, shown, name):
        assert name == "feat"
        return (shown.reshape(len(shown), -1)[:, :9].astype(np.float32) / 255) ** settled

    return SimpleNamespace(
        settings=e, encoded=encoded, settled=lambda v: 1.0 + v, some=lambda split, n: {"image": images[:n]}
    )


def test_scores_are_those_of_the_settled_network_on_the_views_of_the_configuration(judge):
    images = judge.some("train", 12)["image"]
    wanted = label_free(lambda v, x: judge.encoded(v, x, "feat"), 3.0, images, view_drawer(judge, DATA), 2)
    found = label_free_scores(judge, DATA, 2.0)
    assert found == pytest.approx(wanted) and {"lidar", "alignment", "uniformity", "rankme"} < set(found)


def test_results_hold_trained_untrained_and_protocol(judge, tmp_path):
    found = judged_health(judge, DATA, {"trained": 1.0, "untrained": np.nan}, tmp_path / "none.jsonl", "target")
    assert found["trained"]["rankme"] > 1 and set(found["untrained"].values()) == {None}
    assert found["protocol"] == {"images": 12, "views": 2, "feature": "feat", "split": "train"}
    json.dumps(found, allow_nan=False)
    judge.settings.health.images = 0
    assert judged_health(judge, DATA, {"trained": 1.0}, tmp_path / "none.jsonl", "target") == {}


def test_the_last_logged_targets_of_the_stage_go_with_the_trained_backbone(judge, tmp_path):
    rows = [
        {"stage": "target", "step": 2, "health/target_entropy_cls": 0.5, "health/prototypes_in_use_patch": 0.7},
        {"stage": "target", "step": 4, "health/target_entropy_cls": 0.6, "health/prototypes_in_use_patch": None},
        {"stage": "target", "step": 4, "health/rankme": 3.0},
        {"stage": "other", "step": 9, "health/target_entropy_cls": 0.1},
    ]
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert last_logged(path, "target") == {"target_entropy_cls": 0.6, "prototypes_in_use_patch": 0.7}
    found = judged_health(judge, DATA, {"trained": 1.0, "untrained": 2.0}, path, "target")
    assert found["trained"]["target_entropy_cls"] == 0.6 and "target_entropy_cls" not in found["untrained"]


def test_pairs_are_two_views_of_every_other_image(judge):
    images = judge.some("train", 6)["image"]
    found, draw = pairs(judge, DATA, images), view_drawer(judge, DATA)
    assert found.shape == images.shape
    np.testing.assert_array_equal(found[3:], draw(images[[0, 2, 4]], 1))
    assert (found[:3] != found[3:]).any(axis=(1, 2, 3)).all()
