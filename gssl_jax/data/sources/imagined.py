"""Images that are only counted: what a plan is made with where the data are elsewhere."""

from __future__ import annotations

import re

from gssl_jax.data.sources import Sample
from gssl_jax.errors import UserError


class Imagined:
    """So many images, with labels in turn where there are classes; none can be read."""

    normalised = False
    multilabel = False
    parts: tuple[str, ...] = ()

    def __init__(self, count: int, classes: int) -> None:
        self.name, self._count = f"{count:,} imagined images", count
        self.classes = tuple(f"class {number}" for number in range(classes))

    def __len__(self) -> int:
        return self._count

    def label(self, index: int) -> int:
        return index % len(self.classes) if self.classes else -1

    def describe(self, index: int) -> str:
        return f"{self.name}[{index}]"

    def __getitem__(self, index: int) -> Sample:
        raise UserError(f"{self.describe(index)} cannot be read: a run needs images, name their source and path")

    def fingerprint(self) -> str:
        return f"imagined-{self._count}-{len(self.classes)}"


def open_imagined(path: str) -> Imagined:
    """`1281167` images without labels, `1281167x1000` of 1,000 classes. Raises UserError for another path."""
    found = re.fullmatch(r"(\d+)(?:x(\d+))?", path)
    if not found or not int(found[1]):
        raise UserError(f"imagined images are counted, path=1281167 or path=1281167x1000 with classes, not {path!r}")
    return Imagined(int(found[1]), int(found[2] or 0))
