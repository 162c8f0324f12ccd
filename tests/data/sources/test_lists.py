"""Lists of images: what each split holds, labels of both kinds, and every line that cannot be meant is named."""

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from gssl_jax.data.sources import open_source
from gssl_jax.errors import UserError


def _open(root, split, size=0):
    return open_source(ConfigDict({"source": "lists", "path": str(root), "size": size}), split, ConfigDict({"seed": 0}))


def _write(root, below="", **lists):
    """Lists by name, each a string of lines, and a 6 x 5 image of its own grey for every name in them."""
    for name, text in lists.items():
        (root / f"{name}.txt").write_text(text)
        for grey, line in enumerate(text.split("\n\n")[0].splitlines()):
            file = root / below / (line.rpartition(".png")[0] + ".png")
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (6, 5), 10 * grey).save(file)


def _names(source):
    return [source.describe(i).rpartition("/")[2] for i in range(len(source))]


def test_splits_of_single_labels(tmp_path):
    _write(tmp_path, train="a.png 1\nsub dir 2/b 7.png 0\n\n", val="c.png -1\r\n", test="d.png 2\n./e.png 1\n")
    assert _names(_open(tmp_path, "train")) == ["a.png", "b 7.png"] and _names(_open(tmp_path, "val")) == ["c.png"]
    pretrain, test = _open(tmp_path, "pretrain"), _open(tmp_path, "test")
    assert _names(pretrain) == ["a.png", "b 7.png", "c.png"] and _names(test) == ["d.png", "e.png"]
    assert [pretrain.label(i) for i in range(3)] == [1, 0, -1] and [test.label(i) for i in range(2)] == [2, 1]
    assert pretrain.classes == test.classes == ("0", "1", "2")  # the largest label stands in test.txt
    assert not pretrain.multilabel and pretrain[1]["index"] == 1
    assert pretrain[1]["image"].shape == (5, 6, 1) and (pretrain[1]["image"] == 10).all()
    assert len(_open(tmp_path, "pretrain", size=2)) == 2


def test_pretraining_and_test_images_are_disjoint_and_pretraining_is_train_and_val(tmp_path):
    """Specification 3.12, invariant 9."""
    sizes = {"train": 12, "val": 4, "test": 5}
    _write(tmp_path, **{name: "".join(f"{name}{i}.png {i % 3}\n" for i in range(n)) for name, n in sizes.items()})
    found = {split: _names(_open(tmp_path, split)) for split in ("pretrain", *sizes)}
    assert not set(found["pretrain"]) & set(found["test"])
    assert len(found["pretrain"]) == len(set(found["pretrain"])) == 12 + 4
    assert found["pretrain"] == found["train"] + found["val"]


@pytest.mark.parametrize("other", ["train", "val"])
def test_an_image_of_the_test_list_that_is_learned_from_is_refused(tmp_path, other):
    lists = {"train": "a.png 0\nb.png 1\n", "val": "c.png 1\n", "test": "d.png 0\nx/../leak.png 1\n"}
    lists[other] += "leak.png 1\n"
    _write(tmp_path, **lists)
    with pytest.raises(UserError, match=rf"test.txt line 2: leak.png stands at .*{other}.txt line \d too"):
        _open(tmp_path, "pretrain")


def test_several_labels(tmp_path):
    _write(tmp_path, below="images", train="a.png 1 0 1\nb.png 0 nan -1\n", test="c.png 0.0 1.0 NaN\n")
    (tmp_path / "classes.txt").write_text("cat\nbig dog\nfish\n")
    train = _open(tmp_path, "train")
    assert train.multilabel and train.classes == ("cat", "big dog", "fish")
    np.testing.assert_array_equal(train.label(0), np.array([1, 0, 1], np.float32))
    np.testing.assert_array_equal(train[1]["label"], np.array([0, np.nan, np.nan], np.float32))
    assert train.label(1).dtype == np.float32 and train.describe(0).endswith("images/a.png")
    np.testing.assert_array_equal(_open(tmp_path, "test").label(0), np.array([0, 1, np.nan], np.float32))


def test_without_labels_and_without_val(tmp_path):
    _write(tmp_path, train="a.png\nb 3.png\n", test="c.png\n")
    source = _open(tmp_path, "pretrain")
    assert source.classes == () and [source.label(i) for i in range(2)] == [-1, -1] and len(source) == 2
    with pytest.raises(UserError, match="val.txt is missing"):
        _open(tmp_path, "val")


def test_the_fingerprint_follows_names_sizes_labels_and_classes(tmp_path):
    _write(tmp_path, train="a.png 0\nb.png 1\n", test="c.png 1\n")
    prints = [_open(tmp_path, "train").fingerprint()]
    assert prints[0] == _open(tmp_path, "train").fingerprint()
    (tmp_path / "train.txt").write_text("a.png 1\nb.png 1\n")
    prints.append(_open(tmp_path, "train").fingerprint())
    (tmp_path / "classes.txt").write_text("no\nyes\n")
    prints.append(_open(tmp_path, "train").fingerprint())
    Image.new("RGB", (40, 40), 3).save(tmp_path / "a.png")
    prints.append(_open(tmp_path, "train").fingerprint())
    (tmp_path / "train.txt").write_text("b.png 1\na.png 1\n")
    assert len({*prints, _open(tmp_path, "train").fingerprint()}) == 5


@pytest.mark.parametrize(
    ("lists", "words"),
    [
        (dict(train="a.png 0\nb.png 1 0\n"), "train.txt line 2 has 2 labels and the first line of the lists has 1"),
        (dict(train="a.png 0\n", test="b.png\n"), "test.txt line 1 has 0 labels"),
        (dict(train="a.png 0\nb.png -2\n"), "train.txt line 2: the label '-2' is not a whole number from 0"),
        (dict(train="a.png 0.5\n"), "train.txt line 1: the label '0.5'"),
        (dict(train="a.png 1 0\nb.png 0 2\n"), "train.txt line 2: the label '2' is not -1, 0, 1 or nan"),
        (dict(train="a.png 0\n1 0\n"), "train.txt line 2: '1 0' does not begin with a relative path"),
        (dict(train="/a.png 0\n"), "train.txt line 1: '/a.png 0' does not begin with a relative path"),
        (dict(train="../a.png 0\n"), "line 1: '../a.png 0' does not begin with a relative path"),
        (dict(train="a.png 2\n", classes="x\ny\n"), "classes.txt names 2 classes and the lists have 3"),
        (dict(train="a.png 1 0\n", classes="x\ny\nz\n"), "names 3 classes and the lists have 2 columns"),
        (dict(train="a.png 1\n", classes="x\nx\n"), "names the class 'x' twice"),
        (dict(test="a.png 1\n"), "train.txt is missing; expected lines 'relative/path label'"),
        (dict(), "train.txt is missing"),
    ],
)
def test_a_list_that_cannot_be_meant_is_refused(tmp_path, lists, words):
    for name, text in lists.items():
        (tmp_path / f"{name}.txt").write_text(text)
    with pytest.raises(UserError, match=words):
        _open(tmp_path, "train")


def test_a_folder_or_images_that_are_not_there(tmp_path):
    with pytest.raises(UserError, match="no folder .*nowhere"):
        _open(tmp_path / "nowhere", "train")
    (tmp_path / "train.txt").write_text("a.png 0\n")
    with pytest.raises(UserError, match="no a.png, the first image of train, in .*relative to images/"):
        _open(tmp_path, "train")
    with pytest.raises(UserError, match="unknown split 'tran'"):
        _open(tmp_path, "tran")
