"""The decoder's training: crops of image and mask alike, rates by layer, what is chosen by, and that it learns."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gssl_jax.errors import UserError
from gssl_jax.evals import segment_finetune as module
from gssl_jax.evals.segment_finetune import MaskPool, cut_alike, finetune, pixel_loss, rate_at
from gssl_jax.models.resnet import ResNet
from gssl_jax.models.vit import ViT
from gssl_jax.presets import evaluation
from tests.evals.test_segmentation import NAMES, opened, painted

VIT = ViT(image_size=8, patch=2, width=8, depth=1, heads=2, channels=1)


def settings(**changes):
    chosen = evaluation("mosaics", "", "train", "test", 8).segmentation.decoder
    chosen.update(dict(steps=40, batch_size=8, width=8, learning_rates=(3e-2,), scale=(0.8, 1.0)) | changes)
    return chosen


def pool(count=24, seed=0):
    held = painted(count, seed)
    return MaskPool(count, lambda rows: (held["image"][rows], held["segmentation"][rows]))


def fresh(network):
    return jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))


def test_masks_follow_their_images():
    """The colour of an image is its mask: where a crop has not mixed pixels, it still is."""
    masks = np.kron(np.random.default_rng(0).integers(0, 5, (16, 4, 4)), np.ones((1, 8, 8), int)).astype(np.uint8)
    images, cut = cut_alike(jnp.asarray(50 * masks[..., None]), jnp.asarray(masks), jax.random.key(1), (0.2, 0.6), 0.5)
    assert images.shape == (16, 32, 32, 1) and cut.shape == (16, 32, 32) and cut.dtype == np.uint8
    colours = np.asarray(images)[..., 0] * 255 / 50
    whole = np.abs(colours - np.rint(colours)) < 1e-3
    assert whole.mean() > 0.5 and (np.rint(colours) == cut)[whole].mean() > 0.99
    assert (np.rint(colours) == cut).mean() > 0.9
    assert (np.asarray(cut) != masks).mean() > 0.2  # they have moved


def test_the_loss_leaves_pixels_without_a_class_out():
    rng = np.random.default_rng(0)
    logits, masks = rng.normal(size=(2, 4, 4, 3)), rng.choice([0, 1, 2, 255], (2, 4, 4))
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = -np.mean([logs[i][masks[i] != 255, masks[i][masks[i] != 255]].sum() for i in range(2)]) * 2
    found = pixel_loss(jnp.asarray(logits, jnp.float32), jnp.asarray(masks, jnp.uint8))
    assert float(found) == pytest.approx(expected / (masks != 255).sum(), rel=1e-5)


def test_the_rate_warms_up_and_falls():
    found = [rate_at(step, 2.0, 20, 0.1) for step in range(20)]
    assert found[:3] == [1.0, 2.0, 2.0] and found[-1] == pytest.approx(2 / 18) and found[10] == pytest.approx(10 / 9)
    assert rate_at(0, 2.0, 20, 0.0) == 2.0


@pytest.mark.parametrize("frozen", [pytest.param(True, marks=pytest.mark.slow), False])
def test_it_learns_and_the_frozen_backbone_stays(frozen):
    variables, options = fresh(VIT), settings(frozen=frozen)
    tuned = module.tune(VIT, variables, pool(), opened(8, 2), options, 3e-2, 3, (0, 0))
    same = jax.tree.map(lambda a, b: bool((a == b).all()), tuned.params["backbone"], variables["params"])
    assert all(jax.tree.leaves(same)) == frozen
    assert tuned.score > 0.5


def test_validation_chooses_and_the_entry_says_so():
    variables = fresh(VIT)
    options = settings(learning_rates=(1e-9, 3e-2), every=20)
    found = finetune(VIT, variables, [pool()], opened(8, 2), opened(11, 1), name="segment_upernet", settings=options,
                     names=NAMES, seed=0, resamples=20)  # fmt: skip
    entry = found["segment_upernet/miou"]
    protocol = entry["protocol"]
    assert protocol["chosen"] == ["rate 0.03"] and set(protocol["grid"][0]) == {"rate 1e-09", "rate 0.03"}
    assert entry["value"] > 0.5 and entry["low"] <= entry["value"] <= entry["high"] and entry["n"] == 11
    assert set(protocol["per_class"]) == set(NAMES) and protocol["labelled_images"] == [24]


@pytest.mark.slow
def test_residual_networks_and_draws():
    network = ResNet(image_size=8, block="basic", depths=(1, 1, 1), widths=(4, 4, 4), stem_width=4, channels=1)
    options = settings(steps=3, draws=2)
    found = finetune(network, fresh(network), [pool(12, 0), pool(12, 7)], opened(8, 2), opened(8, 1), name="x",
                     settings=options, names=NAMES, seed=0, resamples=5)  # fmt: skip
    assert found["x/miou"]["n"] == 2 and found["x/miou"]["interval"] == "t-draws"


def test_a_loss_that_is_not_finite_has_no_value():
    options = settings(steps=2, learning_rates=(float("inf"),))
    broken = finetune(VIT, fresh(VIT), [pool()], opened(8, 2), opened(8, 1), name="x", names=NAMES, seed=0, resamples=5,
                      settings=options)  # fmt: skip
    assert broken["x/miou"]["value"] is None and "not finite" in broken["x/miou"]["protocol"]["problem"]


@pytest.mark.parametrize(
    ("change", "message"),
    [({"width": 0}, "width is 0"), ({"learning_rates": ()}, "learning_rates"), ({"validation": 1.0}, "validation is 1"),
     ({"layer_decay": 0.0}, "layer_decay is 0"), ({"shots": (-1,)}, "shots is"), ({"draws": 0}, "draws is 0")],
)  # fmt: skip
def test_values_that_mean_nothing_are_refused(change, message):
    module.check(settings())
    module.check(settings(**change, steps=0))
    with pytest.raises(UserError, match=message):
        module.check(settings(**change))
