"""Any folder of images, in one of three layouts.

    root/train/<class>/..., root/test/<class>/...   (or val/ for test/; without either, a hold-out of train/)
    root/<class>/...                                a deterministic hold-out of each class is the test set
    root/...                                        images without classes (also root/train/...): nothing to test on

The class of an image is the first folder below the root (or below train/, test/); deeper folders are searched too. A
single class folder tells nothing apart, so its images count as unlabelled. Hidden files and other extensions are passed
over; the order is that of the relative names.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gssl_jax import errors
from gssl_jax.data import decode
from gssl_jax.data.sources import Sample
from gssl_jax.errors import UserError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
TEST_FOLDERS = ("test", "val")
SPLITS = ("pretrain", "train", "test")

Images = tuple[tuple[str, str | None], ...]  # relative name and class (None = no class) of each image


@dataclass(frozen=True)
class Listing:
    """The training and the test images of a folder, and the names of their classes."""

    train: Images
    test: Images
    classes: tuple[str, ...]


def open_folder(path: str, split: str, data: Any) -> FolderSource:
    """The images of a folder: `pretrain` and `train` are its training images, `test` the others.

    Images without labels that have no test folder are all for training, and `test` is then empty.

    `data.holdout` is the test fraction of each class where no test folder exists. Raises `UserError` for a missing or
    empty folder, for test classes that the training images lack and for a mixture of layouts.
    """
    if split not in SPLITS:
        raise errors.unknown("split", split, SPLITS)
    root = Path(path).expanduser()
    if not path or not root.is_dir():
        raise UserError(f"no folder {path!r}; set the path of the data source to a folder of images")
    listing = scan(root, float(data.holdout))
    return FolderSource(root, split, listing)


def scan(root: Path, holdout: float) -> Listing:
    """What is train and what is test in `root`; see the layouts at the top of this file."""
    test_folder = next((name for name in TEST_FOLDERS if (root / name).is_dir()), None)
    has_train = (root / "train").is_dir()
    if test_folder is not None and not has_train:
        raise UserError(f"{root} has {test_folder}/ but no train/; add train/ or give the folder of classes itself")
    train = classed(root, "train/" if has_train else "")
    known = {name for _, name in train if name is not None}
    test: Images = ()
    if test_folder is not None:
        test = classed(root, f"{test_folder}/", one_class_is_none=not known)
        _check_test_classes(root / test_folder, test, known)
    elif known:
        train, test = _hold_out(train, holdout)
    return Listing(train, test, tuple(sorted(known)))


def _check_test_classes(folder: Path, test: Images, known: set[str]) -> None:
    strange = sorted({name for _, name in test if name is not None} - known)
    if strange:
        raise UserError(f"{folder} has classes that train/ lacks: {', '.join(strange)}; add them there or remove them")
    if known and any(name is None for _, name in test):
        raise UserError(f"{folder} has images outside class folders but train/ has classes; sort them into classes")


def classed(root: Path, below: str, one_class_is_none: bool = True) -> Images:
    """Images below `root/below` with their class folders, sorted by name; `UserError` when there are none."""
    names = sorted(below + name for name in image_files(root / below))
    if not names:
        raise UserError(f"no images in {root / below}; expected files ending in {', '.join(EXTENSIONS)}")
    parts = [name[len(below) :].split("/") for name in names]
    loose = [name for name, part in zip(names, parts, strict=True) if len(part) == 1]
    classes = {part[0] for part in parts if len(part) > 1}
    if loose and classes:
        raise UserError(
            f"{root / below} mixes class folders ({min(classes)}/) and images outside them ({loose[0]}); "
            "move the images into class folders, or all of them out"
        )
    unlabelled = not classes or (one_class_is_none and len(classes) == 1)
    return tuple((name, None if unlabelled else part[0]) for name, part in zip(names, parts, strict=True))


def image_files(folder: Path) -> list[str]:
    """Names of the image files below `folder`, relative to it, with forward slashes; each folder is walked once."""
    found, seen = [], set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()  # a link back to a folder already walked
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inside = Path(place).relative_to(folder).as_posix()
        prefix = "" if inside == "." else inside + "/"
        found += [prefix + name for name in files if name.lower().endswith(EXTENSIONS) and not name.startswith(".")]
    return found


def _hold_out(images: Images, holdout: float) -> tuple[Images, Images]:
    """Splits each class by a hash of the relative names, so that the split does not change from run to run.

    At least one image of a class stays on each side where it has two or more; a single one is for training.
    """
    members: dict[str | None, list[str]] = {}
    for name, label in images:
        members.setdefault(label, []).append(name)
    held: set[str] = set()
    for names in members.values():
        held |= held_out(names, holdout)
    return tuple(one for one in images if one[0] not in held), tuple(one for one in images if one[0] in held)


def held_out(names: Sequence[str], holdout: float) -> set[str]:
    """The share `holdout` of some names by a hash of them, at least one and at most all but one; none of a single."""
    if not 0.0 < holdout < 1.0:
        raise UserError(f"data.holdout is {holdout}; it must lie between 0 and 1, both excluded")
    count = min(max(1, round(holdout * len(names))), len(names) - 1)
    return set(sorted(names, key=lambda name: hashlib.blake2b(name.encode()).digest())[:count])


class FolderSource:
    """Files of one split, decoded on access; `classes` is empty for images without labels."""

    normalised = False
    multilabel = False
    parts: tuple[str, ...] = ()

    def __init__(self, root: Path, split: str, listing: Listing) -> None:
        images = listing.test if split == "test" else listing.train
        self.name, self.classes = f"{root.name}/{split}", listing.classes
        self._root, self._files = root, [name for name, _ in images]
        number = {name: label for label, name in enumerate(listing.classes)}
        labels = [-1 if label is None else number[label] for _, label in images]
        self._labels = np.array(labels, np.int32).reshape(len(images))

    def __len__(self) -> int:
        return len(self._files)

    def label(self, index: int) -> int:
        return int(self._labels[index])

    def describe(self, index: int) -> str:
        return str(self._root / self._files[index])

    def payload(self, index: int) -> bytes:
        """The image file as it is."""
        return decode.read_file(self._root / self._files[index])

    def __getitem__(self, index: int) -> Sample:
        image = decode.decode(self._root / self._files[index])
        return {"image": image, "label": self.label(index), "index": int(index)}

    def fingerprint(self) -> str:
        """Hex digest of the relative names, sizes in bytes (-1 where a link leads nowhere), labels and class names, not
        of the files' times."""
        paths = [self._root / name for name in self._files]
        sizes = [os.path.getsize(path) if path.exists() else -1 for path in paths]
        parts = [self._files, sizes, self._labels.tolist(), list(self.classes)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
