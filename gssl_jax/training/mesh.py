"""The device mesh, `data` and `fsdp`, over all devices of all processes; `jax.jit` over global arrays does the rest.

A batch is split over both axes. Parameters, teacher and moments are whole on every device, or, with an axis `fsdp` of
n > 1, in n parts on n devices each (ZeRO, arXiv 1910.02054, stage 3: a step gathers what it needs). Axes are of type
Auto on purpose: the default, Explicit, refuses gathers, sorts and `z @ z.T` on a sharded batch.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding

from gssl_jax.errors import UserError

AXES = ("data", "fsdp")

WHOLE = 2**14
"""Arrays of fewer elements stay whole on every device: gathering them would take longer than they save memory."""


def make_mesh(devices: int | None = None, fsdp: int = 1) -> Mesh:
    """A mesh over all devices, or over the first `devices`; see `mesh_over`."""
    return mesh_over(jax.devices()[:devices], fsdp)


def mesh_over(devices: Sequence[Any], fsdp: int = 1) -> Mesh:
    """A mesh over `devices`, of which every `fsdp` share one copy of the state; 0 = all of them do.

    Raises UserError where `fsdp` does not divide their number.
    """
    count = len(devices)
    shared = fsdp or count
    if shared < 0 or count % shared:
        fitting = [n for n in range(1, count + 1) if count % n == 0]
        raise UserError(
            f"run.fsdp={fsdp} does not divide the {count} device(s): set --config.run.fsdp to one of "
            f"{', '.join(map(str, fitting))}, or to 0 for all"
        )
    types = (AxisType.Auto,) * len(AXES)
    return jax.make_mesh((count // shared, shared), AXES, axis_types=types, devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def on_data(mesh: Mesh, stacked: bool = False) -> NamedSharding:
    """The batch axis is split over all devices; `stacked` = several batches in front of it."""
    return NamedSharding(mesh, PartitionSpec(None, AXES) if stacked else PartitionSpec(AXES))


def in_parts(tree: Any, mesh: Mesh) -> Any:
    """Tree of shardings for arrays, or shapes, of a state: how `mesh` holds each of them.

    The longest axis that divides by `fsdp` is split, the first of equals. Arrays of fewer than `WHOLE` elements, those
    without such an axis, and random keys are replicated.
    """
    parts = mesh.shape["fsdp"]

    def one(leaf: Any) -> NamedSharding:
        if parts == 1 or math.prod(leaf.shape) < WHOLE or jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return replicated(mesh)
        fitting = [axis for axis, side in enumerate(leaf.shape) if side % parts == 0]
        if not fitting:
            return replicated(mesh)
        longest = max(fitting, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*[None] * longest, "fsdp"))

    return jax.tree.map(one, tree)


def gathered(tree: Any, mesh: Mesh) -> Any:
    """Inside a jitted step: arrays laid out as `in_parts` says, whole on every device. Their gradients are summed into
    parts again: left to itself jax would sum them whole on every device."""
    if mesh.shape["fsdp"] == 1:
        return tree
    return jax.tree.map(lambda leaf: _whole(leaf, mesh), tree)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _whole(array: Any, mesh: Mesh) -> Any:
    return jax.lax.with_sharding_constraint(array, replicated(mesh))


def _whole_forward(array: Any, mesh: Mesh) -> tuple[Any, None]:
    return _whole(array, mesh), None


def _whole_backward(mesh: Mesh, _: None, gradient: Any) -> tuple[Any]:
    return (jax.lax.with_sharding_constraint(gradient, in_parts(gradient, mesh)),)


_whole.defvjp(_whole_forward, _whole_backward)


def placed(tree: Any, shardings: Any) -> Any:
    """`tree`, the same values in every process, with `shardings` (one, or a tree of them).

    Arrays that are whole in this process, numpy's among them, may go to devices of others: each process lays out its
    own part, and nothing is sent.
    """
    if isinstance(shardings, Sharding):
        same = shardings
        shardings = jax.tree.map(lambda _: same, tree)
    if jax.process_count() == 1:
        return jax.device_put(tree, shardings)

    def one(leaf: Any, sharding: Sharding) -> Any:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return jax.jit(lambda x: x, out_shardings=sharding)(leaf)
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.jit(lambda: leaf, out_shardings=sharding)()
        held = np.asarray(leaf)
        return jax.make_array_from_callback(held.shape, sharding, lambda part: held[part])

    return jax.tree.map(one, tree, shardings)


def local_mesh(mesh: Mesh) -> Mesh:
    """The devices of this process alone; `mesh` itself where there is one process."""
    return mesh if jax.process_count() == 1 else mesh_over(mesh.local_devices)


def own(tree: Any, mesh: Mesh) -> Any:
    """`tree`, arrays on `mesh`, whole on the devices of this process: what it can read and compute with by itself.

    With several processes and `fsdp` this is a collective: all of them have to call it. With one, the tree as it is.
    """
    if jax.process_count() == 1:
        return tree
    here = replicated(local_mesh(mesh))

    def one(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
            return leaf
        if not leaf.is_fully_replicated:
            leaf = jax.jit(lambda x: x, out_shardings=replicated(mesh))(leaf)
        return jax.device_put(leaf.addressable_data(0), here)

    return jax.tree.map(one, tree)


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
