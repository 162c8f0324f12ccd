"""pictures.npz: the arrays a run's pictures are drawn from, so that finished runs can be laid side by side."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gssl_jax.runs.folder import write_atomically

CLASSES = "classes"
LEVELS = (
    *("images", "input", "corrupted", "reconstructed", "queries", "neighbours"),
    *("gradcam/maps", "pca/maps"),
)
"""Arrays by their last name, or by their whole one, that are looked at only: 256 levels from 0 to 1 are enough."""


class Kept(NamedTuple):
    """`pictures` as `report.html.write_report` takes them, and the class names by label."""

    pictures: dict[str, dict[str, np.ndarray]]
    classes: tuple[str, ...]


def write_pictures(path: Path, pictures: Mapping[str, Mapping[str, np.ndarray]], classes: Sequence[str]) -> None:
    """Writes `pictures` under flat names such as `gradcam/images`, with `classes`, at once and whole."""
    arrays = {f"{kind}/{name}": array for kind, named in pictures.items() for name, array in named.items()}
    held: dict[str, Any] = {name: _small(name, np.asarray(array)) for name, array in arrays.items()}
    held[CLASSES] = np.asarray(classes, np.str_)
    content = io.BytesIO()
    np.savez_compressed(content, **held)
    write_atomically(path, content.getvalue())


def _small(name: str, array: np.ndarray) -> np.ndarray:
    """Floats from 0 to 1 that are looked at only as uint8, everything else as it is."""
    looked_at = name in LEVELS or name.rpartition("/")[2] in LEVELS
    if not looked_at or array.dtype.kind != "f" or not np.all((array >= 0) & (array <= 1)):
        return array
    return np.asarray(np.round(255 * array), np.uint8)


def read_pictures(path: Path) -> Kept:
    """What `write_pictures` has written, uint8 as float32 in [0, 1] again.

    Raises FileNotFoundError where there is no such file, and ValueError where it is not one of these.
    """
    try:
        content = io.BytesIO(path.read_bytes())  # NumPy leaves a file that is no archive open
        with np.load(content, allow_pickle=False) as held:
            arrays = {name: held[name] for name in held.files}
    except FileNotFoundError:
        raise
    except (OSError, EOFError, TypeError, ValueError, zipfile.BadZipFile, zlib.error) as problem:
        raise ValueError(f"{path} could not be read: {type(problem).__name__}") from problem
    classes = tuple(map(str, arrays.pop(CLASSES, ())))
    pictures: dict[str, dict[str, np.ndarray]] = {}
    for name, array in arrays.items():
        kind, _, inside = name.partition("/")
        shown = array.astype(np.float32) / 255 if array.dtype == np.uint8 else array
        pictures.setdefault(kind, {})[inside] = shown
    return Kept(pictures, classes)
