"""Weights in the folders of other programs: made here as these programs make them, and never fetched."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gssl_jax.errors import UserError
from gssl_jax.interop.cached import HALVES, find, hub_folder, is_name, torch_folder

NAME = "vit_small_patch16_224.augreg_in21k"


def snapshot(hub, repository, revision="abc", **files):
    """One revision of a repository in a cache of huggingface_hub."""
    place = hub / f"models--{repository.replace('/', '--')}"
    folder = place / "snapshots" / revision
    folder.mkdir(parents=True)
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name.replace("__", ".")).write_text(text)
    return place


@pytest.mark.parametrize(
    ("environment", "hub", "torch"),
    [
        ({}, Path("~/.cache/huggingface/hub").expanduser(), Path("~/.cache/torch/hub/checkpoints").expanduser()),
        ({"XDG_CACHE_HOME": "/c"}, Path("/c/huggingface/hub"), Path("/c/torch/hub/checkpoints")),
        ({"HF_HOME": "/h", "TORCH_HOME": "/t"}, Path("/h/hub"), Path("/t/hub/checkpoints")),
        ({"HF_HOME": "/h", "HF_HUB_CACHE": "/b"}, Path("/b"), Path("~/.cache/torch/hub/checkpoints").expanduser()),
    ],
)
def test_where_caches_are(environment, hub, torch):
    assert hub_folder(environment) == hub and torch_folder(environment) == torch


def test_timm_weights_of_the_hub_with_what_their_config_says(tmp_path):
    config = {"architecture": "vit", "pretrained_cfg": {"mean": [0.1] * 3, "std": [0.2] * 3, "input_size": [3, 96, 96]}}
    place = snapshot(tmp_path, f"timm/{NAME}", "new", model__safetensors="w", config__json=config)
    snapshot(tmp_path, f"timm/{NAME}", "aaa_old", pytorch_model__bin="w")
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("new")
    found = find(NAME, {"HF_HUB_CACHE": str(tmp_path)})
    assert found.path == place / "snapshots" / "new" / "model.safetensors"
    assert (found.mean, found.std, found.image_size, found.heads) == ((0.1,) * 3, (0.2,) * 3, 96, 0)
    (place / "refs" / "main").unlink()
    assert find(NAME, {"HF_HUB_CACHE": str(tmp_path)}).path.name == "pytorch_model.bin"


def test_statistics_by_the_name_where_nothing_says_them(tmp_path):
    for name in (NAME, "deit_small_patch16_224.fb_in1k"):
        snapshot(tmp_path, f"timm/{name}", model__safetensors="w")
    found = find(NAME, {"HF_HUB_CACHE": str(tmp_path)})
    assert (found.mean, found.std) == HALVES and found.image_size == 0
    assert find("deit_small_patch16_224.fb_in1k", {"HF_HUB_CACHE": str(tmp_path)}).mean == ()


def test_a_model_of_transformers(tmp_path):
    snapshot(
        tmp_path,
        "facebook/dino-vits16",
        pytorch_model__bin="w",
        config__json={"num_attention_heads": 6, "image_size": 224},
        preprocessor_config__json={"image_mean": [0.4] * 3, "image_std": [0.3] * 3},
    )
    found = find("facebook/dino-vits16", {"HF_HUB_CACHE": str(tmp_path)})
    assert (found.heads, found.image_size, found.mean, found.std) == (6, 224, (0.4,) * 3, (0.3,) * 3)


@pytest.mark.parametrize(
    ("name", "file"),
    [("vit_small_patch16_224.dino", "dino_deitsmall16_pretrain.pth"), ("my_model", "my_model.pth")],
)
def test_weights_of_torch_hub(name, file, tmp_path):
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / file).write_text("w")
    (folder / "config.json").write_text("{")  # not of this model, and torch.hub keeps none
    assert find(name, {"TORCH_HOME": str(tmp_path), "HF_HOME": str(tmp_path / "none")}).path == folder / file


def test_what_is_not_there_is_said_with_every_place_and_how_to_get_it(tmp_path):
    with pytest.raises(UserError) as refused:
        find(NAME, {"HF_HOME": str(tmp_path), "TORCH_HOME": str(tmp_path / "t")})
    said = str(refused.value)
    assert (
        f"{tmp_path}/hub/models--timm--{NAME}/snapshots" in said and f"{tmp_path}/t/hub/checkpoints/{NAME}.pth" in said
    )
    assert f"huggingface-cli download timm/{NAME}" in said


def test_a_damaged_config_is_said(tmp_path):
    snapshot(tmp_path, f"timm/{NAME}", model__safetensors="w", config__json="{")
    with pytest.raises(UserError, match="config.json is not readable JSON"):
        find(NAME, {"HF_HUB_CACHE": str(tmp_path)})


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (NAME, True),
        ("resnet50.tv_in1k", True),
        ("resnet50", True),
        ("facebook/dinov2-small", True),
        ("runs/demo/export/b", False),
        ("/abs/file", False),
        ("../x", False),
        ("a b", False),
        ("demo:untrained", False),
    ],
)
def test_what_may_be_a_name(words, expected):
    assert is_name(words) == expected
