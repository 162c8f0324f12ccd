"""Twenty steps of a small MaskCluster on some layout of devices, in one process or in several: they have to agree.

As a program, `python -m tests.training.layouts PORT PROCESSES PROCESS DEVICES FSDP OPTIMISER FILE` is one of several
processes; process 0 writes losses and parameters to FILE.
"""

from __future__ import annotations

import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

STEPS, BATCH = 20, 16
OPTIMISERS = {"sgd": lambda: optax.sgd(1e-4, momentum=0.9), "adamw": lambda: optax.adamw(3e-5, eps=1e-4)}
"""Slow enough that 20 steps do not blow rounding up; the eps keeps a gradient that is zero but for it, as that of the
keys' bias, from being a step."""


def network() -> Any:
    """Wide enough that its matrices are split, `mesh.WHOLE` elements and more."""
    from gssl_jax.models.vit import ViT

    return ViT(image_size=12, patch=4, width=128, depth=1, heads=2, channels=1, mean=(0.5,), std=(0.25,))


def batches(first: int, count: int) -> list[dict[str, Any]]:
    """Rows `first` to `first + count` of each of the batches."""
    found = []
    for step in range(STEPS):
        draw = np.arange(step * BATCH + first, step * BATCH + first + count, dtype=np.int32)
        images = np.stack([np.random.default_rng(int(i)).integers(0, 256, (1, 12, 12, 1), np.uint8) for i in draw])
        found.append({"train": {"image": images, "index": draw % 7, "draw": draw}})
    return found


def steps(mesh: Any, optimiser: str) -> tuple[Any, Any]:
    """(state on `mesh` as it starts, the jitted step)."""
    from gssl_jax.methods.base import Clock
    from gssl_jax.methods.known import METHODS
    from gssl_jax.training.mesh import in_parts
    from gssl_jax.training.state import create_state
    from gssl_jax.training.step import make_step
    from tests.methods.objectives import COUNTS, config

    method = METHODS["maskcluster"].build(config("maskcluster"), network(), Clock(STEPS, 1), COUNTS)
    rule, example = OPTIMISERS[optimiser](), batches(0, BATCH)[0]

    def fresh(key: Any) -> Any:
        return create_state(method, rule, jax.tree.map(jnp.asarray, example), key)

    places = in_parts(jax.eval_shape(fresh, jax.random.key(0)), mesh)
    state = jax.jit(fresh, out_shardings=places)(jax.random.key(0))
    return state, make_step(method, rule, mesh, places=places)


def trained(mesh: Any, optimiser: str) -> tuple[list[float], Any]:
    """Losses of the steps, and the state after them."""
    from gssl_jax.training.mesh import put_batch

    state, step = steps(mesh, optimiser)
    share = BATCH // jax.process_count()
    losses = []
    for batch in batches(share * jax.process_index(), share):
        state, metrics = step(state, {}, put_batch(batch, mesh))
        losses.append(metrics["train/loss"])
    return [float(loss.compute()) for loss in losses], state


def main() -> None:
    port, processes, process, devices, fsdp = map(int, sys.argv[1:6])
    optimiser, path = sys.argv[6:]
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", devices)
    from gssl_jax.training import distributed
    from gssl_jax.training.mesh import make_mesh, own
    from tests.tiny import leaves

    flags = {"distributed": f"127.0.0.1:{port}", "processes": str(processes), "process": str(process)}
    distributed.start(flags)
    mesh = make_mesh(fsdp=fsdp)
    losses, state = trained(mesh, optimiser)
    found = leaves(own(state.params, mesh))
    said = distributed.same(0.1 + process), distributed.same_text("abc"[process:], 3)
    asked = distributed.agreed(lambda: 15 * process, 2)
    answers = [asked() for _ in range(3)]
    if distributed.first():
        np.savez(path, losses=losses, said=said[0], text=said[1], answers=answers, **found)
    else:
        assert said == (0.1, "abc") and answers == [15, 0, 15]
    distributed.together("end")


if __name__ == "__main__":
    main()
