"""Meshes and batches on them."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from gssl_jax.errors import UserError
from gssl_jax.training.mesh import check_batch, make_mesh, put_batch, replicated


@pytest.mark.parametrize("devices", [None, 1, 4])
def test_one_axis_of_type_auto(devices):
    mesh = make_mesh(devices)
    assert mesh.axis_names == ("data",) and mesh.size == (devices or 8)
    assert mesh.axis_types == (AxisType.Auto,)
    assert list(mesh.devices) == jax.devices()[:devices]


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
