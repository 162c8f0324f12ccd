"""Finished runs side by side: `python -m gssl_jax.compare RUN RUN [RUN ...] [--out=DIR]`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from gssl_jax.cli import refuse
from gssl_jax.errors import UserError, unknown

USAGE = """usage: python -m gssl_jax.compare RUN RUN [RUN ...] [--out=DIR]

  RUN        the folder of a finished run, or NAME=FOLDER; the first one is what the others are compared with
  --out=DIR  where compare.html and its figures go (compare beside the first run without it)
  --debug    a traceback where something is refused
  --help     this text
"""


class Options(NamedTuple):
    """What the command line says: the runs by name, in order, and where the page goes."""

    runs: dict[str, Path]
    out: Path


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the comparison of the command line; returns the exit code (0 written, 2 refused)."""
    argv = list(sys.argv if argv is None else argv)
    try:
        options = parse(argv)
        if options is None:
            return 0
        return write(options)
    except UserError as problem:
        if "--debug" in argv:
            raise
        return refuse(problem)


def parse(argv: Sequence[str]) -> Options | None:
    """The options of `argv` (program name first), or None after printing the help.

    Raises UserError for an unknown flag, naming the nearest one, for fewer than two runs and for names given twice.
    """
    if "--help" in argv or "-h" in argv or len(argv) == 1:
        print(USAGE, end="")
        return None
    runs: dict[str, Path] = {}
    out = ""
    arguments = iter(argv[1:])
    for argument in arguments:
        flag, separator, value = argument.partition("=")
        if flag == "--out":
            out = value if separator else next(arguments, "")
            if not out:
                raise UserError("--out needs a folder: --out=DIR")
        elif flag == "--debug":
            continue
        elif argument.startswith("-"):
            raise unknown("flag", flag, ("--out", "--debug", "--help"))
        else:
            name, path = named(argument)
            if name in runs:
                raise UserError(f"two runs are called {name!r}: tell them apart by NAME={argument}")
            runs[name] = path
    if len(runs) < 2:
        raise UserError("a comparison needs at least two runs: give the folders of finished runs, see --help")
    first = next(iter(runs.values()))
    return Options(runs, Path(out) if out else first.parent / "compare")


def named(argument: str) -> tuple[str, Path]:
    """Name and folder of `FOLDER` or `NAME=FOLDER`; a folder whose name has an equals sign is still a folder."""
    name, separator, folder = argument.partition("=")
    if not separator or Path(argument).is_dir():
        name, folder = "", argument
    if not folder:
        raise UserError(f"{argument!r} names no folder: give FOLDER or NAME=FOLDER")
    path = Path(os.path.abspath(folder))
    return name or path.name, path


def write(options: Options) -> int:
    """Reads the runs, writes the page and says where it is."""
    from gssl_jax.report.compared import MOST_RUNS, read_compared
    from gssl_jax.report.comparison import write_comparison

    if len(options.runs) > MOST_RUNS:
        raise UserError(f"{len(options.runs)} runs do not fit side by side: give at most {MOST_RUNS}")
    if (options.out / "config.json").exists():
        raise UserError(f"--out={options.out} is a run folder, whose figures would be lost: choose another")
    runs = [read_compared(name, path) for name, path in options.runs.items()]
    try:
        page, judged = write_comparison(runs, options.out)
    except OSError as problem:
        raise UserError(f"{options.out} cannot be written ({problem}): choose another --out") from problem
    print(judged.headline)
    print(f"comparison: {page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
