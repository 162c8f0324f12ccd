"""What is in a source: sizes, classes, copies, images that look alike, and files that cannot be read."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from gssl_jax.data import decode
from gssl_jax.data.sources import Source

THUMBNAIL = 96
"""Pixels of a side of the pictures of a contact sheet."""

FLAT = 8.0
"""Images whose grey values deviate less than this from their mean (0 to 255) look like any other flat one: they are not
compared by what they look like."""


@dataclass
class Split:
    """What was found in a split. `shapes` are (height, width, channels, dtype) with their counts."""

    name: str
    images: int
    looked_at: int = 0
    shapes: Counter[tuple[int, int, int, str]] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    unlabelled: int = 0
    broken: list[str] = field(default_factory=list)
    grey_in_colour: int = 0
    thumbnails: dict[int, np.ndarray] = field(default_factory=dict)


@dataclass
class Found:
    """All splits, and images of the same pixels (`copies`) or that look the same (`alike`), each a list of
    (split, name)."""

    splits: dict[str, Split]
    classes: tuple[str, ...]
    multilabel: bool
    copies: list[list[tuple[str, str]]]
    alike: list[list[tuple[str, str]]]

    def across(self, groups: list[list[tuple[str, str]]]) -> list[list[tuple[str, str]]]:
        """The groups with images for training and images to test on."""
        return [one for one in groups if len({split for split, _ in one}) > 1]


def inspect(
    sources: Mapping[str, Source], count: int, threads: int, pictures: int, told: Callable[[int], Any] = lambda _: None
) -> Found:
    """Looks at `count` images of each split, evenly spaced (0 = all), and keeps `pictures` small ones of each."""
    same: dict[bytes, list[tuple[str, str]]] = defaultdict(list)
    like: dict[int, list[tuple[str, str]]] = defaultdict(list)
    lock, splits = threading.Lock(), {}
    for name, source in sources.items():
        rows = np.unique(np.linspace(0, len(source) - 1, min(count or len(source), len(source))).astype(int))
        shown = set(rows[np.linspace(0, len(rows) - 1, min(pictures, len(rows))).astype(int)].tolist())
        split = splits[name] = Split(name, len(source))

        def look(index: int, source: Source = source, split: Split = split, shown: set[int] = shown) -> None:
            called = source.describe(index)
            try:
                sample = source[index]
            except decode.BrokenImage as problem:
                with lock:
                    split.broken.append(f"{problem.name}: {problem.reason}")
                told(1)
                return
            image = sample["image"]
            digest = hashlib.blake2b(np.ascontiguousarray(image).tobytes() + str(image.shape).encode()).digest()
            eight = decode.to_eight_bit(image)
            grey = decode.luma(eight[:, :, :3] if eight.shape[2] >= 3 else eight[:, :, :1])
            small = thumbnail(eight) if index in shown else None
            with lock:
                split.looked_at += 1
                split.shapes[(*image.shape, str(image.dtype))] += 1
                split.grey_in_colour += int(eight.shape[2] == 3 and grey_only(eight))
                _count(split, source, sample["label"])
                same[digest].append((split.name, called))
                if grey.std() >= FLAT:
                    like[difference_hash(grey)].append((split.name, called))
                if small is not None:
                    split.thumbnails[index] = small
            told(1)

        with ThreadPoolExecutor(max(1, threads)) as pool:
            for _ in pool.map(look, map(int, rows)):
                pass
        split.broken.sort()
    copies = [sorted(one) for one in same.values() if len(one) > 1]
    known = {pair for group in copies for pair in group[1:]}  # one of each group stands for it
    alike = [sorted(set(one) - known) for one in like.values()]
    first = next(iter(sources.values()))
    return Found(splits, first.classes, first.multilabel, sorted(copies), sorted(one for one in alike if len(one) > 1))


def _count(split: Split, source: Source, label: Any) -> None:
    if isinstance(label, np.ndarray):
        found = [source.classes[place] for place in np.flatnonzero(label == 1)]
        split.labels.update(found)
        split.unlabelled += int(np.isnan(label).all())
    elif label < 0:
        split.unlabelled += 1
    else:
        split.labels[source.classes[label]] += 1


def grey_only(image: np.ndarray) -> bool:
    """Whether the three channels of [h, w, 3] are one."""
    return bool((image[:, :, 0] == image[:, :, 1]).all() and (image[:, :, 1] == image[:, :, 2]).all())


def difference_hash(grey: np.ndarray) -> int:
    """64 bits of a grey image [h, w, 1]: whether each of 8 x 8 places is brighter than its right neighbour. Equal for
    an image and its copies of other size or compression, but for a bit now and then."""
    small = cv2.resize(grey[:, :, 0], (9, 8), interpolation=cv2.INTER_AREA)
    return int("".join("01"[int(one)] for one in (small[:, :-1] > small[:, 1:]).ravel()), 2)


def thumbnail(image: np.ndarray) -> np.ndarray:
    """The central square, uint8 [THUMBNAIL, THUMBNAIL, 3], of the first three channels, or of the first of two."""
    shown = image[:, :, :3] if image.shape[2] >= 3 else np.repeat(image[:, :, :1], 3, axis=2)
    return decode.square_canvas(np.ascontiguousarray(shown), THUMBNAIL)


def sheet(split: Split, columns: int) -> np.ndarray:
    """The small pictures of a split side by side, uint8 [h, w, 3], white between them and where none is left."""
    pictures = [split.thumbnails[index] for index in sorted(split.thumbnails)]
    rows, step = -(-len(pictures) // columns), THUMBNAIL + 4
    whole = np.full((max(1, rows) * step + 4, columns * step + 4, 3), 255, np.uint8)
    for place, picture in enumerate(pictures):
        top, left = 4 + place // columns * step, 4 + place % columns * step
        whole[top : top + THUMBNAIL, left : left + THUMBNAIL] = picture
    return whole
