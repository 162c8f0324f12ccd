"""What a weights file holds, without loading it anywhere: `python -m gssl_jax.weights FILE`."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from gssl_jax.cli import refuse, words_and_values
from gssl_jax.errors import UserError
from gssl_jax.interop.files import read_weights
from gssl_jax.interop.layouts import Named, detect
from gssl_jax.interop.load import described
from gssl_jax.interop.stored import ITEM_BYTES, Stored

USAGE = """usage: python -m gssl_jax.weights FILE [--layout=NAME]

  FILE            .safetensors, or what torch.save wrote (.pth, .pt, .pth.tar, .bin, .ckpt); nothing in it is executed
  --layout=NAME   a layout in place of what its names say (auto)
  --help          this text
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the account of a file; returns the exit code (0 read, 2 refused)."""
    argv = list(sys.argv if argv is None else argv)
    try:
        given = words_and_values(argv, USAGE, {"layout": "auto"})
        if given is None:
            return 0
        words, values = given
        if len(words) != 1:
            raise UserError(f"give one file, not {len(words)}; see --help")
        show(Path(words[0]), values["layout"], Console(soft_wrap=True, highlight=False))
        return 0
    except UserError as problem:
        if "--debug" in argv:
            raise
        return refuse(problem)


def show(path: Path, layout: str, console: Console) -> None:
    """Prints layout, network, size and every array with its shape, kind and leaf; a file of no layout has no leaves.

    Raises UserError where the file cannot be read.
    """
    form, stored = read_weights(path)
    try:
        named: Named | None = detect(stored, layout)
    except UserError as problem:
        if layout != "auto":
            raise
        named, words = None, str(problem)
    numbers = sum(math.prod(array.shape) for array in stored.values())
    size = sum(math.prod(array.shape) * ITEM_BYTES[array.dtype] for array in stored.values())
    console.print(f"{path}: {form}; {len(stored)} arrays, {numbers / 1e6:.2f} M numbers, {size / 2**20:.1f} MiB")
    console.print(words if named is None else f"layout {named.layout.name}: {described(shapes(named, stored))}")
    for line in lines(stored, named):
        console.print(line, markup=False)


def shapes(named: Named, stored: Mapping[str, Stored]) -> dict[str, tuple[int, ...]]:
    """The shape of every leaf in the file's own arrangement; leaves in several files count once."""
    return {leaf: stored[name].shape for name, (leaf, _, _) in named.parts.items()}


def lines(stored: Mapping[str, Stored], named: Named | None) -> list[str]:
    """Headings and a line for each array in the order of the file, in columns; long names are never folded."""
    rows = [("name", "shape", "kind", "leaf")]
    for name, array in stored.items():
        leaf = "" if named is None else "(unknown)" if name in named.unknown else "(skipped)"
        if named is not None and name in named.parts:
            leaf, part, parts = named.parts[name]
            leaf += f" ({part + 1} of {parts})" if parts > 1 else ""
        rows.append((name, " x ".join(map(str, array.shape)) or "one number", array.dtype, leaf))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


if __name__ == "__main__":
    sys.exit(main())
