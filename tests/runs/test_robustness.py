"""The robustness of a backbone by a judge: off by default, and what it writes when it is asked for."""

import jax
import jax.numpy as jnp
import pytest

from gssl_jax.errors import UserError
from gssl_jax.presets import evaluation
from gssl_jax.runs import judging, robustness
from tests.runs.test_evaluation import judge_of

ASKED = dict(corruptions=("contrast",), severities=(1, 5), l2=(0.2,), steps=2, images=57)


@pytest.fixture(scope="module")
def variables():
    judge = judge_of(name="maskcluster_vit")
    return jax.jit(judge._parts.backbone.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 1)))


def test_entries_of_an_untrained_backbone(variables):
    assert robustness.judge(judge_of(name="maskcluster_vit"), variables) == {}
    shift = (("photos", "", "test"),)
    judge = judge_of(name="maskcluster_vit", robustness=ASKED | {"shift": shift})
    found = robustness.judge(judge, variables)
    names = ("clean", "contrast", "mean", "kept", "pgd_l2_0.2")
    assert list(found) == [*(f"robust_{name}/top1" for name in names), "shift_photos/top1"]
    clean, under, attacked = (found[f"robust_{name}/top1"]["value"] for name in ("clean", "contrast", "pgd_l2_0.2"))
    assert clean > under and clean > attacked  # chance is 0.05
    assert found["robust_clean/top1"]["n"] == 57 and found["shift_photos/top1"]["n"] == 1140
    for one in found.values():
        assert one["protocol"]["train_images"] == len(judge.sets["train"]["label"]) and one["protocol"]["l2"] > 0
    # The same images as a domain of their own: what `linear/top1` finds.
    linear = judge.judge(variables)["linear/top1"]["value"]
    assert found["shift_photos/top1"]["value"] == pytest.approx(linear)


def test_features_that_are_not_finite_have_no_value(variables):
    broken = jax.tree.map(lambda leaf: leaf * jnp.nan, variables)
    found = robustness.judge(judge_of(name="maskcluster_vit", robustness=ASKED), broken)
    assert list(found) == ["robust_clean/top1"] and found["robust_clean/top1"]["value"] is None


def test_a_domain_of_other_classes_stops_the_run_before_it_trains():
    with pytest.raises(UserError, match="'arctic America'"):
        judge_of(name="maskcluster_vit", robustness={"shift": (("earth", "shaded", "test"),)})


def test_it_is_one_of_the_evaluators_of_any_backbone():
    settings = evaluation("photos", "", "train", "test", 32)
    with pytest.raises(UserError, match="robustness is off"):
        judging.chosen(["robustness"], settings)
    settings.robustness.corruptions = ("fog",)
    assert judging.chosen(["robustness"], settings).robustness.corruptions == ("fog",)
    assert judging.chosen(["knn"], settings).robustness.corruptions == ()
