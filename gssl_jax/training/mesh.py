"""The device mesh: one axis `data` over all devices; `jax.jit` over global arrays does the rest.

Axes are of type Auto on purpose: the default, Explicit, refuses gathers, sorts and `z @ z.T` on a sharded batch.
"""

from __future__ import annotations

import os
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from gssl_jax.errors import UserError


def make_mesh(devices: int | None = None) -> Mesh:
    """A mesh over all devices, or over the first `devices`."""
    chosen = jax.devices()[:devices]
    return jax.make_mesh((len(chosen),), ("data",), axis_types=(AxisType.Auto,), devices=chosen)


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def on_data(mesh: Mesh, stacked: bool = False) -> NamedSharding:
    """The batch axis is split over the devices; `stacked` = several batches in front of it."""
    return NamedSharding(mesh, PartitionSpec(None, "data") if stacked else PartitionSpec("data"))


def check_batch(batch_size: int, mesh: Mesh) -> None:
    """Raises UserError where `batch_size` cannot be split evenly over the devices of `mesh`."""
    devices = mesh.size
    if batch_size % devices:
        lower, upper = batch_size - batch_size % devices, batch_size + devices - batch_size % devices
        raise UserError(
            f"optim.batch_size={batch_size} is not divisible by the {devices} devices: set "
            f"--config.optim.batch_size={lower or upper} or {upper}"
        )


def memory_bytes(mesh: Mesh) -> int:
    """Memory of the smallest device of `mesh`; of the machine where the device shares it, as a CPU does."""
    limits = [(device.memory_stats() or {}).get("bytes_limit") for device in mesh.local_devices]
    return min(limit or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") for limit in limits)


def put_batch(batch: Any, mesh: Mesh, stacked: bool = False) -> Any:
    """This process's part of a batch of numpy arrays as global arrays on the mesh."""
    sharding = on_data(mesh, stacked)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch)
