"""Folders in each layout, with real files, and the messages of those that cannot be used."""

import os

import cv2
import numpy as np
import pytest
from ml_collections import ConfigDict

from gssl_jax.data.sources import open_source
from gssl_jax.errors import UserError


def _open(root, split, holdout=0.2, size=0):
    data = ConfigDict({"holdout": holdout, "seed": 0})
    return open_source(ConfigDict({"source": "folder", "path": str(root), "size": size}), split, data)


def _fill(folder, count, *, value=0, extension=".png", start=0):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(start, start + count):
        cv2.imwrite(str(folder / f"{number:03d}{extension}"), np.full((6, 8, 3), (value + number) % 256, np.uint8))


def test_train_and_test_folders_with_classes(tmp_path):
    for label, name in enumerate(("zebra", "ape")):
        _fill(tmp_path / "train" / name, 3, value=10 * label)
        _fill(tmp_path / "test" / name, 2, value=100 + 10 * label)
    train, test, pretrain = (_open(tmp_path, split) for split in ("train", "test", "pretrain"))
    assert train.classes == test.classes == ("ape", "zebra")
    assert (len(train), len(test), len(pretrain)) == (6, 4, 6)
    assert [train.label(i) for i in range(6)] == [0, 0, 0, 1, 1, 1]
    assert train[0]["label"] == 0 and (train[0]["image"] == 10).all()  # the first ape
    assert train[4]["index"] == 4 and (train[4]["image"] == 1).all() and train[4]["image"].shape == (6, 8, 3)
    assert (test[3]["image"] == 101).all() and "test" in test.describe(3)


def test_val_stands_in_for_test(tmp_path):
    for split in ("train", "val"):
        for name in ("a", "b"):
            _fill(tmp_path / split / name, 2)
    assert len(_open(tmp_path, "test")) == 4


@pytest.mark.parametrize("below", ["", "train"])
def test_class_folders_alone_are_held_out_by_class(tmp_path, below):
    for name, count in (("a", 10), ("b", 2), ("c", 1), ("d", 3)):
        _fill(tmp_path / below / name, count)
    train, test, pretrain = (_open(tmp_path, split, holdout=0.2) for split in ("train", "test", "pretrain"))
    assert np.bincount([test.label(i) for i in range(len(test))], minlength=4).tolist() == [2, 1, 0, 1]
    assert np.bincount([train.label(i) for i in range(len(train))], minlength=4).tolist() == [8, 1, 1, 2]
    everything = [*map(train.describe, range(len(train))), *map(test.describe, range(len(test)))]
    assert len(set(everything)) == 16
    assert [pretrain.describe(i) for i in range(len(pretrain))] == [train.describe(i) for i in range(len(train))]
    again = _open(tmp_path, "test", holdout=0.2)
    assert [again.describe(i) for i in range(len(again))] == [test.describe(i) for i in range(len(test))]


def test_a_large_holdout_leaves_one_training_image(tmp_path):
    for name in ("a", "b"):
        _fill(tmp_path / name, 4)
    assert len(_open(tmp_path, "train", holdout=0.99)) == 2


@pytest.mark.parametrize("below", ["", "train", "only"])
def test_images_without_labels(tmp_path, below):
    """Flat, flat inside train/, or in one single folder, which tells nothing apart."""
    _fill(tmp_path / below, 5)
    source = _open(tmp_path, "pretrain")
    assert source.classes == () and len(source) == 5 and source[2]["label"] == -1
    assert len(_open(tmp_path, "test")) == 0


def test_unlabelled_train_with_a_flat_test_folder(tmp_path):
    _fill(tmp_path / "train", 3)
    _fill(tmp_path / "test", 2)
    test = _open(tmp_path, "test")
    assert len(test) == 2 and test.classes == () and test.label(0) == -1


def test_nested_folders_extensions_hidden_files_and_order(tmp_path):
    _fill(tmp_path / "b" / "deep" / "er", 2, extension=".JPG")
    _fill(tmp_path / "a", 2, extension=".webp")
    _fill(tmp_path / "a", 1, extension=".Tiff", start=5)
    (tmp_path / "a" / "notes.txt").write_text("x")
    (tmp_path / "a" / ".hidden.png").write_bytes(b"x")
    (tmp_path / ".cache").mkdir()
    _fill(tmp_path / ".cache", 2)
    (tmp_path / "a" / "loop").symlink_to(tmp_path / "a")
    source = _open(tmp_path, "train", holdout=0.01)
    test = _open(tmp_path, "test", holdout=0.01)
    found = sorted(os.path.relpath(s.describe(i), tmp_path) for s in (source, test) for i in range(len(s)))
    assert found == ["a/000.webp", "a/001.webp", "a/005.Tiff", "b/deep/er/000.JPG", "b/deep/er/001.JPG"]
    listed = [source.describe(i) for i in range(len(source))]
    assert listed == sorted(listed)


def test_linked_folders_are_followed_and_the_order_is_not_that_of_the_disk(tmp_path, monkeypatch):
    _fill(tmp_path / "elsewhere" / "one", 5)
    (tmp_path / "set").mkdir()
    for name in ("b", "a"):
        (tmp_path / "set" / name).symlink_to(tmp_path / "elsewhere" / "one")
    assert len(_open(tmp_path / "set", "train")) + len(_open(tmp_path / "set", "test")) == 5  # one place, walked once
    (tmp_path / "set" / "b").unlink()
    _fill(tmp_path / "set" / "b", 5)
    walk = os.walk
    reverse = lambda *a, **k: ((place, folders, sorted(files)[::-1]) for place, folders, files in walk(*a, **k))  # noqa: E731
    monkeypatch.setattr(os, "walk", reverse)
    source = _open(tmp_path / "set", "train")
    assert [source.describe(i) for i in range(8)] == sorted(source.describe(i) for i in range(8))
    assert source.classes == ("a", "b")


def test_size_keeps_a_seeded_part(tmp_path):
    _fill(tmp_path, 20)
    part = _open(tmp_path, "pretrain", size=7)
    assert len(part) == 7 and len({part.describe(i) for i in range(7)}) == 7 and part[6]["index"] == 6


def test_fingerprint_follows_names_sizes_and_labels_but_not_times(tmp_path):
    for name in ("a", "b"):
        _fill(tmp_path / name, 3)
    first = _open(tmp_path, "train").fingerprint()
    os.utime(_open(tmp_path, "train").describe(0), (1, 1))
    assert _open(tmp_path, "train").fingerprint() == first != _open(tmp_path, "test").fingerprint()
    with open(_open(tmp_path, "train").describe(0), "ab") as file:
        file.write(b"0")
    grown = _open(tmp_path, "train").fingerprint()
    assert grown != first
    (tmp_path / "a").rename(tmp_path / "aa")
    assert _open(tmp_path, "train").fingerprint() not in (first, grown)


def test_mistakes_are_named_in_one_line(tmp_path):
    def message(root, split="train", holdout=0.2):
        with pytest.raises(UserError) as caught:
            _open(root, split, holdout)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "nowhere" in message(tmp_path / "nowhere")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no images in" in message(empty) and ".webp" in message(empty)
    for name in ("a", "b"):
        _fill(tmp_path / "one" / "train" / name, 2)
    (tmp_path / "one" / "test").mkdir()
    assert "no images in" in message(tmp_path / "one") and "test" in message(tmp_path / "one")
    _fill(tmp_path / "one" / "test" / "b", 1)
    _fill(tmp_path / "one" / "test" / "c", 1)
    assert "train/ lacks: c;" in message(tmp_path / "one")
    _fill(tmp_path / "two" / "test", 1)
    assert "no train/" in message(tmp_path / "two")
    _fill(tmp_path / "three" / "a", 2)
    _fill(tmp_path / "three", 1)
    assert "mixes class folders (a/)" in message(tmp_path / "three")
    for name in ("a", "b"):
        _fill(tmp_path / "four" / "train" / name, 2)
    _fill(tmp_path / "four" / "test", 1)
    assert "outside class folders" in message(tmp_path / "four")
    for name in ("a", "b"):
        _fill(tmp_path / "five" / name, 2)
    assert "data.holdout is 1.0" in message(tmp_path / "five", holdout=1.0)
    assert "did you mean 'test'" in message(tmp_path / "five", split="tests")


def test_one_test_class_among_several_keeps_its_label(tmp_path):
    for name in ("a", "b"):
        _fill(tmp_path / "train" / name, 2)
    _fill(tmp_path / "test" / "b", 2)
    test = _open(tmp_path, "test")
    assert [test.label(i) for i in range(2)] == [1, 1]
