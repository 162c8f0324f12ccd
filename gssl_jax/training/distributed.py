"""Several processes as one run: `jax.distributed`, started from the flags of an entry point, and what they agree on.

Process 0 tells the others what it decided wherever a decision is a matter of the last bits of a number or of the clock.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from gssl_jax.errors import UserError
from gssl_jax.training.launchers import detected

TIMEOUT = 300
"""Seconds that processes wait for each other at the start."""

GRACE = 30
"""Seconds more until JAX gives up by itself."""


def start(given: Mapping[str, str], seconds: int = TIMEOUT) -> None:
    """Joins the processes of a run as `given`, the flags --distributed, --processes and --process, says; does nothing
    where they are empty.

    Has to come before anything asks jax for a device. Raises UserError for values that do not belong together, and for
    `auto` without a launcher. Where the others do not come within `seconds` it says so, names the coordinator and ends
    the process: JAX would end it itself, with a stack trace and without an exception.
    """
    where = given["distributed"]
    if not where:
        if given["processes"] or given["process"]:
            raise UserError("--processes and --process go with --distributed=HOST:PORT, where process 0 is")
        return
    if where == "auto" and (given["processes"] or given["process"]):
        raise UserError("--distributed=auto finds --processes and --process itself: leave them out")
    options = detected(os.environ) if where == "auto" else _named(where, given)
    address = options.get("coordinator_address", "that JAX found")
    late = threading.Timer(seconds, _late, (f"--distributed={where}: the coordinator {address}", seconds))
    late.daemon = True
    late.start()
    try:
        jax.distributed.initialize(initialization_timeout=seconds + GRACE, **options)
    except (RuntimeError, ValueError) as problem:
        said = (str(problem).strip().splitlines() or [type(problem).__name__])[0][:200]
        raise UserError(
            f"--distributed={where}: the processes did not come together ({said}). Every process needs the same "
            f"HOST:PORT and --processes, one of them --process=0 on HOST, within {seconds} s of each other"
        ) from problem
    finally:
        late.cancel()


def _late(where: str, seconds: int) -> None:
    words = f"error: {where} did not bring all processes together within {seconds} s: check that process 0 runs there,"
    print(f"{words} that the port is free and open, and that every process was started", file=sys.stderr, flush=True)
    os._exit(2)


def _named(where: str, given: Mapping[str, str]) -> dict[str, Any]:
    host, _, port = where.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 2**16:
        raise UserError(f"--distributed={where}: give auto, or HOST:PORT of process 0, e.g. --distributed=node0:8476")
    for name in ("processes", "process"):
        if not given[name].isdigit():
            raise UserError(f"--distributed={where} needs --{name}, a whole number, and got {given[name]!r}")
    count, number = int(given["processes"]), int(given["process"])
    if number >= count:
        raise UserError(f"--process={number} of --processes={count}: they are counted from 0 to {count - 1}")
    return {"coordinator_address": where, "num_processes": count, "process_id": number}


def first() -> bool:
    """Whether this is the process that writes: 0, or the only one."""
    return jax.process_index() == 0


def same(value: float) -> float:
    """`value` as process 0 has it. A collective."""
    if jax.process_count() == 1:
        return value
    held = np.array([value], np.float64).view(np.uint8)  # as bytes: jax would make it a float32
    return float(np.asarray(multihost_utils.broadcast_one_to_all(held)).view(np.float64)[0])


def same_text(text: str, size: int) -> str:
    """A text of `size` ASCII characters as process 0 has it. A collective."""
    if jax.process_count() == 1 or not size:
        return text
    held = np.frombuffer(text.encode("ascii").ljust(size), np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(held)).tobytes().decode("ascii").rstrip()


def together(name: str) -> None:
    """Waits until all processes are here. A collective."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def agreed(asked: Callable[[], int], every: int) -> Callable[[], int]:
    """`asked` as all processes see it: the largest answer of them, found out at every `every`-th call.

    What one process alone is told, to stop say, has to happen in all of them at the same step. Between those calls the
    answer is 0, and nothing waits. With one process `asked` itself.
    """
    if jax.process_count() == 1:
        return asked
    calls = 0

    def ask() -> int:
        nonlocal calls
        calls += 1
        if (calls - 1) % every:
            return 0
        return int(np.max(multihost_utils.process_allgather(np.int32(asked()))))

    return ask
