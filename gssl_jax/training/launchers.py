"""Where a process stands among those of its run, from what its launcher has put into the environment."""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping
from typing import Any

from gssl_jax.errors import UserError

KNOWN = ("OMPI_MCA_orte_hnp_uri", "TPU_WORKER_HOSTNAMES", "TPU_WORKER_ID", "TPU_NAME")
"""Variables of launchers that JAX asks itself: Open MPI, Cloud TPU."""


def detected(environment: Mapping[str, str]) -> dict[str, Any]:
    """Arguments of `jax.distributed.initialize`, empty where JAX finds them itself (Cloud TPU, Open MPI).

    In this order: JAX_COORDINATOR_ADDRESS with JAX_NUM_PROCESSES and JAX_PROCESS_ID, in a JobSet or an Indexed Job of
    Kubernetes JOB_COMPLETION_INDEX; then SLURM. JAX's own look at Kubernetes needs rights that a pod seldom has, and
    its own at SLURM leaves a task that has a whole host one device of it. Raises UserError where nothing is found.
    """
    if address := environment.get("JAX_COORDINATOR_ADDRESS", ""):
        count = environment.get("JAX_NUM_PROCESSES", "")
        number = environment.get("JAX_PROCESS_ID", environment.get("JOB_COMPLETION_INDEX", ""))
        if not (count.isdigit() and number.isdigit() and int(number) < int(count)):
            raise UserError(
                f"--distributed=auto: JAX_COORDINATOR_ADDRESS={address} needs JAX_NUM_PROCESSES, and JAX_PROCESS_ID or "
                f"the JOB_COMPLETION_INDEX of an Indexed Job below it; they are {count!r} and {number!r}"
            )
        return _named(address, int(count), int(number))
    if "SLURM_JOB_ID" in environment:
        return slurm(environment)
    if any(name in environment for name in KNOWN) or glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*"):
        return {}
    raise UserError(
        "--distributed=auto finds no launcher here (Cloud TPU, srun, mpirun, JAX_COORDINATOR_ADDRESS): give "
        "--distributed=HOST:PORT --processes=N --process=I"
    )


def slurm(environment: Mapping[str, str]) -> dict[str, Any]:
    """As `srun` says: process 0 is on the first host of the step, the port follows from the job.

    The only task of a host has all of its devices; several have one each, by their number on the host, unless SLURM
    hides the others from them already. Raises UserError outside of `srun`.
    """
    needed = ("SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_STEP_NUM_NODES", "SLURM_PROCID", "SLURM_LOCALID")
    if absent := [name for name in needed if name not in environment]:
        raise UserError(
            f"--distributed=auto: {absent[0]} is not set in SLURM job {environment['SLURM_JOB_ID']}: start it with srun"
        )
    hosts, tasks, nodes, number, place = (environment[name] for name in needed)
    port = 2**16 - 2**12 + int(environment["SLURM_JOB_ID"]) % 2**12  # as JAX chooses it, where few programs listen
    visible = [one for one in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if one]
    found = _named(f"{first_host(hosts)}:{port}", int(tasks), int(number))
    return found if tasks == nodes or len(visible) == 1 else found | {"local_device_ids": [int(place)]}


def first_host(hosts: str) -> str:
    """The first of a list as SLURM writes it: `node[007-9,12],b` -> `node007`."""
    found = re.match(r"([^,\[]+)(?:\[([^,\-\]]+)[^\]]*\]([^,]*))?", hosts)
    if found is None:
        raise UserError(f"SLURM_STEP_NODELIST={hosts} names no host")
    return "".join(part or "" for part in found.groups())


def _named(address: str, count: int, number: int) -> dict[str, Any]:
    found = {"coordinator_address": address, "num_processes": count, "process_id": number}
    return found | {"cluster_detection_method": "deactivate"}
