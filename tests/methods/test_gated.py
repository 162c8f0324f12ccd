"""G-SSL as a method: what its loss is made of, what trains and what does not, and the attack inside it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from gssl_jax.errors import UserError
from gssl_jax.methods.base import Clock
from gssl_jax.methods.gated import build
from gssl_jax.models.build import build_backbone
from gssl_jax.models.resnet import ResNet
from gssl_jax.training.mesh import make_mesh, put_batch, replicated
from gssl_jax.training.state import TrainState, create_state
from gssl_jax.training.step import make_step, transition
from tests.runs.recipes import recipe
from tests.tiny import QUICK

COUNTS = np.array([9, 4, 2])
SIDE, BATCH = 8, 16
NETWORK = ResNet(image_size=SIDE, block="basic", depths=(1, 1), widths=(4, 8), stem_width=4)
THREE = ("lorot_e", "flip", "channels")


def config(**changes):
    """The tiny recipe at 8 px; `method__gate__mode="sum"` sets a value by its path."""
    c = recipe("tiny", "gated_cifar_lt")
    c.data.image_size = c.data.canvas = c.method.augment.train.size = SIDE
    c.data.crop = "device"
    for path, value in changes.items():
        *groups, name = path.split("__")
        node = c
        for group in groups:
            node = node[group]
        node[name] = value
    return ConfigDict(c)


def made(**changes):
    return build(config(**changes), NETWORK, Clock(6, 1), COUNTS)


def batch(seed=0, offset=0):
    rng = np.random.default_rng(seed)
    return {
        "train": {
            "image": rng.integers(0, 255, (BATCH, 1, SIDE, SIDE, 3)).astype(np.uint8),
            "index": np.arange(BATCH, dtype=np.int32),
            "draw": np.arange(BATCH, dtype=np.int32) + offset,
            "label": rng.integers(0, 3, BATCH).astype(np.int32),
        }
    }


def begun(method):
    """(params, method state, views) of a fresh method."""
    views = method.views(batch(), jax.random.key(1), jnp.int32(0))
    return *method.init(jax.random.key(0), views), views


def judged(method, params, state, views, step=0):
    """(loss, next state, metrics as floats)."""
    loss, (after, metrics) = method.loss(params, state, views, jax.random.key(2), jnp.int32(step), True)
    return float(loss), after, {name: float(value) for name, value in metrics.items()}


def test_sum_is_three_times_uniform_beside_the_supervised_loss():
    """The same three losses, once added and once averaged (specification 1.9, 7); `none` leaves the labels alone."""
    losses = {}
    for mode in ("sum", "uniform", "none"):
        method = made(method__gate__mode=mode)
        loss, _, metrics = judged(method, *begun(method))
        losses[mode] = loss - metrics["train/loss_supervised"]
        each = [metrics[f"train/loss_{name}"] for name in THREE]
        expected = {"sum": 0.1 * sum(each), "uniform": 0.1 * np.mean(each), "none": 0.0}[mode]
        assert losses[mode] == pytest.approx(expected, abs=1e-5)
    assert losses["sum"] == pytest.approx(3 * losses["uniform"], rel=1e-4)


def test_a_frozen_gate_does_not_move_and_a_learned_one_does():
    for mode, moves in (("frozen", False), ("learned", True)):
        method = made(method__gate__mode=mode)
        optimiser = optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1))
        state = create_state(method, optimiser, batch(), jax.random.key(0))
        gate = (state.params if moves else state.method_state)["gate"]["linear"]["kernel"]
        assert ("gate" in state.params) == moves
        step = jax.jit(lambda s, b, method=method, optimiser=optimiser: transition(method, optimiser, s, b)[0])
        for i in range(2):
            state = step(state, batch(i, 16 * i))
        after = (state.params if moves else state.method_state)["gate"]["linear"]["kernel"]
        assert bool((np.asarray(gate) == np.asarray(after)).all()) != moves


def test_the_gradient_of_a_learned_gate_is_the_closed_form():
    """dL/dz_j = lambda g_j (L_j - sum_i g_i L_i) for the bias, which all samples share (specification 1.4)."""
    method = made(method__gate__mode="learned")
    params, state, views = begun(method)
    gradient = jax.grad(lambda p: method.loss(p, state, views, jax.random.key(2), jnp.int32(0), True)[0])(params)
    _, _, metrics = judged(method, params, state, views)
    g, losses = (np.array([metrics[f"{kind}_{name}"] for name in THREE]) for kind in ("gate/weight", "train/loss"))
    expected = 0.1 * g * (losses - g @ losses)
    order = [["flip", "lorot_e", "channels"].index(name) for name in THREE]  # heads stand in the order of composition
    np.testing.assert_allclose(np.asarray(gradient["gate"]["linear"]["bias"])[order], expected, atol=1e-6)


def test_pretext_labels_do_not_reach_the_classifier():
    method = made(method__gate__mode="uniform")
    params, state, views = begun(method)
    other = {k: jnp.zeros_like(v) if k.startswith("pretext_") else v for k, v in views.items()}

    def gradient(views):
        return jax.grad(lambda p: method.loss(p, state, views, jax.random.key(2), jnp.int32(0), True)[0])(params)

    one, two = gradient(views), gradient(other)
    for a, b in zip(
        jax.tree.leaves(one["heads"]["classifier"]), jax.tree.leaves(two["heads"]["classifier"]), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    assert any((np.asarray(a) != np.asarray(b)).any() for a, b in zip(*map(jax.tree.leaves, (one, two)), strict=True))


def test_usefulness_weighs_by_agreement_with_the_labels():
    """After one update the corrected average is the alignment itself."""
    method = made(method__gate__mode="usefulness", method__gate__temperature=0.2)
    params, state, views = begun(method)
    _, after, metrics = judged(method, params, state, views)
    aligned, weights = (
        np.array([metrics[f"gate/{kind}_{name}"] for name in THREE]) for kind in ("alignment", "weight")
    )
    expected = np.exp(aligned / 0.2) / np.exp(aligned / 0.2).sum()
    np.testing.assert_allclose(weights, expected, rtol=1e-4)
    assert np.abs(aligned).max() > 1e-3 and int(after["usefulness"]["updates"]) == 1
    loss, _, _ = judged(method, params, state, views)
    each = np.array([metrics[f"train/loss_{name}"] for name in THREE])
    assert loss - metrics["train/loss_supervised"] == pytest.approx(0.1 * weights @ each, rel=1e-3)


def test_predictions_see_clean_images_and_no_key():
    method = made()
    params, state, _ = begun(method)
    images = jnp.asarray(batch()["train"]["image"][:, 0] / 255.0, jnp.float32)
    logits = method.predict(params, state, images)
    features = NETWORK.apply({"params": params["backbone"], "batch_stats": state["batch_stats"]}, images)["feat"]
    np.testing.assert_allclose(logits, method.classify(params, state, features), atol=1e-6)
    assert logits.shape == (BATCH, 3)
    # one by one as together: running statistics, not those of the batch
    np.testing.assert_allclose(logits[:1], method.predict(params, state, images[:1]), atol=1e-5)


@pytest.mark.parametrize("statistics", ["running", "batch"])
def test_the_attack_stays_near_the_transformed_image_and_leaves_the_statistics(statistics):
    attack = {"method__attack__steps": 2, "method__attack__statistics": statistics}
    method, plain = made(method__gate__mode="uniform", **attack), made(method__gate__mode="uniform")
    params, state, views = begun(method)
    own = method.loss.__self__
    before = np.asarray(views["image"])
    attacked = np.asarray(own._attacked(params, state, views, jax.random.key(2), jnp.int32(0)))
    np.testing.assert_array_equal(views["image"], before)
    assert np.abs(attacked - before).max() <= 8 / 255 + 1e-6 and attacked.min() >= 0 and attacked.max() <= 1
    assert (attacked != before).mean() > 0.5
    loss, after, _ = judged(method, params, state, views)
    _, expected, _ = judged(plain, params, state, {**views, "image": jnp.asarray(attacked)})
    for a, b in zip(jax.tree.leaves(after["batch_stats"]), jax.tree.leaves(expected["batch_stats"]), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)  # those of the attacked batch, once
    assert loss > judged(plain, params, state, views)[0]


def test_the_attack_weighs_the_pretexts_as_training_does():
    """Weight 0 is no pretext at all; a sum pushes elsewhere than the labels alone."""

    def attacked(**changes):
        method = made(method__attack__steps=1, method__attack__random_start=False, **changes)
        own = method.loss.__self__
        return np.asarray(own._attacked(params, state, views, jax.random.key(2), jnp.int32(0)))

    params, state, views = begun(made(method__gate__mode="none"))
    alone = attacked(method__pretexts__names=(), method__gate__mode="none")
    np.testing.assert_array_equal(attacked(method__gate__mode="none"), alone)
    assert (attacked(method__gate__mode="sum", method__pretexts__weight=100.0) != alone).mean() > 0.1


def test_the_average_follows_the_student_and_copies_its_statistics():
    method = made(method__ema__momentum=0.75)
    params, state, views = begun(method)
    _, after, _ = judged(method, params, state, views)
    moved = jax.tree.map(lambda x: x + 1.0, params)
    updated = method.after_update(moved, after, jnp.int32(0))
    for name in ("backbone", "heads"):
        for a, b in zip(jax.tree.leaves(updated["teacher"][name]), jax.tree.leaves(params[name]), strict=True):
            np.testing.assert_allclose(a, b + 0.25, atol=1e-6)
    for a, b in zip(*map(jax.tree.leaves, (updated["teacher_batch_stats"], after["batch_stats"])), strict=True):
        np.testing.assert_array_equal(a, b)
    images = jnp.zeros((2, SIDE, SIDE, 3))
    other = method.predict(jax.tree.map(jnp.zeros_like, params), updated, images)  # the student is not asked
    np.testing.assert_array_equal(method.predict(moved, updated, images), other)
    assert "teacher" not in made().init(jax.random.key(0), views)[1]


def test_relative_position_has_patches_of_its_own():
    small = {f"method__pretexts__relative_{k}": v for k, v in dict(patch=2, gap=0, jitter=0, size=4).items()}
    names = ("lorot_e", "relative_position")
    method = made(method__pretexts__names=names, method__gate__mode="uniform", **small)
    params, state, views = begun(method)
    assert views["patches"].shape == (BATCH, 2, 4, 4, 3)
    assert params["heads"]["relative_position"]["directions"].shape == (16, 8)
    _, after, metrics = judged(method, params, state, views)
    plain = made(method__pretexts__names=("lorot_e",), method__gate__mode="uniform")
    kept = {k: v for k, v in params.items() if k != "heads"} | {
        "heads": {k: v for k, v in params["heads"].items() if k != "relative_position"}
    }
    _, expected, _ = judged(plain, kept, state, views)
    for a, b in zip(*map(jax.tree.leaves, (after["batch_stats"], expected["batch_stats"])), strict=True):
        np.testing.assert_array_equal(a, b)  # patches leave no trace in the statistics
    assert metrics["gate/alignment_relative_position"] == 0.0


def test_channels_may_be_exchanged_as_the_authors_do_it():
    """An image of the mean colour: each of its standardised channels is 0, whichever takes whose place."""
    changes = dict(method__pretexts__names=("channels",), method__augment__train__flip=0.0, data__std=(0.2, 0.1, 0.4))
    changes |= dict(data__mean=(0.2, 0.4, 0.6), method__augment__train__pad=0)
    given = batch()
    given["train"]["image"] = np.full_like(given["train"]["image"], 51) * np.array([1, 2, 3], np.uint8)
    key, step = jax.random.key(1), jnp.int32(0)
    pixels, standardised = (
        made(method__pretexts__channels_space=space, **changes).views(given, key, step)
        for space in ("pixels", "standardised")
    )
    labels = np.asarray(pixels["pretext_channels"])
    np.testing.assert_array_equal(labels, standardised["pretext_channels"])
    moved = np.abs(np.asarray(pixels["image"]) - (0.2, 0.4, 0.6)).max((1, 2, 3)) > 0.1
    np.testing.assert_array_equal(moved, labels > 0)
    np.testing.assert_allclose(standardised["image"], np.broadcast_to([0.2, 0.4, 0.6], (BATCH, SIDE, SIDE, 3)), 1e-5)

    given["train"]["image"][..., 0] = 102  # red is one deviation above its mean, 0.2 + 0.2
    brighter = np.asarray(
        made(method__pretexts__channels_space="standardised", **changes).views(given, key, step)["image"]
    )
    takes_red = np.isclose(brighter, (0.4, 0.5, 1.0), atol=1e-5)  # the mean and one deviation of the channel it takes
    assert (takes_red.sum(-1) == 1).all() and takes_red[..., 1].any() and takes_red[..., 2].any()


def test_a_transformer_learns_the_same_way():
    """One block, with relative position, whose patches are smaller than what the positions were made for."""
    c = recipe("tiny,backbone=vit_micro4", "gated_cifar_lt")
    c.backbone.update(dict(depth=1, width=8, heads=1, drop_path=0.0))
    c.data.crop, names = "device", ("lorot_e", "relative_position")
    c.method.pretexts.update(dict(names=names, relative_size=8))
    method = build(c, build_backbone(c), Clock(6, 1), COUNTS)
    given = batch()
    given["train"]["image"] = np.tile(given["train"]["image"], (1, 1, 4, 4, 1))
    views = jax.jit(method.views)(given, jax.random.key(1), jnp.int32(0))
    params, state = jax.jit(method.init)(jax.random.key(0), views)

    def loss(params):
        return method.loss(params, state, views, jax.random.key(2), jnp.int32(0), True)[0]

    value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    assert np.isfinite(value)
    norms = {name: float(optax.tree.norm(gradient["heads"][name])) for name in gradient["heads"]}
    assert set(norms) == {"classifier", *names} and min(norms.values()) > 0
    assert float(optax.tree.norm(gradient["backbone"]["block_0"])) > 0
    assert jax.eval_shape(method.predict, params, state, views["image"]).shape == (BATCH, 3)


def test_deferred_weights_begin_at_their_step():
    """Two tiny losses apart from the weights: at `drw_start` the rare class counts more."""
    method = made(method__loss__drw_start=3.0, method__gate__mode="none")
    params, state, views = begun(method)
    losses = [judged(method, params, state, views, step)[2]["train/loss_supervised"] for step in (0, 2, 3, 1000)]
    assert losses[0] == losses[1] != losses[2] == losses[3]


def test_without_pretexts_it_is_supervised_training():
    method = made(method__pretexts__names=(), method__gate__mode="none", method__loss__kind="focal")
    params, state, views = begun(method)
    assert set(params) == {"backbone", "heads"} and set(views) == {"image", "label", "draw"}
    loss, _, metrics = judged(method, params, state, views)
    assert loss == metrics["train/loss_supervised"] > 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(method__pretexts__names=("lorot",)), "lorot.*did you mean 'lorot_"),
        (dict(data__image_size=9, method__augment__train__size=9), "9"),
        (dict(data__channels=1), "channels"),
        (dict(method__gate__mode="learnt"), "method.gate.mode 'learnt'.*did you mean 'learned'"),
        (dict(method__gate__formula="mean"), "method.gate.formula"),
        (dict(method__loss__kind="cee"), "method.loss.kind"),
        (dict(method__heads__normed=False), "method.loss.kind=ldam needs cosines.*method.heads.normed=True"),
        (dict(method__augment__train__size=16), "method.augment.train.size=16"),
        (dict(method__pretexts__channels_space="colours"), "method.pretexts.channels_space 'colours'"),
        (
            dict(method__pretexts__channels_space="standardised", method__attack__steps=1),
            "channels_space=standardised gives values outside.*method.attack.steps=0",
        ),
        (dict(method__gate__mode="usefulness", method__gate__momentum=1.0), "method.gate.momentum=1.0"),
    ],
)
def test_what_does_not_fit_is_refused(change, words):
    with pytest.raises(UserError, match=words):
        made(**change)


@pytest.mark.slow
def test_eight_devices_equal_one():
    """Batch statistics, class weights, gate and alignment over the global batch; plain SGD, parameters compared."""
    method = made(method__gate__mode="usefulness", method__loss__drw_start=1.0)
    ends = []
    for devices in (1, 8):
        mesh = make_mesh(devices)
        fresh = jax.jit(
            lambda b, k: create_state(method, optax.sgd(0.05), b, k), out_shardings=replicated(mesh)
        )  # fmt: skip
        state = fresh(put_batch(batch(), mesh), jax.random.key(0))
        step = make_step(method, optax.sgd(0.05), mesh)
        step = step.lower(state, {}, put_batch(batch(), mesh)).compile(compiler_options=QUICK)
        for i in range(2):
            state, _ = step(state, {}, put_batch(batch(i, 16 * i), mesh))
        assert isinstance(state, TrainState) and len(state.step.sharding.device_set) == devices
        ends.append({jax.tree_util.keystr(p): np.asarray(x) for p, x in jax.tree.leaves_with_path(
            (state.params, state.method_state))})  # fmt: skip
    for name, value in ends[0].items():
        np.testing.assert_allclose(value, ends[1][name], atol=1e-4, err_msg=name)
