"""A weights file of any format as named arrays; the format follows from its first bytes, not from its name."""

from __future__ import annotations

import struct
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from gssl_jax.errors import UserError
from gssl_jax.interop.pickles import read_legacy, read_zip
from gssl_jax.interop.stored import Stored, decoded

EXPECTED = "expected one file, .safetensors or what torch.save wrote (.pth, .pt, .pth.tar, .bin, .ckpt)"

SAFETENSORS = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip

CONTAINERS = ("teacher", "state_dict_ema", "model_ema", "model", "state_dict", "student")
"""Where training programs keep the weights among other things; the first that is there is taken: averaged weights
(a teacher's, an EMA's) before those that they average."""

FOREIGN = {
    b"version https://git-lfs": "a Git LFS pointer and not the file itself: fetch it with git lfs pull",
    b"<!DOCTYPE": "a web page: the download was refused or redirected",
    b"<html": "a web page: the download was refused or redirected",
    b"\x89HDF": "HDF5 (Keras)",
    b"\x93NUMPY": "a NumPy array",
}
"""First bytes of what is often found in the place of weights."""


def read_weights(path: Path) -> tuple[str, dict[str, Stored]]:
    """What the file is in words, and its arrays by name; nothing in the file is executed, no array is read yet.

    Raises UserError for a missing file, a folder, a damaged or truncated file, one of another format, one that asks for
    anything but arrays, and one without named arrays.
    """
    form, value = _read(path)
    named, where = _state_dict(value, path)
    return f"{form}{where}", named


def _read(path: Path) -> tuple[str, Any]:
    if path.is_dir():
        inside = sorted(p.name for p in path.iterdir() if p.suffix in (".safetensors", ".bin", ".pth", ".pt"))
        found = f"; it holds {', '.join(inside[:4])}" if inside else ""
        raise UserError(f"{path} is a folder: {EXPECTED}{found}")
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; {EXPECTED}")
    with path.open("rb") as file:
        head = file.read(32)
    try:
        # First, since the length that a safetensors file begins with may look like the first byte of a pickle.
        if len(head) > 8 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] < 100 * 2**20:
            return "safetensors", read_safetensors(path)
        if head.startswith(b"PK\x03\x04"):
            return "torch archive", read_zip(path)
        if head.startswith(b"\x80"):
            return "torch file from before 1.6", read_legacy(path)
    except UserError as problem:
        raise UserError(f"{path}: {problem}") from problem
    except Exception as problem:  # a damaged pickle can raise whatever its bytes happen to say
        words = " ".join(str(problem).split()) or type(problem).__name__
        raise UserError(f"{path} is damaged or cut short ({words[:160]}); {EXPECTED}") from problem
    words = next((words for start, words in FOREIGN.items() if head.startswith(start)), "of an unknown format")
    raise UserError(f"{path} is {words if head else 'empty'}; {EXPECTED}")


def read_safetensors(path: Path) -> dict[str, Stored]:
    """The arrays of a safetensors file, sorted by name since the library loses their order.

    Raises UserError for a kind of number that is not read.
    """
    named: dict[str, Stored] = {}
    for name, entry in sorted(safetensors.deserialize(path.read_bytes()), key=lambda item: item[0]):
        if entry["dtype"] not in SAFETENSORS:
            raise UserError(f"{name} is stored as {entry['dtype']}; {', '.join(SAFETENSORS)} are read")
        shape, dtype, data = tuple(entry["shape"]), SAFETENSORS[entry["dtype"]], entry["data"]
        named[name] = Stored(shape, dtype, partial(_reshaped, data, dtype, shape))
    return named


def _reshaped(data: bytearray, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    return decoded(data, dtype).reshape(shape)


def _arrays(value: Any) -> dict[str, Stored]:
    """The arrays directly in a dict, by name."""
    found = value.items() if isinstance(value, dict) else ()
    return {name: array for name, array in found if isinstance(name, str) and isinstance(array, Stored)}


def _state_dict(value: Any, path: Path) -> tuple[dict[str, Stored], str]:
    """The named arrays of what a file holds, and where they were in words ("" = at the top)."""
    if len(_arrays(value)) > 1:
        return _arrays(value), ""
    for name in CONTAINERS:
        inner = value.get(name) if isinstance(value, dict) else None
        if _arrays(inner):
            return _arrays(inner), f", under {name!r}"
    if _arrays(value):
        return _arrays(value), ""
    held = ", ".join(repr(name) for name in list(value)[:8]) if isinstance(value, dict) else type(value).__name__
    raise UserError(f"{path} holds no named arrays but {held}; looked at the top and under {', '.join(CONTAINERS)}")
