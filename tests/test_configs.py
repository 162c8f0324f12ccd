"""Every recipe and preset: one whole training step by shapes alone, without compute or data."""

import jax
import jax.numpy as jnp
import pytest

from gssl_jax.runs import parts as assembling
from gssl_jax.runs import stage
from gssl_jax.runs.parts import assemble, stage_config
from gssl_jax.training.state import create_state
from gssl_jax.training.step import gather, transition
from tests.runs.recipes import module, recipe

PRESETS = ["photos", "photos_rgb", "tiny", "cifar10", "imagenet", "imagenet,backbone=vit_b16", "folder,path=somewhere",
           "folder,path=somewhere,size=224,backbone=vit_s16"]  # fmt: skip


class Stand:
    """In the place of a source whose files are not here."""

    name, classes, normalised = "stand-in", ("a", "b"), False

    def __len__(self):
        return 100_000

    def label(self, index):
        return index % 2

    def fingerprint(self):
        return "0"


@pytest.mark.parametrize("preset", PRESETS)
def test_a_step_of_every_preset_has_its_shapes(preset, monkeypatch):
    monkeypatch.setattr(assembling, "open_source", lambda *_: Stand())
    config = recipe(preset)
    parts = assemble(stage_config(config, "target"))
    data, views = parts.config.data, parts.config.method.views
    side = data.canvas if parts.crop == "device" else data.image_size
    resident = {"train": jax.ShapeDtypeStruct((16, side, side, data.channels), jnp.uint8)}
    images = stage.Images({}, None, "0", None)
    batch = stage.shape_batch(parts, images)

    def whole(resident, batch, key):
        batches = gather(resident, batch)
        return transition(
            parts.method, parts.optimiser, create_state(parts.method, parts.optimiser, batches, key), batches
        )

    state, metrics, finite = jax.eval_shape(whole, resident, batch, jax.random.key(0))
    assert metrics["train/loss"].shape == () and finite.dtype == bool
    assert state.params["prototypes"]["cls"]["directions"].shape[1] == config.method.prototypes.cls
    shown = jax.eval_shape(
        lambda r, b, k: parts.method.views(gather(r, b), k, jnp.int32(0)), resident, batch, jax.random.key(0)
    )
    assert shown["clean"].shape == (
        config.optim.batch_size,
        views["globals"],
        data.image_size,
        data.image_size,
        data.channels,
    )
    assert ("local" in shown) == (views["locals"] > 0)


def test_the_presets_tested_here_are_all_there_are():
    assert {preset.partition(",")[0] for preset in PRESETS} == set(module().PRESETS)


def test_the_imagenet_preset_is_the_recipe_of_the_specification():
    config = recipe("imagenet")
    assert (config.backbone.patch, config.backbone.width, config.backbone.depth, config.backbone.heads) == (
        16,
        384,
        12,
        6,
    )
    assert (config.data.image_size, config.method.views["globals"], config.method.views["locals"]) == (224, 2, 10)
    assert (config.optim.batch_size, config.optim.duration, config.optim.unit, config.optim.warmup) == (
        1024,
        800,
        "epoch",
        10,
    )
    assert config.optim.learning_rate == 5e-4 and config.optim.clip_norm == 3.0
    assert (config.method.prototypes.cls, config.method.projector.hidden, config.method.projector.output) == (
        8192,
        2048,
        256,
    )
    assert recipe("imagenet,backbone=vit_b16").backbone.width == 768
