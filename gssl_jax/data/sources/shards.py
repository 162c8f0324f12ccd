"""Images in ArrayRecord shards, as `python -m gssl_jax.dataset prepare` writes them: random access to few large files.

    manifest.json                                   what there is, whole; see `gssl_jax.data.prepare`
    train-00003-of-00016.arrayrecord                the images, one record each (group_size:1)
    train-00003-of-00016.npy                        their labels, int32 [n] or float32 [n, classes]

A record is the length of its header (4 bytes, little-endian), the header as JSON, the image (a file's bytes, or raw
pixels) and the mask (PNG). The images are those of the source in its order; one that could not be read there has a
record without an image and counts as broken here too. Sets that TFDS has prepared are read by the source `tfds`.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource

from gssl_jax import errors
from gssl_jax.data import decode
from gssl_jax.data.sources import MANIFEST, Label, Sample
from gssl_jax.errors import UserError

FORMAT = 1
"""Of records and manifest; one that is higher is not understood."""

FALLBACKS = {"pretrain": ("pretrain", "train"), "train": ("train",), "val": ("val",), "test": ("test", "val")}


class Record(NamedTuple):
    """What a record holds. `name` is what messages call the image, `image` the bytes of a file, or pixels [h, w, C] of
    dtype `raw`; `broken` says why there is none."""

    name: str
    image: bytes
    raw: tuple[str, tuple[int, ...]] | None
    mask: bytes
    broken: str


def packed(record: Record) -> bytes:
    """A record as bytes."""
    header: dict[str, Any] = {"name": record.name, "image": len(record.image)}
    if record.raw is not None:
        header["raw"] = [record.raw[0], list(record.raw[1])]
    if record.broken:
        header["broken"] = record.broken
    text = json.dumps(header, ensure_ascii=False).encode()
    return len(text).to_bytes(4, "little") + text + record.image + record.mask


def unpacked(held: bytes) -> Record:
    """The record in `held`."""
    end = 4 + int.from_bytes(held[:4], "little")
    header = json.loads(held[4:end])
    middle = end + header["image"]
    raw = (header["raw"][0], tuple(header["raw"][1])) if "raw" in header else None
    return Record(header["name"], held[end:middle], raw, held[middle:], header.get("broken", ""))


def read_manifest(folder: Path) -> dict[str, Any]:
    """manifest.json of a folder; UserError where there is none that can be understood."""
    file = folder / MANIFEST
    if not file.is_file():
        left = sorted(folder.glob("*.arrayrecord")) if folder.is_dir() else []
        state = (
            f"has {len(left)} shards but no {MANIFEST}: some are still to be made, or run dataset prepare again"
            if left
            else f"has no {MANIFEST}; expected a folder that dataset prepare has written (what TFDS wrote is for tfds)"
        )
        raise UserError(f"{folder} {state}")
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as problem:
        raise UserError(f"{file} is not readable JSON ({problem.msg}): run dataset prepare again") from problem
    if manifest.get("format") != FORMAT:
        raise UserError(f"{file} has format {manifest.get('format')}, this version reads {FORMAT}: prepare it anew")
    return manifest


class ShardedSource:
    """The images of one split of a folder of shards. Raises UserError for a folder without a manifest, an unknown
    split, and shards that are missing or of another size than the manifest says."""

    def __init__(self, path: str, split: str) -> None:
        if split not in FALLBACKS:
            raise errors.unknown("split", split, FALLBACKS)
        folder = Path(path).expanduser()
        manifest = read_manifest(folder)
        held = next((manifest["splits"][name] for name in FALLBACKS[split] if name in manifest["splits"]), None)
        if held is None:
            raise UserError(f"{folder} holds {', '.join(manifest['splits'])} and no {split}: prepare it with --splits")
        for shard in held["shards"]:
            file = folder / shard["file"]
            size = file.stat().st_size if file.is_file() else None
            if size != shard["bytes"]:
                state = "is missing" if size is None else f"has {size} bytes and should have {shard['bytes']}"
                raise UserError(f"{file} {state}: run dataset prepare again, it makes what is not whole")
        self.name = f"{folder.name}/{split}"
        self.classes, self.parts = tuple(manifest["classes"]), tuple(manifest["parts"])
        self.multilabel, self.normalised = manifest["multilabel"], manifest["normalised"]
        self._digest = [shard["sha256"] for shard in held["shards"]]
        files = [folder / shard["file"] for shard in held["shards"]]
        labels = [np.load(file.with_suffix(".npy")) for file in files]
        empty = np.zeros((0, len(self.classes)), np.float32) if self.multilabel else np.zeros(0, np.int32)
        self._labels = np.concatenate(labels) if labels else empty
        self._records = ArrayRecordDataSource([str(file) for file in files]) if len(self._labels) else []

    def __len__(self) -> int:
        return len(self._labels)

    def label(self, index: int) -> Label:
        return self._labels[index].copy() if self.multilabel else int(self._labels[index])

    def describe(self, index: int) -> str:
        return f"{self.name}[{index}] ({self._record(index).name})"

    def __getitem__(self, index: int) -> Sample:
        record = self._record(index)
        if record.broken:
            raise decode.BrokenImage(record.name, record.broken)
        sample: Sample = {"image": pixels(record), "label": self.label(index), "index": int(index)}
        if self.parts:
            mask = cv2.imdecode(np.frombuffer(record.mask, np.uint8), cv2.IMREAD_GRAYSCALE)
            if mask is None:
                raise decode.BrokenImage(record.name, "its mask cannot be decoded")
            sample["segmentation"] = mask.astype(np.uint8)
        return sample

    def payload(self, index: int) -> bytes:
        """The image file; BrokenImage where raw pixels are held, or none."""
        record = self._record(index)
        if record.broken or record.raw is not None:
            raise decode.BrokenImage(record.name, record.broken or "it is no file")
        return record.image

    def _record(self, index: int) -> Record:
        return unpacked(self._records[int(index)])

    def fingerprint(self) -> str:
        """Hex digest of the shards' digests and the classes."""
        held = [self._digest, list(self.classes), list(self.parts)]
        return hashlib.sha256(json.dumps(held).encode()).hexdigest()


def pixels(record: Record) -> np.ndarray:
    """The image of a record, uint8 or uint16 [h, w, C]."""
    if record.raw is None:
        return decode.decode(record.image, record.name)
    dtype, shape = record.raw
    return np.frombuffer(record.image, dtype).reshape(shape)
