"""Train, judge and report: `python -m gssl_jax.main --config=configs/maskcluster_vit.py [--workdir=DIR]`."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence

from rich.console import Console

from gssl_jax.cli import parse, refuse
from gssl_jax.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the recipe of the command line; returns the exit code (0 finished, 2 refused, 128 + n on signal n)."""
    argv = list(sys.argv if argv is None else argv)
    console = Console(soft_wrap=True)
    debug = "--debug" in argv
    try:
        options = parse(argv)
        if options is None:
            return 0
        from gssl_jax.report.run import train_and_report  # here, so that a mistyped flag is told at once
        from gssl_jax.training import distributed

        distributed.start(options.more)
        return train_and_report(options.config, options.workdir, console, options.more["redo"])
    except UserError as problem:
        if debug:
            raise
        return refuse(problem)
    except KeyboardInterrupt:  # before or after the training, which saves by itself
        console.print("interrupted; what was saved stays, the same command goes on there")
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
