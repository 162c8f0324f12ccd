"""One run from start to report."""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack
from pathlib import Path

from ml_collections import ConfigDict
from rich.console import Console

from gssl_jax.report.html import write_report
from gssl_jax.report.words import console_table
from gssl_jax.runs import archive, chain
from gssl_jax.runs.folder import RunFolder
from gssl_jax.training import distributed
from gssl_jax.training.host_memory import keep_freed_memory
from gssl_jax.training.kept_programs import keep_programs


def train_and_report(config: ConfigDict, workdir: Path, console: Console, redo: str = "") -> int:
    """One run in the folder `workdir`; a finished one only prints its table again.

    `redo` names a stage to put aside first. Returns 0, or 128 + n where signal n stopped it.
    Raises UserError for what cannot work.
    """
    if config.run.keep_host_memory:
        keep_freed_memory()
    keep_programs(config.run.programs)
    if config.run.deterministic:  # read when the backend starts, which nothing has done yet
        os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_gpu_deterministic_ops=true"
    with ExitStack() as stack:
        folder = RunFolder(workdir)
        if not distributed.first():  # what it writes and says is what process 0 does too, and nobody's
            console = Console(quiet=True)
            folder = RunFolder(Path(stack.enter_context(tempfile.TemporaryDirectory())), workdir)
        return _run(config, folder, console, redo)


def _run(config: ConfigDict, folder: RunFolder, console: Console, redo: str) -> int:
    if redo and distributed.first():
        console.print(folder.redo(redo), highlight=False)
    if distributed.same(folder.report.exists()):
        chain.claim(config, folder, console)
    results = folder.read_results()
    if distributed.same(results is not None and folder.report.exists()):
        if results is None:
            return 0
        console.print(f"{folder.path} is finished; its results:", highlight=False)
    else:
        ended = chain.run(config, folder, console)
        if isinstance(ended, chain.Interrupted):
            console.print(f"stopped and saved at step {ended.step}; the same command goes on there", highlight=False)
            return 128 + ended.signal
        results = ended.results
        if not distributed.first():
            return 0
        archive.write_pictures(folder.pictures, ended.pictures, ended.classes)
        write_report(folder.path, ended.pictures, ended.classes)
    if any(results["eval"].values()):
        console.print(console_table(results))
    console.print(f"report: {folder.report}", highlight=False)
    return 0
