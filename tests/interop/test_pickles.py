"""Torch files without torch: every number back, every name but those of plain arrays refused, every claim checked."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from gssl_jax.errors import UserError
from gssl_jax.interop import pickles
from gssl_jax.interop.files import read_weights
from tests.interop.archives import (
    called,
    contiguous,
    group,
    mapping,
    name,
    save_zip,
    tensor,
    text,
    whole,
    write_legacy,
    write_zip,
)

ARRAYS = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3) / 7,
    "a.half": np.array([1.5, -2.0, 65504.0], np.float16),
    "a.count": np.array(12, np.int64),
    "a.empty": np.zeros((0, 4), np.float32),
}


def read(path):
    return {label: stored.read() for label, stored in read_weights(path)[1].items()}


def write(path, form, body_of, arrays=ARRAYS):
    """Writes `arrays` in one of the formats, with the pickle code that `body_of(code)` makes of theirs."""
    code, storages = contiguous(arrays, legacy=form == "legacy")
    if form == "zip":
        write_zip(path, body_of(code), storages)
    else:
        counts = {key: array.size for key, array in zip(storages, arrays.values(), strict=True)}
        write_legacy(path, body_of(code), {key: (data, counts[key]) for key, data in storages.items()})
    return path


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_every_number_comes_back_with_its_kind(tmp_path, form):
    found = read(write(tmp_path / "w.pth", form, mapping))
    assert found.keys() == ARRAYS.keys()
    for label, array in ARRAYS.items():
        assert found[label].dtype == array.dtype
        np.testing.assert_array_equal(found[label], array)


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_what_training_programs_save_beside_weights_is_passed_over(tmp_path, form):
    flags = name("argparse", "Namespace") + b")\x81" + mapping({"lr": b"G?\xf0\x00\x00\x00\x00\x00\x00"}) + b"b"
    best = called(  # numpy.float64(1.0) as protocol 2 writes it
        name("numpy.core.multiarray", "scalar"),
        called(name("numpy", "dtype"), text("f8"), b"\x89", b"\x88")
        + group(whole(3), text("<"), b"N", b"N", b"N", whole(-1), whole(-1), whole(0))
        + b"b",
        called(name("_codecs", "encode"), text("\x00\x00\x00\x00\x00\x00\xf0?"), text("latin1")),
    )
    ordered = name("collections", "OrderedDict") + b")R"

    def body(code):
        weights = ordered + mapping(code)[1:] + mapping({"_metadata": ordered}) + b"b"
        sizes = called(name("torch", "Size"), group(whole(2)))
        return mapping({"args": flags, "best": best, "sizes": sizes, "state_dict": weights})

    path = write(tmp_path / "w.pth.tar", form, body)
    value = pickles.read_zip(path) if form == "zip" else pickles.read_legacy(path)
    assert value["best"] == 1.0 and value["sizes"] == (2,)
    np.testing.assert_array_equal(value["state_dict"]["a.weight"].read(), ARRAYS["a.weight"])
    assert read(path).keys() == ARRAYS.keys()


def test_a_window_follows_offset_and_stride(tmp_path):
    numbers = np.arange(8, dtype=np.float32)
    body = mapping(
        {
            "transposed": tensor("0", "float32", 8, (3, 2), (1, 3), 1),  # of [[1, 2, 3], [4, 5, 6]]
            "parameter": called(
                name("torch._utils", "_rebuild_parameter"), tensor("0", "float32", 8, (), (), 7), b"\x88", b"N"
            ),
        }
    )
    write_zip(tmp_path / "w.pt", body, {"0": numbers.tobytes()})
    found = read(tmp_path / "w.pt")
    np.testing.assert_array_equal(found["transposed"], [[1, 4], [2, 5], [3, 6]])
    assert found["parameter"].shape == () and found["parameter"] == 7


def test_bfloat16_becomes_float32(tmp_path):
    # 0x3FC0 is 1.5 and 0xC2F7 is -123.5: the upper halves of 0x3FC00000 and 0xC2F70000.
    body = mapping({"a": tensor("0", "bfloat16", 2, (2,), (1,)), "b": tensor("0", "bfloat16", 2, (), (), 1)})
    write_zip(tmp_path / "w.bin", body, {"0": b"\xc0\x3f\xf7\xc2"})
    found = read(tmp_path / "w.bin")
    assert found["a"].dtype == np.float32 and found["a"].tolist() == [1.5, -123.5] and found["b"] == -123.5


ATTACKS = {
    "posix.system": lambda file: called(name("posix", "system"), text(f"touch {file}")),
    "os.system": lambda file: called(name("os", "system"), text(f"touch {file}")),
    "builtins.eval": lambda file: called(
        name("builtins", "eval"), text(f"__import__('pathlib').Path({str(file)!r}).touch()")
    ),
    "builtins.exec": lambda file: (  # INST
        b"(" + text(f"import pathlib; pathlib.Path({str(file)!r}).touch()") + b"ibuiltins\nexec\n"
    ),
    "builtins.getattr": lambda file: called(name("builtins", "getattr"), text("a"), text("upper")),
    "torch.storage._load_from_bytes": lambda file: called(name("torch.storage", "_load_from_bytes"), text("")),
    "torch._utils._rebuild_sparse_tensor": lambda file: name("torch._utils", "_rebuild_sparse_tensor"),
    "torch.nn.modules.linear.Linear": lambda file: name("torch.nn.modules.linear", "Linear") + b")\x81",
    "gssl_jax.interop.pickles.Restricted": lambda file: name("gssl_jax.interop.pickles", "Restricted"),
    "torch.FloatStorage.__class__": lambda file: (  # STACK_GLOBAL, whose names may have dots
        b"\x8c\x05torch\x8c\x16FloatStorage.__class__\x93"
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_any_other_name_is_refused_by_name_and_nothing_runs(tmp_path, form, attack):
    file = tmp_path / "ran"
    path = write(tmp_path / "w.pth", form, lambda code: mapping(code | {"z": ATTACKS[attack](file)}))
    with pytest.raises(UserError, match=f"refused: it asks for {attack.replace('.', '[.]')}"):
        read_weights(path)
    assert not file.exists()


def test_the_attack_itself_works(tmp_path):
    """Otherwise the test above would pass on bytes that mean nothing."""
    for attack in ("posix.system", "builtins.eval", "builtins.exec"):
        file = tmp_path / attack
        pickle.loads(b"\x80\x02" + ATTACKS[attack](file) + b".")
        assert file.exists(), attack


PERMITTED = [
    ("torch._utils", "_rebuild_tensor_v2"), ("torch", "Size"), ("torch", "FloatStorage"), ("numpy", "dtype"),
    ("collections", "OrderedDict"), ("argparse", "Namespace"),
]  # fmt: skip


@pytest.mark.parametrize("target", PERMITTED, ids=".".join)
def test_a_file_cannot_change_what_the_permitted_names_stand_for(tmp_path, target):
    """BUILD with a pair sets attributes: on a function it would outlive the file, here there is nothing to set."""
    state = b"N" + mapping({"function": text("x"), "__call__": text("x"), "dtype": text("x")}) + b"\x86"
    write_zip(tmp_path / "w.pth", mapping({"a": name(*target) + state + b"b"}), {})
    with pytest.raises(UserError, match="damaged"):
        read_weights(tmp_path / "w.pth")
    save_zip(tmp_path / "good.pth", ARRAYS)
    np.testing.assert_array_equal(read(tmp_path / "good.pth")["a.weight"], ARRAYS["a.weight"])


@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [
        ((2, 3), (3, 1), 1),  # its last number is the seventh of six
        ((7,), (1,), 0),
        ((6,), (-1,), 5),  # before the first in the end
        ((6,), (1,), -1),
        ((2**40,), (0,), 0),  # one number repeated until memory ends
        ((2**62, 2**62), (1, 1), 0),
        ((6,), (1, 1), 0),
    ],
)
def test_a_tensor_cannot_reach_beyond_its_numbers(tmp_path, size, stride, offset):
    body = mapping({"a": tensor("0", "float32", 6, size, stride, offset), "b": tensor("0", "float32", 6, (6,), (1,))})
    write_zip(tmp_path / "w.pth", body, {"0": np.arange(6, dtype=np.float32).tobytes()})
    stored = read_weights(tmp_path / "w.pth")[1]
    assert stored["b"].read().tolist() == [0, 1, 2, 3, 4, 5]
    with pytest.raises(UserError, match="a tensor"):
        stored["a"].read()


def test_a_storage_has_the_length_that_the_pickle_says(tmp_path):
    body = mapping({"a": tensor("0", "float32", 6, (6,), (1,)), "b": tensor("1", "float32", 1, (), ())})
    write_zip(tmp_path / "w.pth", body, {"0": bytes(20)})
    stored = read_weights(tmp_path / "w.pth")[1]
    with pytest.raises(UserError, match="not 24 bytes"):
        stored["a"].read()
    with pytest.raises(UserError, match="storage 1 is not in it"):
        stored["b"].read()


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_a_file_cut_anywhere_is_one_clear_error(tmp_path, form):
    data = write(tmp_path / "whole.pth", form, mapping).read_bytes()
    for length in range(1, len(data), 37):
        path = tmp_path / "cut.pth"
        path.write_bytes(data[:length])
        with pytest.raises(UserError, match="cut.pth"):
            read_weights(path)


def test_an_entry_that_is_damaged_or_marked_as_encrypted(tmp_path):
    data = write(tmp_path / "w.pth", "zip", mapping).read_bytes()
    entry = data.rindex(b"PK\x01\x02", 0, data.rindex(b"weights/data/0"))  # its record in the directory at the end
    local = data.rindex(b"PK\x03\x04", 0, data.index(b"weights/data/0"))
    number = data.index(ARRAYS["a.weight"].tobytes()) + 5
    for places in ((entry + 8, local + 6), (number,)):  # the flag stands in both records
        changed = bytearray(data)
        for place in places:
            changed[place] ^= 1
        (tmp_path / "w.pth").write_bytes(changed)
        with pytest.raises(UserError, match="weights/data/0 is damaged"):
            read(tmp_path / "w.pth")


def test_the_last_byte_is_missed(tmp_path):
    data = write(tmp_path / "w.pth", "legacy", mapping, {"a": np.ones(3, np.float32)}).read_bytes()
    (tmp_path / "w.pth").write_bytes(data[:-1])
    with pytest.raises(UserError, match="ends 1 bytes early"):
        read_weights(tmp_path / "w.pth")


def test_any_byte_changed_is_a_clear_error_or_harmless(tmp_path):
    data = write(tmp_path / "w.pth", "legacy", mapping).read_bytes()
    rng, refused = np.random.default_rng(0), 0
    for place in rng.integers(0, len(data), 400):
        changed = bytearray(data)
        changed[place] = rng.integers(256)
        (tmp_path / "w.pth").write_bytes(changed)
        try:
            read(tmp_path / "w.pth")
        except UserError:
            refused += 1
    assert refused > 200


def test_a_pickle_of_something_else_is_said_to_be_one(tmp_path):
    (tmp_path / "w.pkl").write_bytes(b"\x80\x02" + mapping({"a": whole(1)}) + b".")
    with pytest.raises(UserError, match="torch.save did not write"):
        read_weights(tmp_path / "w.pkl")


def test_views_of_storages_and_big_endian_files_are_refused(tmp_path):
    old = group(text("storage"), name("torch", "FloatStorage"), text("0"), text("cpu"), whole(6), group()) + b"Q"
    write_zip(tmp_path / "w.pth", mapping({"a": old}), {})
    with pytest.raises(UserError, match="before version 0.4"):
        read_weights(tmp_path / "w.pth")
    write_legacy(tmp_path / "w.pth", mapping({}), {})
    data = (tmp_path / "w.pth").read_bytes().replace(b"little_endian\x88", b"little_endian\x89")
    (tmp_path / "w.pth").write_bytes(data)
    with pytest.raises(UserError, match="big-endian"):
        read_weights(tmp_path / "w.pth")
