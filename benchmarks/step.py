"""How much of the machine's float32 matmul rate one MaskCluster step reaches, and where the rest of its time goes.

    python benchmarks/step.py [--demo | --gated [--dispatch=1]] [--rounds=5] [--no-keep]

Without flags: ViT-Ti/4 at 32 px, batch 64, two global views, the demo's heads. With `--demo`: the demo's own network
and batch. The step's floating-point operations are counted from its shapes: student three times its forward pass
(forward, and backward at twice its cost), teacher once, heads likewise; augmentation, norms, softmax and the optimiser
count as nothing. The matmul rate is the best of square products of the sizes that stand below, measured in
turns with the step in the same process, so the share is a ratio from one run. The costs outside matmul are pieces of
the step compiled alone at the shapes of the student's global views.

With `--gated`: a supervised step of ResNet-32 at 32 px, batch 128, without pretexts and with four of them, in turns in
one process; `--dispatch` steps to a call.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gssl_jax.models.layers import gelu
from gssl_jax.ops import assignment, losses
from gssl_jax.ops.keys import named
from gssl_jax.presets import known_vit
from gssl_jax.runs.parts import Parts, assemble, device_words, stage_config
from gssl_jax.runs.results import versions
from gssl_jax.runs.stage import Images
from gssl_jax.training.host_memory import keep_freed_memory
from gssl_jax.training.mesh import put_batch, replicated
from gssl_jax.training.state import create_state
from gssl_jax.training.step import gather, make_step

ROOT = Path(__file__).resolve().parents[1]
MATMUL_SIDES = (1024, 2048)


def load(name: str) -> Any:
    """A recipe file as a module."""
    spec = importlib.util.spec_from_file_location("recipe", ROOT / "configs" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def recipe(demo: bool) -> Any:
    """The configuration to measure."""
    module = load("maskcluster_vit")
    config = module.get_config("photos")
    if not demo:
        config.backbone.update(known_vit("vit_ti4"))
        config.optim.batch_size = 64
        config.method.views.locals = 0
        config.run.keep_host_memory = True  # as the presets with this backbone have it
    return config


def forward_flops(parts: Parts, size: int, projected: str) -> float:
    """Floating-point operations of one image's forward pass at `size` pixels, heads on `projected` tokens included."""
    b, m = parts.config.backbone, parts.config.method
    tokens = (size // b.patch) ** 2
    length, width, hidden = tokens + 1 + b.registers, b.width, int(b.width * b.mlp_ratio)
    block = length * (4 * width * width + 2 * width * hidden) + 2 * length * length * width
    embed = tokens * b.patch**2 * parts.config.data.channels * width
    p = m.projector
    inner = [p.hidden] * (p.layers - 1)
    mlp = sum(a * c for a, c in zip([width, *inner], [*inner, p.output], strict=True))
    heads = mlp + p.output * m.prototypes.cls
    if projected == "all":
        heads += tokens * (mlp + p.output * m.prototypes.patch)
    return 2.0 * (embed + b.depth * block + heads)


def step_flops(parts: Parts) -> float:
    """Student three times, teacher once, the reconstruction head three times, for a whole batch."""
    config = parts.config
    b, m, size = config.backbone, config.method, config.data.image_size
    tokens = (size // b.patch) ** 2
    rebuilt = 0.0
    if m.loss.reconstruction:
        layers = m.reconstruction.layers * b.width**2 + b.width * b.patch**2 * config.data.channels
        rebuilt = 2.0 * tokens * layers
    views = m.views["globals"] * (4 * forward_flops(parts, size, "all") + 3 * rebuilt)
    if m.views["locals"]:
        views += m.views["locals"] * 3 * forward_flops(parts, m.augment["local"].size, "cls")
    return views * config.optim.batch_size


def seconds(call: Callable[[], Any], least: float = 0.2) -> float:
    """The best of as many calls as `least` seconds hold, each waited for: short ones too get warm."""
    times: list[float] = []
    while sum(times) < least:
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return min(times)


def best_of_turns(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """The least seconds of each call over `rounds` turns, after one turn to warm up."""
    for call in calls.values():
        jax.block_until_ready(call())
    times = [{name: seconds(call) for name, call in calls.items()} for _ in range(rounds)]
    return {name: min(turn[name] for turn in times) for name in calls}


def matmuls() -> dict[str, Callable[[], Any]]:
    """Square float32 products, by name."""
    product = jax.jit(jnp.matmul)
    operands = {n: jax.random.normal(jax.random.key(n), (n, n)) for n in MATMUL_SIDES}
    return {f"matmul {n}": functools.partial(product, x, x) for n, x in operands.items()}


def pieces(parts: Parts, state: Any, batches: Any) -> dict[str, Callable[[], Any]]:
    """Costs outside matmul, each compiled alone at the shapes of the step."""
    config, m = parts.config, parts.config.method
    rows = config.optim.batch_size * m.views["globals"]
    tokens = (config.data.image_size // config.backbone.patch) ** 2
    width, heads, depth = config.backbone.width, config.backbone.heads, config.backbone.depth
    passes = 2 * depth  # student forward and backward are one timed call, the teacher's forward is left out
    x = jax.random.normal(jax.random.key(0), (rows, tokens + 1, width))
    hidden = jax.random.normal(jax.random.key(1), (rows, tokens + 1, int(width * config.backbone.mlp_ratio)))
    scores = jax.random.normal(jax.random.key(2), (rows, heads, tokens + 1, tokens + 1))
    cosines = jax.random.uniform(jax.random.key(3), (rows * tokens, m.prototypes.patch), minval=-1.0)
    gradients = jax.tree.map(jnp.ones_like, state.params)

    def norm(y: Any) -> Any:
        mean = jnp.mean(y, -1, keepdims=True)
        return (y - mean) * jax.lax.rsqrt(jnp.mean((y - mean) ** 2, -1, keepdims=True) + 1e-6)

    def both(f: Callable[[Any], Any], y: Any, times: int) -> Callable[[], Any]:
        work = jax.jit(lambda y: jax.vjp(f, y)[1](y)[0] + 0.0 * y)
        return lambda: [work(y) for _ in range(times)]

    def optimise(params: Any, opt_state: Any, method_state: Any) -> Any:
        updates, opt_state = parts.optimiser.update(gradients, opt_state, params)
        params = optax.apply_updates(params, updates)
        return params, opt_state, parts.method.after_update(params, method_state, jnp.zeros((), jnp.int32))

    views = jax.jit(parts.method.views)
    sinkhorn = jax.jit(lambda c: assignment.sinkhorn(c / m.sinkhorn.eps, m.sinkhorn.iterations))
    tune = jax.jit(optimise)
    patch_loss = jax.jit(jax.grad(lambda c: losses.token_cross_entropy(jnp.abs(c)[None], c[None] / 0.1)))
    key, zero = named(state.key, "views"), jnp.zeros((), jnp.int32)
    return {
        "augmentation and masks": lambda: views(batches, key, zero),
        "sinkhorn, all patch tokens": lambda: sinkhorn(cosines),
        "patch cross-entropy, with gradient": lambda: patch_loss(cosines),
        "GELU, with gradient": both(gelu, hidden, depth),
        "LayerNorm, with gradient": both(norm, x, passes),
        "attention softmax, with gradient": both(lambda s: jax.nn.softmax(s, -1), scores, depth),
        "AdamW and teacher": lambda: tune(state.params, state.opt_state, state.method_state),
    }


FOUR = ("lorot_e", "flip", "channels", "jigsaw")


def gated_report(rounds: int, dispatch: int) -> dict[str, Any]:
    """Seconds a step of supervised training with and without pretexts, `dispatch` steps to a call."""
    calls: dict[str, Callable[[], Any]] = {}
    for label, names in (("plain", ()), ("four pretexts", FOUR)):
        config = load("gated_cifar_lt").get_config("photos")
        config.backbone.name, config.optim.batch_size = "resnet32", 128
        config.method.pretexts.names = names
        config.method.gate.mode = "usefulness" if names else "none"
        parts = assemble(stage_config(config, "target"))
        images = Images.load(parts)
        with images.batches(0) as batches:
            several = [next(batches) for _ in range(dispatch)]
        stacked = several[0] if dispatch == 1 else jax.tree.map(lambda *x: np.stack(x), *several)
        batch = put_batch(stacked, parts.mesh, stacked=dispatch > 1)
        fresh = jax.jit(
            functools.partial(create_state, parts.method, parts.optimiser), out_shardings=replicated(parts.mesh)
        )
        holder = [fresh(gather(images.resident, put_batch(several[0], parts.mesh)), jax.random.key(0))]
        step = make_step(parts.method, parts.optimiser, parts.mesh, dispatch)

        def call(holder: Any = holder, step: Any = step, batch: Any = batch, resident: Any = images.resident) -> Any:
            holder[0], metrics = step(holder[0], resident, batch)
            return metrics

        calls[label] = call
    found = {name: value / dispatch for name, value in best_of_turns(calls, rounds).items()}
    return {
        "what": f"ResNet-32, 32 px, batch 128, SGD, {dispatch} steps a call",
        "seconds_a_step": found,
        "images_per_second": {name: 128 / value for name, value in found.items()},
        "four_pretexts_over_plain": found["four pretexts"] / found["plain"],
        "device": device_words(),
        "versions": versions(),
    }


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--demo", action="store_true", help="the demo's network and batch")
    flags.add_argument("--gated", action="store_true", help="supervised training with and without pretexts")
    flags.add_argument("--dispatch", type=int, default=1, help="with --gated: steps a call (run.steps_per_dispatch)")
    flags.add_argument("--rounds", type=int, default=5, help="turns; the best of each is reported")
    flags.add_argument("--no-keep", action="store_true", help="run.keep_host_memory=False")
    given = flags.parse_args()
    if given.gated:
        print(json.dumps(gated_report(given.rounds, given.dispatch), indent=1))
        return
    config = recipe(given.demo)
    kept = config.run.keep_host_memory and not given.no_keep and keep_freed_memory()
    parts = assemble(stage_config(config, "target"))
    images = Images.load(parts)
    with images.batches(0) as batches:
        batch = put_batch(next(batches), parts.mesh)
        wait = best_of_turns({"stream": lambda: np.asarray(next(batches)["train"]["index"])}, given.rounds)["stream"]
    gathered = gather(images.resident, batch)
    state = jax.jit(
        lambda b, k: create_state(parts.method, parts.optimiser, b, k), out_shardings=replicated(parts.mesh)
    )(gathered, jax.random.key(0))
    apart = pieces(parts, jax.tree.map(jnp.copy, state), gathered)
    step = make_step(parts.method, parts.optimiser, parts.mesh)
    holder = [state]

    def one_step() -> Any:
        holder[0], metrics = step(holder[0], images.resident, batch)
        return metrics

    found = best_of_turns({"step": one_step, **matmuls(), **apart}, given.rounds)
    rate = max(2 * n**3 / found[f"matmul {n}"] for n in MATMUL_SIDES)
    flops = step_flops(parts)
    share = {name: found[name] / found["step"] for name in apart}
    report = {
        "what": "demo" if given.demo else "ViT-Ti/4, 32 px, batch 64",
        "freed_memory_kept": kept,
        "step_seconds": found["step"],
        "images_per_second": parts.config.optim.batch_size / found["step"],
        "counted_gflop": flops / 1e9,
        "matmul_gflop_per_second": rate / 1e9,
        "share_of_matmul_rate": flops / found["step"] / rate,
        "outside_matmul_share_of_step": dict(sorted(share.items(), key=lambda item: -item[1])),
        "next_batch_share_of_step": wait / found["step"],
        "device": device_words(),
        "versions": versions(),
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
