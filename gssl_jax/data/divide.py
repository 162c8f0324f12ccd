"""Lists of training, validation and test images (data/sources/lists.py) for a folder that has a folder for each class.

HPT's authors did not publish how they drew the lists of data sets that have no split of their own; .6 and .2 are their
shares.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np

from gssl_jax.data.sources import folder
from gssl_jax.errors import UserError

SHARES = {"train": 0.6, "val": 0.2}


def divide(root: Path, out: Path, train: float, val: float, seed: int) -> dict[str, int]:
    """Writes train.txt, val.txt, test.txt and classes.txt for the images of `root/<class>/...`; returns their lengths.

    The lists go to `out`, with a link `out/images` to `root` unless they are the same. Of every class the shares
    `train` and `val`, rounded, and the rest to test on, at least one image each; which is drawn by `seed` and the name
    of the class alone, so that another class changes nothing. Images are those of `root/images` where that exists.

    Raises UserError for shares that leave nothing, a folder without classes or already divided, a class of fewer than
    three images, and where a list, or another thing called images, is there already.
    """
    if not (train > 0 and val > 0 and train + val < 1 - 1e-9):
        raise UserError(f"--train={train} --val={val}: give shares above 0 that leave some images to test on")
    if not root.is_dir():
        raise UserError(f"no folder {str(root)!r}; give a folder that has a folder for each class")
    images = root / "images" if (root / "images").is_dir() else root
    divided = next((name for name in ("train", "val", "test") if (images / name).is_dir()), None)
    if divided is not None:
        raise UserError(f"{images} has {divided}/ already: read it with source=folder, which knows that layout")
    found = folder.classed(images, "")
    if any(label is None for _, label in found):
        raise UserError(f"{images} has no two class folders; expected {images}/CLASS/IMAGE for every class")
    classes = sorted({label for _, label in found if label is not None})
    lists: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for number, label in enumerate(classes):
        members = np.array([name for name, own in found if own == label])
        if len(members) < 3:
            raise UserError(f"class {label!r} of {images} has {len(members)} images; it needs at least 3, one a list")
        order = np.random.default_rng((seed, zlib.crc32(label.encode()))).permutation(len(members))
        first = min(max(1, round(train * len(members))), len(members) - 2)
        second = first + min(max(1, round(val * len(members))), len(members) - first - 1)
        for name, part in zip(lists, np.split(order, [first, second]), strict=True):
            lists[name] += [f"{member} {number}" for member in members[np.sort(part)]]
    _write(out, {**lists, "classes": classes}, None if out.resolve() == root.resolve() else images)
    return {name: len(lines) for name, lines in lists.items()}


def _write(out: Path, lists: dict[str, list[str]], images: Path | None) -> None:
    """Text files of the lists, and the link to the images; all or nothing."""
    there = next((file for file in (out / f"{name}.txt" for name in lists) if file.exists()), None)
    link = out / "images"
    if there is None and images is not None and (link.exists() or link.is_symlink()):
        there = link
    if there is not None:
        raise UserError(f"{there} is there already and is not written over: remove it, or give another --out=DIR")
    out.mkdir(parents=True, exist_ok=True)
    if images is not None:
        link.symlink_to(images.resolve(), target_is_directory=True)
    for name, lines in lists.items():
        (out / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
