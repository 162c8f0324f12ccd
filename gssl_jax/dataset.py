"""What is in a data set, its lists, and HPT's data sets: `python -m gssl_jax.dataset COMMAND`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from gssl_jax import domains
from gssl_jax.cli import parse, refuse, words_and_values
from gssl_jax.data.divide import SHARES, divide
from gssl_jax.errors import UserError, unknown

USAGE = """usage: python -m gssl_jax.dataset statistics --config=FILE[:preset] [--images=N] [--config.KEY=V ...]
       python -m gssl_jax.dataset split DIR [--train=0.6] [--val=0.2] [--seed=0] [--out=DIR]
       python -m gssl_jax.dataset domains
       python -m gssl_jax.dataset inspect PATH [--images=N] [--out=DIR] [--json=FILE] [--splits=train,test]
       python -m gssl_jax.dataset prepare PATH --out=DIR [--side=N] [--encode=auto] [--shards=N] [--shard=I/N]

  statistics       mean and standard deviation of the pixels of every training stream, as flags to copy
  --config=FILE    the recipe that names the data, e.g. configs/maskcluster_vit.py:folder,path=DIR
  --images=N       of so many images, evenly spaced (0 or without it: all)

  split            writes train.txt, val.txt, test.txt and classes.txt for a folder that has a folder for each class
  --train, --val   shares of every class; the rest is to test on
  --seed=N         another draw
  --out=DIR        where the lists go (DIR itself without it), with a link to the images

  domains          the 16 data sets of HPT: what they hold, how they are judged, where to get them

  inspect          counts, sizes, classes, copies, leaks from train to test, broken files, and a contact sheet of each
                   split in --out (runs/inspect without it); --images=N of each split, evenly spaced
  prepare          ArrayRecord shards of any source, read again with :folder,path=DIR; the same command makes what is
                   missing, and --shard=I/N, from 0, the I-th part of it, for arrays of jobs
  PATH             a folder of images, of lists, of images/ and masks/, an index (.csv, .tsv, .jsonl), arrays (.npz);
                   or KIND:PATH, e.g. tfds:cifar10
  --side=N         shorter side in pixels, smaller images stay (0: as they are)
  --encode=KIND    auto: a file's own bytes, else JPEG, PNG or raw by what the pixels need; or keep, jpeg, png, raw
  --quality=95     of JPEG; --shards=N of each split (0: about 256 MiB each); --threads=N; --max_broken=0.01
  --holdout=0.2    the share of each class to test on where no split is given
  --debug          a traceback where something is refused
"""
COMMANDS = ("statistics", "split", "domains", "inspect", "prepare")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code (0 done, 2 refused)."""
    argv = list(sys.argv if argv is None else argv)
    if len(argv) == 1 or {"--help", "-h"} & set(argv):
        print(USAGE, end="")
        return 0
    try:
        command = next((one for one in argv[1:] if not one.startswith("--")), "")
        if command not in COMMANDS:
            raise unknown("command", command, COMMANDS)
        rest = [argv[0], *argv[1:]]
        rest.remove(command)
        run = {
            "statistics": _statistics,
            "split": _split,
            "domains": _domains,
            "inspect": _inspect,
            "prepare": _prepare,
        }
        run[command](rest)
        return 0
    except UserError as problem:
        if "--debug" in argv:
            raise
        return refuse(problem)


def _statistics(argv: list[str]) -> None:
    images = [one for one in argv if one.startswith("--images")]
    _, values = _options(["", *images], {"images": "0"})
    options = parse([one for one in argv if one not in images])
    if options is not None:
        statistics(options.config, _whole("images", values["images"]))


def _split(argv: list[str]) -> None:
    shares = {name: str(share) for name, share in SHARES.items()}
    words, values = _options(argv, {**shares, "seed": "0", "out": ""})
    if len(words) != 1:
        raise UserError(f"split takes one folder of class folders and was given {len(words)}: split DIR")
    root = Path(words[0]).expanduser()
    out = Path(values["out"]).expanduser() if values["out"] else root
    train, val = (_share(name, values[name]) for name in shares)
    counts = divide(root, out, train, val, _whole("seed", values["seed"]))
    print(f"{out}: " + ", ".join(f"{count} images in {name}.txt" for name, count in counts.items()))
    print(f"  read it with --config.data.streams.train.source=lists --config.data.streams.train.path={out}")


def _inspect(argv: list[str]) -> None:
    defaults = {"images": "0", "threads": "0", "out": "", "json": "", "splits": "", "holdout": "0.2"}
    words, values = _options(argv, defaults)
    from gssl_jax.report import data_sets

    data_sets.inspect(values, _one(words, "inspect"), Console(soft_wrap=False))


def _prepare(argv: list[str]) -> None:
    defaults = {"out": "", "side": "0", "encode": "auto", "quality": "95", "shards": "0", "shard": "0/1"}
    defaults |= {"threads": "0", "splits": "", "holdout": "0.2", "max_broken": "0.01"}
    words, values = _options(argv, defaults)
    from gssl_jax.report import data_sets

    data_sets.write_shards(values, _one(words, "prepare"), Console(soft_wrap=False))


def _one(words: list[str], command: str) -> str:
    if len(words) != 1:
        raise UserError(f"{command} takes one data set and was given {len(words)}: {command} PATH")
    return words[0]


def _domains(argv: list[str]) -> None:
    words, _ = _options(argv, {})
    if words:
        raise UserError(f"domains takes nothing more and was given {words[0]!r}")
    console = Console(highlight=False, soft_wrap=True)
    console.print(drawn())
    for name, domain in domains.DOMAINS.items():
        note = f" Note: {domain.note}." if domain.note else ""
        console.print(f"{name}: {domains.how_to_get(name)}.{note}", markup=False)


def drawn() -> Table:
    """The data sets of HPT as a table."""
    table = Table(title="The data sets of HPT (arXiv 2103.12718); ~ about", title_justify="left", box=box.SIMPLE)
    table.padding, table.pad_edge = (0, 0), False  # within 80 columns
    for heading in ("name", "domain", "classes", "train", "val", "test", "metric"):
        table.add_column(heading, justify="left" if heading in ("name", "domain", "metric") else "right", no_wrap=True)
    for name, domain in domains.DOMAINS.items():
        counts = [f"{'' if domain.exact else '~'}{count:,}" for count in domain.images]
        table.add_row(name, domain.domain, " or ".join(map(str, domain.classes)), *counts, domain.metric)
    return table


def _options(argv: list[str], defaults: dict[str, str]) -> tuple[list[str], dict[str, str]]:
    """`words_and_values`, also where nothing is given."""
    given = words_and_values(argv, USAGE, defaults) if len(argv) > 1 else None
    return given or ([], dict(defaults))


def _whole(name: str, value: str) -> int:
    if not value.isdigit():
        raise UserError(f"--{name}={value}: give a whole number{', 0 for all' if name == 'images' else ''}")
    return int(value)


def _share(name: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise UserError(f"--{name}={value}: give a share of every class, such as {SHARES[name]}") from None


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
