"""The two formats of `torch.save`, read without torch and without running anything that stands in the file.

A pickle is a small program: it names functions and says what to call them with. Here a name gives a stand-in of this
file, or the file is refused; nothing is ever imported on its behalf. The stand-ins are immutable or ignore what the
file wants to set on them, and every size that the file claims is checked against the bytes that are really there.

Formats (pytorch `torch/serialization.py`): since 1.6 an uncompressed zip with `data.pkl` and `data/<key>` for each
storage; before, four pickles (magic number, protocol, machine, content), one with the keys of the storages, and the
storages themselves, each after its length.
"""

from __future__ import annotations

import pickle
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from gssl_jax.errors import UserError
from gssl_jax.interop.stored import ITEM_BYTES, Stored, decoded

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
NUMPY_KINDS = re.compile(r"[fiu][1248]|b1")


class StorageKind(NamedTuple):
    """Stands for a class such as `torch.FloatStorage`."""

    dtype: str


class Storage(NamedTuple):
    """Numbers that tensors share: where they lie is looked up by `key`."""

    dtype: str
    key: str
    numbers: int


class Tensor(NamedTuple):
    """A window on a storage as the file describes it; nothing is checked before it is read."""

    storage: Any
    offset: Any
    size: Any
    stride: Any


class Callee(NamedTuple):
    """What a permitted function name stands for; a tuple, since a pickle may set attributes on what it gets."""

    function: Callable[..., Any]

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments)


class Ordered(dict):
    """Stands for `collections.OrderedDict`, whose extra attributes (`_metadata`) are left out."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        """Takes nothing."""


class Ignored:
    """Stands for `argparse.Namespace`, in which training programs keep their flags; it stays empty."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        """Takes nothing."""


class NumpyKind:
    """Stands for a `numpy.dtype`, of which a pickle sets the byte order after making it."""

    __slots__ = ("code", "order")

    def __init__(self, code: str, *_: Any) -> None:
        if not (isinstance(code, str) and NUMPY_KINDS.fullmatch(code)):
            raise UserError(f"it holds a NumPy number of the kind {code!r}; plain numbers only")
        self.code, self.order = code, "<"

    def __setstate__(self, state: Any) -> None:
        self.order = ">" if isinstance(state, tuple) and state[1:2] == (">",) else "<"


def rebuilt(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    """`torch._utils._rebuild_tensor` and `_v2`: gradients and hooks are left out."""
    return Tensor(storage, offset, size, stride)


def numpy_number(kind: Any, data: Any) -> Any:
    """`numpy.core.multiarray.scalar`."""
    if not isinstance(kind, NumpyKind) or not isinstance(data, bytes):
        raise UserError("a NumPy number in it is damaged")
    return np.frombuffer(data, np.dtype(kind.order + kind.code))[0]


def latin_bytes(text: Any, encoding: Any = "latin1") -> bytes:
    """`_codecs.encode`, by which protocol 2 writes bytes."""
    if not isinstance(text, str) or encoding != "latin1":
        raise UserError(f"it encodes text as {encoding!r}; only latin1 is read")
    return text.encode("latin1")


STORAGES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool",
}  # fmt: skip

PERMITTED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): Ordered,
    ("argparse", "Namespace"): Ignored,
    ("torch", "Size"): Callee(lambda sizes=(): tuple(sizes)),
    ("torch._utils", "_rebuild_tensor"): Callee(rebuilt),
    ("torch._utils", "_rebuild_tensor_v2"): Callee(rebuilt),
    ("torch._utils", "_rebuild_parameter"): Callee(lambda data, *_: data),
    ("_codecs", "encode"): Callee(latin_bytes),
    ("numpy", "dtype"): NumpyKind,
    ("numpy.core.multiarray", "scalar"): Callee(numpy_number),
    ("numpy._core.multiarray", "scalar"): Callee(numpy_number),
    **{("torch", name): StorageKind(dtype) for name, dtype in STORAGES.items()},
}
"""Every name that a file may use, with what stands for it."""


class Restricted(pickle.Unpickler):
    """An unpickler that knows the names of `PERMITTED` only. `storages` collects what the pickle refers to, by key."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file, encoding="utf-8")
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Raises UserError for a name that no weights need."""
        if (module, name) not in PERMITTED:
            raise UserError(
                f"refused: it asks for {module}.{name}, which plain weights do not need and which could run a program; "
                f"nothing was run. In a place you trust, save the state_dict alone and give that file"
            )
        return PERMITTED[module, name]

    def persistent_load(self, pid: Any) -> Storage:
        """The storage ("storage", kind, key, device, length[, None]) that a tensor looks at."""
        if not (isinstance(pid, tuple) and len(pid) >= 5 and pid[0] == "storage" and isinstance(pid[1], StorageKind)):
            raise UserError("it refers to something that is not a storage of numbers")
        if len(pid) > 5 and pid[5] is not None:
            raise UserError("it holds views of storages, as torch wrote before version 0.4: save it again")
        kind, key, count = pid[1], pid[2], pid[4]
        if not isinstance(key, str) or not isinstance(count, int) or count < 0:
            raise UserError("a storage in it has no proper key or length")
        return self.storages.setdefault(key, Storage(kind.dtype, key, count))


def window(tensor: Tensor, numbers: np.ndarray) -> np.ndarray:
    """The array that `tensor` describes, copied from the flat `numbers` of its storage.

    Raises UserError where it reaches outside, or claims more elements than the storage has.
    """
    size, stride, offset = tensor.size, tensor.stride, tensor.offset
    whole = isinstance(size, tuple) and isinstance(stride, tuple) and len(size) == len(stride)
    if not whole or not all(isinstance(n, int) and n >= 0 for n in (*size, *stride, offset)):
        raise UserError(f"a tensor in it has the size {size!r}, stride {stride!r} and offset {offset!r}")
    elements = int(np.prod(size, dtype=object)) if size else 1
    if elements == 0:
        return np.zeros(size, numbers.dtype)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if last >= numbers.size or elements > numbers.size:
        raise UserError(f"a tensor of shape {list(size)} reaches beyond its {numbers.size} stored numbers")
    steps = [step * numbers.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(numbers[offset:], size, steps, writeable=False).copy()


def content(value: Any, numbers: Callable[[Storage], np.ndarray]) -> Any:
    """The unpickled `value` with its tensors as `Stored`, read on demand; three levels of dicts are looked through."""

    def stored(tensor: Tensor) -> Stored:
        storage, size = tensor.storage, tensor.size
        if not isinstance(storage, Storage) or not isinstance(size, tuple) or not all(type(n) is int for n in size):
            raise UserError("a tensor in it has no storage or no shape")
        return Stored(tensor.size, storage.dtype, lambda: window(tensor, numbers(storage)))

    def walk(item: Any, depth: int) -> Any:
        if isinstance(item, Tensor):
            return stored(item)
        if isinstance(item, dict) and depth:
            return {key: walk(inner, depth - 1) for key, inner in dict.items(item)}
        return item

    return walk(value, 3)


def read_zip(path: Path) -> Any:
    """The content of a `torch.save` archive since 1.6, arrays as `Stored`. Raises UserError naming what is wrong."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        main = next((name for name in names if name == "data.pkl" or name.endswith("/data.pkl")), None)
        if main is None:
            raise UserError("it is a zip archive without data.pkl, so torch did not write it")
        root = main.removesuffix("data.pkl")
        if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
            raise UserError("its numbers are big-endian: save it again on a little-endian machine")
        with archive.open(main) as file:
            value = Restricted(file).load()

    def numbers(storage: Storage) -> np.ndarray:
        name = f"{root}data/{storage.key}"
        wanted = storage.numbers * ITEM_BYTES[storage.dtype]
        with zipfile.ZipFile(path) as archive:
            if name not in names:
                raise UserError(f"{path}: the storage {storage.key} is not in it")
            entry = archive.getinfo(name)
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != wanted:
                raise UserError(f"{path}: {name} is compressed or not {wanted} bytes long")
            try:
                return decoded(archive.read(name), storage.dtype)
            except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as problem:  # encrypted, patched
                raise UserError(f"{path}: {name} is damaged ({problem})") from problem

    return content(value, numbers)


def read_legacy(path: Path) -> Any:
    """The content of a `torch.save` file before 1.6, arrays as `Stored`. Raises UserError naming what is wrong."""
    places: dict[str, int] = {}
    length = path.stat().st_size
    with path.open("rb") as file:
        if Restricted(file).load() != MAGIC:
            raise UserError("it is a pickle that torch.save did not write")
        protocol = Restricted(file).load()
        if protocol != PROTOCOL:
            raise UserError(f"its format has the number {protocol!r}; {PROTOCOL} is read")
        machine = Restricted(file).load()
        if isinstance(machine, dict) and machine.get("little_endian") is False:
            raise UserError("its numbers are big-endian: save it again on a little-endian machine")
        main = Restricted(file)
        value = main.load()
        for key in Restricted(file).load():
            if key not in main.storages:
                raise UserError(f"its storage {key!r} belongs to no tensor")
            storage, head = main.storages[key], file.read(8)
            if len(head) < 8 or struct.unpack("<q", head)[0] != storage.numbers:
                raise UserError(f"its storage {key} is not the {storage.numbers} numbers that its tensors want")
            places[key] = file.tell()
            end = file.seek(storage.numbers * ITEM_BYTES[storage.dtype], 1)
            if end > length:
                raise UserError(f"it ends {end - length} bytes early")

    def numbers(storage: Storage) -> np.ndarray:
        if storage.key not in places:
            raise UserError(f"{path}: the storage {storage.key} is not in it")
        with path.open("rb") as file:
            file.seek(places[storage.key])
            return decoded(file.read(storage.numbers * ITEM_BYTES[storage.dtype]), storage.dtype)

    return content(value, numbers)
