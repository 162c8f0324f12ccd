"""What is in a data set: `python -m gssl_jax.dataset statistics --config=RECIPE[:preset]`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np

from gssl_jax.cli import parse, refuse
from gssl_jax.errors import UserError, unknown

USAGE = """usage: python -m gssl_jax.dataset statistics --config=FILE[:preset] [--images=N] [--config.KEY=V ...]

  statistics       mean and standard deviation of the pixels of every training stream, as flags to copy
  --config=FILE    the recipe that names the data, e.g. configs/maskcluster_vit.py:folder,path=DIR
  --images=N       of so many images, evenly spaced (0 or without it: all)
"""
COMMANDS = ("statistics",)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code (0 done, 2 refused)."""
    argv = list(sys.argv if argv is None else argv)
    if len(argv) == 1 or {"--help", "-h"} & set(argv):
        print(USAGE, end="")
        return 0
    try:
        command, *rest = argv[1:]
        if command not in COMMANDS:
            raise unknown("command", command, COMMANDS)
        counts = [one.removeprefix("--images=") for one in rest if one.startswith("--images=")]
        if counts and not counts[-1].isdigit():
            raise UserError(f"--images={counts[-1]}: give a whole number, 0 for all")
        options = parse([argv[0], *(one for one in rest if not one.startswith("--images="))])
        if options is not None:
            statistics(options.config, int(counts[-1]) if counts else 0)
        return 0
    except UserError as problem:
        return refuse(problem)


def statistics(config, count: int) -> None:
    """Prints the statistics of every training stream of every stage, each source once."""
    from gssl_jax.data.sources import open_source
    from gssl_jax.data.statistics import channel_statistics
    from gssl_jax.runs.parts import stage_config

    seen = set()
    for stage in config.stages:
        own = stage_config(config, stage)
        for name, stream in own.data.streams.items():
            source = open_source(stream, stream.split, own.data)
            if source.fingerprint() in seen:
                continue
            seen.add(source.fingerprint())
            found = channel_statistics(source, own.data, count)
            print(f"{source.name} (stage {stage}, stream {name}): {found.images} images")
            for key, values in (("mean", found.mean), ("std", found.std)):
                print(f"  --config.data.{key}='({', '.join(f'{v:.4f}' for v in np.atleast_1d(values))},)'")
            for line in found.broken[:5]:
                print(f"  unreadable: {line}")


if __name__ == "__main__":
    sys.exit(main())
