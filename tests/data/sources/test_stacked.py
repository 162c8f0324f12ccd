"""Arrays in a `.npz` file: the usual names, layouts and kinds of pixels, and what is refused."""

import numpy as np
import pytest
from ml_collections import ConfigDict

from gssl_jax.data.sources import open_source
from gssl_jax.errors import UserError

DATA = ConfigDict({"seed": 0, "holdout": 0.25})


def opened(file, split="train", source="npz"):
    return open_source(ConfigDict({"source": source, "path": str(file)}), split, DATA)


def numbered(count, *shape, dtype=np.uint8):
    """Image i holds i everywhere."""
    return np.broadcast_to(np.arange(count).reshape(-1, *[1] * len(shape)), (count, *shape)).astype(dtype)


def saved(tmp_path, **arrays):
    file = tmp_path / "set.npz"
    np.savez(file, **arrays)
    return file


def test_names_of_keras_and_of_medmnist(tmp_path):
    file = saved(tmp_path, x_train=numbered(3, 4, 5), y_train=[2, 0, 1], x_test=numbered(2, 4, 5, 1), y_test=[0, 2])
    train, test = opened(file), opened(file, "test", "folder")
    assert (len(train), len(test), train.classes) == (3, 2, ("0", "1", "2"))
    assert train[2]["image"].shape == (4, 5, 1) and (train[2]["image"] == 2).all() and train[2]["label"] == 1
    medical = {f"{part}_{what}": value for part, n in (("train", 3), ("val", 2), ("test", 1)) for what, value in
               (("images", numbered(n, 4, 4, 3)), ("labels", np.arange(n)[:, None]))}  # fmt: skip
    file = saved(tmp_path, **medical, classes=np.array(["a", "b", "c"]))
    assert [len(opened(file, split)) for split in ("pretrain", "train", "val", "test")] == [5, 3, 2, 1]
    assert opened(file).classes == ("a", "b", "c") and opened(file, "pretrain").label(4) == 1


def test_without_a_split_a_share_of_each_class_is_held_out(tmp_path):
    file = saved(tmp_path, images=numbered(16, 3, 3), labels=np.arange(16) % 2)
    train, test = opened(file), opened(file, "test")
    assert (len(train), len(test)) == (12, 4) and sorted(test.label(i) for i in range(4)) == [0, 0, 1, 1]
    held = [int(one[i]["image"][0, 0, 0]) for one in (train, test) for i in range(len(one))]
    assert sorted(held) == list(range(16))
    bare = saved(tmp_path, images=numbered(4, 3, 3))
    assert (len(opened(bare)), len(opened(bare, "test")), opened(bare).classes) == (4, 0, ())


def test_channels_first_sixteen_bits_and_floats(tmp_path):
    file = saved(tmp_path, images=np.arange(2 * 5 * 20 * 30).reshape(2, 5, 20, 30).astype(np.uint16))
    image = opened(file)[1]["image"]
    assert image.shape == (20, 30, 5) and image.dtype == np.uint16 and image[0, 1, 0] == 3001 and image[0, 0, 1] == 3600
    file = saved(tmp_path, images=np.full((1, 3, 3), 0.5, np.float32))
    assert (opened(file)[0]["image"] == 32768).all()


def test_several_labels(tmp_path):
    known = np.array([[1, 0], [np.nan, 1]], np.float32)
    source = opened(
        saved(tmp_path, x_train=numbered(2, 3, 3), y_train=known, x_test=numbered(1, 3, 3), y_test=known[:1])
    )
    assert source.multilabel and source.classes == ("0", "1")
    np.testing.assert_array_equal(source.label(1), known[1])


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"pictures": np.zeros((2, 3, 3), np.uint8)}, "holds pictures; images are expected as one of x_train"),
        ({"images": np.zeros((2, 3), np.uint8)}, r"images is \[2, 3\]; expected \[N, H, W\]"),
        ({"images": np.full((2, 3, 3), 255.0)}, r"images is float64 from 0 to 255; floats have to lie in \[0, 1\]"),
        ({"images": np.zeros((2, 3, 3), np.int64)}, "images is int64; expected uint8, uint16 or floats"),
        ({"images": np.zeros((2, 3, 3), np.uint8), "labels": [1]}, r"labels is int64 \[1\] for 2 images"),
        ({"images": np.zeros((2, 3, 3), np.uint8), "labels": [0.5, 1]}, "that are no whole number"),
        ({"images": np.zeros((2, 3, 3), np.uint8), "labels": [[0, 2], [1, 1]]}, "other values than 0, 1 and nan"),
        (
            {"images": np.zeros((2, 3, 3), np.uint8), "labels": [0, 2], "classes": ["a", "b"]},
            "names 2 classes and .* 3",
        ),
    ],
)
def test_arrays_that_cannot_be_meant(tmp_path, arrays, said):
    with pytest.raises(UserError, match=said):
        opened(saved(tmp_path, **arrays))


def test_a_file_that_is_no_archive(tmp_path):
    (tmp_path / "a.npz").write_text("none")
    with pytest.raises(UserError, match="cannot be read as a .npz file"):
        opened(tmp_path / "a.npz")
    with pytest.raises(UserError, match="no file"):
        opened(tmp_path / "b.npz")
