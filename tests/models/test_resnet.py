"""Residual networks: parameters, every block against loops in float64, batch statistics, outputs by name."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gssl_jax.models.classifiers import Classifier
from gssl_jax.models.resnet import ResNet, padded_shortcut, resnet
from gssl_jax.training.mesh import make_mesh, on_data
from tests.tiny import QUICK

TINY = dict(image_size=8, channels=2, mean=(0.3, 0.6), std=(0.2, 0.4), depths=(1, 1), widths=(4, 6), stem_width=4)
NETWORKS = {
    "option A": dict(block="basic", shortcut="pad"),
    "projection": dict(block="basic", depths=(1, 2), stem_width=3, stem="imagenet", image_size=16),
    "bottleneck": dict(block="bottleneck"),
    "all activated": dict(block="preactivation", stem_width=3, depths=(1, 2)),
    "first activated": dict(block="preactivation", stem_width=3, activated_shortcuts="first", negative_slope=0.1),
}


def images(batch, size, channels=2):
    return np.random.default_rng(batch).random((batch, size, size, channels), np.float32)


@functools.cache
def network(name, **changes):
    """A network with random parameters and running statistics."""
    net = ResNet(**{**TINY, **NETWORKS[name], **changes})
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, net.image_size, net.image_size, 2)))
    rng = np.random.default_rng(0)

    def drawn(path, leaf):
        x = rng.normal(0, 0.5, leaf.shape).astype(np.float32)
        return 0.5 + np.abs(x) if path[-1].key in ("var", "scale") else x

    return net, jax.tree_util.tree_map_with_path(drawn, shapes)


def run(network_, x, **arguments):
    """The outputs of a network and, where its batch statistics are in use, their updates."""
    net, variables = network_
    mutable = ["batch_stats"] if arguments.get("use_running_average", not arguments.get("train")) is False else []
    keys = {"dropout": jax.random.key(0)} if net.dropout and arguments.get("train") else {}
    apply = functools.partial(net.apply, rngs=keys, mutable=mutable, **arguments)
    return jax.jit(apply, compiler_options=QUICK)(variables, x)


def shapes_of(net, size, capture=()):
    """Parameters, batch statistics and outputs without any computation."""
    x = jax.ShapeDtypeStruct((1, size, size, net.channels), jnp.float32)
    out, variables = jax.eval_shape(lambda x: net.init_with_output(jax.random.key(0), x, capture=capture), x)
    return variables["params"], variables["batch_stats"], out


def count(tree):
    return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))


# -- parameters and shapes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "changes", "classes", "expected"), [
    ("resnet32", {}, 10, 464_154),
    ("wrn_40_2", {}, 10, 2_243_546),
    ("wrn_28_2", {}, 10, 1_467_610),
    ("resnet18", dict(stem="cifar"), 200, 11_271_432),
    ("resnet50", {}, 1000, 25_557_032),
])  # fmt: skip
def test_parameters_of_the_published_networks(name, changes, classes, expected):
    net = resnet(name, image_size=32, **changes)
    params, _, out = shapes_of(net, 32)
    head = jax.eval_shape(Classifier(classes).init, jax.random.key(0), out["feat"])
    assert count(params) + count(head) == expected
    assert {"resnet32": 463_504, "resnet50": 23_508_032}.get(name, count(params)) == count(params)


def block(before, width, projected=False, norms_of=None):
    """Two 3 x 3 convolutions; norms of the width after each, or of the given channels; a projection with its norm."""
    convolutions = 9 * before * width + 9 * width * width
    return convolutions + 2 * sum(norms_of or (width, width)) + projected * (before * width + 2 * width)


def wide_stage(before, width, depth):
    """Norms before the convolutions, of what comes in and of the width; a projection without a norm in the first."""
    return block(before, width, norms_of=(before, width)) + before * width + (depth - 1) * block(width, width)


@pytest.mark.parametrize(("name", "expected"), [
    ("resnet32", 27 * 16 + 32 + 5 * block(16, 16) + block(16, 32) + 4 * block(32, 32) + block(32, 64)
        + 4 * block(64, 64)),
    ("wrn_28_2", 27 * 16 + wide_stage(16, 32, 4) + wide_stage(32, 64, 4) + wide_stage(64, 128, 4) + 256),
    ("wrn_40_2", 27 * 16 + wide_stage(16, 32, 6) + wide_stage(32, 64, 6) + wide_stage(64, 128, 6) + 256),
    ("resnet18", 147 * 64 + 128 + 2 * block(64, 64) + block(64, 128, True) + block(128, 128)
        + block(128, 256, True) + block(256, 256) + block(256, 512, True) + block(512, 512)),
])  # fmt: skip
def test_parameters_counted_by_hand(name, expected):
    assert count(shapes_of(resnet(name, image_size=32), 32)[0]) == expected


@pytest.mark.parametrize(("name", "stem", "size", "sides", "widths"), [
    ("resnet32", "cifar", 32, (32, 32, 16, 8), (16, 16, 32, 64)),
    ("wrn_40_2", "cifar", 32, (32, 32, 16, 8), (16, 32, 64, 128)),
    ("resnet18", "cifar", 64, (64, 64, 32, 16, 8), (64, 64, 128, 256, 512)),
    ("resnet50", "imagenet", 224, (56, 56, 28, 14, 7), (64, 256, 512, 1024, 2048)),
    ("resnet18", "imagenet", 96, (24, 24, 12, 6, 3), (64, 64, 128, 256, 512)),
])  # fmt: skip
def test_where_the_strides_are(name, stem, size, sides, widths):
    stages = [f"stage_{i}" for i in range(1, len(sides))]
    params, _, out = shapes_of(resnet(name, image_size=size, stem=stem), size, ("stem", *stages, "block_0"))
    found = [out[key].shape for key in ("stem", *stages)]
    assert found == [(1, side, side, width) for side, width in zip(sides, widths, strict=True)]
    assert out["map"].shape == found[-1] and out["block_0"].shape == found[1]
    assert out["feat"].shape == out["patch_mean"].shape == (1, widths[-1])
    blocks = dict(resnet32=15, wrn_40_2=18, resnet18=8, resnet50=16)[name]
    assert {f"block_{i}" for i in range(blocks)} == {key for key in params if key.startswith("block_")}


@pytest.mark.parametrize(("fan", "width"), [("fan_in", 48), ("fan_out", 96)])
def test_weights_start_kaiming_normal(fan, width):
    """A block from 48 to 96 channels. Flax's own initialiser is a normal cut at 2.3 of its standard deviations."""
    net = ResNet(**{**TINY, "depths": (1,), "widths": (96,), "stem_width": 48}, block="basic", fan=fan)
    init = jax.jit(lambda key: net.init(key, jnp.zeros((1, 8, 8, 2)))["params"]["block_0"], compiler_options=QUICK)
    block = init(jax.random.key(0))
    for name, fan_size in (("conv1", 9 * width), ("shortcut", width)):
        kernel = np.asarray(block[name]["kernel"])
        assert kernel.std() == pytest.approx((2 / fan_size) ** 0.5, rel=0.03)
        assert np.abs(kernel).max() > 3 * kernel.std()


# -- the forward pass ------------------------------------------------------------------------------------------------


def convolve(x, kernel, stride=1):
    """A cross-correlation by loops over places, zero padding of half the kernel on both sides; [B, h, w, D]."""
    kernel = np.float64(kernel) if np.ndim(kernel) == 4 else np.float64(kernel)[None, None]
    size = kernel.shape[0]
    x = np.pad(x, ((0, 0), (size // 2,) * 2, (size // 2,) * 2, (0, 0)))
    rows = range(0, x.shape[1] - size + 1, stride)
    at = [[np.tensordot(x[:, r : r + size, c : c + size], kernel, 3) for c in rows] for r in rows]
    return np.transpose(at, (2, 0, 1, 3))


def pool(x):
    """3 x 3 maxima of stride 2; after a ReLU zeros outside change nothing."""
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows = range(0, x.shape[1] - 2, 2)
    return np.transpose([[x[:, r : r + 3, c : c + 3].max(axis=(1, 2)) for c in rows] for r in rows], (2, 0, 1, 3))


class ByLoops:
    """A network in float64 from its parameters; `batch` = normalise by the batch, whose statistics are then kept."""

    def __init__(self, net, variables, batch):
        self.net, self.params, self.stats, self.batch = net, variables["params"], variables["batch_stats"], batch
        self.seen = {}

    def norm(self, x, *path):
        p, s = self.params, self.stats
        for key in path:
            p, s = p[key], s[key]
        mean, var = (x.mean((0, 1, 2)), x.var((0, 1, 2))) if self.batch else (np.float64(s["mean"]), s["var"])
        self.seen[path] = mean, var
        return (x - mean) / np.sqrt(var + 1e-5) * p["scale"] + p["bias"]

    def act(self, x):
        return np.where(x > 0, x, self.net.negative_slope * x)

    def shortcut(self, x, name, width, stride, normed):
        if stride == 1 and x.shape[-1] == width:
            return x
        x = x[:, ::stride, ::stride]
        if self.net.shortcut == "pad":
            extra = (width - x.shape[-1]) // 2
            return np.concatenate([0 * x[..., :extra], x, 0 * x[..., :extra]], axis=-1)
        x = convolve(x, self.params[name]["shortcut"]["kernel"])
        return self.norm(x, name, "norm_shortcut") if normed else x

    def block(self, x, name, width, stride, stage):
        kernels = [self.params[name][f"conv{i}"]["kernel"] for i in (1, 2)]
        if self.net.block == "preactivation":
            y = self.act(self.norm(x, name, "norm1"))
            changes = stride == 2 or x.shape[-1] != width
            source = y if changes and (self.net.activated_shortcuts == "all" or stage == 0) else x
            y = self.act(self.norm(convolve(y, kernels[0], stride), name, "norm2"))
            return convolve(y, kernels[1]) + self.shortcut(source, name, width, stride, False)
        strides = (stride, 1) if self.net.block == "basic" else (1, stride)
        y = self.act(self.norm(convolve(x, kernels[0], strides[0]), name, "norm1"))
        y = self.norm(convolve(y, kernels[1], strides[1]), name, "norm2")
        if self.net.block == "bottleneck":
            width *= 4
            y = self.norm(convolve(self.act(y), self.params[name]["conv3"]["kernel"]), name, "norm3")
        return self.act(y + self.shortcut(x, name, width, stride, True))

    def __call__(self, x):
        x = (np.float64(x) - self.net.mean) / self.net.std
        x = convolve(x, self.params["stem"]["kernel"], 2 if self.net.stem == "imagenet" else 1)
        if self.net.block != "preactivation":
            x = self.act(self.norm(x, "norm_stem"))
        out, i = {"stem": pool(x) if self.net.stem == "imagenet" else x}, 0
        x = out["stem"]
        for stage, (depth, width) in enumerate(zip(self.net.depths, self.net.widths, strict=True)):
            for j in range(depth):
                x = self.block(x, f"block_{i}", width, 2 if stage and not j else 1, stage)
                out[f"block_{i}"], i = x, i + 1
            out[f"stage_{stage + 1}"] = x
        if self.net.block == "preactivation":
            x = self.act(self.norm(x, "norm"))
        return out | {"map": x, "feat": x.mean(axis=(1, 2)), "patch_mean": x.mean(axis=(1, 2))}


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_forward_pass_equals_loops_in_float64(name, train):
    """Normalisation of the input, padding, strides, order of norms, shortcuts, activations, every output, and in
    training the statistics of the batch with their running averages."""
    net, variables = network(name)
    x = images(3, net.image_size)
    reference = ByLoops(net, variables, batch=train)
    expected = reference(x)
    out, updates = run((net, variables), x, train=train, capture=("stem", "block_1", "stage_1", "stage_2"))
    assert set(out) == {"feat", "patch_mean", "map", "stem", "block_1", "stage_1", "stage_2"}
    for key, value in out.items():
        np.testing.assert_allclose(value, expected[key], rtol=2e-4, atol=2e-4, err_msg=key)
    assert bool(updates) == train
    if train:
        found = jax.tree_util.tree_flatten_with_path(updates["batch_stats"])[0]
        assert len(found) == 2 * len(reference.seen)
        for path, value in found:
            *module, kind = (part.key for part in path)
            old = functools.reduce(lambda tree, key: tree[key], module, variables["batch_stats"])[kind]
            expected = 0.9 * old + 0.1 * reference.seen[tuple(module)][kind == "var"]
            np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)


def test_option_a_takes_every_second_pixel_between_zero_channels():
    x = jnp.arange(32.0).reshape(1, 4, 4, 2)
    out = np.asarray(padded_shortcut(x, 4, 2))
    assert out.shape == (1, 2, 2, 4)
    np.testing.assert_array_equal(out[..., [0, 3]], 0.0)
    np.testing.assert_array_equal(out[0, :, :, 1], [[0, 4], [16, 20]])
    np.testing.assert_array_equal(out[0, :, :, 2], [[1, 5], [17, 21]])
    assert padded_shortcut(x, 5, 1).shape == (1, 4, 4, 5)


# -- batch statistics, dropout and precision -------------------------------------------------------------------------


def test_evaluation_equals_training_where_the_averages_are_those_of_the_batch():
    """Momentum 0 keeps only the last batch: its own evaluation must give the outputs of its training pass."""
    net, variables = network("all activated", batch_norm_momentum=0.0)
    x = images(4, 8)
    trained, updates = run((net, variables), x, train=True)
    before = run((net, variables), x)[0]["feat"]
    after = run((net, variables | updates), x)[0]["feat"]
    np.testing.assert_allclose(after, trained["feat"], rtol=1e-4, atol=1e-4)
    assert np.abs(before - trained["feat"]).max() > 0.1


def test_statistics_are_chosen_apart_from_train():
    """An attack runs on frozen statistics, or on the batch's with the updates thrown away; dropout follows `train`."""
    x, net = images(4, 8), network("all activated", dropout=0.5)
    plain = (network("all activated")[0], net[1])
    np.testing.assert_array_equal(run(net, x)[0]["feat"], run(plain, x)[0]["feat"])
    frozen, updates = run(net, x, train=True, use_running_average=True)
    assert not updates and np.abs(frozen["feat"] - run(net, x)[0]["feat"]).max() > 1e-3
    batch, updates = run(net, x, use_running_average=False)
    np.testing.assert_allclose(batch["feat"], run(plain, x, train=True)[0]["feat"], atol=1e-5)
    assert updates


def test_dropout_stands_between_the_convolutions_of_a_block():
    """At rate 1 nothing reaches the second convolution: the same map as with kernels of zero there."""
    net, variables = network("all activated", dropout=1.0)
    params = {k: v | {"conv2": {"kernel": 0 * v["conv2"]["kernel"]}} if "block" in k else v
              for k, v in variables["params"].items()}  # fmt: skip
    dropped, _ = run((net, variables), images(2, 8), train=True, use_running_average=True)
    np.testing.assert_allclose(
        dropped["map"], run((net, variables | {"params": params}), images(2, 8))[0]["map"], atol=1e-5
    )


def test_batch_statistics_over_eight_devices_are_global():
    x, (net, variables) = (
        images(16, 8) + np.linspace(0, 1, 16, dtype=np.float32)[:, None, None, None],
        network("option A"),
    )
    one, alone = run((net, variables), x, train=True)
    many, updates = run((net, variables), jax.device_put(x, on_data(make_mesh())), train=True)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), (one, alone), (many, updates))


def test_gradients_are_finite_where_nothing_varies():
    """A grey batch: what varies is the zeros around the images. In a batch like any other every parameter learns."""
    net, variables = network("option A")

    def loss(params, x):
        out, _ = net.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
        return jnp.sum(out["feat"] ** 2)

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1)), compiler_options=QUICK)
    for x in (images(4, 8), np.full((4, 8, 8, 2), 0.5, np.float32)):
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient(variables["params"], x)))
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradient(variables["params"], images(4, 8))))


def test_bfloat16_keeps_parameters_statistics_and_features_whole():
    x, net = images(4, 8), network("option A", dtype=jnp.bfloat16, batch_norm_momentum=0.0)
    params, stats, out = shapes_of(net[0], 8, ("stage_1",))
    assert {leaf.dtype for leaf in jax.tree.leaves((params, stats))} == {jnp.dtype(jnp.float32)}
    assert out["stage_1"].dtype == jnp.bfloat16
    assert {out[key].dtype for key in ("feat", "map", "patch_mean")} == {jnp.dtype(jnp.float32)}
    half, updates = run(net, x, train=True)
    exact, _ = run(network("option A"), x, train=True)
    assert 1e-4 < np.abs(half["feat"] - exact["feat"]).max() < 0.1
    for leaf in jax.tree.leaves(updates):  # at momentum 0 the batch's own; in bfloat16 they would have 8 bits
        assert leaf.dtype == jnp.float32 and np.any(np.asarray(leaf).view(np.uint32) & 0xFFFF)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: resnet("resnet23", image_size=32), "unknown network 'resnet23'"),
    (lambda: shapes_of(resnet("resnet18", image_size=8, block="basis"), 8), "block must be"),
    (lambda: shapes_of(resnet("resnet18", image_size=8, stem="cipher"), 8), "stem must be"),
    (lambda: shapes_of(resnet("resnet18", image_size=8, shortcut="A"), 8), "shortcut must be"),
    (lambda: shapes_of(resnet("wrn_28_2", image_size=8, activated_shortcuts="none"), 8), "activated_shortcuts must"),
    (lambda: shapes_of(ResNet(**TINY, block="basic"), 8, ("block_2",)), r"2 blocks and no output named \['block_2'\]"),
])  # fmt: skip
def test_mistakes_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
