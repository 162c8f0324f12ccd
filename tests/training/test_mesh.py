"""Meshes and batches on them."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from gssl_jax.errors import UserError
from gssl_jax.training.mesh import (
    check_batch,
    in_parts,
    local_mesh,
    make_mesh,
    own,
    placed,
    put_batch,
    replicated,
)


@pytest.mark.parametrize(
    ("devices", "fsdp", "shape"), [(None, 1, (8, 1)), (1, 1, (1, 1)), (4, 2, (2, 2)), (None, 0, (1, 8))]
)
def test_two_axes_of_type_auto(devices, fsdp, shape):
    mesh = make_mesh(devices, fsdp)
    assert mesh.axis_names == ("data", "fsdp") and mesh.devices.shape == shape
    assert mesh.axis_types == (AxisType.Auto, AxisType.Auto)
    assert list(mesh.devices.flat) == jax.devices()[:devices]


@pytest.mark.parametrize("fsdp", [3, 16, -2])
def test_devices_that_do_not_divide_among_copies_of_the_state(fsdp):
    with pytest.raises(UserError, match=f"run.fsdp={fsdp} does not divide the 8 device.* one of 1, 2, 4, 8, or to 0"):
        make_mesh(fsdp=fsdp)


def test_the_longest_axis_that_divides_is_split_and_what_is_small_or_odd_is_whole():
    mesh = make_mesh(fsdp=4)
    tree = {
        "wide": np.zeros((130, 512)),  # 512 / 4
        "tall": np.zeros((2048, 30)),
        "equal": np.zeros((256, 256)),  # the first of equals
        "only": np.zeros((7001, 12)),  # 7001 does not divide
        "odd": np.zeros((129, 257)),
        "small": np.zeros((64, 128)),
        "key": jax.random.key(0),
    }
    specs = {name: place.spec for name, place in in_parts(tree, mesh).items()}
    assert specs == {
        "wide": PartitionSpec(None, "fsdp"),
        "tall": PartitionSpec("fsdp"),
        "equal": PartitionSpec("fsdp"),
        "only": PartitionSpec(None, "fsdp"),
        "odd": PartitionSpec(),
        "small": PartitionSpec(),
        "key": PartitionSpec(),
    }
    assert {place.spec for place in in_parts(tree, make_mesh()).values()} == {PartitionSpec()}


@pytest.mark.parametrize("fsdp", [1, 2, 8])
def test_a_batch_is_split_over_all_devices_in_their_order(fsdp):
    mesh, rows = make_mesh(fsdp=fsdp), np.arange(16.0, dtype=np.float32)
    shards = put_batch(rows, mesh).addressable_shards
    assert {shard.device: shard.data.tolist() for shard in shards} == {
        device: rows[2 * place : 2 * place + 2].tolist() for place, device in enumerate(jax.devices())
    }


def test_in_one_process_own_and_placed_change_nothing_but_the_place():
    mesh, rows = make_mesh(fsdp=4), np.arange(2.0**15, dtype=np.float32).reshape(256, 128)
    state = {"w": rows, "key": jax.random.key(1)}
    there = placed(state, in_parts(state, mesh))
    assert [shard.data.shape for shard in there["w"].addressable_shards] == [(64, 128)] * 8
    assert own(there, mesh) is there and local_mesh(mesh) is mesh
    np.testing.assert_array_equal(there["w"], rows)


def test_a_batch_is_split_and_a_stack_of_batches_along_its_second_axis():
    mesh, images = make_mesh(), np.arange(32.0, dtype=np.float32).reshape(16, 2)
    batch = put_batch({"train": {"image": images, "index": np.arange(16)}}, mesh)
    assert [s.data.shape for s in batch["train"]["image"].addressable_shards] == [(2, 2)] * 8
    np.testing.assert_array_equal(batch["train"]["image"], images)
    stacked = put_batch({"image": images.reshape(2, 8, 2)}, mesh, stacked=True)["image"]
    assert [s.data.shape for s in stacked.addressable_shards] == [(2, 1, 2)] * 8
    np.testing.assert_array_equal(stacked, images.reshape(2, 8, 2))


def test_replicated_is_whole_everywhere():
    mesh = make_mesh(4)
    assert [s.data.shape for s in jax.device_put(np.zeros(6), replicated(mesh)).addressable_shards] == [(6,)] * 4


@pytest.mark.parametrize(("size", "advice"), [(12, "=8 or 16"), (3, "=8 or 8"), (129, "=128 or 136")])
def test_a_batch_that_does_not_divide(size, advice):
    with pytest.raises(UserError, match=f"optim.batch_size={size} .* 8 devices: set --config.optim.batch_size{advice}"):
        check_batch(size, make_mesh())
    check_batch(24, make_mesh())
    check_batch(size, make_mesh(1))
