"""Where images come from: one protocol, one table of kinds.

A source is random access and pure: `source[i]` gives the same image whenever and wherever it is called, which is
what lets workers, restarts and hosts agree without talking to each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NotRequired, Protocol, TypedDict

import numpy as np

from gssl_jax import errors
from gssl_jax.errors import UserError

Label = int | np.ndarray
"""The class of an image (-1 = unlabelled); of a source of several labels float32 [classes]: 1 has it, 0 has it not, NaN
unknown."""


IGNORED = 255
"""The value of a pixel of a mask that has no class: neither learned from nor counted."""


class Sample(TypedDict):
    """One image: uint8 or uint16 [h, w, C], its label as `Source.label` gives it, and its place in the source; of a
    source with masks `segmentation`, uint8 [h, w], the class of every pixel in `Source.parts`, or `IGNORED`."""

    image: np.ndarray
    label: Label
    index: int
    segmentation: NotRequired[np.ndarray]


class Source(Protocol):
    """A set of images under random access.

    `classes` is empty for an unlabelled source; `multilabel` says which of the two a `Label` is. `parts` are the
    classes of pixels, empty for a source without masks; one with masks may have labels of either kind. `normalised`
    says that `image` has been contrast-normalised already.
    `describe(i)` is what messages call image i (a file name where there is one). `label(i)` needs no decoding.
    `fingerprint()` is a hex digest of everything that decides the content.
    """

    name: str
    classes: tuple[str, ...]
    parts: tuple[str, ...]
    normalised: bool
    multilabel: bool

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def label(self, index: int) -> Label: ...

    def describe(self, index: int) -> str: ...

    def fingerprint(self) -> str: ...


def _photos(settings: Any, split: str, data: Any) -> Source:
    from gssl_jax.data.sources import packaged

    return packaged.photos(split, data, size=_size(settings))


def _digits(settings: Any, split: str, data: Any) -> Source:
    from gssl_jax.data.sources import packaged

    return packaged.Digits(split, data)


def _earth(settings: Any, split: str, data: Any) -> Source:
    from gssl_jax.data.sources import earth

    return earth.open_earth(settings.path, split, data)


def _mosaics(settings: Any, split: str, data: Any) -> Source:
    from gssl_jax.data.sources import mosaics

    return mosaics.Mosaics(split, data)


def _masks(settings: Any, split: str, data: Any) -> Source:
    from gssl_jax.data.sources import masks

    return masks.open_masks(settings.path, split, data)


def _folder(settings: Any, split: str, data: Any) -> Source:
    """Class folders or loose images; where the path is an index, arrays or shards, these."""
    kind = kind_of(settings.path)
    if kind in ("index", "npz", "shards"):
        return KINDS[kind](settings, split, data)
    from gssl_jax.data.sources import folder

    return folder.open_folder(settings.path, split, data)


def _index(settings: Any, split: str, data: Any) -> Source:
    from gssl_jax.data.sources import index

    return index.IndexSource(settings.path, split, data)


def _npz(settings: Any, split: str, data: Any) -> Source:
    from gssl_jax.data.sources import stacked

    return stacked.StackedSource(settings.path, split, data)


def _shards(settings: Any, split: str, data: Any) -> Source:
    from gssl_jax.data.sources import shards

    return shards.ShardedSource(settings.path, split)


def _lists(settings: Any, split: str, data: Any) -> Source:
    from gssl_jax.data.sources import lists

    return lists.ListedSource(settings.path, split)


def _tfds(settings: Any, split: str, data: Any) -> Source:
    from gssl_jax.data.sources import named

    return named.open_named(settings.path, split, data)


def _imagined(settings: Any, split: str, data: Any) -> Source:
    from gssl_jax.data.sources import imagined

    return imagined.open_imagined(settings.path)


KINDS: Mapping[str, Callable[[Any, str, Any], Source]] = {
    "photos": _photos,
    "digits": _digits,
    "earth": _earth,
    "mosaics": _mosaics,
    "folder": _folder,
    "masks": _masks,
    "lists": _lists,
    "index": _index,
    "npz": _npz,
    "shards": _shards,
    "tfds": _tfds,
    "imagined": _imagined,
}


MANIFEST = "manifest.json"
"""What a folder of shards has beside them."""


def kind_of(path: str) -> str:
    """The kind of source that a file or folder looks like: `index`, `npz`, `shards`, `lists`, `masks` or `folder`."""
    place = Path(path).expanduser()
    if place.suffix.lower() in (".csv", ".tsv", ".jsonl", ".ndjson"):
        return "index"
    if place.suffix.lower() == ".npz":
        return "npz"
    if (place / MANIFEST).is_file():
        return "shards"
    if (place / "train.txt").is_file():
        return "lists"
    if any((place / below / "masks").is_dir() for below in ("", "train")):
        return "masks"
    return "folder"


def open_source(settings: Any, split: str, data: Any) -> Source:
    """The source that `settings` (`source`, `path` and, for a stream, `size` and `share`) names; `data` is
    `config.data`.

    A `size` of n keeps the first n of a permutation seeded by `data.seed` (for the pretraining squares of `photos`
    it is their number instead), a `share` below 1 that part of them. Raises `UserError` for an unknown kind, a share
    outside (0, 1] and whatever the kind itself refuses.
    """
    if settings.source not in KINDS:
        raise errors.unknown("data source", settings.source, KINDS)
    source = KINDS[settings.source](settings, split, data)
    size, share = _size(settings), float(settings.share) if "share" in settings else 1.0
    if not 0.0 < share <= 1.0:
        raise UserError(f"the share of the images of a stream must lie in (0, 1], not {share}")
    if settings.source == "photos" and split == "pretrain":
        size = 0
    if share < 1.0:
        size = max(1, round(share * (size or len(source))))
    if size == 0:
        return source
    from gssl_jax.data import subsets
    from gssl_jax.data.sources.subset import Subset

    return Subset(source, subsets.first_n_permuted(len(source), size, data.seed))


def _size(settings: Any) -> int:
    """`size` of a training stream; the settings of an evaluation (`evals.data`) always mean the whole set."""
    return int(settings.size) if "size" in settings else 0
