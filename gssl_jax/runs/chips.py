"""The devices a plan is made for: TPU chips by the numbers of their makers, and this machine by what it says itself."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from gssl_jax.errors import UserError, unknown
from gssl_jax.training.mesh import make_mesh, memory_bytes


class Chip(NamedTuple):
    """One kind of chip: bfloat16 operations a second, bytes of memory that programs get, bytes a second of that memory
    and of the links to other chips (both directions), chips and processor threads of a host. None = not known."""

    name: str
    flops: float | None
    memory: int
    bandwidth: float | None
    links: float | None
    per_host: int
    threads: int


CHIPS = {
    "v5e": Chip("TPU v5e", 197e12, int(15.75 * 2**30), 819e9, 400e9, 8, 224),
    "v6e": Chip("TPU v6e", 918e12, int(31.25 * 2**30), 1640e9, 800e9, 8, 180),
    "v5p": Chip("TPU v5p", 459e12, int(95.74 * 2**30), 2765e9, 1200e9, 4, 208),
}
"""Peak, bandwidths, chips and vCPUs of a host: Google's pages on TPU v5e, v6e and v5p (cloud.google.com/tpu/docs).
Memory: what the TPU compiler (libtpu 0.0.50) says there is of 16, 32 and 95 GB."""


QUIET = {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "TPU_STDERR_LOG_LEVEL": "3",
         "TPU_MIN_LOG_LEVEL": "3"}  # fmt: skip


class Target(NamedTuple):
    """What a plan is made for: the name it was asked for by, its chip, and its devices."""

    name: str
    chip: Chip
    devices: Sequence[Any]

    @property
    def hosts(self) -> int:
        """Machines that drive the devices."""
        return max(1, math.ceil(len(self.devices) / self.chip.per_host))


def target(topology: str) -> Target:
    """`host`, this machine, or `KIND:AxB[xC]`, a slice of TPU chips that need not be here.

    Raises UserError for a kind or a form that is not known, and where the TPU compiler is missing.
    """
    if topology == "host":
        return Target("host", here(), jax.devices())
    kind, _, shape = topology.partition(":")
    if kind not in CHIPS:
        raise unknown("--topology", topology, ["host", "v5e:2x4", "v6e:2x4", "v5p:4x4x8"])
    dimensions = 3 if kind == "v5p" else 2
    if not re.fullmatch(rf"\d+(x\d+){{{dimensions - 1}}}", shape):
        example = "4x4x8" if dimensions == 3 else "2x4"
        raise UserError(f"--topology={topology}: a slice of {kind} has {dimensions} sides, e.g. {kind}:{example}")
    from jax.experimental import topologies

    # There is no cloud to ask, and that there are no chips here is no news.
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    except (RuntimeError, ValueError, NotImplementedError) as problem:
        said = " ".join(str(problem).split())[:200]
        raise UserError(
            f"the TPU compiler cannot make {topology} ({said}): it comes with pip install 'jax[tpu]', and a slice has "
            "sides that Google offers, e.g. v5e:2x4, v6e:4x4, v5p:2x2x1"
        ) from problem
    return Target(topology, CHIPS[kind], found.devices)


def here() -> Chip:
    """This machine's device: its memory, and no peak, as nobody has said one."""
    devices = jax.devices()
    memory = memory_bytes(make_mesh())
    return Chip(devices[0].device_kind, None, memory, None, None, len(devices), os.cpu_count() or 1)
