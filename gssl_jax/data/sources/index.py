"""An index file: a line for each image, CSV (.csv, .tsv) or JSON lines (.jsonl, .ndjson), with labels and masks.

    path,label,split                   a class by name or number; train, val or test (without the column a hold-out)
    path,labels                        several labels, parted by | (in JSON a list)
    path,atelectasis,effusion,mass     a column for each label: 1 has it, 0 has it not, -1, nan or nothing unknown
    path,mask                          a mask file for each image, see gssl_jax/data/sources/masks.py

The columns are known by the names in `COLUMNS`, in small or capital letters; other columns are labels where there is no
label column and every value of all of them is one of 0, 1, -1, nan or nothing, and are passed over where not. Paths
are relative to the folder of the index.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import posixpath
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gssl_jax import errors
from gssl_jax.data import decode
from gssl_jax.data.sources import Label, Sample
from gssl_jax.data.sources.folder import held_out
from gssl_jax.data.sources.masks import checked_mask, highest_part
from gssl_jax.errors import UserError

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "path": ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path"),
    "label": ("label", "class", "target", "category"),
    "labels": ("labels", "classes", "tags"),
    "mask": ("mask", "mask_path", "segmentation"),
    "split": ("split", "subset", "partition"),
}
SPLITS = {"pretrain": ("train", "val"), "train": ("train",), "val": ("val",), "test": ("test", "val")}
SPLIT_NAMES = {"": "train", "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
               "dev": "val", "test": "test", "testing": "test"}  # fmt: skip
ENDINGS = (".csv", ".tsv", ".jsonl", ".ndjson")
TYPING = 0.1
"""Share of other values up to which they are errors in columns of labels, and not columns of something else."""

UNKNOWN = ("", "nan", "none", "null", "-1", "-1.0")


class Row(NamedTuple):
    """A line: where it stands (file and number, for messages), and its values by column."""

    place: str
    values: dict[str, Any]


class IndexSource:
    """The images of one split of an index file, decoded on access; see the top of this file.

    `test` is the rows of the split test, or of val where there is none; without a split column a share `data.holdout`
    of each class. Raises UserError for what cannot be understood, naming file, line and column.
    """

    normalised = False

    def __init__(self, path: str, split: str, data: Any) -> None:
        if split not in SPLITS:
            raise errors.unknown("split", split, SPLITS)
        file = Path(path).expanduser()
        rows = read_rows(file)
        columns = known_columns(file, rows)
        words = [_text(row.values.get(columns["path"])) for row in rows]
        paths = [posixpath.normpath(word) if word else "" for word in words]
        self._check_paths(file, rows, paths, columns["path"])
        labels, self.classes = read_labels(rows, columns)
        chosen = rows_of(split, rows, columns, paths, labels, data)
        self.name, self._root = f"{file.name}/{split}", file.parent
        self._paths, self._labels = [paths[i] for i in chosen], labels[chosen]
        self.multilabel = labels.ndim == 2
        masks = [_text(row.values.get(columns["mask"])) for row in rows] if "mask" in columns else []
        self._masks = [masks[i] for i in chosen] if masks else None
        self.parts = highest_part(file, self._root, masks) if masks else ()
        if chosen and not (self._root / self._paths[0]).is_file():
            raise UserError(f"{file}: there is no {self._root / self._paths[0]}; paths are relative to {self._root}")

    @staticmethod
    def _check_paths(file: Path, rows: list[Row], paths: list[str], column: str) -> None:
        seen: dict[str, str] = {}
        for row, path in zip(rows, paths, strict=True):
            if not path:
                raise UserError(f"{row.place}: the column {column!r} is empty; every line names an image")
            if seen.setdefault(path, row.place) != row.place:
                raise UserError(f"{row.place}: {path} stands at {seen[path]} too; keep one of the lines")

    def __len__(self) -> int:
        return len(self._paths)

    def label(self, index: int) -> Label:
        return self._labels[index].copy() if self.multilabel else int(self._labels[index])

    def describe(self, index: int) -> str:
        return str(self._root / self._paths[index])

    def payload(self, index: int) -> bytes:
        """The image file as it is."""
        return decode.read_file(self._root / self._paths[index])

    def __getitem__(self, index: int) -> Sample:
        image = decode.decode(self._root / self._paths[index])
        sample: Sample = {"image": image, "label": self.label(index), "index": int(index)}
        if self._masks is not None:
            sample["segmentation"] = checked_mask(self._root / self._masks[index], image, len(self.parts))
        return sample

    def fingerprint(self) -> str:
        """Hex digest of the paths, sizes in bytes of images and masks (-1 without a file), labels and classes."""
        files = [self._root / name for name in (*self._paths, *(self._masks or ()))]
        sizes = [os.path.getsize(one) if one.is_file() else -1 for one in files]
        labels = np.nan_to_num(self._labels, nan=-1.0).tolist()
        held = [self._paths, self._masks, sizes, labels, self.classes, self.parts]
        return hashlib.sha256(json.dumps(held).encode()).hexdigest()


def read_rows(file: Path) -> list[Row]:
    """The lines of an index, blank ones left out. Raises UserError for a file that is missing, empty or malformed."""
    if not file.is_file():
        raise UserError(f"no index file {str(file)!r}; set the path of the data source to one of {', '.join(ENDINGS)}")
    if file.suffix.lower() not in ENDINGS:
        raise UserError(f"{file}: an index ends in one of {', '.join(ENDINGS)}")
    text = file.read_text(encoding="utf-8-sig")
    rows = _json_rows(file, text) if file.suffix.lower() in (".jsonl", ".ndjson") else _csv_rows(file, text)
    if not rows:
        raise UserError(f"{file} names no image; expected a line for each")
    return rows


def _csv_rows(file: Path, text: str) -> list[Row]:
    reader = csv.reader(text.splitlines(), delimiter="\t" if file.suffix.lower() == ".tsv" else ",")
    header = [name.strip() for name in next(reader, [])]
    rows = []
    for cells in reader:
        if not any(cell.strip() for cell in cells):
            continue
        place = f"{file} line {reader.line_num}"
        if len(cells) != len(header):
            raise UserError(f"{place} has {len(cells)} values and the first line names {len(header)} columns")
        rows.append(Row(place, {name: cell.strip() for name, cell in zip(header, cells, strict=True)}))
    return rows


def _json_rows(file: Path, text: str) -> list[Row]:
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        place = f"{file} line {number}"
        try:
            values = json.loads(line)
        except json.JSONDecodeError as problem:
            raise UserError(f"{place} is not JSON ({problem.msg})") from problem
        if not isinstance(values, dict):
            raise UserError(f'{place} is no JSON object; expected one such as {{"path": ..., "label": ...}}')
        rows.append(Row(place, values))
    return rows


def known_columns(file: Path, rows: list[Row]) -> dict[str, str]:
    """What `COLUMNS` calls them -> the names that the file has."""
    names = list(dict.fromkeys(name for row in rows for name in row.values))
    found: dict[str, str] = {}
    for kind, words in COLUMNS.items():
        fitting = [name for name in names if name.strip().lower() in words]
        if len(fitting) > 1:
            raise UserError(f"{file} has the columns {' and '.join(map(repr, fitting))} for the {kind}: keep one")
        if fitting:
            found[kind] = fitting[0]
    if "path" not in found:
        raise UserError(
            f"{file} has no column of image paths; it has {', '.join(names)}, and expected is one of "
            f"{', '.join(COLUMNS['path'])}"
        )
    if "label" in found and "labels" in found:
        raise UserError(f"{file} has {found['label']!r} and {found['labels']!r}: one class an image or several labels?")
    return found


def read_labels(rows: list[Row], columns: Mapping[str, str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels of all lines, int32 [N] (-1 = none) or float32 [N, classes], and the names of the classes."""
    if "label" in columns:
        return _single([_text(row.values.get(columns["label"])) for row in rows])
    if "labels" in columns:
        return _several([_listed(row.values.get(columns["labels"])) for row in rows])
    rest = [name for name in dict.fromkeys(n for row in rows for n in row.values) if name not in columns.values()]
    values = [[_truth(row.values.get(name)) for name in rest] for row in rows]
    strange = [(row, name) for row, line in enumerate(values) for name, value in zip(rest, line, strict=True)
               if value is None]  # fmt: skip
    if strange and len(strange) < TYPING * len(rest) * len(rows):
        row, column = strange[0]
        raise UserError(
            f"{rows[row].place}: {column} is {_text(rows[row].values.get(column))!r}, and nearly all other values are "
            "labels of 0, 1, -1, nan or nothing; mend it, or take columns of something else out of the index"
        )
    if not rest or strange:
        return np.full(len(rows), -1, np.int32), ()
    return np.array(values, np.float32), tuple(rest)


def _single(words: list[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Classes by number where all are whole numbers, else by name in the order of the names."""
    named = [word for word in words if word.lower() not in UNKNOWN]
    if all(word.isdigit() for word in named):
        classes = tuple(map(str, range(max((int(word) for word in named), default=-1) + 1)))
    else:
        classes = tuple(sorted(set(named)))
    number = {name: place for place, name in enumerate(classes)}
    by_number = classes == tuple(map(str, range(len(classes))))

    def place(word: str) -> int:
        if word.lower() in UNKNOWN:
            return -1
        return int(word) if by_number else number[word]

    return np.array([place(word) for word in words], np.int32), classes


def _several(lists: list[list[str] | None]) -> tuple[np.ndarray, tuple[str, ...]]:
    classes = tuple(sorted({name for names in lists if names for name in names}))
    labels = np.zeros((len(lists), len(classes)), np.float32)
    for row, names in enumerate(lists):
        labels[row] = math.nan if names is None else [name in names for name in classes]
    return labels, classes


def _listed(value: Any) -> list[str] | None:
    """The labels of one image; None = not known."""
    if value is None:
        return None
    if isinstance(value, (list, tuple)):
        return [str(one) for one in value]
    return [one.strip() for one in str(value).split("|") if one.strip()]


def _truth(value: Any) -> float | None:
    """1, 0 or nan; None for anything else."""
    text = _text(value).lower()
    if text in UNKNOWN:
        return math.nan
    return {"0": 0.0, "0.0": 0.0, "false": 0.0, "1": 1.0, "1.0": 1.0, "true": 1.0}.get(text)


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()


def rows_of(
    split: str, rows: list[Row], columns: Mapping[str, str], paths: list[str], labels: np.ndarray, data: Any
) -> list[int]:
    """The lines of a split."""
    if "split" not in columns:
        if labels.ndim == 1 and (labels < 0).all():
            return [] if split == "test" else list(range(len(rows)))
        groups = labels if labels.ndim == 1 else np.zeros(len(rows), int)
        held: set[str] = set()
        for group in np.unique(groups):
            held |= held_out([paths[i] for i in np.flatnonzero(groups == group)], float(data.holdout))
        return [i for i, path in enumerate(paths) if (path in held) == (split in ("test", "val"))]
    found = []
    for row in rows:
        word = _text(row.values.get(columns["split"]))
        if word.lower() not in SPLIT_NAMES:
            raise UserError(f"{row.place}: the split {word!r} is none of train, val and test")
        found.append(SPLIT_NAMES[word.lower()])
    wanted = SPLITS[split]
    if split == "test":
        wanted = ("test",) if "test" in found else ("val",)
    return [i for i, one in enumerate(found) if one in wanted]
