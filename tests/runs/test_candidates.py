"""Backbones from wherever they come: the network, the images it is shown, and what is said about it."""

from __future__ import annotations

import numpy as np
import pytest
from ml_collections import ConfigDict

from gssl_jax.errors import UserError
from gssl_jax.interop.layouts import IMAGENET_MEAN
from gssl_jax.models.build import build_backbone
from gssl_jax.protocols import evaluation, judged_images
from gssl_jax.runs import candidates
from gssl_jax.runs.candidates import Asked, gathered, in_words, shown
from gssl_jax.runs.parts import stage_config
from tests.interop.test_cached import NAME, snapshot
from tests.interop.transformer import blank, save, timm_weights
from tests.runs.recipes import recipe
from tests.tiny import filled


def base(kind="folder", **data):
    found = ConfigDict({"data": judged_images(), "seed": 0})
    found.evals = evaluation(kind, "", "train", "test", 0)
    found.data.update(data)
    return found


@pytest.mark.parametrize(
    ("kind", "own", "asked", "resize", "expected"),
    [
        ("folder", 224, Asked(), 0, (224, 256)),  # 8 / 7 where nothing says more
        ("photos", 32, Asked(), 0, (32, 32)),  # these images have any size that is asked for
        ("folder", 224, Asked(), 240, (224, 240)),  # what an export or a run says
        ("folder", 224, Asked(size=112), 240, (112, 120)),  # and its share at another size
        ("folder", 224, Asked(size=112, resize=112), 240, (112, 112)),
    ],
)
def test_the_size_of_images(kind, own, asked, resize, expected):
    start = base(kind)
    config = shown(start, start.data, own, asked, resize)
    assert (config.data.image_size, config.evals.data.resize) == expected


def test_the_size_of_a_recipe_is_taken_where_the_backbone_has_none():
    start = base(image_size=64)
    start.evals.data.resize = 72
    assert shown(start, start.data, 64, Asked()).evals.data.resize == 72
    assert shown(start, start.data, 0, Asked(size=128)).evals.data.resize == 144
    with pytest.raises(UserError, match="how large the images shall be: give --size"):
        shown(base(), judged_images(), 0, Asked())


def test_weights_with_what_their_shapes_and_the_flags_say(tmp_path):
    path = save(tmp_path / "w.safetensors", timm_weights())
    one = gathered({"w": str(path)}, base(), Asked(heads=2), 0)[0]
    assert in_words(one.backbone) == "ViT, patch 4, width 8, depth 2, 2 heads"
    assert one.config.data.mean == IMAGENET_MEAN and one.config.data.image_size == 12
    assert "mean and std of ImageNet since nothing says them" in one.notes and one.facts["leaves"]["loaded"] == 30
    kernel = one.variables["params"]["block_1"]["fc2"]["kernel"]
    np.testing.assert_array_equal(kernel, timm_weights()["blocks.1.mlp.fc2.weight"].T)
    grey = gathered({"w": str(path)}, base(), Asked(heads=2, size=16, channels=1, mean=(0.5,), std=(0.2,)), 0)[0]
    assert grey.facts["leaves"]["adapted"] == 2 and grey.config.data.std == (0.2,)  # positions and patches
    assert grey.backbone.image_size == 16 and grey.backbone.channels == 1 and grey.digest != one.digest


def test_statistics_for_other_channels_are_their_mean(tmp_path):
    path = save(tmp_path / "w.safetensors", timm_weights())
    one = gathered({"w": str(path)}, base(), Asked(heads=2, channels=1), 0)[0]
    assert one.config.data.mean == pytest.approx((np.mean(IMAGENET_MEAN),))


def test_weights_of_a_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    place = snapshot(tmp_path, f"timm/{NAME}", config__json={"pretrained_cfg": {"mean": [0.1] * 3, "std": [0.2] * 3}})
    save(place / "snapshots" / "abc" / "model.safetensors", timm_weights())
    one = gathered({"w": NAME}, base(), Asked(heads=2), 0)[0]
    assert (
        one.config.data.mean == (0.1,) * 3 and one.facts["model"] == NAME and one.facts["path"].endswith("safetensors")
    )


def test_an_architecture_that_is_said_must_fit(tmp_path):
    path = save(tmp_path / "w.safetensors", timm_weights())
    with pytest.raises(UserError, match="do not fit this backbone"):
        gathered({"w": str(path)}, base(), Asked(heads=2, architecture="vit_micro4"), 0)


def test_random_and_pixels_see_what_the_first_sees(tmp_path):
    path = save(tmp_path / "w.safetensors", timm_weights())
    specs = {"p": "pixels", "r": "random", "s": "random:5", "w": str(path)}
    found = {one.name: one for one in gathered(specs, base(), Asked(heads=2), 3)}
    assert list(found) == list(specs)
    for name in ("p", "r", "s"):
        assert found[name].config.to_dict() == found["w"].config.to_dict()
    assert found["r"].backbone == found["w"].backbone and found["r"].facts["seed"] == 3
    assert found["s"].facts["seed"] == 5 and len({one.digest for one in found.values()}) == 4
    assert found["p"].variables is None and found["p"].digest == "pixels-8"


def test_a_feature_that_a_network_has_not_is_feat(monkeypatch):
    monkeypatch.setattr(candidates, "VITS", {"vit_micro4": dict(patch=4, width=16, depth=1, heads=2)})
    monkeypatch.setattr(candidates, "fresh", lambda backbone, seed: filled(blank(backbone), seed))
    start = base(image_size=8)
    start.evals.lowshot.feature = "cls_prenorm"
    resnet, micro = (
        gathered({"r": "random"}, start, Asked(architecture=name, size=8), 0)[0] for name in ("resnet14", "vit_micro4")
    )
    assert resnet.config.evals.lowshot.feature == "feat" and "lowshot looks at feat" in resnet.notes[0]
    assert micro.config.evals.lowshot.feature == "cls_prenorm" and not micro.notes
    assert start.evals.lowshot.feature == "cls_prenorm"


@pytest.mark.parametrize(
    ("name", "preset"),
    [("maskcluster_vit", "tiny"), ("hpt_moco", "tiny"), ("hpt_moco", "tiny,method=byol"), ("gated_cifar_lt", "tiny"),
     ("gated_semi", "tiny")],
)  # fmt: skip
def test_the_network_that_a_method_judges_needs_no_images(name, preset):
    """The one that `evals.which` names where there are two."""
    config = stage_config(recipe(preset, name), recipe(preset, name).stages[-1])
    state = {"teacher": {"backbone": {"w": 1}}, "teacher_batch_stats": {"m": 1}, "batch_stats": {"m": 0}}
    state |= {"ema": {"backbone": {"w": 1}}, "ema_batch_stats": {"m": 1}}
    two = "gated" not in name
    for which in ("teacher", "student"):
        config.evals.which = which
        step, variables = candidates._judged(config, build_backbone(config), (7, {"backbone": {"w": 0}}, state))
        assert step == 7 and set(variables) - {"batch_stats"} == {"params"}
        assert variables["params"] == {"w": int(which == "teacher")} or not two
