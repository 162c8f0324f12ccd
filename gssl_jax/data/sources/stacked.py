"""Images stacked in the arrays of a `.npz` file, under the names that are usual for them.

    x_train y_train x_test y_test                 Keras
    train_images train_labels val_images ...      MedMNIST
    images labels                                 without a split: a fixed share of each class is to test on

Images are uint8, uint16 or float in [0, 1], [N, H, W], [N, H, W, C] or [N, C, H, W] with at most `MOST_CHANNELS`;
labels int [N] or [N, 1], or [N, classes] of 0, 1 and nan. `classes` may name the classes.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from gssl_jax import errors
from gssl_jax.data.sources import Label, Sample
from gssl_jax.data.sources.folder import held_out
from gssl_jax.errors import UserError

NAMES = {
    "train": (("x_train", "y_train"), ("train_images", "train_labels"), ("images", "labels"), ("x", "y")),
    "val": (("x_val", "y_val"), ("val_images", "val_labels")),
    "test": (("x_test", "y_test"), ("test_images", "test_labels")),
}
SPLITS = ("pretrain", "train", "val", "test")
CLASS_NAMES = ("classes", "class_names")
MOST_CHANNELS = 16


class StackedSource:
    """One split of a `.npz` file, read once and whole; see the top of this file.

    `pretrain` is train and val together. Raises UserError for a file, an array or a value that cannot be meant.
    """

    normalised = False
    parts: tuple[str, ...] = ()

    def __init__(self, path: str, split: str, data: Any) -> None:
        if split not in SPLITS:
            raise errors.unknown("split", split, SPLITS)
        file = Path(path).expanduser()
        if not path or not file.is_file():
            raise UserError(f"no file {path!r}; set the path of the data source to a .npz file of images")
        try:
            with np.load(file, allow_pickle=False) as held:
                arrays = {name: held[name] for name in held.files}
        except (ValueError, OSError, zipfile.BadZipFile) as problem:
            raise UserError(f"{file} cannot be read as a .npz file: {str(problem).splitlines()[0]}") from problem
        found = {part: _pair(file, arrays, part) for part in NAMES}
        if found["train"] is None:
            known = ", ".join(images for pairs in NAMES.values() for images, _ in pairs)
            raise UserError(f"{file} holds {', '.join(arrays) or 'nothing'}; images are expected as one of {known}")
        self.name = f"{file.name}/{split}"
        self.classes, self.multilabel = _classes(file, arrays, [pair[1] for pair in found.values() if pair])
        self._images, self._labels = _chosen(split, found, data)

    def __len__(self) -> int:
        return len(self._images)

    def label(self, index: int) -> Label:
        return self._labels[index].copy() if self.multilabel else int(self._labels[index])

    def describe(self, index: int) -> str:
        return f"{self.name}[{index}]"

    def __getitem__(self, index: int) -> Sample:
        image = self._images[index]
        image = image[:, :, None] if image.ndim == 2 else image
        if image.dtype.kind == "f":  # 16 bits hold more than most floats of images mean
            image = np.rint(image.astype(np.float64) * 65535).astype(np.uint16)
        return {"image": image, "label": self.label(index), "index": int(index)}

    def fingerprint(self) -> str:
        """Hex digest of pixels, labels and class names."""
        digest = hashlib.sha256(json.dumps([self._images.shape, str(self._images.dtype), self.classes]).encode())
        for part in (self._images, np.nan_to_num(self._labels, nan=-1.0)):
            digest.update(np.ascontiguousarray(part).data)
        return digest.hexdigest()


def _pair(file: Path, arrays: dict[str, np.ndarray], part: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Images and labels of a split, checked; None where the file has none."""
    for images_name, labels_name in NAMES[part]:
        if images_name in arrays:
            images = _images(file, images_name, arrays[images_name])
            labels = arrays.get(labels_name)
            return images, _labels(file, labels_name, labels, len(images))
    return None


def _images(file: Path, name: str, images: np.ndarray) -> np.ndarray:
    if images.ndim not in (3, 4):
        raise UserError(f"{file}: {name} is {list(images.shape)}; expected [N, H, W] or [N, H, W, channels]")
    if images.ndim == 4 and images.shape[1] <= MOST_CHANNELS < min(images.shape[2:]):
        images = images.transpose(0, 2, 3, 1)
    if images.dtype.kind == "f":
        low, high = float(np.min(images, initial=0.0)), float(np.max(images, initial=0.0))
        if not (low >= 0.0 and high <= 1.0):
            raise UserError(
                f"{file}: {name} is {images.dtype} from {low:g} to {high:g}; floats have to lie in [0, 1] (undo a "
                "normalisation), or save uint8 or uint16"
            )
    elif images.dtype not in (np.uint8, np.uint16):
        raise UserError(f"{file}: {name} is {images.dtype}; expected uint8, uint16 or floats in [0, 1]")
    return images


def _labels(file: Path, name: str, labels: np.ndarray | None, count: int) -> np.ndarray:
    if labels is None:
        return np.full(count, -1, np.int32)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if len(labels) != count or labels.ndim not in (1, 2) or labels.dtype.kind not in "iufb":
        raise UserError(f"{file}: {name} is {labels.dtype} {list(labels.shape)} for {count} images; expected numbers "
                        f"[{count}], or [{count}, classes] of 0, 1 and nan")  # fmt: skip
    if labels.ndim == 2:
        if not np.isin(labels[~np.isnan(labels.astype(np.float64))], (0, 1)).all():
            raise UserError(f"{file}: {name} holds other values than 0, 1 and nan; expected a column for each label")
        return labels.astype(np.float32)
    if labels.size and (labels.astype(np.int64) != labels).any() or (labels.astype(np.int64) < -1).any():
        raise UserError(f"{file}: {name} holds values that are no whole number from 0 on, nor -1")
    return labels.astype(np.int32)


def _classes(file: Path, arrays: dict[str, np.ndarray], labels: list[np.ndarray]) -> tuple[tuple[str, ...], bool]:
    several = labels[0].ndim == 2
    if any((one.ndim == 2) != several or (several and one.shape[1] != labels[0].shape[1]) for one in labels):
        raise UserError(f"{file}: the labels of its splits differ in form: {[list(one.shape) for one in labels]}")
    needed = labels[0].shape[1] if several else max(int(one.max(initial=-1)) for one in labels) + 1
    named = next((arrays[name] for name in CLASS_NAMES if name in arrays), None)
    if named is None or not needed:
        return tuple(map(str, range(needed))), several
    if len(named) < needed or len(set(map(str, named))) < len(named):
        raise UserError(f"{file}: classes names {len(set(map(str, named)))} classes and the labels have {needed}")
    return tuple(map(str, named)), several


def _chosen(split: str, found: dict[str, Any], data: Any) -> tuple[np.ndarray, np.ndarray]:
    if split == "pretrain" and found["val"] is not None:
        return tuple(np.concatenate(both) for both in zip(found["train"], found["val"], strict=True))  # type: ignore
    if split in ("val", "test") and found["val"] is None and found["test"] is None:
        return _divided(found["train"], float(data.holdout))[1]
    if found["val"] is None and found["test"] is None:
        return _divided(found["train"], float(data.holdout))[0]
    if split in ("val", "test"):
        return next(found[name] for name in (split, "val", "test") if found[name] is not None)
    return found["train"]


def _divided(pair: tuple[np.ndarray, np.ndarray], holdout: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """Training images and those held out, a share of each class by a hash of their places; all are for training where
    none has a label."""
    images, labels = pair
    groups = labels if labels.ndim == 1 else np.zeros(len(labels), int)
    held: set[str] = set()
    if labels.ndim == 2 or (labels >= 0).any():
        for group in np.unique(groups):
            held |= held_out([str(i) for i in np.flatnonzero(groups == group)], holdout)
    out = np.array([str(i) in held for i in range(len(images))], bool)
    return [(images[rows], labels[rows]) for rows in (~out, out)]
