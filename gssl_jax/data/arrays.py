"""Whole sets as arrays: the canvases of a resident set, and evaluation sets whole or in padded batches.

Every function takes a plain source or one wrapped in `Substituted`; wrap it to read `broken` afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from gssl_jax.data import decode
from gssl_jax.data.sources import IGNORED, Sample, Source
from gssl_jax.data.substitution import Substituted, as_readable
from gssl_jax.errors import UserError

Arrays = dict[str, np.ndarray]


def load_canvases(source: Source, data: Any, min_side: int = 1) -> np.ndarray:
    """Every image as a square canvas, uint8 [N, canvas, canvas, C], decoded once by `data.threads` threads.

    The shorter side becomes `data.canvas` and the central square is kept. Unreadable images (and those with a side
    under `min_side` pixels) are replaced by the next readable one. Raises `UserError` beyond `data.max_broken`.
    """
    readable = as_readable(source, data.max_broken, min_side)
    canvas, channels = int(data.canvas), int(data.channels)
    canvases = np.empty((len(source), canvas, canvas, channels), np.uint8)

    def load(index: int) -> None:
        image = decode.to_channels(readable[index]["image"], channels)
        canvases[index] = decode.square_canvas(image, canvas)

    _for_each(load, range(len(source)), int(data.threads))
    return canvases


def evaluation_set(source: Source, data: Any, resize: int, min_side: int = 1) -> Arrays:
    """A whole evaluation set, `{"image": uint8 [N, S, S, C], "label": int32 [N]}`, S = `data.image_size`; `label` is
    float32 [N, classes] (NaN unknown) for a source of several labels. One with masks has `segmentation` too, uint8
    [N, S, S], cut as the images are, by the nearest pixel.

    Each image is resized to a shorter side of `resize`, cut at the centre and, for grey images under
    `data.contrast_normalise`, contrast-normalised unless the source has done so. Unreadable images are left out.
    Raises `UserError` when the set exceeds `data.resident_mib` (use `evaluation_batches`) or too many are broken.
    """
    size, channels = int(data.image_size), int(data.channels)
    mib = len(source) * size * size * channels / 2**20
    if mib > data.resident_mib:
        raise UserError(f"{source.name} takes {mib:.0f} MiB, data.resident_mib allows {data.resident_mib}; raise it")
    readable = as_readable(source, data.max_broken, min_side)
    prepare = _preparer(readable, data, resize)
    images = np.empty((len(source), size, size, channels), np.uint8)
    labels = _no_labels(len(source), len(source.classes) if source.multilabel else 0)
    found = {"image": images, "label": labels}
    if source.parts:
        found["segmentation"] = np.full((len(source), size, size), IGNORED, np.uint8)
    kept = np.zeros(len(source), bool)

    def load(index: int) -> None:
        sample = readable.readable(index)
        if sample is not None:
            for name, value in prepare(sample).items():
                found[name][index] = value
            kept[index] = True

    _for_each(load, range(len(source)), int(data.threads))
    return found if kept.all() else {name: values[kept] for name, values in found.items()}


def evaluation_batches(
    arrays_or_source: Arrays | Source, batch_size: int, data: Any = None, resize: int = 0, min_side: int = 1
) -> Iterator[Arrays]:
    """Batches in order, none dropped: `image` uint8 [B, S, S, C], `label` and `index` int32 [B], `valid` bool [B]; with
    several labels an image `label` is float32 [B, classes], with masks there is `segmentation`, uint8 [B, S, S].

    The last batch is padded with zeros, label -1 (or NaN), `segmentation` 255, index -1 and `valid` False; so is the
    place of an unreadable image of a source. Arrays (as `evaluation_set` makes them) need neither `data` nor
    `resize`; a source is decoded as it is read.
    """
    if batch_size < 1:
        raise UserError(f"an evaluation batch of {batch_size} images; it must be at least 1")
    if isinstance(arrays_or_source, Mapping):
        yield from _array_batches(arrays_or_source, batch_size)
        return
    readable = as_readable(arrays_or_source, data.max_broken, min_side)
    prepare = _preparer(readable, data, resize)
    shape = (int(data.image_size), int(data.image_size), int(data.channels))
    classes = len(readable.classes) if readable.multilabel else 0
    for start in range(0, len(readable), batch_size):
        batch = _blank(batch_size, shape, classes, bool(readable.parts))

        def load(index: int, batch: Arrays = batch, start: int = start) -> None:
            sample = readable.readable(index)
            if sample is not None:
                _place(batch, index - start, prepare(sample), index)

        _for_each(load, range(start, min(start + batch_size, len(readable))), int(data.threads))
        yield batch


def _array_batches(arrays: Arrays, batch_size: int) -> Iterator[Arrays]:
    classes = arrays["label"].shape[1] if arrays["label"].ndim == 2 else 0
    for start in range(0, len(arrays["image"]), batch_size):
        part = slice(start, min(start + batch_size, len(arrays["image"])))
        batch = _blank(batch_size, arrays["image"].shape[1:], classes, "segmentation" in arrays)
        values: Arrays = {name: arrays[name][part] for name in ("image", "label", "segmentation") if name in arrays}
        _place(batch, slice(0, part.stop - start), values, np.r_[part])
        yield batch


def _no_labels(count: int, classes: int) -> np.ndarray:
    """int32 [count] of -1, or float32 [count, classes] of NaN where there are several labels, `classes` of them."""
    return np.full((count, classes), np.nan, np.float32) if classes else np.full(count, -1, np.int32)


def _blank(batch_size: int, shape: tuple[int, ...], classes: int, masks: bool) -> Arrays:
    blank = {
        "image": np.zeros((batch_size, *shape), np.uint8),
        "label": _no_labels(batch_size, classes),
        "valid": np.zeros(batch_size, bool),
        "index": np.full(batch_size, -1, np.int32),
    }
    return blank | ({"segmentation": np.full((batch_size, *shape[:2]), IGNORED, np.uint8)} if masks else {})


def _place(batch: Arrays, row: int | slice, values: Mapping[str, Any], index: Any) -> None:
    for name, value in values.items():
        batch[name][row] = value
    batch["index"][row], batch["valid"][row] = index, True


def _preparer(source: Substituted, data: Any, resize: int) -> Callable[[Sample], dict[str, Any]]:
    """Sample -> `image` uint8 [S, S, C] as the encoder is shown it in an evaluation, `label`, and `segmentation`
    uint8 [S, S] of a source with masks."""
    size, channels = int(data.image_size), int(data.channels)
    normalise = bool(data.contrast_normalise) and channels == 1 and not source.normalised

    def prepare(sample: Sample) -> dict[str, Any]:
        image = decode.to_channels(sample["image"], channels)
        image = decode.resize_shorter_and_centre_crop(image, resize, size)
        found = {"image": decode.contrast_normalised(image) if normalise else image, "label": sample["label"]}
        if source.parts:
            mask = sample["segmentation"][:, :, None]
            found["segmentation"] = decode.resize_shorter_and_centre_crop(mask, resize, size, nearest=True)[:, :, 0]
        return found

    return prepare


def _for_each(work: Callable[[int], None], items: range, threads: int) -> None:
    """Calls `work` on every item, in `threads` threads (0 = here); the first error is raised."""
    if threads == 0:
        for item in items:
            work(item)
        return
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(work, items):
            pass
