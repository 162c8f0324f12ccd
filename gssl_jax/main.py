"""Train, judge and report: `python -m gssl_jax.main --config=configs/maskcluster_vit.py [--workdir=DIR]`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from gssl_jax.cli import parse, refuse
from gssl_jax.errors import UserError
from gssl_jax.training.host_memory import keep_freed_memory


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the recipe of the command line; returns the exit code (0 finished, 2 refused, 128 + n on signal n)."""
    argv = list(sys.argv if argv is None else argv)
    console = Console(soft_wrap=True)
    debug = "--debug" in argv
    try:
        options = parse(argv)
        if options is None:
            return 0
        return train_and_report(options.config, options.workdir, console, options.more["redo"])
    except UserError as problem:
        if debug:
            raise
        return refuse(problem)
    except KeyboardInterrupt:  # before or after the training, which saves by itself
        console.print("interrupted; what was saved stays, the same command goes on there")
        return 128 + signal.SIGINT


def train_and_report(config, workdir: Path, console: Console, redo: str = "") -> int:
    """One run from start to report; a finished run only prints its table again."""
    from gssl_jax.report.html import write_report
    from gssl_jax.report.words import console_table
    from gssl_jax.runs import archive, chain
    from gssl_jax.runs.folder import RunFolder

    if config.run.keep_host_memory:
        keep_freed_memory()
    folder = RunFolder(workdir)
    if config.run.deterministic:  # read when the backend starts, which nothing has done yet
        os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_gpu_deterministic_ops=true"
    if redo:
        console.print(folder.redo(redo), highlight=False)
    if folder.report.exists():
        chain.claim(config, folder, console)
    results = folder.read_results()
    if results is not None and folder.report.exists():
        console.print(f"{workdir} is finished; its results:", highlight=False)
    else:
        ended = chain.run(config, folder, console)
        if isinstance(ended, chain.Interrupted):
            console.print(f"stopped and saved at step {ended.step}; the same command goes on there", highlight=False)
            return 128 + ended.signal
        results = ended.results
        archive.write_pictures(folder.pictures, ended.pictures, ended.classes)
        write_report(folder.path, ended.pictures, ended.classes)
    if any(results["eval"].values()):
        console.print(console_table(results))
    console.print(f"report: {folder.report}", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
