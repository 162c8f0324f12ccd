"""What a step takes, before the first one: the compiled program says so, and is the one that then runs."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np
from rich.console import Console

from gssl_jax.errors import UserError
from gssl_jax.knobs import gib
from gssl_jax.models.vit import ViT
from gssl_jax.runs.images import shape_batch
from gssl_jax.runs.parts import Parts
from gssl_jax.training.mesh import memory_bytes, put_batch

SPARE = 0.95
"""Share of a device's memory that a step may take: evaluation, copies of checkpoints and fragments need some too."""

OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "Ran out of memory", "Out of memory")


def program_bytes(program: Any) -> int:
    """What a compiled program takes on a device: arguments, results that are not arguments, temporaries and itself."""
    memory = program.memory_analysis()
    used = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return int(used + memory.temp_size_in_bytes + memory.generated_code_size_in_bytes)


def device_bytes(tree: Any) -> int:
    """Of the parts that one device holds of a tree of arrays, or of shapes with shardings."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def check_memory(parts: Parts, step_for: Any, state: Any, resident: Any, console: Console) -> None:
    """Compiles the step that the stage will call and says what it takes on each device.

    jax keeps the program, so that the first step does not compile it again. Raises UserError where it takes more than
    the device has, naming what fits.
    """
    dispatch = min(parts.config.run.steps_per_dispatch, max(1, parts.clock.total))
    batch = shape_batch(parts)
    if dispatch > 1:
        batch = jax.tree.map(lambda x: np.stack([x] * dispatch), batch)
    held = put_batch(batch, parts.mesh, stacked=dispatch > 1)
    try:
        program = step_for(dispatch).lower(state, resident, held).compile()
    except jax.errors.JaxRuntimeError as problem:
        if refused := exhausted(parts, state, resident, problem):
            raise refused from problem
        raise
    needed, there = program_bytes(program), memory_bytes(parts.mesh)
    shared = len(parts.mesh.local_devices) if parts.mesh.devices.flat[0].platform == "cpu" else 1  # one memory for all
    if needed * shared > there:
        raise UserError(too_much(parts, state, resident, needed, there // shared))
    console.print(f"a step takes {gib(needed)} on each device, of {gib(there / shared)}", highlight=False)


def exhausted(parts: Parts, state: Any, resident: Any, problem: Exception) -> UserError | None:
    """`problem` as a UserError with what to do where it is about memory, else None."""
    if not any(word in str(problem) for word in OUT_OF_MEMORY):
        return None
    return UserError(too_much(parts, state, resident, 0, memory_bytes(parts.mesh)))


def too_much(parts: Parts, state: Any, resident: Any, needed: int, there: int) -> str:
    """The sentence of the error. `needed` 0 = not known; what does not grow with the batch are state and images."""
    config, batch, devices = parts.config, parts.config.optim.batch_size, parts.mesh.size
    fixed = device_bytes((state, resident))
    advice = []
    if needed > fixed and there * SPARE > fixed:
        fits = int((there * SPARE - fixed) / (needed - fixed) * batch) // devices * devices
        if devices <= fits < batch:
            advice.append(f"--config.optim.batch_size={fits} (fits by reckoning)")
    elif there > fixed and batch // 2 >= devices:
        advice.append(f"--config.optim.batch_size={batch // 2 // devices * devices}")
    if isinstance(parts.backbone, ViT) and config.run.remat != "blocks":
        advice.append("--config.run.remat=blocks (more time, no other result)")
    if config.run.fsdp == 1 and devices > 1 and device_bytes(state) > there // 4:
        advice.append("--config.run.fsdp=0 (parameters in parts)")
    if device_bytes(resident) > there // 4:
        advice.append("--config.data.crop=host (images not on the device)")
    advice.append("a smaller --config.backbone, or larger devices")
    took = f"a step would take {gib(needed)} on each device" if needed else "a step takes more than a device has"
    return f"{took} and there are {gib(there)}, of which {gib(fixed)} for state and images; try {', or '.join(advice)}"
