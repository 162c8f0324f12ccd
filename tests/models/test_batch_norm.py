"""Batch norm by groups: its numbers against loops, its averages, and that one group is Flax's own."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gssl_jax.models.batch_norm import GroupedBatchNorm
from gssl_jax.models.resnet import ResNet
from gssl_jax.training.mesh import make_mesh, on_data
from tests.tiny import QUICK

WIDTH = 3
VARIABLES = {
    "params": {"scale": jnp.asarray([1.0, 2.0, -1.0]), "bias": jnp.asarray([0.0, 1.0, 0.5])},
    "batch_stats": {"mean": jnp.asarray([0.1, 0.2, 0.3]), "var": jnp.asarray([1.0, 2.0, 3.0])},
}


def batch(size=8):
    """[size, 2, 2, 3], the images far from each other."""
    rng = np.random.default_rng(0)
    return (rng.normal(size=(size, 2, 2, WIDTH)) + rng.normal(0, 3, (size, 1, 1, 1))).astype(np.float32)


def run(module, x, *members):
    """(output, new statistics) of a training pass."""
    apply = jax.jit(lambda v, x: module.apply(v, x, *members, mutable=["batch_stats"]), compiler_options=QUICK)
    y, new = apply(VARIABLES, x)
    return np.asarray(y), new["batch_stats"]


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_each_group_has_its_own_statistics_and_the_averages_move_to_their_mean(groups):
    x, scale, bias = batch(), *(np.float64(VARIABLES["params"][name]) for name in ("scale", "bias"))
    y, stats = run(GroupedBatchNorm(groups, False, momentum=0.9), x)
    means, variances = [], []
    for rows, found in zip(np.split(np.float64(x), groups), np.split(y, groups), strict=True):
        mean, var = rows.mean((0, 1, 2)), rows.var((0, 1, 2))
        np.testing.assert_allclose(found, (rows - mean) / np.sqrt(var + 1e-5) * scale + bias, rtol=1e-4, atol=1e-4)
        means.append(mean)
        variances.append(var)
    old = VARIABLES["batch_stats"]
    np.testing.assert_allclose(stats["mean"], 0.9 * old["mean"] + 0.1 * np.mean(means, 0), rtol=1e-5)
    np.testing.assert_allclose(stats["var"], 0.9 * old["var"] + 0.1 * np.mean(variances, 0), rtol=1e-5)


def test_members_of_a_group_may_stand_anywhere():
    """The same as moving them together, normalising and moving them back."""
    x, module, members = batch(), GroupedBatchNorm(4, False), np.array([2, 0, 3, 1, 0, 2, 1, 3])
    order = np.argsort(members, kind="stable")
    y, stats = run(module, x, members)
    moved, expected = run(module, x[order])
    np.testing.assert_allclose(y[order], moved, rtol=1e-4, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), stats, expected)
    assert np.abs(y - run(module, x)[0]).max() > 0.1


@pytest.mark.parametrize("average", [False, True])
def test_one_group_equals_flax_and_so_do_running_averages_of_any_number(average):
    x = batch()
    flax = nn.BatchNorm(use_running_average=average, momentum=0.9, epsilon=1e-5, use_fast_variance=False)
    expected, stats = run(flax, x)
    y, own = run(GroupedBatchNorm(4 if average else 1, average), x)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), own, stats)


@pytest.mark.parametrize(("groups", "drawn"), [(2, False), (8, False), (8, True)])
def test_eight_devices_equal_one(groups, drawn):
    """Also where there are fewer groups than devices, or as many, or their members lie on several."""
    x, module = batch(32), GroupedBatchNorm(groups, False)
    members = [np.arange(32) * 5 % 32 // (32 // groups)] if drawn else []
    one, eight = run(module, x, *members), run(module, jax.device_put(x, on_data(make_mesh())), *members)
    for a, b in zip(one, eight, strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), a, b)


def test_a_batch_that_the_groups_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="3 groups do not divide a batch of 8"):
        run(GroupedBatchNorm(3, False), batch())


def test_statistics_stay_float32_and_the_output_is_as_asked():
    y, stats = run(GroupedBatchNorm(2, False, dtype=jnp.bfloat16), jnp.asarray(batch(), jnp.bfloat16))
    assert y.dtype == jnp.bfloat16 and {x.dtype for x in jax.tree.leaves(stats)} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize("block", ["basic", "bottleneck", "preactivation"])
def test_a_network_of_groups_is_the_networks_of_its_groups_side_by_side(block):
    """The same parameters by name and shape; a training pass of 4 groups is 4 passes of the plain network."""
    plain = ResNet(image_size=8, block=block, depths=(1, 1), widths=(4, 6), stem_width=4)
    grouped = plain.clone(batch_norm_groups=4)
    x = np.random.default_rng(0).random((8, 8, 8, 3), np.float32)
    variables, other = (jax.eval_shape(net.init, jax.random.key(0), x[:1]) for net in (plain, grouped))
    assert jax.tree.structure(variables) == jax.tree.structure(other) and variables == other
    rng = np.random.default_rng(1)
    variables = jax.tree.map(lambda leaf: jnp.asarray(0.5 + rng.random(leaf.shape), jnp.float32), variables)

    def passed(net, images):
        apply = jax.jit(lambda v, x: net.apply(v, x, train=True, mutable=["batch_stats"]), compiler_options=QUICK)
        return apply(variables, images)

    out, stats = passed(grouped, x)
    parts = [passed(plain, rows) for rows in np.split(x, 4)]
    np.testing.assert_allclose(out["feat"], np.concatenate([p["feat"] for p, _ in parts]), rtol=1e-3, atol=1e-4)
    mean = jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *(s for _, s in parts))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), stats, mean)
