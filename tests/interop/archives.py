"""Files in the two formats of `torch.save`, written opcode by opcode, without torch and without `pickle.dumps`."""

from __future__ import annotations

import struct
import zipfile

import numpy as np

KINDS = {"float32": "FloatStorage", "float16": "HalfStorage", "int64": "LongStorage", "bfloat16": "BFloat16Storage",
         "float64": "DoubleStorage"}  # fmt: skip
MAGIC = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"  # LONG1 of 10 bytes: 0x1950a86a20f9469cfc6c


def name(module: str, attribute: str) -> bytes:
    """GLOBAL."""
    return b"c" + module.encode() + b"\n" + attribute.encode() + b"\n"


def text(value: str) -> bytes:
    """BINUNICODE."""
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def whole(value: int) -> bytes:
    """BININT up to 31 bits, else LONG1."""
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    return b"\x8a\x08" + struct.pack("<q", value)


def group(*items: bytes) -> bytes:
    """MARK items TUPLE."""
    return b"(" + b"".join(items) + b"t"


def mapping(items: dict[str, bytes]) -> bytes:
    """EMPTY_DICT MARK key value ... SETITEMS."""
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def called(function: bytes, *arguments: bytes) -> bytes:
    """function arguments REDUCE."""
    return function + group(*arguments) + b"R"


def tensor(key, dtype, count, size, stride, offset=0, *, legacy=False) -> bytes:
    """A tensor as torch describes it; `count` numbers in the storage `key`."""
    pid = [text("storage"), name("torch", KINDS[dtype]), text(key), text("cpu"), whole(count)]
    storage = group(*pid, *([b"N"] if legacy else [])) + b"Q"
    return called(
        name("torch._utils", "_rebuild_tensor_v2"),
        storage,
        whole(offset),
        group(*map(whole, size)),
        group(*map(whole, stride)),
        b"\x89",  # requires_grad
        name("collections", "OrderedDict") + b")R",
    )


def contiguous(arrays: dict[str, np.ndarray], *, legacy=False) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Pickle code by name and storage bytes by key for plain arrays."""
    code, storages = {}, {}
    for i, (label, array) in enumerate(arrays.items()):
        stride = [s // array.itemsize for s in array.copy("C").strides]
        code[label] = tensor(str(i), array.dtype.name, array.size, array.shape, stride, legacy=legacy)
        storages[str(i)] = array.tobytes()
    return code, storages


def write_zip(path, body: bytes, storages: dict[str, bytes]) -> None:
    """An archive of torch 1.6 and later."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("weights/data.pkl", b"\x80\x02" + body + b".")
        archive.writestr("weights/byteorder", b"little")
        for key, data in storages.items():
            archive.writestr(f"weights/data/{key}", data)


def write_legacy(path, body: bytes, storages: dict[str, tuple[bytes, int]]) -> None:
    """A file of torch before 1.6; storages are (bytes, how many numbers)."""
    with open(path, "wb") as file:
        for part in (MAGIC, whole(1001), mapping({"little_endian": b"\x88"}), body):
            file.write(b"\x80\x02" + part + b".")
        file.write(b"\x80\x02](" + b"".join(text(key) for key in storages) + b"e.")
        for data, count in storages.values():
            file.write(struct.pack("<q", count) + data)


def save_zip(path, arrays: dict[str, np.ndarray], under: str | None = None) -> None:
    """Plain arrays by name, as `torch.save(state_dict)` or with them under one key."""
    code, storages = contiguous(arrays)
    body = mapping(code)
    write_zip(path, body if under is None else mapping({under: body, "epoch": whole(300)}), storages)
