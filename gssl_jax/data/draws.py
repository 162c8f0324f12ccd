"""Draws of labelled images that `subsets` has not: of several labels an image, and by a list of file names.

All are functions of their arguments; indices come back sorted, int64. Labels are float [N, C]: 0, 1, NaN (unknown).
"""

from __future__ import annotations

import posixpath
import zlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gssl_jax.errors import UserError

EXAMPLES = 3  # names in a message


def k_shot_labels(labels: np.ndarray, k: int, seed: int, draw: int) -> np.ndarray:
    """Images among which every class has at least `k` positives and `k` negatives; [N, C] -> int64.

    Greedy, the rarest class first: what the images drawn so far lack of its k positives is drawn at random from its
    other images. A common class has more than k by then. The same for negatives follows, which adds images only where
    labels are as common as not. A class with fewer than k gives all that it has. Our reconstruction: the papers that
    report few-shot results for several labels do not say how they drew.
    """
    labels = np.asarray(labels)
    rng, drawn = np.random.default_rng((seed, draw, zlib.crc32(b"k_shot_labels"))), np.zeros(len(labels), bool)
    for wanted in (labels == 1, labels == 0):
        for c in np.argsort(wanted.sum(0), kind="stable"):
            missing = k - int(wanted[drawn, c].sum())
            others = np.flatnonzero(wanted[:, c] & ~drawn)
            if missing > 0:
                drawn[rng.choice(others, min(missing, len(others)), replace=False)] = True
    return np.flatnonzero(drawn)


def share_of_labels(labels: np.ndarray, share: float, seed: int, draw: int) -> np.ndarray:
    """`share` (0, 1] of the images that have a label, rounded, every class with a positive and a negative among them.

    Drawn at random after one shot of each class (`k_shot_labels`); where that takes more images than the share, those
    are the draw. [N, C] -> int64.
    """
    if not 0 < share <= 1:
        raise UserError(f"a fraction of the labels must lie in (0, 1], not {share}")
    labels = np.asarray(labels)
    first = k_shot_labels(labels, 1, seed, draw)
    known = np.flatnonzero(~np.isnan(labels).all(1))
    rest = np.random.default_rng((seed, draw, zlib.crc32(b"share_of_labels"))).permutation(np.setdiff1d(known, first))
    return np.sort(np.concatenate([first, rest[: max(0, round(share * len(known)) - len(first))]]))


def listed(file: str | Path, names: Sequence[str]) -> np.ndarray:
    """The images that a text file names, one a line, as MSN's `5imgs_class.txt` and SimCLR's `1percent.txt` do.

    A line is a file name (`n01440764_10026.JPEG`) or the end of a path (`n01440764/n01440764_10026.JPEG`), `names` are
    the paths of all images [N]; -> int64. Raises UserError for a file that cannot be read or is empty, for lines that
    no image has, and for a name that several images have.
    """
    file = Path(file).expanduser()
    if not file.is_file():
        raise UserError(
            f"evals.lowshot.lists: there is no file {str(file)!r}; give text files with an image name a line"
        )
    lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    asked = list(dict.fromkeys(posixpath.normpath(line) for line in lines if line))
    if not asked:
        raise UserError(f"evals.lowshot.lists: {file} is empty; it should hold one image name a line")
    known: dict[str, list[int]] = defaultdict(list)
    for row, name in enumerate(names):
        known[posixpath.basename(name)].append(row)
    found = {
        line: [row for row in known.get(posixpath.basename(line), ()) if f"/{names[row]}".endswith(f"/{line}")]
        for line in asked
    }
    missing = [line for line, rows in found.items() if not rows]
    if missing:
        raise UserError(
            f"evals.lowshot.lists: {len(missing)} of {len(asked)} names in {file} are no readable images of the "
            f"evaluation's training set: {_some(missing)}; its images have names such as {_some(names)}"
        )
    twice = [line for line, rows in found.items() if len(rows) > 1]
    if twice:
        rows = found[twice[0]]
        raise UserError(
            f"evals.lowshot.lists: {len(twice)} of {len(asked)} names in {file} fit several images, {twice[0]} both "
            f"{names[rows[0]]} and {names[rows[1]]}; write as much of their paths as tells them apart"
        )
    return np.unique(np.array([rows[0] for rows in found.values()], np.int64))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:EXAMPLES]) + (", ..." if len(names) > EXAMPLES else "")
