"""Part of a source as a source, with its labels or without."""

from __future__ import annotations

import hashlib

import numpy as np

from gssl_jax.data.sources import Label, Sample, Source


class Subset:
    """The images `indices` of a source, as a source; `index` counts within the subset."""

    def __init__(self, source: Source, indices: np.ndarray) -> None:
        self._source, self._indices = source, np.asarray(indices, np.int64)
        self.name, self.classes, self.normalised = source.name, source.classes, source.normalised
        self.multilabel, self.parts = source.multilabel, source.parts

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Sample:
        return {**self._source[int(self._indices[index])], "index": int(index)}

    def label(self, index: int) -> Label:
        return self._source.label(int(self._indices[index]))

    def describe(self, index: int) -> str:
        return self._source.describe(int(self._indices[index]))

    def fingerprint(self) -> str:
        return hashlib.sha256(self._source.fingerprint().encode() + self._indices.tobytes()).hexdigest()


class Unlabelled:
    """The images `indices` of a source without their labels, as a source; `index` counts within them. Masks, where
    there are some, stay: what learns from images alone does not look at them."""

    classes: tuple[str, ...] = ()
    multilabel = False

    def __init__(self, source: Source, indices: np.ndarray) -> None:
        self._subset = Subset(source, indices)
        self.name, self.normalised, self.parts = source.name, source.normalised, source.parts

    def __len__(self) -> int:
        return len(self._subset)

    def __getitem__(self, index: int) -> Sample:
        return {**self._subset[index], "label": -1}

    def label(self, index: int) -> int:
        return -1

    def describe(self, index: int) -> str:
        return self._subset.describe(index)

    def fingerprint(self) -> str:
        return self._subset.fingerprint()
