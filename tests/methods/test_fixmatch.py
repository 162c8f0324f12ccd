"""FixMatch beside gated pretexts: its loss by hand on a linear network, what gets a gradient, and what is refused."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gssl_jax.errors import UserError
from gssl_jax.methods.base import Clock
from gssl_jax.methods.fixmatch import build
from gssl_jax.models.resnet import ResNet
from gssl_jax.training.mesh import make_mesh, put_batch, replicated
from gssl_jax.training.state import create_state
from gssl_jax.training.step import make_step
from tests.runs.recipes import recipe
from tests.tiny import QUICK

COUNTS = np.array([5, 5, 5])
SIDE, LABELLED, RATIO, WIDTH = 8, 4, 3, 6
THREE = ("flip", "lorot_e", "channels")  # in the order of composition
NETWORK = ResNet(image_size=SIDE, block="basic", depths=(1, 1), widths=(4, 8), stem_width=4)


class Linear:
    """A backbone of one matrix, without statistics."""

    def init(self, key, images):
        return {"params": {"w": jax.random.normal(key, (images[0].size, WIDTH)) / 8}}

    def apply(self, variables, images, train=False, rngs=None, mutable=()):
        out = {"feat": images.reshape(len(images), -1) @ variables["params"]["w"]}
        return (out, {}) if mutable else out


def made(network=None, **changes):
    """The tiny recipe at 8 px; `method__semi__hard=False` sets a value by its path."""
    c = recipe("tiny", "gated_semi")
    c.data.image_size = c.data.canvas = c.method.augment.train.size = SIDE
    c.data.crop = "device"
    c.method.augment.train.pad = 1
    for path, value in changes.items():
        *groups, name = path.split("__")
        node = c
        for group in groups:
            node = node[group]
        with node.ignore_type():
            node[name] = value
    return build(c, network or Linear(), Clock(6, 1), COUNTS)


def batches(labelled=LABELLED, ratio=RATIO, seed=0):
    rng = np.random.default_rng(seed)

    def batch(n):
        images = rng.integers(0, 256, (n, 1, SIDE, SIDE, 3)).astype(np.uint8)
        return {"image": images, "index": np.arange(n, dtype=np.int32), "draw": np.arange(n, dtype=np.int32)}

    label = rng.integers(0, 3, labelled).astype(np.int32)
    return {"labelled": {**batch(labelled), "label": label}, "unlabelled": batch(labelled * ratio)}


def shown(method, given):
    """The views of a batch."""
    made = jax.jit(lambda b: method.views(b, jax.random.key(1), jnp.int32(0)))
    return made.lower(given).compile(compiler_options=QUICK)(given)


def begun(method, pretext_rows=LABELLED):
    """(params, method state, views) of a fresh method; the views are noise, each image of another brightness."""
    rng = np.random.default_rng(0)

    def images(n):
        return jnp.asarray(rng.random((n, SIDE, SIDE, 3)) * rng.random((n, 1, 1, 1)), jnp.float32)

    unlabelled = LABELLED * RATIO
    views = {"labelled": images(LABELLED), "weak": images(unlabelled), "strong": images(unlabelled)}
    views["label"] = jnp.asarray([0, 2, 1, 1], jnp.int32)
    for name, classes in zip(THREE, (2, 16, 6), strict=True):
        views[f"pretext_{name}"] = jnp.asarray(rng.integers(0, classes, pretext_rows), jnp.int32)
    return *method.init(jax.random.key(0), views), views


def judged(method, params, state, views):
    """(loss, next state, metrics as floats)."""
    loss, (after, metrics) = method.loss(params, state, views, jax.random.key(2), jnp.int32(0), True)
    return float(loss), after, {name: float(value) for name, value in metrics.items()}


def softmax(logits):
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def by_hand(params, views, view, head="classifier"):
    """Probabilities of a head under a view, in NumPy."""
    rows = np.asarray(views[view], np.float64).reshape(len(views[view]), -1)
    linear = params["heads"][head]["linear"]
    weights = (params["backbone"]["w"], linear["kernel"], linear["bias"])
    w, kernel, bias = (np.asarray(x, np.float64) for x in weights)
    return softmax(rows @ w @ kernel + bias)


def log_loss(probabilities, labels):
    return -np.log(probabilities[np.arange(len(labels)), np.asarray(labels)])


@pytest.mark.parametrize("hard", [True, False])
def test_the_loss_by_hand(hard):
    """L = CE(labelled) + 2 mean(1[max p_weak >= .6] H(pseudo, p_strong)) + .1 mean of three pretext losses."""
    semi = dict(method__semi__threshold=0.6, method__semi__hard=hard, method__semi__consistency=2.0)
    method = made(method__gate__mode="uniform", **semi)
    params, state, views = begun(method)
    loss, _, metrics = judged(method, params, state, views)
    supervised = log_loss(by_hand(params, views, "labelled"), views["label"]).mean()
    weak, strong = by_hand(params, views, "weak"), by_hand(params, views, "strong")
    certain = weak.max(-1) >= 0.6
    assert 0 < certain.sum() < len(weak)  # both kinds are there
    sharpened = softmax(np.log(weak) / 0.5)
    wanted = np.eye(3)[weak.argmax(-1)] if hard else sharpened
    consistency = (certain * -(wanted * np.log(strong)).sum(-1)).mean()
    pretexts = [log_loss(by_hand(params, views, "labelled", n), views[f"pretext_{n}"]).mean() for n in THREE]
    assert metrics["train/loss_supervised"] == pytest.approx(supervised, rel=1e-4)
    assert metrics["train/loss_consistency"] == pytest.approx(consistency, rel=1e-4)
    assert metrics["train/certain"] == pytest.approx(certain.mean())
    assert loss == pytest.approx(supervised + 2 * consistency + 0.1 * np.mean(pretexts), rel=1e-4)


def test_pseudo_labels_get_no_gradient_and_uncertain_images_give_none():
    """Nothing flows to the weak view; to the strong view only where the weak one is certain."""
    method = made(method__pretexts__names=(), method__gate__mode="none", method__semi__threshold=0.6)
    params, state, views = begun(method)

    def loss(images):
        return method.loss(params, state, {**views, **images}, jax.random.key(2), jnp.int32(0), True)[0]

    gradient = jax.grad(loss)({view: views[view] for view in ("weak", "strong")})
    assert not np.asarray(gradient["weak"]).any()
    certain = by_hand(params, views, "weak").max(-1) >= 0.6
    reached = np.asarray(gradient["strong"]).any((1, 2, 3))
    assert 0 < certain.sum() < len(certain) and (reached == certain).all()


def test_views_are_in_the_ratio_of_the_streams_and_need_no_label():
    """Four labelled and twelve unlabelled images; pretext labels of the recognised views in turn."""
    method = made(method__semi__recognised=("labelled", "weak"))
    views = shown(method, batches())
    assert {name: value.shape[0] for name, value in views.items() if not name.startswith("pretext_")} == {
        "labelled": LABELLED,
        "weak": LABELLED * RATIO,
        "strong": LABELLED * RATIO,
        "label": LABELLED,
    }
    assert {views[f"pretext_{name}"].shape for name in THREE} == {(LABELLED * (1 + RATIO),)}
    assert all(views[v].shape[1:] == (SIDE, SIDE, 3) and 0 <= views[v].min() for v in ("labelled", "weak", "strong"))
    assert (np.asarray(views["weak"]) != np.asarray(views["strong"])).any((1, 2, 3)).all()


def test_pretexts_touch_the_views_that_are_named():
    """Without shift and flip, an untransformed view is the image itself."""
    same = dict(method__augment__train__pad=0, method__augment__train__flip=0.0)
    method = made(method__semi__transformed=("labelled",), method__semi__recognised=("labelled",), **same)
    given = batches()
    views = shown(method, given)
    np.testing.assert_allclose(views["weak"], given["unlabelled"]["image"][:, 0] / 255.0, atol=1e-6)
    assert (np.asarray(views["labelled"]) != given["labelled"]["image"][:, 0] / np.float32(255)).any()
    # a set smaller than the batch: the same image under another draw is another view
    given["labelled"]["image"][1] = given["labelled"]["image"][0]
    one, other = np.asarray(shown(method, given)["labelled"])[:2]
    assert (one != other).any()


def test_the_plain_variant_recognises_pretexts_of_unlabelled_images():
    """No strong view, no pseudo-label: CE of clean labelled images + 1 * the pretexts of the unlabelled ones."""
    weak = {"method__semi__transformed": ("weak",), "method__semi__recognised": ("weak",)}
    method = made(method__semi__consistency=0.0, method__pretexts__weight=1.0, method__gate__mode="sum", **weak)
    params, state, views = begun(method, LABELLED * RATIO)
    del views["strong"]
    assert set(jax.eval_shape(lambda b: method.views(b, jax.random.key(1), jnp.int32(0)), batches())) == set(views)
    loss, _, metrics = judged(method, params, state, views)
    supervised = log_loss(by_hand(params, views, "labelled"), views["label"]).mean()
    pretexts = [log_loss(by_hand(params, views, "weak", n), views[f"pretext_{n}"]).mean() for n in THREE]
    assert loss == pytest.approx(supervised + sum(pretexts), rel=1e-4)
    assert not any("consistency" in name for name in metrics)
    preset = recipe("plain", "gated_semi").method
    assert (preset.semi.consistency, preset.semi.recognised, preset.pretexts.weight) == (0.0, ("weak",), 1.0)


def test_usefulness_compares_on_labelled_images_alone():
    """The cosine knows no scale, so that unlabelled rows beside the labelled ones change nothing."""
    found = []
    for views in (("labelled",), ("labelled", "weak")):
        method = made(method__gate__mode="usefulness", method__semi__recognised=views)
        params, state, given = begun(method, LABELLED * (1 + RATIO))
        rows = LABELLED * (1 + RATIO * (len(views) - 1))
        given = {k: v[:rows] if k.startswith("pretext_") else v for k, v in given.items()}
        _, _, metrics = judged(method, params, state, given)
        found.append([metrics[f"gate/alignment_{name}"] for name in THREE])
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)
    assert np.abs(found[0]).max() > 1e-3


def test_the_average_is_judged_and_copies_statistics_of_one_pass_over_all_views():
    method = made(NETWORK, method__ema__momentum=0.75)
    params, state, views = begun(method)
    _, after, _ = judged(method, params, state, views)
    every = jnp.concatenate([views[view] for view in ("labelled", "weak", "strong")])
    variables = {"params": params["backbone"], "batch_stats": state["batch_stats"]}
    _, expected = NETWORK.apply(variables, every, train=True, mutable=["batch_stats"])
    for a, b in zip(*map(jax.tree.leaves, (after["batch_stats"], expected["batch_stats"])), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    moved = jax.tree.map(lambda x: x + 1.0, params)
    updated = method.after_update(moved, after, jnp.int32(0))
    for a, b in zip(jax.tree.leaves(updated["teacher"]["heads"]), jax.tree.leaves(params["heads"]), strict=True):
        np.testing.assert_allclose(a, b + 0.25, atol=1e-6)
    for a, b in zip(*map(jax.tree.leaves, (updated["teacher_batch_stats"], after["batch_stats"])), strict=True):
        np.testing.assert_array_equal(a, b)
    images = views["weak"][:2]
    zeros = method.predict(jax.tree.map(jnp.zeros_like, params), updated, images)
    np.testing.assert_array_equal(method.predict(moved, updated, images), zeros)  # the student is not asked


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(method__semi__threshold=1.5), "method.semi.threshold=1.5: give 0.0 to 1.0"),
        (dict(method__semi__temperature=0.0), "method.semi.temperature=0.0"),
        (dict(method__semi__consistency=-1.0), "method.semi.consistency=-1.0"),
        (dict(method__strong__cutout=2.0), "method.strong.cutout=2.0"),
        (dict(method__ema__momentum=1.0), "method.ema.momentum=1.0"),
        (dict(method__semi__recognised=("weka",)), "recognised 'weka'; did you mean 'weak'"),
        (dict(method__semi__transformed=("weak",)), "recognised=.*labelled.*transformed views"),
        (dict(method__semi__recognised=()), "give at least one"),
        (dict(method__semi__consistency=0.0, method__semi__recognised=("strong",)), "makes no strong view"),
        (dict(method__gate__mode="usefulness", method__semi__recognised=("weak",)), "usefulness.*'labelled'"),
        (dict(method__gate__mode="learnt"), "did you mean 'learned'"),
    ],
)
def test_what_does_not_fit_is_refused(change, words):
    with pytest.raises(UserError, match=words):
        made(**change)


def test_relative_position_is_refused():
    c = recipe("tiny", "gated_semi")
    c.method.pretexts.update(dict(names=("relative_position",), relative_patch=8, relative_gap=1))
    c.method.pretexts.update(dict(relative_jitter=0, relative_size=8))
    with pytest.raises(UserError, match="relative_position.*leave it out"):
        build(c, Linear(), Clock(6, 1), COUNTS)


@pytest.mark.slow
def test_eight_devices_equal_one():
    """Two streams of 8 and 16 images: statistics, masks and the gate are those of all of them. Plain SGD."""
    method = made(
        NETWORK, method__semi__threshold=0.4, method__strong__operations=1, method__pretexts__names=("flip", "channels")
    )
    ends = []
    for devices in (1, 8):
        mesh = make_mesh(devices)
        given = batches(labelled=8, ratio=2)
        fresh = jax.jit(lambda b, k: create_state(method, optax.sgd(0.05), b, k), out_shardings=replicated(mesh))
        state = fresh(put_batch(given, mesh), jax.random.key(0))
        step = make_step(method, optax.sgd(0.05), mesh)
        step = step.lower(state, {}, put_batch(given, mesh)).compile(compiler_options=QUICK)
        for _ in range(2):
            state, metrics = step(state, {}, put_batch(given, mesh))
        assert int(state.samples_seen) == 2 * (8 + 16) and 0 < float(metrics["train/certain"].compute()) <= 1
        ends.append({jax.tree_util.keystr(p): np.asarray(x) for p, x in jax.tree.leaves_with_path(
            (state.params, state.method_state))})  # fmt: skip
    for name, value in ends[0].items():
        np.testing.assert_allclose(value, ends[1][name], atol=1e-4, err_msg=name)
