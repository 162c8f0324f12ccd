"""Data sets by their name in TensorFlow Datasets, read as ArrayRecord files without TensorFlow.

The set must have been prepared before (nothing is fetched here); `TFDS_DATA_DIR` says where when it is not in the
package's default folder.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from gssl_jax import errors
from gssl_jax.data import decode
from gssl_jax.data.sources import Sample
from gssl_jax.errors import UserError

SPLITS = {"pretrain": ("train",), "train": ("train",), "test": ("test", "validation")}


def open_named(path: str, split: str, data: Any) -> NamedSource:
    """A prepared data set by TFDS name (`cifar10`, `name/config:version`) or by the folder it was prepared in.

    `pretrain` and `train` read its `train`, `test` reads `test` or else `validation`; any other split goes to TFDS as
    it is (`train[:10%]`, `train+validation`). Raises `UserError` for an unknown name, an unprepared set, another file
    format or a set without a feature called `image`.
    """
    builder = _builder(path)
    if not isinstance(builder.info.features, tfds.features.FeaturesDict) or "image" not in builder.info.features:
        raise UserError(f"the TFDS data set {path} has no feature called image; choose a set of images")
    chosen = _split(builder, split)
    try:
        records = builder.as_data_source(split=chosen)
        undecoded = builder.as_data_source(split=chosen, decoders={"image": tfds.decode.SkipDecoding()})
    except (KeyError, AssertionError, OSError, NotImplementedError):
        state = "holds no files with random access" if builder.info.splits else "has not been prepared"
        raise UserError(
            f"the TFDS data set {path} {state}; run: tfds build {path} --file_format=array_record (in an environment "
            "with TensorFlow, which preparing needs and reading does not), and set TFDS_DATA_DIR if it lies elsewhere"
        ) from None
    return NamedSource(builder, chosen, records, undecoded)


def _builder(path: str) -> Any:
    if not path:
        raise UserError("the data source tfds needs the name of a data set as its path, for example path=cifar10")
    try:
        if Path(path).expanduser().is_dir():
            return tfds.builder_from_directory(Path(path).expanduser())
        return tfds.builder(path)
    except tfds.core.registered.DatasetNotFoundError:
        near = difflib.get_close_matches(path, tfds.list_builders(with_community_datasets=False), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"TFDS knows no data set {path!r}{hint}; give a name from its catalogue") from None
    except OSError:
        raise UserError(f"the folder {path} holds no prepared TFDS data set (no dataset_info.json)") from None


def _split(builder: Any, split: str) -> str:
    wanted = SPLITS[split] if split in SPLITS else (split,)
    available = list(builder.info.splits)
    if not available:  # not prepared: `as_data_source` will say so
        return wanted[0]
    for name in wanted:
        if all(part.split("[")[0] in available for part in name.split("+")):
            return name
    raise errors.unknown(f"split of {builder.info.full_name}", wanted[0], available)


class NamedSource:
    """One split of a prepared TFDS data set; `classes` is empty when it has no class label called `label`."""

    normalised = False
    multilabel = False
    parts: tuple[str, ...] = ()

    def __init__(self, builder: Any, split: str, records: Any, undecoded: Any) -> None:
        self.name = f"{builder.info.full_name}/{split}"
        self._records, self._undecoded = records, undecoded
        self._splits, self._split = builder.info.splits, split
        label = builder.info.features["label"] if "label" in builder.info.features else None
        self.classes = tuple(label.names) if isinstance(label, tfds.features.ClassLabel) else ()

    def __len__(self) -> int:
        return len(self._records)

    def describe(self, index: int) -> str:
        return f"{self.name}[{index}]"

    def label(self, index: int) -> int:
        """Label of one image; reads its record but leaves the image undecoded."""
        return int(self._undecoded[int(index)]["label"]) if self.classes else -1

    def __getitem__(self, index: int) -> Sample:
        try:
            record = self._records[int(index)]
        except (ValueError, OSError) as error:
            raise decode.BrokenImage(self.describe(index), str(error).split("\n")[0]) from None
        image = np.asarray(record["image"])
        label = int(record["label"]) if self.classes else -1
        return {"image": image if image.ndim == 3 else image[:, :, None], "label": label, "index": int(index)}

    def fingerprint(self) -> str:
        """Hex digest of name, version, split and the sizes that TFDS recorded when the set was prepared."""
        splits = {name: [info.num_examples, info.num_bytes] for name, info in self._splits.items()}
        parts = [self.name, self._split, len(self), splits, list(self.classes)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
