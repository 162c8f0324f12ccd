"""A grid of methods, collapse controls and seeds: `python -m gssl_jax.study --config=configs/study.py`."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Sequence

from ml_collections import ConfigDict
from rich.console import Console

from gssl_jax.cli import Options, parse, refuse
from gssl_jax.errors import UserError

USAGE = """usage: python -m gssl_jax.study --config=FILE[:preset] [--workdir=DIR] [--dry-run] [--config.KEY=V ...]

  --config=FILE    a study, e.g. configs/study.py; presets stand in its first lines
  --config.KEY=V   changes one value of the study, e.g. --config.seeds='(0,1)'
  --workdir=DIR    the folder of the cells and of report.html (runs/<study>[-<preset>] without it)
  --dry-run        prints the cells and what they will cost, and runs nothing
  --jobs=N         cells at a time, instead of the configuration's
  --cells=PATTERN  some cells by name, e.g. --cells='maskcluster-*,dino-*'
  --cell=I/N       the I-th of N shares of the cells, for arrays of jobs; the report is written by one without it
  --retry          runs cells again that failed
  --tables         writes the report from what is there, prints its tables as Markdown, and runs nothing
  --debug          a traceback where something is refused
  --help           this text

What it will cost is printed first. A cell is a run in processes of its own: one that fails is written down, and the
others go on. Ctrl-C keeps what is done; the same command goes on there. The exit code is 1 where cells failed or are
left.
"""

FLAGS, SWITCHES = ("jobs", "cells", "cell"), ("dry-run", "tables", "retry")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the study of the command line; returns the exit code (0 all finished, 1 cells failed or are left, 2 refused,
    128 + n on signal n)."""
    argv = list(sys.argv if argv is None else argv)
    try:
        options = parse(argv, USAGE, FLAGS, SWITCHES, "methods")
        return 0 if options is None else run(options, Console(soft_wrap=True))
    except UserError as problem:
        if "--debug" in argv:
            raise
        return refuse(problem)
    except KeyboardInterrupt:  # before a cell has begun, or at the second one
        print("interrupted; what is done stays, the same command goes on there", file=sys.stderr)
        return 128 + signal.SIGINT


def run(options: Options, console: Console) -> int:
    """Estimate, cells, report."""
    from gssl_jax.runs import study, studying

    config, given = options.config, options.more
    jobs = whole_number(given["jobs"], config.jobs)
    every, folder = study.cells(config), study.Folder(options.workdir)
    wanted = study.chosen(every, given["cells"], given["cell"])
    if given["tables"]:
        if not folder.config.exists():
            raise UserError(f"{folder.path} holds no study yet: leave --tables out")
        from gssl_jax.report.study import write_study

        print(write_study(config, folder).markdown)
        return 0
    methods = dict.fromkeys((config.budget.reference, *(cell.method for cell in wanted)))
    first = {cell.method: cell for cell in reversed(every)}
    recipes = {name: loaded(config, first[name], None) for name in methods}
    folder.claim(config)
    whole = studying.plan(config, recipes, wanted, folder, jobs, bool(given["retry"]))
    for cell in wanted:
        folder.check(cell, loaded(config, cell, whole.durations[cell.method]))
    studying.tell(config, whole, console)
    if given["dry-run"]:
        for cell in whole.todo:
            for command in study.commands(config, cell, whole.durations[cell.method], folder):
                print(shlex.join(("python", *command)))
        return 0
    studying.check_limit(config, whole)
    ended = studying.run(config, whole, folder, console)
    if not given["cell"]:
        from gssl_jax.report.study import write_study

        written = write_study(config, folder)
        console.rule("study")
        console.print(written.headline, highlight=False)
        console.print(f"report: {written.page}", highlight=False)
    if ended.signal:
        console.print("stopped; the same command goes on there", highlight=False)
        return 128 + ended.signal
    states = [folder.state(cell, list(config.judged)) for cell in wanted]
    failed, rest = states.count("failed"), len(states) - states.count("finished")
    if rest:
        console.print(f"{failed} cells failed (--retry runs them again), {rest - failed} are left", highlight=False)
    return int(rest > 0)


def loaded(config: ConfigDict, cell, duration: float | None) -> ConfigDict:
    """The whole configuration of a cell's run; raises UserError where its recipe refuses it."""
    from gssl_jax.runs import study

    flags = study.overrides(config, cell, duration)
    found = parse(["study", f"--config={study.recipe(config, cell.method)}", *flags], more=())
    assert found is not None
    return found.config


def whole_number(text: str, default: int) -> int:
    """`--jobs`. Raises UserError for what is no number from 1 up."""
    if text and not (text.isdigit() and int(text)):
        raise UserError(f"--jobs={text}: give a whole number from 1 up")
    return int(text) if text else default


if __name__ == "__main__":
    sys.exit(main())
