"""Which file is what: told by its first bytes, and wrong ones by what they are."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import safetensors.numpy

from gssl_jax.errors import UserError
from gssl_jax.interop.files import read_weights
from gssl_jax.interop.stored import ITEM_BYTES, decoded
from tests.interop.archives import contiguous, mapping, save_zip, whole, write_zip

ARRAYS = {"a": np.arange(4, dtype=np.float32), "b": np.ones((2, 2), np.float16)}


def test_safetensors(tmp_path):
    path = tmp_path / "named_anything"
    path.write_bytes(safetensors.numpy.save(ARRAYS))
    form, stored = read_weights(path)
    assert form == "safetensors"
    assert {name: (s.shape, s.dtype) for name, s in stored.items()} == {
        "a": ((4,), "float32"),
        "b": ((2, 2), "float16"),
    }
    np.testing.assert_array_equal(stored["a"].read(), ARRAYS["a"])
    np.testing.assert_array_equal(stored["b"].read(), ARRAYS["b"])


def test_bfloat16_in_safetensors(tmp_path):
    header = b'{"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}'
    (tmp_path / "w").write_bytes(struct.pack("<Q", len(header)) + header + b"\xc0\x3f\xf7\xc2")
    stored = read_weights(tmp_path / "w")[1]["a"]
    assert stored.dtype == "bfloat16" and stored.read().tolist() == [1.5, -123.5]


def test_a_safetensors_file_whose_first_byte_is_that_of_a_pickle(tmp_path):
    """The header is 0x80 bytes long, and a pickle begins with 0x80."""
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'.ljust(128)
    (tmp_path / "w").write_bytes(struct.pack("<Q", len(header)) + header + struct.pack("<f", 2.5))
    assert read_weights(tmp_path / "w")[1]["a"].read().tolist() == [2.5]


def test_every_kind_of_number_has_the_bytes_it_is_said_to_have():
    for kind, size in ITEM_BYTES.items():
        assert decoded(bytes(3 * size), kind).shape == (3,)


def test_the_averaged_weights_of_a_training_file_are_taken(tmp_path):
    code, storages = contiguous({"s": np.zeros(2, np.float32), "t": np.ones(2, np.float32)})
    body = mapping({"student": mapping({"w": code["s"]}), "teacher": mapping({"w": code["t"]}), "epoch": whole(3)})
    write_zip(tmp_path / "w.pth", body, storages)
    form, stored = read_weights(tmp_path / "w.pth")
    assert form == "torch archive, under 'teacher'" and stored["w"].read().tolist() == [1, 1]


@pytest.mark.parametrize("under", ["state_dict", "model"])
def test_weights_under_a_key(tmp_path, under):
    save_zip(tmp_path / "w.pth", ARRAYS, under)
    assert read_weights(tmp_path / "w.pth")[1].keys() == ARRAYS.keys()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"\x89HDF\r\n\x1a\n rest", "HDF5"),
        (b"something else entirely", "unknown format"),
        (struct.pack("<Q", 500) + b'{"a":', "damaged or cut short"),
        (b"PK\x03\x04 and no more", "damaged or cut short"),
        (b"\x80\x02", "damaged or cut short"),
    ],
)
def test_another_file_is_told_apart_and_what_was_expected_is_said(tmp_path, content, words):
    path = tmp_path / "w.pth"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"{words}.*expected one file"):
        read_weights(path)


def test_a_safetensors_file_cut_short(tmp_path):
    (tmp_path / "w").write_bytes(safetensors.numpy.save(ARRAYS)[:-3])
    with pytest.raises(UserError, match="damaged or cut short"):
        read_weights(tmp_path / "w")


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(UserError, match="no such file; expected one file"):
        read_weights(tmp_path / "absent.pth")
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(UserError, match="is a folder: expected one file.*it holds model.safetensors"):
        read_weights(tmp_path)


def test_archives_of_others(tmp_path):
    np.savez(tmp_path / "w.npz", a=np.zeros(2))
    with pytest.raises(UserError, match="without data.pkl"):
        read_weights(tmp_path / "w.npz")
    write_zip(tmp_path / "w.pth", mapping({"epoch": whole(3), "loss": whole(1)}), {})
    with pytest.raises(UserError, match="no named arrays but 'epoch', 'loss'"):
        read_weights(tmp_path / "w.pth")
