"""What a recipe needs before anything is rented: `python -m gssl_jax.plan --config=FILE --topology=v5e:2x4`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from gssl_jax.cli import parse, refuse
from gssl_jax.errors import UserError
from gssl_jax.knobs import gib

USAGE = """usage: python -m gssl_jax.plan --config=FILE[:preset] [--topology=NAME] [--config.KEY=V ...]

  --config=FILE    a recipe; its last stage is planned, e.g. configs/maskcluster_vit.py:imagenet
  --topology=NAME  TPU chips that need not be here, v5e:2x4, v6e:2x4, v5p:4x4x8 ..., or host, this machine (default)
  --images=N       that many training images in the place of the recipe's data, which then need not be here
  --classes=N      of so many classes; 0 or without it: no labels
  --quick          looks at the recipe's own batch alone, not for the largest that fits
  --json=FILE      all numbers, for scripts
  --debug          a traceback where something is refused
  --help           this text

The real step is compiled for those devices, a minute or two for each batch that is looked at, and not run. Exit code 0:
it fits, 1: it does not, 2: refused.
"""

FLAGS, SWITCHES = ("topology", "images", "classes", "json"), ("quick",)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    argv = list(sys.argv if argv is None else argv)
    try:
        options = parse(argv, USAGE, FLAGS, SWITCHES)
        if options is None:
            return 0
        given = options.more
        if given["topology"] not in ("", "host"):  # before jax looks for devices: those of the plan are not here
            os.environ["JAX_PLATFORMS"] = "cpu"
        from gssl_jax.runs import chips, planning

        images, classes = (counted(name, given[name]) for name in ("images", "classes"))
        if classes and not images:
            raise UserError(f"--classes={classes} says of how many classes --images are: give that too")
        if given["json"] and not Path(given["json"]).absolute().parent.is_dir():
            raise UserError(f"--json={given['json']}: there is no folder {Path(given['json']).absolute().parent}")
        target = chips.target(given["topology"] or "host")
        config = planning.for_target(options.config, target, images, classes)
        console = Console(soft_wrap=True)
        console.print(f"compiling the step for {words_of(target)} ...", highlight=False)
        plan = planning.make_plan(config, target, largest=not given["quick"])
        tell(plan, console)
        if given["json"]:
            Path(given["json"]).write_text(json.dumps(numbers(plan), indent=1) + "\n", encoding="utf-8")
        return 0 if plan.step.fits else 1
    except UserError as problem:
        if "--debug" in argv:
            raise
        return refuse(problem)


def counted(name: str, text: str) -> int:
    """A flag that is a whole number, 0 without it. Raises UserError for another one."""
    if text and not text.isdigit():
        raise UserError(f"--{name}={text}: give a whole number, e.g. --{name}=1000")
    return int(text or 0)


def words_of(target: Any) -> str:
    """The devices in words."""
    hosts = f"{target.hosts} host{'s' if target.hosts > 1 else ''}"
    return f"{target.name}: {len(target.devices)} x {target.chip.name}, {hosts}"


def tell(plan: Any, console: Console) -> None:
    """The plan in words and two tables."""
    step, chip, devices = plan.step, plan.target.chip, len(plan.target.devices)

    def say(line: str, style: str = "") -> None:
        console.print(line, style=style, highlight=False)

    each = step.batch / devices
    say(f"batch {step.batch:,}, {each:g} for each of {devices} devices; {plan.steps:,} steps")
    if step.fits:
        memory = Table(title="memory a device, MiB", title_justify="left")
        for name, side in (("what", "left"), ("MiB", "right")):
            memory.add_column(name, justify=side)  # type: ignore[arg-type]
        for name, size in step.memory.items():
            memory.add_row(name, f"{size / 2**20:,.0f}")
        memory.add_row("in all", f"{step.needed / 2**20:,.0f}", style="bold")
        console.print(memory)
        share = step.needed / chip.memory
        say(f"It fits: {gib(step.needed)} of {gib(chip.memory)}, {100 * share:.0f} %.", "bold green")
    else:
        wanted = f"{gib(step.needed)}" if step.needed else "more than there is"
        say(f"It does not fit: a device would take {wanted} and has {gib(chip.memory)}.", "bold red")
    if plan.largest:
        say(f"The largest batch that fits is about {plan.largest:,}: --config.optim.batch_size={plan.largest}")
    elif plan.largest == 0:
        say("No batch fits: take a smaller backbone, fewer views (method.views), fewer prototypes, or larger chips.")
    if step.fits:
        work(plan, console, say)
    say(f"A checkpoint takes {gib(plan.checkpoint)}, as float32 masters, teacher and moments.")


def work(plan: Any, console: Console, say: Any) -> None:
    """What a step does, and how long that takes at least."""
    step, seconds = plan.step, plan.seconds()
    table = Table(title="a step, for each device", title_justify="left")
    for name, side in (("what", "left"), ("how much", "right"), ("at its peak, ms", "right")):
        table.add_column(name, justify=side)  # type: ignore[arg-type]
    moved = sum(one.bytes for one in step.moved.values())
    shown = {"operations": f"{step.flops / 1e9:,.1f} Gflop", "memory": f"{step.touched / 1e9:,.2f} GB",
             "links": f"{moved / 1e6:,.1f} MB"}  # fmt: skip
    for name, amount in shown.items():
        table.add_row(name, amount, f"{1e3 * seconds[name]:,.2f}" if seconds else "-")
    console.print(table)
    kinds = ", ".join(f"{one.times} {kind} ({one.bytes / 1e6:,.1f} MB)" for kind, one in step.moved.items())
    say(f"Over the links: {kinds or 'nothing'}.")
    if not seconds:
        say("How long a step takes is not said: this device's peak is not known, and benchmarks/step.py times it.")
        return
    slowest = max(seconds, key=lambda name: seconds[name])
    say(
        f"At best {plan.rate():,.0f} images a second, {1e3 * plan.least():,.1f} ms a step, bound by {slowest} (a "
        f"roofline: every resource at its peak; real steps take longer), {plan.steps * plan.least() / 3600:,.1f} hours."
    )
    if plan.views:
        rate, threads = plan.rate() / plan.target.hosts, plan.target.chip.threads
        say(
            f"Each host then decodes {rate:,.0f} images a second and cuts {plan.views} views of each: about "
            f"{plan.cores():,.0f} cores for JPEG files of 500 x 375 pixels, of the {threads} threads it has."
        )
    else:
        say("The images live on the devices: nothing is decoded while it trains.")


def numbers(plan: Any) -> dict[str, Any]:
    """The plan for scripts: bytes, operations and seconds a device."""
    step, chip = plan.step, plan.target.chip
    return {
        "topology": plan.target.name,
        "chip": chip.name,
        "devices": len(plan.target.devices),
        "hosts": plan.target.hosts,
        "batch": step.batch,
        "fits": step.fits,
        "bytes": step.needed,
        "bytes_there": chip.memory,
        "memory": step.memory,
        "flops": step.flops,
        "bytes_touched": step.touched,
        "collectives": {kind: one._asdict() for kind, one in step.moved.items()},
        "least_seconds": plan.seconds(),
        "images_per_second_at_most": plan.rate(),
        "cores_per_host": plan.cores(),
        "largest_batch": plan.largest,
        "checkpoint_bytes": plan.checkpoint,
        "steps": plan.steps,
    }


if __name__ == "__main__":
    sys.exit(main())
