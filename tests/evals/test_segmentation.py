"""Masks from patch features: k-NN by brute force, the head against scikit-learn, images whose colour is their mask."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from sklearn.linear_model import LogisticRegression

from gssl_jax.data.arrays import evaluation_batches
from gssl_jax.errors import UserError
from gssl_jax.evals import segmentation as module
from gssl_jax.evals.miou import counted, miou
from gssl_jax.evals.patches import Patches, patches_of
from gssl_jax.models.vit import ViT
from gssl_jax.presets import evaluation
from gssl_jax.training.mesh import make_mesh, on_data

NAMES = ("dark", "middling", "bright")


def settings(**changes):
    chosen = evaluation("mosaics", "", "train", "test", 8).segmentation
    chosen.update(dict(shots=(1,), draws=3, images=100, patches=400))
    chosen.knn.k = 3
    chosen.linear.update(dict(l2_grid=(1e-3, 1e-1), max_iterations=200, tolerance=1e-4))
    chosen.update_from_flattened_dict({name.replace("__", "."): value for name, value in changes.items()})
    return chosen


def painted(count, seed, noise=90):
    """Images 8 x 8 of four cells, each of one class that its brightness tells; a border of a pixel has no class."""
    rng = np.random.default_rng(seed)
    masks = np.kron(rng.integers(0, 3, (count, 2, 2)), np.ones((1, 4, 4), int)).astype(np.uint8)
    images = 50 + 70 * masks[..., None] + rng.integers(-noise, noise + 1, (count, 8, 8, 1))
    masks[:, 0] = 255
    images = np.clip(images, 0, 255).astype(np.uint8)
    return {"image": images, "label": np.full(count, -1, np.int32), "segmentation": masks}


def opened(count, seed, batch=8):
    return lambda: evaluation_batches(painted(count, seed), batch)


def look(variables, images):
    """How near the brightness of 2 x 2 pixels is to that of each class: [B, 4, 4, 3]."""
    brightness = images.reshape(-1, 4, 2, 4, 2, 1).mean((2, 4)) * 255
    return {"map": jnp.exp(-(((brightness - jnp.array([[[[50.0, 120.0, 190.0]]]])) / 60) ** 2))}


def judged(train, test, **changes):
    options = {"names": NAMES, "seed": 0, "resamples": 20, "feature": "map"} | changes.pop("options", {})
    return module.evaluate(look, {}, train, test, settings(**changes), **options)


def test_images_whose_colour_is_their_mask():
    found = judged(opened(30, 0), opened(11, 1))
    assert list(found) == ["segment_knn/miou", "segment_linear/miou", "segment_1_linear/miou"]
    for name, entry in found.items():
        assert entry["value"] > 0.7, name  # pixels between two cells cannot all be told from patches of 2
        assert entry["low"] <= entry["value"] <= entry["high"]
        protocol = entry["protocol"]
        assert protocol["map"] == "4 x 4 patches of 8 px" and set(protocol["per_class"]) == set(NAMES)
        assert protocol["pixel_accuracy"] > 0.8 and protocol["train_images"] == 30
    low = found["segment_1_linear/miou"]
    assert low["interval"] == "t-draws" and low["n"] == 3 and len(low["protocol"]["values"]) == 3
    assert low["value"] == pytest.approx(np.mean(low["protocol"]["values"])) and low["value"] < 1
    assert all(1 <= count <= 3 for count in low["protocol"]["labelled_images"]) and len(low["protocol"]["digest"]) == 16
    assert found["segment_linear/miou"]["protocol"]["converged"] and low["protocol"]["converged"] == 3
    other = judged(opened(30, 0), opened(11, 1), options={"seed": 1}, shots=(1,))
    assert other["segment_1_linear/miou"]["protocol"]["digest"] != low["protocol"]["digest"]


def test_padding_and_batches_change_nothing():
    whole, parted = (judged(opened(20, 0, size), opened(11, 1, size), shots=()) for size in (20, 4))
    for name, entry in whole.items():
        assert parted[name]["value"] == pytest.approx(entry["value"], abs=2e-3), name
        assert parted[name]["n"] == entry["n"] == 11


def test_neighbours_by_brute_force():
    rng = np.random.default_rng(0)
    bank = Patches(
        rng.normal(size=(60, 4)).astype(np.float32), rng.dirichlet(np.ones(3), 60).astype(np.float32), np.ones(60),
        np.zeros(60, int),
    )  # fmt: skip
    asked = rng.normal(size=(2, 3, 3, 4)).astype(np.float32)
    for whiten in (0.0, 0.1):
        scores, protocol = module._neighbours(bank, ConfigDict(dict(k=5, temperature=0.2, whiten=whiten)), 3)
        known, wanted = bank.features.astype(np.float64), asked.reshape(-1, 4).astype(np.float64)
        if whiten:
            mean = known.mean(0)
            variance, axes = np.linalg.eigh(np.cov(known.T, bias=True))
            spread = np.sqrt(variance)
            known, wanted = (((x - mean) @ axes) / (spread + whiten * spread.max()) for x in (known, wanted))
        known, wanted = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (known, wanted))
        expected = []
        for row in wanted @ known.T:
            near = np.argsort(-row)[:5]
            vote = np.exp(row[near] / 0.2)
            expected.append(vote @ bank.shares[near] / vote.sum())
        np.testing.assert_allclose(np.asarray(scores(asked)).reshape(-1, 3), expected, rtol=2e-4, atol=2e-5)
        assert protocol["k"] == 5 and ("preprocessing" in protocol) == bool(whiten)
    few, protocol = module._neighbours(bank, ConfigDict(dict(k=500, temperature=0.2, whiten=0.0)), 3)
    assert protocol["k"] == 60


def test_the_head_is_that_of_scikit_learn():
    """A patch of shares (.5, .3, .2) is three samples of weight .5, .3 and .2 there."""
    rng = np.random.default_rng(1)
    features = rng.normal(size=(80, 5)).astype(np.float32) * [1, 3, 0.2, 1, 1] + 2
    shares = rng.dirichlet(np.ones(3) * 0.5, 80)
    known = rng.uniform(0.2, 1.0, 80)
    patches = Patches(features.astype(np.float32), shares.astype(np.float32), known, np.zeros(80, int))
    options = ConfigDict(dict(max_iterations=500, tolerance=1e-6))
    for l2, room in ((0.02, 0), (0.3, 100)):
        fit = module.fit_heads(patches, [l2], options, known[None], room)
        standard = (features - features.mean(0)) / features.std(0)
        weights = (shares * known[:, None]).ravel()
        model = LogisticRegression(C=1 / (l2 * known.sum()), tol=1e-9, max_iter=5000)
        model.fit(np.repeat(standard, 3, axis=0), np.tile(np.arange(3), 80), weights)
        expected = model.predict_log_proba(standard)
        logits = features @ np.asarray(fit.weight[0]) + np.asarray(fit.bias[0])
        found = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        np.testing.assert_allclose(found, expected, atol=3e-4)
        assert fit.converged.all()


def test_validation_images_choose_the_penalty():
    """The strength whose head, fitted without the held out images, has the best mIoU on them."""
    known, rng = module.maps(look, {}, opened(24, 0)(), "map"), np.random.default_rng(0)
    noise = rng.normal(size=(24, 4, 4, 60))
    noisy = known._replace(features=np.concatenate([known.features + noise[..., :3], noise], -1).astype(np.float32))
    held = module.held_out_images(24, 0.2, 0)
    options = settings(linear__l2_grid=(1e-5, 1e-2, 1.0))
    patches = patches_of(noisy, 3)
    others, scores = module.of_images(patches, np.setdiff1d(np.arange(24), held)), {}
    for l2 in (1e-5, 1e-2, 1.0):
        fit = module.fit_heads(others, [l2], options.linear, others.known[None])
        head = module.Head(fit.weight[0], fit.bias[0])
        found = module.predicted(
            lambda features, h=head: features @ h.weight + h.bias[None, None, None], noisy.features[held], 8
        )
        scores[l2] = miou(counted(noisy.masks[held], found, 3))
    _, protocol = module._head(noisy, patches, options, 3, 0)
    assert len(set(scores.values())) == 3 and protocol["l2"] == max(scores, key=scores.get), scores
    assert protocol["train_patches"] == len(patches.features) == 24 * 16


def test_held_out_images_weigh_nothing_where_the_penalty_is_chosen(monkeypatch):
    """Patches of the others, and of all in the last fit, weigh what is known of them."""
    known, weights = module.maps(look, {}, opened(24, 0)(), "map"), []

    def fit_heads(patches, strengths, options, given, room=0):
        weights.append((patches.image, given))
        return fit(patches, strengths, options, given, room)

    fit, patches = module.fit_heads, patches_of(known, 3)
    monkeypatch.setattr(module, "fit_heads", fit_heads)
    module._head(known, patches, settings(linear__l2_grid=(1e-2, 1.0)), 3, 0)
    held = module.held_out_images(24, 0.2, 0)
    (image, choosing), (_, last) = weights
    out = np.isin(image, held)
    assert len(held) == 5 and 0 < out.mean() < 0.5 and choosing.shape == (2, 24 * 16)
    assert (choosing[:, out] == 0).all() and (choosing[:, ~out] == patches.known[~out]).all()
    assert (last == patches.known).all()


def test_eight_devices_give_what_one_gives():
    network = ViT(image_size=8, patch=2, width=8, depth=1, heads=2, channels=1)
    variables = jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    mesh = make_mesh()
    assert mesh.size == 8
    found = [
        module.evaluate(network.apply, variables, opened(16, 0), opened(11, 1), settings(shots=()), names=NAMES, seed=0,
                        resamples=20, feature="map", sharding=sharding)
        for sharding in (None, on_data(mesh))
    ]  # fmt: skip
    for name in found[0]:
        assert found[0][name]["value"] == pytest.approx(found[1][name]["value"], abs=5e-3), name


def test_what_cannot_be_measured_has_no_value():
    def broken(variables, images):
        return {"map": look(variables, images)["map"] * jnp.nan}

    found = module.evaluate(
        broken, {}, opened(8, 0), opened(8, 1), settings(), names=NAMES, seed=0, resamples=5, feature="map"
    )
    assert len(found) == 3 and all(entry["value"] is None for entry in found.values())
    assert "not finite" in found["segment_knn/miou"]["protocol"]["problem"]
    blank = {**painted(8, 0), "segmentation": np.full((8, 8, 8), 255, np.uint8)}
    empty = judged(lambda: evaluation_batches(blank, 8), opened(8, 1))
    assert "no pixel" in empty["segment_knn/miou"]["protocol"]["problem"]


def test_few_images_of_a_class_are_said():
    few = painted(12, 0)
    few["segmentation"][few["segmentation"] == 2] = 1
    few["segmentation"][3, 4:] = 2
    found = judged(lambda: evaluation_batches(few, 8), opened(8, 1), shots=(2,))
    assert found["segment_2_linear/miou"]["protocol"]["fewer_images_of"] == ["bright"]


def test_masks_to_show_are_those_of_the_head():
    shown = painted(3, 5)
    found = module.masks_by_linear_head(
        look, {}, opened(30, 0), lambda: evaluation_batches(shown, 8), settings(), classes=3, seed=0
    )
    assert found.shape == (3, 8, 8)
    seen = shown["segmentation"] != 255
    assert (found == shown["segmentation"])[seen].mean() > 0.8


CHECKED = ViT(image_size=8, patch=4, width=8, depth=1, heads=2, channels=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"images": 1}, "segmentation.images is 1"), ({"patches": 0}, "patches is 0"), ({"draws": 1}, "draws is 1"),
     ({"shots": (0,)}, "shots is"), ({"knn__k": 0}, "knn.k is 0"), ({"knn__temperature": 0.0}, "knn.temperature"),
     ({"linear__l2_grid": ()}, "l2_grid"), ({"linear__shots_l2": 0.0}, "shots_l2"),
     ({"linear__validation": 1.0}, "linear.validation"), ({"feature": "feat"}, "feature 'feat'.*map")],
)  # fmt: skip
def test_values_that_mean_nothing_are_refused(change, message):
    data = ConfigDict(dict(image_size=8, channels=1))
    check = partial(module.check, parts=NAMES, backbone=CHECKED, data=data)
    check(settings())
    module.check(settings(**change), (), CHECKED, data)  # a set without masks asks for nothing
    with pytest.raises(UserError, match=message):
        check(settings(**change))
