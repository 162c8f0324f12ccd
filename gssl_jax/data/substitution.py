"""Unreadable images: each is replaced by the next readable one, named, counted, and only up to a bound."""

from __future__ import annotations

import threading

from gssl_jax.data.decode import BrokenImage
from gssl_jax.data.sources import Label, Sample, Source
from gssl_jax.errors import UserError

NAMED_IN_MESSAGE = 5


def as_readable(source: Source, max_broken: float, min_side: int = 1) -> Substituted:
    """`source` with substitution; one that has it already passes as it is, so that its count lives on."""
    return source if isinstance(source, Substituted) else Substituted(source, max_broken, min_side)


class Substituted:
    """A source whose broken images are replaced: `self[i]` is the first readable of i, i + 1, ... (wrapping round).

    The replacement is a function of the files alone, so every worker and every restart finds the same one. An image
    with a side below `min_side` pixels counts as broken. More than `max(1, max_broken * len(source))` broken images
    raise a `UserError` that names some. Safe to share between threads.
    """

    def __init__(self, source: Source, max_broken: float, min_side: int = 1) -> None:
        if len(source) == 0:
            raise UserError(f"the data source {source.name} holds no images; check its path")
        self._source, self._min_side = source, min_side
        self.name, self.classes, self.normalised = source.name, source.classes, source.normalised
        self.multilabel, self.parts = source.multilabel, source.parts
        self.limit = max(1, int(max_broken * len(source)))
        self._broken: dict[int, BrokenImage] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._source)

    def label(self, index: int) -> Label:
        return self._source.label(index)

    def describe(self, index: int) -> str:
        return self._source.describe(index)

    def fingerprint(self) -> str:
        return self._source.fingerprint()

    @property
    def broken(self) -> tuple[str, ...]:
        """Names and reasons of the broken images met so far, in the order of the source."""
        with self._lock:
            return tuple(f"{error.name}: {error.reason}" for _, error in sorted(self._broken.items()))

    @property
    def usable(self) -> list[int]:
        """Indices of the images not met as broken so far."""
        return [index for index in range(len(self)) if index not in self._broken]

    def readable(self, index: int) -> Sample | None:
        """Image `index` itself, or None (and one more in the count) when it is broken."""
        if index in self._broken:
            return None
        try:
            sample = self._source[index]
            height, width = sample["image"].shape[:2]
            if min(height, width) < self._min_side:
                reason = f"{height} x {width} px, smaller than the {self._min_side} px needed"
                raise BrokenImage(self._source.describe(index), reason)
        except BrokenImage as error:
            self._record(index, error)
            return None
        return sample

    def __getitem__(self, index: int) -> Sample:
        count = len(self._source)
        for step in range(count):
            sample = self.readable((index + step) % count)
            if sample is not None:
                return sample
        raise UserError(f"no image of {self.name} can be read: {self._some()}")

    def _record(self, index: int, error: BrokenImage) -> None:
        with self._lock:
            self._broken[index] = error
            count = len(self._broken)
        if count > self.limit:
            raise UserError(
                f"{count} unusable images in {self.name}, {self.limit} of {len(self._source)} are allowed "
                f"(data.max_broken): {self._some()}; repair or remove them, or raise data.max_broken"
            )

    def _some(self) -> str:
        names = self.broken
        more = f" and {len(names) - NAMED_IN_MESSAGE} more" if len(names) > NAMED_IN_MESSAGE else ""
        return "; ".join(names[:NAMED_IN_MESSAGE]) + more
