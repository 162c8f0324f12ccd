"""A folder of images with lists of what is for training, validation and testing, as OpenSelfSup and DomainNet do.

    root/train.txt  root/val.txt  root/test.txt     one image a line: its name and its labels, parted by spaces
    root/classes.txt                                the names of the classes, one a line; without it their numbers
    root/images/...                                 what the names are relative to; without it, to root itself

    beach/photo 1.jpg 3          the class, from 0 on (-1 = unknown)
    scan.png 0 1 nan 0           several labels, a column for each class: 1 has it, 0 has it not, -1 or nan unknown
    scan.png                     no label

The labels are the numbers at the end of a line, so that a name may hold spaces; all lines of a folder have equally
many. `pretrain` is train and val together, of which the labels are not needed. A missing val.txt is an empty one. An
image that two lists name is refused: what is tested on must never have been learned from.
"""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gssl_jax import errors
from gssl_jax.data import decode
from gssl_jax.data.sources import Label, Sample
from gssl_jax.errors import UserError

LISTS = ("train", "val", "test")
SPLITS = {"pretrain": ("train", "val"), "train": ("train",), "val": ("val",), "test": ("test",)}
NUMBERS = re.compile(r"(?:\s+(?:[-+]?\d+(?:\.\d*)?|nan))+$", re.IGNORECASE)


class Listing(NamedTuple):
    """Names of the images of one list and their labels: int32 [N], or float32 [N, classes] of several."""

    names: tuple[str, ...]
    labels: np.ndarray


class ListedSource:
    """The images of one split of a folder with lists, decoded on access; see the top of this file.

    Raises UserError for a missing folder, list or first image, for a line that cannot be understood and for an image
    in two lists, naming file and line.
    """

    normalised = False
    parts: tuple[str, ...] = ()

    def __init__(self, path: str, split: str) -> None:
        if split not in SPLITS:
            raise errors.unknown("split", split, SPLITS)
        root = Path(path).expanduser()
        if not path or not root.is_dir():
            raise UserError(f"no folder {path!r}; set the path of the data source to a folder with a train.txt")
        listings = read_lists(root)
        missing = next((name for name in SPLITS[split] if name not in listings and name != "val"), None)
        if missing is not None or not any(name in listings for name in SPLITS[split]):
            raise UserError(
                f"{root / (missing or split)}.txt is missing; expected lines 'relative/path label' in {root}/train.txt "
                "and test.txt (val.txt where there is one)"
            )
        chosen = [listings[name] for name in SPLITS[split] if name in listings]
        self.name = f"{root.name}/{split}"
        self.classes = class_names(root, listings)
        self._names = [name for listing in chosen for name in listing.names]
        self._labels = np.concatenate([listing.labels for listing in chosen])
        self.multilabel = self._labels.ndim == 2
        self._root = root / "images" if (root / "images").is_dir() else root
        if self._names and not (self._root / self._names[0]).is_file():
            raise UserError(
                f"{root}: there is no {self._names[0]}, the first image of {split}, in {self._root}; the names in the "
                "lists are relative to images/ where that folder exists, else to the folder of the lists"
            )

    def __len__(self) -> int:
        return len(self._names)

    def label(self, index: int) -> Label:
        return self._labels[index].copy() if self.multilabel else int(self._labels[index])

    def describe(self, index: int) -> str:
        return str(self._root / self._names[index])

    def payload(self, index: int) -> bytes:
        """The image file as it is."""
        return decode.read_file(self._root / self._names[index])

    def __getitem__(self, index: int) -> Sample:
        image = decode.decode(self._root / self._names[index])
        return {"image": image, "label": self.label(index), "index": int(index)}

    def fingerprint(self) -> str:
        """Hex digest of the names, sizes in bytes (-1 where there is no file), labels and class names."""
        paths = [self._root / name for name in self._names]
        sizes = [os.path.getsize(path) if path.is_file() else -1 for path in paths]
        labels = np.nan_to_num(self._labels, nan=-1.0).tolist()
        return hashlib.sha256(json.dumps([self._names, sizes, labels, self.classes]).encode()).hexdigest()


def read_lists(root: Path) -> dict[str, Listing]:
    """The lists that `root` has, by name; what they say is checked across them."""
    lines = {name: _lines(root / f"{name}.txt") for name in LISTS if (root / f"{name}.txt").is_file()}
    columns = next((len(labels) for found in lines.values() for *_, labels in found), 0)
    seen: dict[str, str] = {}  # image -> where it stood first
    for name, found in lines.items():
        for place, image, labels in found:
            if len(labels) != columns:
                raise UserError(
                    f"{place} has {len(labels)} labels and the first line of the lists has {columns}; every line needs "
                    "equally many, with -1 for one that is not known"
                )
            if not seen.setdefault(image, place).startswith(f"{root / name}.txt "):
                raise UserError(
                    f"{place}: {image} stands at {seen[image]} too; what is tested on must not be learned from, remove "
                    "it from one of the lists"
                )
    return {
        name: Listing(tuple(image for _, image, _ in found), _labels(found, columns)) for name, found in lines.items()
    }


Line = tuple[str, str, list[str]]
"""Where a line stands (file and number, for messages), the name of its image, and its labels as they are written."""


def _lines(file: Path) -> list[Line]:
    """The lines of a list, blank ones left out."""
    found = []
    for number, line in enumerate(file.read_text(encoding="utf-8-sig").splitlines(), 1):
        if not line.strip():
            continue
        place, text = f"{file} line {number}", line.strip()
        numbers = NUMBERS.search(text)
        name = posixpath.normpath(text[: numbers.start()] if numbers else text)
        if posixpath.isabs(name) or name.startswith("..") or re.fullmatch(NUMBERS, f" {name}"):
            raise UserError(f"{place}: {text!r} does not begin with a relative path; expected 'relative/path label'")
        found.append((place, name, numbers.group().split() if numbers else []))
    return found


def _labels(found: list[Line], columns: int) -> np.ndarray:
    """Labels of the lines of a list: int32 [N], -1 where there is none, or float32 [N, columns]."""
    values = np.array([[float(one) for one in labels] for *_, labels in found], np.float64).reshape(len(found), columns)
    if columns == 0:
        return np.full(len(found), -1, np.int32)
    known = np.where(np.isnan(values), -1, values)
    allowed = "-1, 0, 1 or nan" if columns > 1 else "a whole number from 0 on, or -1"
    wrong = ~np.isin(known, (-1, 0, 1)) if columns > 1 else (known < -1) | (known != np.round(known))
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise UserError(f"{found[row][0]}: the label {found[row][2][column]!r} is not {allowed}")
    if columns == 1:
        return known[:, 0].astype(np.int32)
    return np.where(known < 0, np.nan, known).astype(np.float32)


def class_names(root: Path, listings: dict[str, Listing]) -> tuple[str, ...]:
    """Names from classes.txt, else numbers; none where no list has labels."""
    labels = [listing.labels for listing in listings.values()]
    several = any(one.ndim == 2 for one in labels)
    needed = labels[0].shape[1] if several else max((int(one.max(initial=-1)) for one in labels), default=-1) + 1
    file = root / "classes.txt"
    if not needed or not file.is_file():
        return tuple(str(number) for number in range(needed))
    names = tuple(line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip())
    if len(names) < needed or (several and len(names) > needed):
        raise UserError(
            f"{file} names {len(names)} classes and the lists have {needed}"
            f"{' columns of labels' if several else ' (the largest label plus 1)'}; give one name a line"
        )
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{file} names the class {twice!r} twice; give every class a name of its own")
    return names
