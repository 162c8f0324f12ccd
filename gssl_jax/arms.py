"""The arms of a comparison, each stage trained once: `python -m gssl_jax.arms --config=configs/hpt_moco.py:earth`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from gssl_jax.cli import parse, refuse
from gssl_jax.errors import UserError

USAGE = """usage: python -m gssl_jax.arms --config=FILE[:preset] [--arms=A,B] [--workdir=DIR] [--config.KEY=V ...]

  --config=FILE    a recipe that names arms: chains over its stages, e.g. configs/hpt_moco.py:earth
  --config.KEY=V   changes one value in all of them
  --arms=A,B       some of them (all without it)
  --workdir=DIR    the folder of the run folders (runs/<recipe>[-<preset>]-arms without it)
  --shared=DIR     where the stages live that arms share (DIR/stages of the workdir without it)
  --debug          a traceback where something is refused
  --help           this text

A stage that several arms begin with is trained once. The same command goes on where it stopped; an arm that is finished
is left alone. At the end compare/compare.html lays all of them side by side.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the arms of the command line; returns the exit code (0 all finished, 2 refused, 128 + n on signal n)."""
    argv = list(sys.argv if argv is None else argv)
    console = Console(soft_wrap=True)
    try:
        options = parse(argv, USAGE, ("arms", "shared"))
        if options is None:
            return 0
        names = [name for name in options.more["arms"].split(",") if name]
        # without --workdir beside the folder that the recipe alone would have
        given = any(word.partition("=")[0] == "--workdir" for word in argv)
        workdir = options.workdir if given else options.workdir.with_name(f"{options.workdir.name}-arms")
        shared = Path(options.more["shared"]) if options.more["shared"] else workdir / "stages"
        return run(options.config, names, workdir, shared, console)
    except UserError as problem:
        if "--debug" in argv:
            raise
        return refuse(problem)


def run(config, names: Sequence[str], workdir: Path, shared: Path, console: Console) -> int:
    """Every arm in turn, then the comparison. All stages of all arms are checked before the first one trains."""
    from gssl_jax.report.run import train_and_report
    from gssl_jax.runs import arms, chain
    from gssl_jax.runs.folder import RunFolder

    chains = arms.chosen(config, names)
    for first, stage in dict.fromkeys((not place, s) for arm in chains.values() for place, s in enumerate(arm.stages)):
        chain.assembled(config, 0 if first else 1, stage)
    for number, (name, arm) in enumerate(chains.items(), 1):
        console.rule(f"arm {number} of {len(chains)}: {name} ({' > '.join(arm.stages)})")
        folder, stages = RunFolder(workdir / name), arms.places(arm, shared)
        with arms.held(stages):
            if said := arms.prepare(arm, folder, shared):
                console.print(said, style="yellow", highlight=False)
            try:
                code = train_and_report(arm, folder.path, console)
            finally:
                arms.share(folder)
            if code:
                return code
            arms.close(stages)
    if len(chains) > 1:
        compare({name: workdir / name for name in chains}, workdir / "compare", console)
    return 0


def compare(folders: dict[str, Path], out: Path, console: Console) -> None:
    """Lays the arms side by side, those without labels apart: they have nothing to compare."""
    from gssl_jax.report.compared import read_compared
    from gssl_jax.report.comparison import write_comparison

    page, judged = write_comparison([read_compared(name, path) for name, path in folders.items()], out)
    console.rule("comparison")
    console.print(judged.headline, highlight=False)
    console.print(f"comparison: {page}", highlight=False)


if __name__ == "__main__":
    sys.exit(main())
