"""MoCo against its published order and its formula in NumPy, its batch statistics, and what no gradient may reach."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from gssl_jax.errors import UserError
from gssl_jax.methods import moco
from gssl_jax.methods.base import Clock
from gssl_jax.models.resnet import resnet
from gssl_jax.ops.keys import named
from gssl_jax.training.optimizer import learning_rate
from gssl_jax.training.state import TrainState
from gssl_jax.training.step import transition
from tests.methods import siamese_parts
from tests.methods.siamese_parts import BATCH, RESNET, SIDE, Linear, begun, config, given, judged, made, two_views
from tests.models.test_resnet import ByLoops
from tests.runs.recipes import recipe
from tests.tiny import QUICK, leaves

KEY = jax.random.key(3)


def numpy(tree):
    return jax.tree.map(lambda x: np.float64(x), tree)


# -- the published order ---------------------------------------------------------------------------------------------


def forward(theta, images):
    """Unit vectors of the linear network and its projector, and what the backward pass needs of the way."""
    x = np.float64(images).reshape(len(images), -1)
    first, last = theta["projector"]["Dense_0"], theta["projector"]["Dense_1"]
    feat = x @ theta["backbone"]["w"]
    hidden = np.maximum(feat @ first["kernel"] + first["bias"], 0)
    z = hidden @ last["kernel"] + last["bias"]
    return z / np.linalg.norm(z, axis=1, keepdims=True), (x, feat, hidden, z)


def backward(theta, way, d_unit):
    """Gradients of all parameters from that of the unit vectors."""
    x, feat, hidden, z = way
    first, last = theta["projector"]["Dense_0"], theta["projector"]["Dense_1"]
    length = np.linalg.norm(z, axis=1, keepdims=True)
    unit = z / length
    d_z = (d_unit - unit * (d_unit * unit).sum(1, keepdims=True)) / length
    d_hidden = d_z @ last["kernel"].T * (hidden > 0)
    projector = {
        "Dense_0": {"kernel": feat.T @ d_hidden, "bias": d_hidden.sum(0)},
        "Dense_1": {"kernel": hidden.T @ d_z, "bias": d_z.sum(0)},
    }
    return {"backbone": {"w": x.T @ (d_hidden @ first["kernel"].T)}, "projector": projector}


def published(theta, queue, steps, rate, temperature, momentum, late=False):
    """(losses, student, teacher, queue) after MoCo's own loop, as its code has it: query, average, key, loss, step,
    queue. `late` = the average after the key, which is another method."""
    theta, teacher, queue = numpy(theta), numpy(theta), np.float64(queue)
    losses, pointer = [], 0

    def average(teacher):
        return jax.tree.map(lambda k, q: momentum * k + (1 - momentum) * q, teacher, theta)

    for views in steps:
        q, way = forward(theta, views["view_1"])
        teacher = teacher if late else average(teacher)
        k, _ = forward(teacher, views["view_2"])
        teacher = average(teacher) if late else teacher
        logits = np.concatenate([(q * k).sum(1, keepdims=True), q @ queue.T], axis=1) / temperature
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        losses.append(-np.log(p[:, 0]).mean())
        p[:, 0] -= 1
        d_q = (p[:, :1] * k + p[:, 1:] @ queue) / temperature / len(q)
        theta = jax.tree.map(lambda x, g: x - rate * g, theta, backward(theta, way, d_q))
        queue = queue.copy()
        queue[pointer : pointer + len(k)] = k
        pointer = (pointer + len(k)) % len(queue)
    return losses, theta, teacher, queue


def test_three_steps_are_those_of_the_published_order():
    """The average stands at the end of the step here and before the keys there; every loss, parameter and key is the
    same, and the teacher of the end is one average ahead. Four steps, so that the queue of three wraps round."""
    momentum, rate = 0.7, 0.5
    changes = dict(method__momentum=ConfigDict(dict(start=momentum, end=momentum, curve="cosine")))
    method, optimiser = given(made(Linear(), **changes)), optax.sgd(rate)
    params, state = begun(method)
    state["teacher"] = jax.tree.map(jnp.copy, dict(params))
    expected = published(params, state["queue"]["keys"], [two_views(n) for n in range(4)], rate, 0.2, momentum)
    other = published(params, state["queue"]["keys"], [two_views(n) for n in range(4)], rate, 0.2, momentum, late=True)
    zero = jnp.zeros((), jnp.int32)
    now = TrainState(zero, params, state, optimiser.init(params), KEY, jnp.uint32(0), zero)
    step = jax.jit(lambda s, b: transition(method, optimiser, s, b)[:2], compiler_options=QUICK)
    losses = []
    for number in range(4):
        now, metrics = step(now, siamese_parts.batch(number))
        losses.append(float(metrics["train/loss"]))
    np.testing.assert_allclose(losses, expected[0], rtol=1e-4)
    assert np.abs(np.subtract(losses, other[0])).max() > 1e-2  # and another order would show
    theta, teacher = expected[1], expected[2]
    ahead = jax.tree.map(lambda k, q: momentum * k + (1 - momentum) * q, teacher, theta)
    for found, wanted in ((now.params, theta), (now.method_state["teacher"], ahead)):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), dict(found), wanted)
    np.testing.assert_allclose(now.method_state["queue"]["keys"], expected[3], rtol=1e-3, atol=1e-4)
    assert int(now.method_state["queue"]["pointer"]) == BATCH and int(now.method_state["queue"]["filled"]) == 3 * BATCH


def test_the_teacher_follows_parameters_and_no_statistics():
    """k_n = q + m^n (k_0 - q) towards a constant student (specification 3.12, 3)."""
    method = made(RESNET, method__momentum=ConfigDict(dict(start=0.999, end=0.999, curve="cosine")))
    params, state = begun(method)
    start, now = numpy(state["teacher"]), state
    follow = jax.jit(method.after_update)
    for n in range(1, 6):
        now = follow(params, now, jnp.int32(n))
        student = {name: numpy(params[name]) for name in start}
        expected = jax.tree.map(lambda q, k, n=n: q + 0.999**n * (k - q), student, start)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), now["teacher"], expected)
    for name in ("batch_stats", "teacher_batch_stats", "queue"):
        jax.tree.map(np.testing.assert_array_equal, now[name], state[name])


# -- the loss --------------------------------------------------------------------------------------------------------

GROUPS, TEMPERATURE = 2, 0.2


def by_loops(tree, statistics, images, groups):
    """Unit vectors of the residual network in float64, by groups, and the mean over groups of their statistics."""
    tree, statistics = numpy(dict(tree)), numpy(statistics)
    projector, parts, seen = tree["projector"], [], []
    for rows in np.split(np.asarray(images), groups):
        network = ByLoops(RESNET, {"params": tree["backbone"], "batch_stats": statistics}, batch=True)
        parts.append(network(rows)["feat"])
        seen.append(network.seen[("norm_stem",)])
    x = np.concatenate(parts)
    for number in (0, 1):
        layer = projector[f"Dense_{number}"]
        x = (np.maximum(x, 0) if number else x) @ layer["kernel"] + layer["bias"]
    return x / np.linalg.norm(x, axis=1, keepdims=True), np.mean(seen, axis=0)


def test_one_step_is_its_formula_on_a_network_with_shuffled_groups():
    """The loss of a whole residual network in float64 loops: queries by groups as they come, keys by the groups
    that the step's key draws; and the statistics of each, of its own pass."""
    method = made(RESNET, method__shuffle_bn__groups=GROUPS)
    params, state = begun(method)
    views = two_views()
    loss, (after, metrics) = judged(method)(params, state, views, KEY, jnp.int32(4))
    members = jax.random.permutation(named(named(KEY, "direction_0"), "shuffle"), np.arange(BATCH) // (BATCH // GROUPS))
    order = np.argsort(members, kind="stable")
    q, of_queries = by_loops(params, state["batch_stats"], views["view_1"], GROUPS)
    moved, of_keys = by_loops(state["teacher"], state["teacher_batch_stats"], views["view_2"][order], GROUPS)
    k = np.empty_like(moved)
    k[order] = moved
    logits = np.concatenate([(q * k).sum(1, keepdims=True), q @ np.float64(state["queue"]["keys"]).T], 1) / TEMPERATURE
    expected = np.log(np.exp(logits).sum(1)) - logits[:, 0]
    assert float(loss) == pytest.approx(expected.mean(), rel=1e-4)
    found = {name: float(value) for name, value in metrics.items()}
    assert found["train/accuracy_contrast"] == pytest.approx((logits[:, 0] > logits[:, 1:].max(1)).mean())
    assert found["health/positive_cosine"] == pytest.approx(TEMPERATURE * logits[:, 0].mean(), abs=1e-4)
    assert found["health/negative_cosine"] == pytest.approx(TEMPERATURE * logits[:, 1:].mean(), abs=1e-4)
    np.testing.assert_allclose(after["queue"]["keys"][:BATCH], k, atol=1e-4)
    for name, (mean, var) in (("batch_stats", of_queries), ("teacher_batch_stats", of_keys)):
        old, new = state[name]["norm_stem"], after[name]["norm_stem"]
        np.testing.assert_allclose(new["mean"], 0.9 * old["mean"] + 0.1 * mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(new["var"], 0.9 * old["var"] + 0.1 * var, rtol=1e-4, atol=1e-5)


def test_both_directions_are_averaged_and_both_keys_queued():
    method, plain = made(Linear(), method__symmetric=True, method__queue__length=4 * BATCH), made(Linear())
    params, state = begun(method)
    views = two_views()
    swapped = {"view_1": views["view_2"], "view_2": views["view_1"]}
    loss, (after, _) = judged(method)(params, state, views, KEY, jnp.int32(0))
    one, other = (judged(plain)(params, state, v, KEY, jnp.int32(0)) for v in (views, swapped))
    assert float(loss) == pytest.approx((float(one[0]) + float(other[0])) / 2, rel=1e-5)
    assert float(one[0]) != pytest.approx(float(other[0]), rel=1e-3)
    queued = [found[1][0]["queue"]["keys"][:BATCH] for found in (one, other)]
    np.testing.assert_allclose(after["queue"]["keys"][: 2 * BATCH], np.concatenate(queued), atol=1e-6)
    assert int(after["queue"]["pointer"]) == int(after["queue"]["filled"]) == 2 * BATCH


def test_an_empty_queue_compares_with_the_keys_that_are_there():
    """No negative and no gradient at first; then the loss is that of a queue of the keys alone."""
    method = made(Linear(), method__queue__start="empty")
    params, state = begun(method)
    gradient = jax.jit(jax.value_and_grad(method.loss, has_aux=True), static_argnums=5, compiler_options=QUICK)
    (loss, (after, metrics)), zero = gradient(params, state, two_views(), KEY, jnp.int32(0), True)
    assert float(loss) == 0.0 and all((np.asarray(x) == 0).all() for x in jax.tree.leaves(zero))
    assert all(np.isfinite(float(x)) for x in metrics.values()) and float(metrics["health/queue_filled"]) == 0.0
    (loss, (_, metrics)), some = gradient(params, after, two_views(1), KEY, jnp.int32(1), True)
    short = made(Linear(), method__queue__length=BATCH)
    queue = {**after["queue"], "keys": after["queue"]["keys"][:BATCH]}
    expected, _ = judged(short)(params, {**after, "queue": queue}, two_views(1), KEY, jnp.int32(1))
    assert float(loss) == pytest.approx(float(expected), rel=1e-5) and float(loss) > 0.1
    assert float(metrics["health/queue_filled"]) == pytest.approx(1 / 3)
    assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(some)) > 1e-4


def test_no_gradient_reaches_keys_or_queue():
    method = made(RESNET, method__shuffle_bn__groups=GROUPS)
    params, state = begun(method)

    def loss(params, teacher, keys, views):
        held = {**state, "teacher": teacher, "queue": {**state["queue"], "keys": keys}}
        return method.loss(params, held, views, KEY, jnp.int32(0), True)[0]

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3)), compiler_options=QUICK)
    of_params, teacher, keys, views = gradient(params, state["teacher"], state["queue"]["keys"], two_views())
    assert all((np.asarray(x) == 0).all() for x in jax.tree.leaves((teacher, keys, views["view_2"])))
    assert np.abs(views["view_1"]).max() > 1e-6
    assert all(np.abs(x).max() > 1e-6 for x in jax.tree.leaves(of_params))


# -- shuffled batch norm ---------------------------------------------------------------------------------------------


def keys_of(groups, shuffle, images):
    method = made(RESNET, method__shuffle_bn__groups=groups, method__shuffle_bn__shuffle=shuffle)
    own = method.loss.__self__
    params, state = begun(method)

    def both(images):
        query = own.student(params, state["batch_stats"], images, named(KEY, "direction_0"), True)[0]
        same = {name: params[name] for name in ("backbone", "projector")}
        key = own.teacher(same, state["batch_stats"], images, named(KEY, "direction_0"), True)[0]
        return query, key

    return [np.asarray(x) for x in jax.jit(both, compiler_options=QUICK)(images)]


def test_without_shuffling_statistics_give_the_key_away():
    """One image, one network: without shuffling a key is its query, statistics included; with shuffling the keys were
    normalised among others. Over the whole batch there is nothing to shuffle (specification 3.12, 5)."""
    images = two_views()["view_1"]
    query, key = keys_of(4, False, images)
    np.testing.assert_allclose(query, key, atol=1e-5)
    shuffled_query, shuffled_key = keys_of(4, True, images)
    np.testing.assert_allclose(shuffled_query, query, atol=1e-5)
    assert np.abs(shuffled_key - key).max() > 0.05
    whole = [keys_of(1, shuffle, images) for shuffle in (False, True)]
    np.testing.assert_allclose(whole[0], whole[1], atol=1e-6)
    np.testing.assert_allclose(whole[0][0], whole[0][1], atol=1e-5)
    assert np.abs(whole[0][1] - key).max() > 0.05
    order = np.random.default_rng(0).permutation(BATCH)  # the statistics of all do not ask who stands where
    np.testing.assert_allclose(keys_of(1, True, images[order])[1], whole[0][1][order], atol=1e-4)


def test_drawn_groups_are_the_published_shuffle():
    """Keys encoded in another order, in runs of neighbours, and put back: the same keys and the same running averages
    (specification 3.12, 4)."""
    method = made(RESNET, method__shuffle_bn__groups=4)
    own, images = method.loss.__self__, two_views()["view_2"]
    _, state = begun(method)
    teacher, statistics = state["teacher"], state["teacher_batch_stats"]
    members = np.asarray(jax.random.permutation(named(KEY, "shuffle"), np.arange(BATCH) // 2))
    order = np.argsort(members, kind="stable")
    assert sorted(members) == [0, 0, 1, 1, 2, 2, 3, 3] and list(order) != list(range(BATCH))
    still = made(RESNET, method__shuffle_bn__groups=4, method__shuffle_bn__shuffle=False).loss.__self__
    moved, expected = jax.jit(lambda x: still.teacher(teacher, statistics, x, KEY, True), compiler_options=QUICK)(
        images[order]
    )
    keys, found = jax.jit(lambda x: own.teacher(teacher, statistics, x, KEY, True), compiler_options=QUICK)(images)
    np.testing.assert_allclose(keys, np.asarray(moved)[np.argsort(order)], atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected)


@pytest.mark.parametrize("changes", [
    dict(method__shuffle_bn__groups=4),
    dict(method__shuffle_bn__groups=8, method__symmetric=True, method__queue__start="empty"),
])  # fmt: skip
def test_eight_devices_equal_one(changes):
    """Groups that lie on two devices each, and one on each; and no device encodes another's images."""
    method = made(RESNET, optim__batch_size=16, method__queue__length=64, **changes)
    (one, one_losses, whole), (eight, eight_losses, text) = (siamese_parts.three_steps(method, n) for n in (1, 8))
    assert siamese_parts.convolutions(whole) == {16} and siamese_parts.convolutions(text) == {2}
    for a, b in zip(one_losses, eight_losses, strict=True):
        assert a == pytest.approx(b, rel=1e-3, abs=1e-4)
    first, second = leaves((one.params, one.method_state)), leaves((eight.params, eight.method_state))
    for name, value in first.items():
        np.testing.assert_allclose(value, second[name], rtol=1e-3, atol=2e-4, err_msg=name)
    before = leaves(begun(method, 16))
    moved = [name for name in first if np.abs(first[name] - before[name]).max() > 1e-3]
    assert len(moved) > 0.8 * len(first)


# -- what it starts from, and what is refused ------------------------------------------------------------------------


def test_parameters_and_state_of_the_papers_network():
    """23,508,032 in the backbone and 4,458,624 in the projector; 53,120 statistics (specification 3.2)."""
    c = recipe("imagenet", "hpt_moco")
    method = moco.build(c, resnet("resnet50", image_size=224), Clock(10, 1))
    views = {name: jax.ShapeDtypeStruct((256, 224, 224, 3), jnp.float32) for name in ("view_1", "view_2")}
    params, state = jax.eval_shape(method.init, jax.random.key(0), views)
    counts = {name: sum(x.size for x in jax.tree.leaves(tree)) for name, tree in params.items()}
    assert counts == {"backbone": 23_508_032, "projector": 4_458_624}
    assert set(state) == {"teacher", "batch_stats", "teacher_batch_stats", "queue"}
    assert sum(x.size for x in jax.tree.leaves(state["teacher_batch_stats"])) == 53_120
    assert state["queue"]["keys"].shape == (65_536, 128)


def test_the_teacher_starts_as_a_copy_in_memory_of_its_own():
    method = made(RESNET)
    params, state = jax.jit(method.init, compiler_options=QUICK)(jax.random.key(0), two_views())
    jax.tree.map(np.testing.assert_array_equal, state["teacher"], dict(params))
    jax.tree.map(np.testing.assert_array_equal, state["teacher_batch_stats"], state["batch_stats"])
    places = [x.unsafe_buffer_pointer() for x in jax.tree.leaves((params, state))]
    assert len(set(places)) == len(places)
    np.testing.assert_allclose(np.linalg.norm(state["queue"]["keys"], axis=1), 1.0, atol=1e-6)
    found = method.backbone(params, state, "student")
    assert found["params"] is params["backbone"] and found["batch_stats"] is state["batch_stats"]
    found = method.backbone(params, state, "teacher")
    assert found["params"] is state["teacher"]["backbone"]
    assert found["batch_stats"] is state["teacher_batch_stats"]


def test_views_are_two_crops_of_the_same_images():
    """On the device from one canvas, by the sample's number and not its place; from the host as they were cut."""
    images = np.random.default_rng(0).integers(0, 256, (BATCH, 2, SIDE, SIDE, 3), np.uint8)
    draw = np.arange(BATCH, dtype=np.int32)
    rows = {"image": images[:, :1], "draw": draw, "index": draw}
    method = made(Linear())
    views = jax.jit(method.views)
    found = views({"train": rows}, KEY, jnp.int32(2))
    assert {name: x.shape for name, x in found.items()} == dict.fromkeys(found, (BATCH, SIDE, SIDE, 3))
    assert np.abs(found["view_1"] - found["view_2"]).max() > 0.1
    turned = views({"train": {name: x[::-1] for name, x in rows.items()}}, KEY, jnp.int32(2))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b[::-1], atol=1e-6), found, turned)
    assert np.abs(views({"train": rows}, KEY, jnp.int32(3))["view_1"] - found["view_1"]).max() > 0.1
    c = config(data__crop="host")
    for view in c.method.augment.values():
        view.flip = view.jitter.probability = 0.0
    method = moco.build(c, Linear(), Clock(10, 1))
    found = jax.jit(method.views)({"train": {**rows, "image": images}}, KEY, jnp.int32(2))
    for place, name in enumerate(("view_1", "view_2")):
        np.testing.assert_allclose(found[name], images[:, place] / 255, atol=1e-6)
    cuts = moco.KIND.host_views(c)
    assert [cut["size"] for cut in cuts["global"]] == [SIDE, SIDE] and cuts["local"] == []


def test_the_rate_of_hpts_cosine():
    """.03 over 5,000 steps, changing with every one (specification 3.12, 8)."""
    c = recipe("imagenet,steps=5000", "hpt_moco")
    rate = learning_rate(c.optim, Clock(5000, 1))
    found = [float(rate(step)) for step in (0, 1250, 2500, 3750)]
    np.testing.assert_allclose(found, [0.03, 0.025607, 0.015, 0.004393], atol=1e-6)
    assert float(rate(4999)) == pytest.approx(3e-9, abs=2e-9)  # float32 resolves 1 + cos there to 6e-8


@pytest.mark.parametrize(("changes", "words"), [
    (dict(method__queue__length=20), "queue.length=20 is not a multiple of the 8 keys.*length=16 or 24"),
    (dict(method__queue__length=5), "length=5 is not.*length=8$"),
    (dict(method__queue__length=24, method__symmetric=True), "multiple of the 16 keys of a step.*length=16 or 32"),
    (dict(method__queue__start="nosie"), "unknown method.queue.start 'nosie'; did you mean 'noise'"),
    (dict(method__temperature=0.0), "method.temperature=0.0 has to be above 0"),
    (dict(method__shuffle_bn__groups=3), "groups=3 does not cut optim.batch_size=8.*groups=2"),
    (dict(method__shuffle_bn__groups=8), "groups=8 does not cut optim.batch_size=8.*groups=4"),
    (dict(method__momentum__start=1.5), "momentum.start=1.5 is no momentum"),
    (dict(method__momentum__curve="sine"), "unknown method.momentum.curve 'sine'"),
    (dict(method__augment__view_2__size=9), "view_2.size=9 is not data.image_size=8: set --config.method.augment.view"),
])  # fmt: skip
def test_what_has_no_meaning_is_refused_in_one_line(changes, words):
    with pytest.raises(UserError, match=words) as caught:
        made(RESNET, **changes)
    assert "\n" not in str(caught.value)


def test_a_network_without_batch_norm_has_nothing_to_shuffle():
    with pytest.raises(
        UserError, match="backbone.kind=resnet has no batch norm: set --config.method.shuffle_bn.groups=1"
    ):
        made(Linear(), method__shuffle_bn__groups=2)


def test_warnings():
    assert moco.warnings(config(method__shuffle_bn__groups=4), RESNET) == ()
    for groups, shuffle in ((1, True), (4, False)):
        c = config(method__shuffle_bn__groups=groups, method__shuffle_bn__shuffle=shuffle)
        (line,) = moco.warnings(c, RESNET)
        assert "share their batch statistics" in line
    assert moco.warnings(config(), Linear()) == ()
    (line,) = moco.warnings(config(optim__duration=2.0), Linear())
    assert "a queue of 24 is full after 3 steps and this stage has 2" in line
    assert moco.warnings(config(optim__duration=2.0, method__queue__start="empty"), Linear()) == ()
