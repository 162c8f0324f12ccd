"""Folders of images with a mask each: what every pixel shows.

    root/train/images/...   root/train/masks/...    and the same below root/test/
    root/images/...         root/masks/...          a deterministic hold-out is the test set
    root/classes.txt                                the names of the classes of pixels, one a line, from value 0 on

The mask of images/a/b.jpg is masks/a/b.png: a PNG with a palette or in grey, of the size of its image, whose values are
the classes and 255 is a pixel that has none. Without classes.txt all masks are read once for the largest value, and the
names are numbers. An image whose mask is missing or odd counts as unreadable: it is left out, counted and named. The
images have no labels beside their masks.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gssl_jax import errors
from gssl_jax.data import decode
from gssl_jax.data.sources import IGNORED, Sample
from gssl_jax.data.sources.folder import held_out, image_files
from gssl_jax.errors import UserError

SPLITS = ("pretrain", "train", "test")
IMAGES, MASKS = "images", "masks"


def open_masks(path: str, split: str, data: Any) -> MaskedImages:
    """The images of a folder: `pretrain` and `train` are its training images, `test` the others.

    `data.holdout` is the test fraction where there are no split folders. Raises UserError for a folder without images
    or masks and for more classes than a mask can tell apart.
    """
    if split not in SPLITS:
        raise errors.unknown("split", split, SPLITS)
    root = Path(path).expanduser()
    if not path or not root.is_dir():
        raise UserError(f"no folder {path!r}; set the path of the data source to a folder with {IMAGES}/ and {MASKS}/")
    whole = (root / IMAGES).is_dir()
    below = {"train": "", "test": ""} if whole else {"train": "train/", "test": "test/"}
    files = {name: _listed(root, folder) for name, folder in below.items()}
    if whole:
        held = held_out(files["train"], float(data.holdout))
        files = {
            "train": [one for one in files["train"] if one not in held],
            "test": [one for one in files["test"] if one in held],
        }
    names = part_names(root, sorted({*files["train"], *files["test"]}))
    return MaskedImages(root, split, files["test" if split == "test" else "train"], names)


def _listed(root: Path, below: str) -> list[str]:
    """Names of the images of a split, relative to `root`; UserError where there is none, or no folder of masks."""
    for name in (IMAGES, MASKS):
        if not (root / below / name).is_dir():
            raise UserError(
                f"{root} has no {below}{name}/; expected {IMAGES}/ and {MASKS}/ in it, or in train/ and in test/"
            )
    names = sorted(f"{below}{IMAGES}/{name}" for name in image_files(root / below / IMAGES))
    if not names:
        raise UserError(f"no images in {root / below / IMAGES}")
    return names


def mask_name(image: str) -> str:
    """The mask of an image, both relative to the root: the last folder `images` becomes `masks`, the ending .png."""
    split, _, inside = image.partition(f"{IMAGES}/")
    return f"{split}{MASKS}/{os.path.splitext(inside)[0]}.png"


def read_mask(file: Path) -> np.ndarray:
    """The classes of the pixels, uint8 [h, w]; BrokenImage for a file that is missing or no indexed or grey image."""
    try:
        with Image.open(file) as picture:
            picture.load()
            if picture.mode not in ("P", "L", "1"):
                raise decode.BrokenImage(
                    str(file), f"a mask has a palette or is grey with 8 bits, this one is {picture.mode}"
                )
            return np.array(picture).astype(np.uint8)
    except FileNotFoundError:
        raise decode.BrokenImage(str(file), "the image has no mask of this name") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise decode.BrokenImage(str(file), str(error).split("\n")[0]) from None


def checked_mask(file: Path, image: np.ndarray, parts: int) -> np.ndarray:
    """`read_mask` of an image [h, w, C]; BrokenImage too for another size, and for a value of no class."""
    mask = read_mask(file)
    if mask.shape != image.shape[:2]:
        size, wanted = (" x ".join(map(str, shape)) for shape in (mask.shape, image.shape[:2]))
        raise decode.BrokenImage(str(file), f"the mask is {size} px and its image {wanted} px")
    strange = np.setdiff1d(mask, [*range(parts), IGNORED])
    if len(strange):
        reason = f"the value {strange[0]} is no class; there are {parts}, and {IGNORED} is for none"
        raise decode.BrokenImage(str(file), reason)
    return mask


def part_names(root: Path, images: list[str]) -> tuple[str, ...]:
    """Names of the classes of the masks of `images`, see `highest_part`."""
    return highest_part(root, root, [mask_name(image) for image in images])


def highest_part(place: Path, root: Path, masks: list[str]) -> tuple[str, ...]:
    """Names from classes.txt in `root`, else the numbers up to the largest value of a mask that can be read; `place` is
    what a message calls the data set."""
    file = root / "classes.txt"
    if file.is_file():
        names = tuple(line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip())
        twice = next((name for name in names if names.count(name) > 1), None)
        if not names or twice is not None or len(names) > IGNORED:
            wrong = f"names the class {twice!r} twice" if twice is not None else f"names {len(names)} classes"
            raise UserError(f"{file} {wrong}; give every class a name of its own, at most {IGNORED}, one a line")
        return names
    largest = -1
    for name in masks:
        try:
            mask = read_mask(root / name)
        except decode.BrokenImage:
            continue  # counted and named when the image is read
        largest = max(largest, int(mask[mask != IGNORED].astype(int).max(initial=-1)))
    if largest < 0:
        first = root / masks[0]
        raise UserError(f"{place} has no mask that can be read; the first image needs {first}, an indexed PNG")
    return tuple(str(number) for number in range(largest + 1))


class MaskedImages:
    """Files of one split and their masks, decoded on access."""

    classes: tuple[str, ...] = ()
    normalised = False
    multilabel = False

    def __init__(self, root: Path, split: str, files: list[str], parts: tuple[str, ...]) -> None:
        self.name, self.parts = f"{root.name}/{split}", parts
        self._root, self._files = root, files

    def __len__(self) -> int:
        return len(self._files)

    def label(self, index: int) -> int:
        return -1

    def describe(self, index: int) -> str:
        return str(self._root / self._files[index])

    def payload(self, index: int) -> bytes:
        """The image file as it is."""
        return decode.read_file(self._root / self._files[index])

    def __getitem__(self, index: int) -> Sample:
        image = decode.decode(self._root / self._files[index])
        mask = checked_mask(self._root / mask_name(self._files[index]), image, len(self.parts))
        return {"image": image, "label": -1, "index": int(index), "segmentation": mask}

    def fingerprint(self) -> str:
        """Hex digest of names, sizes in bytes of images and masks (-1 where there is no file), and classes."""
        paths = [self._root / name for file in self._files for name in (file, mask_name(file))]
        sizes = [os.path.getsize(path) if path.is_file() else -1 for path in paths]
        return hashlib.sha256(json.dumps([self._files, sizes, self.parts]).encode()).hexdigest()
