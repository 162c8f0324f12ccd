"""What a recipe will need on devices that need not be here: its real step, compiled and not run."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from gssl_jax.errors import UserError
from gssl_jax.runs.chips import Target
from gssl_jax.runs.images import shape_batch
from gssl_jax.runs.memory import OUT_OF_MEMORY, device_bytes, program_bytes
from gssl_jax.runs.parts import Parts, assemble, stage_config
from gssl_jax.training.mesh import check_batch, in_parts, mesh_over, on_data, replicated
from gssl_jax.training.optimizer import schedules_of
from gssl_jax.training.state import TrainState, create_state
from gssl_jax.training.step import gather, make_step

DECODE, CUT = 0.94e-3, 0.6e-3
"""Seconds of an x86-64 server core for one JPEG of 500 x 375 pixels at quality 95, and for each view that is cut from
it and resized, the mean of two of 224 and ten of 96 pixels (docs/results/data.md)."""

TRIES = 4
"""Batches that are compiled at most on the way to the largest one."""

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f32": 4, "s32": 4, "u32": 4, "f64": 8,
         "s64": 8, "u64": 8}  # fmt: skip
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class Moved(NamedTuple):
    """Collectives of one kind in a step: how often, and bytes of their results on one chip."""

    times: int
    bytes: int


class Compiled(NamedTuple):
    """The step at one batch size, per chip: bytes by kind and in all, operations, bytes of memory touched, collectives.

    `needed` is all that is known of a step that does not fit (`fits` False), 0 where the compiler did not say.
    """

    batch: int
    fits: bool
    needed: int
    memory: dict[str, int]
    flops: float
    touched: float
    moved: dict[str, Moved]


class Plan(NamedTuple):
    """The step of a recipe on a target, the largest batch that fits (None = not looked for, 0 = none found), bytes of a
    checkpoint, steps in all, views decoded for each image (0 = images live on the device), and images of each step."""

    target: Target
    step: Compiled
    largest: int | None
    checkpoint: int
    steps: int
    views: int
    images: int

    def seconds(self) -> dict[str, float]:
        """Least seconds of a step by what bounds it: operations, memory and links at their peaks; empty where the chip
        is not known or the step does not fit."""
        chip, step = self.target.chip, self.step
        if not step.fits or chip.flops is None or chip.bandwidth is None or chip.links is None:
            return {}
        moved = sum(one.bytes for one in step.moved.values())
        return {"operations": step.flops / chip.flops, "memory": step.touched / chip.bandwidth,
                "links": moved / chip.links}  # fmt: skip

    def least(self) -> float | None:
        """The roofline of the step: what its slowest resource takes, all of them busy at once and at their peaks."""
        return max(self.seconds().values(), default=None)

    def rate(self) -> float | None:
        """Images a second at most, of all chips."""
        least = self.least()
        return None if not least else self.images / least

    def cores(self) -> float | None:
        """Cores of each host that decoding and cutting take at that rate, see `DECODE`."""
        rate = self.rate()
        return None if rate is None else rate / self.target.hosts * (DECODE + self.views * CUT if self.views else 0.0)


def for_target(config: ConfigDict, target: Target, images: int, classes: int) -> ConfigDict:
    """The last stage of `config` as it would run there; `images` > 0 of `classes` classes are imagined in the place of
    its data. Published weights are not read: they change no shape."""
    stage = stage_config(config, config.stages[-1])
    stage.backbone.weights = ""
    stage.evals.linear.train_images = 1  # what judges takes memory after training, and here it would be this machine's
    if stage.backbone.dtype == "auto" and target.name != "host":
        stage.backbone.dtype = "bfloat16"
    if images:
        for place in (*stage.data.streams.values(), stage.evals.data):
            place.source, place.path = "imagined", f"{images}x{classes}"
        for stream in stage.data.streams.values():
            stream.size, stream.share = 0, 1.0
    return stage


def make_plan(config: ConfigDict, target: Target, largest: bool = True) -> Plan:
    """The plan for a stage as `for_target` returns it; with `largest` the batch that fits is sought too.

    Raises UserError for a recipe that cannot work.
    """
    fsdp, config.run.fsdp = config.run.fsdp, 1  # of the devices there, not of those here
    mesh = mesh_over(target.devices, fsdp)
    parts = assemble(config)
    step = compiled(parts, mesh, target)
    state = abstract_state(parts, mesh)[0]
    found = largest_batch(config, mesh, target, step) if largest else None
    views = 0
    if parts.crop == "host":
        cuts = parts.kind.host_views(parts.config)
        views = len(cuts["global"]) + len(cuts["local"])
    return Plan(target, step, found, bytes_of(state), parts.clock.total, views, sum(parts.batch_sizes.values()))


def abstract_state(parts: Parts, mesh: Mesh) -> tuple[TrainState, Any, Any]:
    """State, resident images and batch of a step as shapes with their places on `mesh`."""
    data, whole = parts.config.data, replicated(mesh)
    resident: dict[str, Any] = {}
    for name, source in parts.streams.items() if parts.crop == "device" else ():
        shape = (len(source), data.canvas, data.canvas, data.channels)
        resident[name] = {"image": jax.ShapeDtypeStruct(shape, jnp.uint8, sharding=whole)}
        if parts.labelled(name):
            resident[name]["label"] = jax.ShapeDtypeStruct(shape[:1], jnp.int32, sharding=whole)
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=on_data(mesh)), shape_batch(parts))

    def fresh(resident: Any, batch: Any, key: jax.Array) -> TrainState:
        return create_state(parts.method, parts.optimiser, gather(resident, batch), key)

    shapes = jax.eval_shape(fresh, resident, batch, jax.random.key(0))
    places = in_parts(shapes, mesh)
    state = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, places)
    return state, resident, batch


def compiled(parts: Parts, mesh: Mesh, target: Target) -> Compiled:
    """The step of `parts` on `mesh`. Raises UserError where its batch does not divide among the devices."""
    check_batch(parts.config.optim.batch_size, mesh)
    state, resident, batch = abstract_state(parts, mesh)
    step: Any = make_step(
        parts.method,
        parts.optimiser,
        mesh,
        schedules=schedules_of(parts.config.optim, parts.clock),
        places=in_parts(state, mesh),
    )
    size, chip = parts.config.optim.batch_size, target.chip
    try:
        program = step.lower(state, resident, batch).compile()
    except jax.errors.JaxRuntimeError as problem:
        if not any(word in str(problem) for word in OUT_OF_MEMORY):
            raise
        workspace = needed_bytes(str(problem))
        rest = device_bytes((state, resident, batch))
        return Compiled(size, False, workspace and workspace + rest, {}, 0.0, 0.0, {})
    memory, costs = program.memory_analysis(), program.cost_analysis()
    kinds = {
        "parameters": device_bytes(state.params),
        "teacher and centres": device_bytes(state.method_state),
        "optimiser": device_bytes(state.opt_state),
        "resident images": device_bytes(resident),
        "batch": device_bytes(batch),
        "activations and workspace": memory.temp_size_in_bytes,
        "program": memory.generated_code_size_in_bytes,
    }
    used = program_bytes(program)
    kinds["padding and results"] = used - sum(kinds.values())
    moved = dict(collectives(program.as_text()))
    return Compiled(size, used <= chip.memory, used, kinds, costs["flops"], costs["bytes accessed"], moved)


def bytes_of(tree: Any) -> int:
    """Of all leaves of a tree of shapes, whole."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def needed_bytes(said: str) -> int:
    """Bytes a chip that the temporaries of a program would have taken, from the words of the TPU compiler; 0 where they
    say nothing."""
    found = re.search(r"\(([\d.]+)([KMGT]?)\) exceeds available HBM", said)
    return int(float(found[1]) * UNITS[found[2]]) if found else 0


def collectives(program: str) -> Iterator[tuple[str, Moved]]:
    """Kind, and how often and how much, of the collectives in the text of a compiled program; one inside a loop counts
    once, and of one that begins and ends apart the beginning."""
    for kind in COLLECTIVES:
        found = re.findall(rf"^[^=\n]+= (.+?) {kind}(-start)?\(", program, re.MULTILINE)
        if found:
            yield kind, Moved(len(found), sum(_result_bytes(shape, bool(start)) for shape, start in found))


def _result_bytes(shape: str, started: bool) -> int:
    arrays = re.findall(r"([a-z]+[0-9]*)\[([\d,]*)\]", shape)
    sizes = [BYTES.get(kind, 4) * math.prod(int(n) for n in sides.split(",") if n) for kind, sides in arrays]
    # what a started gather returns holds its operand too; the larger half is the result
    return sum(sizes) if not started or len(sizes) < 2 else sum(sizes) - sum(sizes) // 2


def largest_batch(config: ConfigDict, mesh: Mesh, target: Target, first: Compiled) -> int:
    """The largest batch that fits, of those that give every device the same whole number of images, to about 5 %.

    Memory grows by the same amount with every image, so two sizes say where it ends; the answer itself is compiled.
    """
    seen = {first.batch: first}
    devices = mesh.size

    def look(size: int) -> Compiled:
        if size not in seen:
            other = config.copy_and_resolve_references()
            other.optim.batch_size = size
            seen[size] = compiled(assemble(other), mesh, target)
        return seen[size]

    size = first.batch
    while not look(size).fits and size > devices and len(seen) < TRIES:
        size = max(devices, size // 2 // devices * devices)
    if not look(size).fits:
        return 0
    for _ in range(TRIES):
        fitting = [one for one in seen.values() if one.fits]
        best = max(one.batch for one in fitting)
        ceiling = min((one.batch for one in seen.values() if not one.fits), default=None)
        guess = extrapolated(fitting, target.chip.memory, devices)
        if guess is None:  # a second point for the line
            half = max(devices, best // 2 // devices * devices)
            other = half if ceiling is not None or 2 * seen[best].needed > target.chip.memory else 2 * best
            if other in seen:
                return best
            look(other)
            continue
        if ceiling is not None and guess >= ceiling:
            guess = max(best, int(0.95 * ceiling) // devices * devices)
        if guess <= best * 1.05:
            return best
        try:
            look(guess)
        except UserError:  # more than there are images
            return best
    return max(one.batch for one in seen.values() if one.fits)


def extrapolated(fitting: list[Compiled], memory: int, devices: int) -> int | None:
    """The batch at which a straight line through the smallest and the largest of those that fit meets `memory`, rounded
    down to a multiple of `devices`; None where there is one point only, or no growth."""
    low, high = (pick(fitting, key=lambda one: one.batch) for pick in (min, max))
    if low.batch == high.batch or high.needed <= low.needed:
        return None
    each = (high.needed - low.needed) / (high.batch - low.batch)
    return int(high.batch + (memory - high.needed) / each) // devices * devices
