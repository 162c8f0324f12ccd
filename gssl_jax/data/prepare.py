"""Any source as ArrayRecord shards, by as many jobs as there are, each of which may be killed and started again.

A shard is written under a temporary name and renamed when it is whole; a small JSON file beside it then says what it
holds, and a shard with that file is not made again unless its bytes have changed. Whoever finds that none is missing
writes the manifest. The number of shards and what is in each is a function of source and options alone, so that jobs
need not speak to each other.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from gssl_jax.data import decode
from gssl_jax.data.sources import MANIFEST, Source
from gssl_jax.data.sources.shards import FORMAT, Record, packed
from gssl_jax.errors import UserError, unknown

ENCODINGS = ("auto", "keep", "jpeg", "png", "raw")
SHARD_BYTES = 256 * 2**20
"""A shard is about so large where nothing says how many there shall be."""

SAMPLED = 64
"""Images by which the size of all is reckoned."""


class Options(NamedTuple):
    """What decides the bytes of the shards.

    side: pixels of the shorter side, 0 = as they are (a smaller image is never enlarged).
    encoding: `keep` the file's own bytes, `jpeg`, `png` (lossless, 8 or 16 bit, 1, 3 or 4 channels), `raw` pixels, or
      `auto`: kept where nothing changes and there is a file; else JPEG for 8 bit in colour or grey, PNG for what it can
      hold, raw for the rest.
    quality: of JPEG, 1 to 100.
    shards: of each split; 0 = by size.
    """

    side: int = 0
    encoding: str = "auto"
    quality: int = 95
    shards: int = 0


class Shard(NamedTuple):
    """One file to make: its split, its number among `among`, and the images `first` up to `last`."""

    split: str
    number: int
    among: int
    first: int
    last: int

    @property
    def file(self) -> str:
        return f"{self.split}-{self.number:05d}-of-{self.among:05d}.arrayrecord"


def check(options: Options) -> None:
    """Raises UserError for options that cannot be meant."""
    if options.encoding not in ENCODINGS:
        raise unknown("--encode", options.encoding, ENCODINGS)
    if options.encoding == "keep" and options.side:
        raise UserError(f"--encode=keep leaves files as they are and --side={options.side} changes them: leave one out")
    if not 1 <= options.quality <= 100:
        raise UserError(f"--quality={options.quality}: give 1 to 100")


def layout(sources: Mapping[str, Source], options: Options) -> list[Shard]:
    """The shards of all splits, in order."""
    found = []
    for split, source in sources.items():
        count = options.shards or max(1, math.ceil(reckoned(source, options) / SHARD_BYTES))
        count = max(1, min(count, len(source)))
        edges = [round(k * len(source) / count) for k in range(count + 1)]
        found += [Shard(split, k, count, edges[k], edges[k + 1]) for k in range(count)]
    return found


def reckoned(source: Source, options: Options) -> int:
    """Bytes of all records, from some of them, evenly spaced."""
    if not len(source):
        return 0
    some = np.unique(np.linspace(0, len(source) - 1, min(SAMPLED, len(source))).astype(int))
    return round(np.mean([len(packed(record(source, int(i), options))) for i in some]) * len(source))


def record(source: Source, index: int, options: Options) -> Record:
    """The record of one image."""
    name = source.describe(index)
    try:
        payload = getattr(source, "payload", None)
        keep = options.encoding == "keep" or (options.encoding == "auto" and not options.side)
        if keep and payload is None and options.encoding == "keep":
            raise UserError(f"{source.name} has no files to keep: leave --encode out, or give jpeg, png or raw")
        sample = source[index]  # also where the file is kept: a broken one is found here and now
        mask = b""
        if "segmentation" in sample:
            mask = _encoded(".png", resized(sample["segmentation"][:, :, None], options.side, nearest=True))
        if keep and payload is not None:
            return Record(name, payload(index), None, mask, "")
        return _written(name, resized(sample["image"], options.side), mask, options)
    except decode.BrokenImage as problem:
        return Record(name, b"", None, b"", problem.reason)


def resized(image: np.ndarray, side: int, nearest: bool = False) -> np.ndarray:
    """The image with a shorter side of `side` pixels; as it is where it is smaller or `side` is 0."""
    height, width = image.shape[:2]
    shorter = min(height, width)
    if not side or shorter <= side:
        return image
    return decode.resized(image, round(height * side / shorter), round(width * side / shorter), nearest)


def _written(name: str, image: np.ndarray, mask: bytes, options: Options) -> Record:
    channels, eight = image.shape[2], image.dtype == np.uint8
    encoding = options.encoding
    if encoding in ("auto", "keep"):
        encoding = "jpeg" if eight and channels in (1, 3) else "png" if channels in (1, 3, 4) else "raw"
    if encoding == "jpeg" and not (eight and channels in (1, 3)):
        raise UserError(f"{name} has {channels} channels of {image.dtype}: JPEG holds 1 or 3 of uint8; --encode=auto")
    if encoding == "png" and channels not in (1, 3, 4):
        raise UserError(f"{name} has {channels} channels: PNG holds 1, 3 or 4, give --encode=auto")
    if encoding == "raw":
        return Record(name, np.ascontiguousarray(image).tobytes(), (str(image.dtype), image.shape), mask, "")
    flags = (cv2.IMWRITE_JPEG_QUALITY, options.quality) if encoding == "jpeg" else ()
    return Record(name, _encoded({"jpeg": ".jpg", "png": ".png"}[encoding], image, flags), None, mask, "")


def _encoded(ending: str, image: np.ndarray, flags: tuple[int, ...] = ()) -> bytes:
    if image.shape[2] >= 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR if image.shape[2] == 3 else cv2.COLOR_RGBA2BGRA)
    done, held = cv2.imencode(ending, image, flags)
    assert done, ending
    return held.tobytes()


def ordered(work: Callable[[int], bytes], items: range, threads: int) -> Iterator[bytes]:
    """`work` of every item, in order, by `threads` threads that are at most a few items ahead."""
    with ThreadPoolExecutor(max(1, threads)) as pool:
        waiting: deque[Future[bytes]] = deque()
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > 4 * max(1, threads):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def make(
    source: Source,
    shard: Shard,
    folder: Path,
    options: Options,
    origin: Mapping[str, Any],
    threads: int,
    told: Callable[[int], Any] = lambda _: None,
) -> list[str]:
    """Writes a shard, its labels and what it holds; `told(1)` after every image. `origin` is `made_from` of the source.
    Returns the images that could not be read, with their reasons."""
    file = folder / shard.file
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    broken: list[str] = []

    def one(index: int) -> bytes:
        found = record(source, index, options)
        if found.broken:
            broken.append(f"{found.name}: {found.broken}")
        return packed(found)

    try:
        writer = ArrayRecordWriter(str(temporary), "group_size:1")
        for held in ordered(one, range(shard.first, shard.last), threads):
            writer.write(held)
            told(1)
        writer.close()
        labels = [np.asarray(source.label(i)) for i in range(shard.first, shard.last)]
        dtype = np.float32 if source.multilabel else np.int32
        form = (len(labels), len(source.classes)) if source.multilabel else (len(labels),)
        with (temporary.with_suffix(".npy")).open("wb") as out:
            np.save(out, np.array(labels, dtype).reshape(form))
        temporary.with_suffix(".npy").replace(file.with_suffix(".npy"))
        temporary.replace(file)
    finally:
        for left in (temporary, temporary.with_suffix(".npy")):
            left.unlink(missing_ok=True)
    said = {"file": file.name, "images": shard.last - shard.first, "bytes": file.stat().st_size, "sha256": digest(file)}
    _write(file.with_suffix(".json"), said | {"broken": sorted(broken), "made_from": dict(origin)})
    return sorted(broken)


def made_from(source: Source, options: Options) -> dict[str, Any]:
    """What a shard has to have been made from to be taken as it is."""
    named = {name: getattr(options, name) for name in ("side", "encoding", "quality")}
    return {"fingerprint": source.fingerprint(), **named}


def whole(shard: Shard, folder: Path, wanted: Mapping[str, Any]) -> dict[str, Any] | None:
    """What is said of a shard that is there and has not changed; None for one to be made.

    Raises UserError where it was made from something else.
    """
    file = folder / shard.file
    beside = file.with_suffix(".json")
    if not (file.is_file() and beside.is_file() and file.with_suffix(".npy").is_file()):
        return None
    said = json.loads(beside.read_text(encoding="utf-8"))
    if said["made_from"] != dict(wanted):
        differs = [name for name, value in wanted.items() if said["made_from"].get(name) != value]
        raise UserError(
            f"{file} was made with another {' and '.join(differs)}: choose another --out, or remove that folder"
        )
    return said if said["bytes"] == file.stat().st_size and said["sha256"] == digest(file) else None


def merged(sources: Mapping[str, Source], shards: list[Shard], folder: Path) -> Path | None:
    """Writes the manifest and returns where; None while a shard is missing."""
    if not all((folder / shard.file).with_suffix(".json").is_file() for shard in shards):
        return None
    first = next(iter(sources.values()))
    splits: dict[str, Any] = {}
    for split in sources:
        said = [
            json.loads((folder / shard.file).with_suffix(".json").read_text(encoding="utf-8"))
            for shard in shards
            if shard.split == split
        ]
        splits[split] = {
            "images": sum(one["images"] for one in said),
            "broken": [line for one in said for line in one["broken"]],
            "shards": [{name: one[name] for name in ("file", "images", "bytes", "sha256")} for one in said],
        }
    held = {
        "format": FORMAT,
        "source": first.name,
        "classes": list(first.classes),
        "parts": list(first.parts),
        "multilabel": first.multilabel,
        "normalised": first.normalised,
        "splits": splits,
    }
    digests = [shard["sha256"] for split in splits.values() for shard in split["shards"]]
    held["digest"] = hashlib.sha256("".join(digests).encode()).hexdigest()
    _write(folder / MANIFEST, held)
    return folder / MANIFEST


def digest(file: Path) -> str:
    """SHA-256 of a file, in hex."""
    with file.open("rb") as held:
        return hashlib.file_digest(held, "sha256").hexdigest()


def _write(path: Path, held: Mapping[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(held, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(path)
