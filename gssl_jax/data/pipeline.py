"""The training stream: an endless, restartable order of batches, the same for any number of threads and hosts.

Shuffle and repeat come first (a new order every epoch), then batches, of which each process gets its part. Element p of
the stream is a function of (seed, p) alone, and so are its crops; a restart needs nothing but the number of the next
batch.

Two modes. Resident: the images live on the device, the stream yields only which ones. Host: each image is decoded once
and its views are cut from the original here.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import cv2
import grain
import numpy as np

from gssl_jax import errors
from gssl_jax.data import decode
from gssl_jax.data.sources import Source
from gssl_jax.data.substitution import Substituted, as_readable
from gssl_jax.errors import UserError
from gssl_jax.ops import boxes

INTERPOLATIONS = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC, "area": cv2.INTER_AREA}
Batch = dict[str, np.ndarray]
Views = Mapping[str, Sequence[Mapping[str, Any]]]


def choose_crop(data: Any, count: int) -> str:
    """Where crops are cut, `"device"` or `"host"`: `data.crop`, and for `"auto"` whether `count` canvases fit.

    They fit when their uint8 pixels take at most `data.resident_mib` MiB.
    """
    if data.crop not in ("auto", "device", "host"):
        raise errors.unknown("data.crop", data.crop, ("auto", "device", "host"))
    if data.crop != "auto":
        return str(data.crop)
    return "device" if count * data.canvas**2 * data.channels <= data.resident_mib * 2**20 else "host"


def open_stream(
    source: Source,
    data: Any,
    *,
    batch_size: int,
    seed: int,
    start_batch: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    views: Views | None = None,
    min_side: int = 1,
) -> StreamIterator:
    """The endless stream of batches of `source` from batch `start_batch` on.

    Without `views` (resident mode) a batch is `{"index": int32 [B], "draw": int32 [B]}`. With `views` (host mode) it is
    `{"image": uint8 [B, V, S, S, C], "local": uint8 [B, L, s, s, C], "index": int32 [B], "draw": int32 [B],
    "label": int32 [B], "valid": bool [B]}`, without `local` when there are no local views. `draw` is the sample's
    place in the stream (modulo 2^31): random draws go by it, so that an image that comes twice in a batch, at the
    border of two epochs or in a set smaller than the batch, does not come with the same draws.

    Args:
        source: the images; in host mode unreadable ones are replaced within `data.max_broken`.
        data: `config.data`: `threads` (0 = none), `prefetch` (images read ahead, at least one batch of them; in
            resident mode batches of indices), `channels`, `max_broken`.
        batch_size: of all processes together; B = batch_size / process_count.
        seed: of the order and of the crops.
        views: `{"global": [...], "local": [...]}`, for each view a mapping with `size` (pixels), `scale` (area bounds),
            `ratio` (aspect bounds) and `interpolation` (`bilinear`, `bicubic` or `area`).
        min_side: in host mode, images with a side under this many pixels count as unreadable.

    Raises:
        UserError: an empty source, a batch that does not divide among the processes, or malformed views.
    """
    if len(source) == 0:
        raise UserError(f"the data source {source.name} holds no images; check its path")
    if batch_size < 1 or batch_size % process_count:
        raise UserError(f"a batch of {batch_size} does not divide among {process_count} processes; change its size")
    order = grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat()
    mine = grain.MapDataset.source(Share(order, batch_size, start_batch, process_index, process_count))
    share, threads = batch_size // process_count, int(data.threads)
    ahead = int(data.prefetch) if views is None else max(int(data.prefetch), share)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead if threads else 0)
    if views is None:
        batches = mine.batch(share, drop_remainder=True, batch_fn=_indices).to_iter_dataset(options)
        return StreamIterator(batches, start_batch, source.fingerprint(), None)
    # images are read ahead one by one: whole batches in the buffer would take that many times the memory
    readable = as_readable(source, data.max_broken, min_side)
    cutter = Cutter(readable, views, seed, int(data.channels))
    batches = mine.map(cutter).to_iter_dataset(options).batch(share, drop_remainder=True, batch_fn=_stack)
    return StreamIterator(batches, start_batch, source.fingerprint(), readable)


class Share:
    """The elements (position, index) of the stream that one process gets, batch by batch: the process_index-th part of
    each, in order, so that the parts laid end to end are the batch that a single process would get."""

    def __init__(self, order: Any, batch_size: int, start_batch: int, process_index: int, process_count: int) -> None:
        self._order, self._batch, self._share = order, batch_size, batch_size // process_count
        self._first = start_batch * batch_size + process_index * self._share

    def __len__(self) -> int:
        return sys.maxsize // self._batch * self._share  # the stream has no end

    def __getitem__(self, element: int) -> tuple[int, int]:
        batch, place = divmod(element, self._share)
        position = self._first + batch * self._batch + place
        return position, int(self._order[position])


def _indices(elements: Sequence[tuple[int, int]]) -> Batch:
    positions, indices = zip(*elements, strict=True)
    return {"index": np.array(indices, np.int32), "draw": (np.array(positions) % 2**31).astype(np.int32)}


def _stack(elements: Sequence[Batch]) -> Batch:
    return {name: np.stack([element[name] for element in elements]) for name in elements[0]}


class StreamIterator(Iterator[Batch]):
    """Batches of a stream, with a state small enough for JSON."""

    def __init__(self, dataset: Any, start_batch: int, fingerprint: str, readable: Substituted | None) -> None:
        self._iterator, self._next, self._fingerprint = iter(dataset), start_batch, fingerprint
        self._readable = readable

    def __next__(self) -> Batch:
        batch = next(self._iterator)
        self._next += 1
        return batch

    def state(self) -> dict[str, Any]:
        """`next_batch` restarts the stream (as `start_batch`); the caller compares `fingerprint` before it does.

        `grain` is where grain's own iterator stands, counted from the batch this iterator started with.
        """
        return {"grain": self._iterator.get_state(), "next_batch": self._next, "fingerprint": self._fingerprint}

    @property
    def broken(self) -> tuple[str, ...]:
        """Unreadable images met so far by this process, each with its reason (host mode)."""
        return self._readable.broken if self._readable is not None else ()

    def close(self) -> None:
        """Stops the reading threads."""
        self._iterator.close()


class Cutter:
    """(position, index) -> one element of a host-mode batch: the image decoded once, all its views cut from it."""

    def __init__(self, source: Source, views: Views, seed: int, channels: int) -> None:
        self._source, self._seed, self._channels = source, seed, channels
        self._globals, self._locals = list(views["global"]), list(views["local"])
        if not self._globals:
            raise UserError("the stream needs at least one global view")
        for group in (self._globals, self._locals):
            if len({view["size"] for view in group}) > 1:
                raise UserError(f"views of one kind need one size, not {sorted({view['size'] for view in group})}")
            for view in group:
                if view["interpolation"] not in INTERPOLATIONS:
                    raise errors.unknown("interpolation", view["interpolation"], INTERPOLATIONS)

    def __call__(self, element: tuple[int, int]) -> Batch:
        position, index = element
        sample = self._source[index]
        image = decode.to_channels(sample["image"], self._channels)
        rng = np.random.default_rng((self._seed, position))
        out: dict[str, Any] = {"image": np.stack([cut(image, rng, view) for view in self._globals])}
        if self._locals:
            out["local"] = np.stack([cut(image, rng, view) for view in self._locals])
        out["index"] = np.int32(sample["index"])
        out["draw"] = np.int32(position % 2**31)
        out["label"] = np.int32(sample["label"])
        out["valid"] = np.bool_(True)
        return out


def cut(image: np.ndarray, rng: np.random.Generator, view: Mapping[str, Any]) -> np.ndarray:
    """One random-resized crop; uint8 [h, w, C] -> uint8 [size, size, C].

    A box larger than the view is averaged over areas (the other kernels would alias), a smaller one interpolated.
    """
    height, width = image.shape[:2]
    box = boxes.crop_box(rng.random((boxes.ATTEMPTS, 4)), height, width, tuple(view["scale"]), tuple(view["ratio"]))
    top, left, box_height, box_width = (int(edge) for edge in boxes.rounded(box, height, width))
    part, size = image[top : top + box_height, left : left + box_width], int(view["size"])
    shrinks = box_height >= size and box_width >= size
    kernel = cv2.INTER_AREA if shrinks else INTERPOLATIONS[view["interpolation"]]
    return decode.sized(part, size, size, kernel)
