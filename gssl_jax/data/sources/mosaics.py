"""`mosaics`: pictures pieced together from the embedded photographs, with a mask that says which pixel is from which.

Texture mosaics of real photographs, in the manner of the benchmarks of texture segmentation: two to four regions with
wavy borders, each cut out of another photograph at native resolution. The mask is exact, since it made the picture; the
labels of a mosaic are the photographs in it, so that one set serves segmentation and several labels an image. No scene
looks like this: what is asked is whether a patch shows which texture it belongs to, up to the border of the next one.

As in `photos` the left 70 % of the columns of each photograph are for training and the rest for testing, so that a
test region was never seen. Mosaics of colour keep the light of their photographs; grey ones under
`data.contrast_normalise` are normalised photograph by photograph, so that light and contrast tell nothing.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, NamedTuple

import numpy as np

from gssl_jax import errors
from gssl_jax.data import decode
from gssl_jax.data.sources import Sample
from gssl_jax.data.sources.packaged import PHOTOS, content_digest, first_test_column, photograph
from gssl_jax.errors import UserError

COUNTS = {"pretrain": 4096, "train": 600, "test": 200}
"""Mosaics of each split; those for pretraining are others than those for training, from the same columns."""

REGIONS = (2, 4)  # photographs in a mosaic, the fewest and the most
LEAST_SHARE = 0.1  # of the pixels that a region covers
WAVE = 0.08  # how far a border swings, as a share of the side
WAVES = 2.0  # swings along a side, at most
SEED = 0  # the sets are fixed, whatever `data.seed`


class Piece(NamedTuple):
    """A photograph (its class) and the place in it, (top, left) in pixels, that the upper left corner of the mosaic
    shows."""

    label: int
    top: int
    left: int


class Mosaics:
    """Mosaics of `data.image_size` pixels a side (`data.canvas` for `pretrain`), each a function of split and index."""

    classes = tuple(PHOTOS)
    parts = tuple(PHOTOS)
    multilabel = True

    def __init__(self, split: str, data: Any) -> None:
        if split not in COUNTS:
            raise errors.unknown("split", split, COUNTS)
        self.name = f"mosaics/{split}"
        self._split, self._channels = split, int(data.channels)
        self._side = int(data.canvas if split == "pretrain" else data.image_size)
        self.normalised = bool(data.contrast_normalise) and self._channels == 1 and split != "pretrain"
        for name in PHOTOS:
            height, first, last = self._columns(name)
            if self._side > min(height, last - first):
                raise UserError(
                    f"mosaics of {self._side} px do not fit the photograph {name!r}: the part for {split} is {height} "
                    f"x {last - first} px; choose a smaller data.{'canvas' if split == 'pretrain' else 'image_size'}"
                )

    def _columns(self, name: str) -> tuple[int, int, int]:
        """Height of a photograph, its first column for this split and the one after the last."""
        height, width = photograph(name, self._channels).shape[:2]
        cut = first_test_column(width)
        return (height, cut, width) if self._split == "test" else (height, 0, cut)

    def __len__(self) -> int:
        return COUNTS[self._split]

    def _rng(self, index: int) -> np.random.Generator:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name} holds {len(self)} mosaics, not {index}")
        return np.random.default_rng((SEED, tuple(COUNTS).index(self._split), int(index)))

    def _labels(self, rng: np.random.Generator) -> np.ndarray:
        return rng.permutation(len(PHOTOS))[: rng.integers(REGIONS[0], REGIONS[1] + 1)]

    def pieces(self, index: int) -> tuple[tuple[Piece, ...], np.ndarray]:
        """The pieces of a mosaic, and which of them each pixel shows, int [side, side]."""
        rng = self._rng(index)
        found = []
        for label in self._labels(rng):
            height, first, last = self._columns(self.classes[label])
            top, left = rng.integers(0, height - self._side + 1), rng.integers(first, last - self._side + 1)
            found.append(Piece(int(label), int(top), int(left)))
        return tuple(found), regions(rng, self._side, len(found))

    def label(self, index: int) -> np.ndarray:
        """float32 [classes]: 1 for the photographs in the mosaic."""
        found = np.zeros(len(PHOTOS), np.float32)
        found[self._labels(self._rng(index))] = 1.0
        return found

    def describe(self, index: int) -> str:
        return f"{self.name}[{index}] ({', '.join(self.classes[piece.label] for piece in self.pieces(index)[0])})"

    def __getitem__(self, index: int) -> Sample:
        pieces, region = self.pieces(index)
        image = np.zeros((self._side, self._side, self._channels), np.uint8)
        for number, piece in enumerate(pieces):
            image[region == number] = self._square(piece)[region == number]
        mask = np.array([piece.label for piece in pieces], np.uint8)[region]
        return {"image": image, "label": self.label(index), "index": int(index), "segmentation": mask}

    def _square(self, piece: Piece) -> np.ndarray:
        """The square of its photograph behind a piece, uint8 [side, side, channels]."""
        rows = slice(piece.top, piece.top + self._side)
        columns = slice(piece.left, piece.left + self._side)
        name = self.classes[piece.label]
        if self.normalised:  # from the unrounded luma
            return decode.contrast_normalised(decode.luma(photograph(name, 3)[rows, columns]))
        return photograph(name, self._channels)[rows, columns]

    def fingerprint(self) -> str:
        parts = [self.name, content_digest(), len(self), self._side, self._channels, self.normalised]
        parts += [REGIONS, LEAST_SHARE, WAVE, WAVES, SEED]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def regions(rng: np.random.Generator, side: int, count: int) -> np.ndarray:
    """A square in `count` regions, int [side, side]: the cells of random points, with borders that swing.

    Drawn again until every region covers `LEAST_SHARE` of the pixels.
    """
    place = (np.arange(side) + 0.5) / side
    while True:
        points = rng.uniform(0.1, 0.9, (count, 2))
        waves, phases = rng.uniform(0.5, WAVES, 2), rng.uniform(0, 2 * np.pi, 2)
        down = place[:, None] + WAVE * np.sin(2 * np.pi * waves[0] * place + phases[0])[None]
        right = place[None] + WAVE * np.sin(2 * np.pi * waves[1] * place + phases[1])[:, None]
        squares = (down[None] - points[:, :1, None]) ** 2 + (right[None] - points[:, 1:, None]) ** 2
        region = squares.argmin(0)
        if np.bincount(region.ravel(), minlength=count).min() >= LEAST_SHARE * side**2:
            return region
