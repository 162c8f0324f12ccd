"""The photos and digits sets: exact counts, the published rule, and no test column ever seen in training."""

import functools
import socket

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from gssl_jax.data.sources import open_source, packaged
from gssl_jax.errors import UserError


def _data(**changes):
    base = dict(image_size=32, channels=1, canvas=64, contrast_normalise=True, seed=0, max_zoom=4.0)
    return ConfigDict(base | changes)


def _photos(split, size=0, **changes):
    return open_source(ConfigDict({"source": "photos", "path": "", "size": size}), split, _data(**changes))


@pytest.fixture
def numbered_pictures(monkeypatch):
    """Every photograph replaced by one that spells out its column (two bytes) and row."""

    @functools.cache
    def numbered(name, channels):
        height, width = 180 + 7 * list(packaged.PHOTOS).index(name), 301 + 13 * list(packaged.PHOTOS).index(name)
        rows, columns = np.mgrid[:height, :width]
        return np.stack([columns // 256, columns % 256, rows % 256], axis=2).astype(np.uint8)

    monkeypatch.setattr(packaged, "photograph", numbered)
    return numbered


def test_all_nineteenphotographs_ship_in_the_installed_packages(monkeypatch):
    def refuse(*_):
        raise AssertionError("no network is used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    packaged.photograph.cache_clear()
    for name in packaged.PHOTOS:
        height, width = packaged.photograph(name, 3).shape[:2]
        assert 172 <= min(height, width) and max(height, width) <= 1411
    assert len(packaged.PHOTOS) == 19


def test_counts_shapes_and_classes():
    for split, each in (("train", 200), ("test", 60)):
        source = _photos(split)
        assert len(source) == 19 * each and len(source.classes) == 19 and source.normalised
        labels = [source[i]["label"] for i in range(0, len(source), 20)]
        assert np.bincount(labels).tolist() == [each // 20] * 19
        assert source[len(source) - 1]["image"].shape == (32, 32, 1)
        assert source.label(each) == source[each]["label"] == 1
    source = _photos("pretrain")
    assert len(source) == 4096 and not source.normalised
    assert len(_photos("pretrain", size=50)) == 50 and len(_photos("train", size=50)) == 50
    sample = source[20]
    assert sample["image"].shape == (64, 64, 1) and sample["image"].dtype == np.uint8 and sample["label"] == 1


def test_a_crop_equals_the_published_rule_computed_with_pillow():
    source = _photos("test")
    index = 60 * list(packaged.PHOTOS).index("coffee") + 7
    top, left = source.boxes[index]
    with Image.open(packaged.photo_file("coffee")) as picture:
        crop = np.asarray(picture)[top : top + 32, left : left + 32].astype(np.float64)
    grey = 0.299 * crop[..., 0] + 0.587 * crop[..., 1] + 0.114 * crop[..., 2]
    expected = np.clip((grey - grey.mean()) / (grey.std() + 4) * 50 + 128, 0, 255)
    assert np.abs(source[index]["image"][..., 0] - expected).max() <= 0.51
    assert source.classes[source[index]["label"]] == "coffee"
    colour = _photos("test", channels=3)
    assert not colour.normalised
    np.testing.assert_array_equal(colour[index]["image"], crop)


def test_evaluation_crops_are_one_fixed_set_drawn_by_one_generator():
    first = packaged.photograph("cat", 3).shape[0]
    width = packaged.photograph("cat", 3).shape[1]
    rng = np.random.default_rng(0)
    top, left = rng.integers(0, first - 31, 200), rng.integers(0, -(-7 * width // 10) - 31, 200)
    np.testing.assert_array_equal(_photos("train", seed=5).boxes[:200], np.stack([top, left], axis=1))
    test_top = rng.integers(0, first - 31, 60)
    np.testing.assert_array_equal(_photos("test", seed=6).boxes[:60, 0], test_top)


def test_pretraining_never_sees_a_test_column(numbered_pictures):
    """By the pixels themselves, at native resolution: column numbers of training and of test crops."""
    settings = dict(channels=3, contrast_normalise=False, max_zoom=1.0)
    widths = [numbered_pictures(name, 3).shape[1] for name in packaged.PHOTOS]

    def columns(source, index):
        image = source[index]["image"].astype(int)
        return image[..., 0] * 256 + image[..., 1]

    pretrain, train, test = (_photos(split, **settings) for split in ("pretrain", "train", "test"))
    reached = [0] * 19
    for index in range(19 * 60):
        label = pretrain.label(index)
        reached[label] = max(reached[label], columns(pretrain, index).max())
    for label, width in enumerate(widths):
        assert reached[label] < 0.7 * width and reached[label] > 0.6 * width
    for index in range(0, len(train), 5):
        assert columns(train, index).max() < 0.7 * widths[train.label(index)]
    for index in range(len(test)):
        assert columns(test, index).min() >= 0.7 * widths[test.label(index)]


def test_squares_of_every_size_stay_in_the_training_part(numbered_pictures):
    source = _photos("pretrain", size=2000, channels=3, max_zoom=4.0)
    sides = []
    for index in range(2000):
        height, width = numbered_pictures(source.classes[source.label(index)], 3).shape[:2]
        top, left, side = source.box(index)
        assert 0 <= top and top + side <= height and 0 <= left and left + side <= 0.7 * width + 1
        assert 64 <= side <= min(256, height, packaged.first_test_column(width))
        sides.append(side)
    # log-uniform over about [64, 200..256]: half of them lie below the geometric mean
    assert 0.40 < np.mean(np.array(sides) < np.sqrt(64 * 230)) < 0.60


def test_the_first_test_column_is_exact():
    for width in range(1, 2000):
        cut = packaged.first_test_column(width)
        assert 10 * (cut - 1) < 7 * width <= 10 * cut


def test_a_part_smaller_than_the_canvas_gives_its_largest_square():
    source = _photos("pretrain", size=19, canvas=256)
    index = list(packaged.PHOTOS).index("text")  # 172 px high
    assert source.box(index)[2] == 172 and source[index]["image"].shape == (256, 256, 1)


def test_squares_are_a_pure_function_of_seed_and_index():
    a, b, other = _photos("pretrain"), _photos("pretrain"), _photos("pretrain", seed=1)
    b[3]  # access in between changes nothing
    np.testing.assert_array_equal(a[77]["image"], b[77]["image"])
    assert a.box(77) != other.box(77)
    assert a.fingerprint() == b.fingerprint() != other.fingerprint()
    assert a.fingerprint() != _photos("pretrain", size=100).fingerprint()
    assert _photos("train").fingerprint() != _photos("test").fingerprint()
    assert _photos("train").fingerprint() != _photos("train", contrast_normalise=False).fingerprint()


def test_mistakes_are_named():
    with pytest.raises(UserError, match="image_size 128 does not fit"):
        _photos("test", image_size=128)
    with pytest.raises(UserError, match="max_zoom"):
        _photos("pretrain", max_zoom=0.5)
    with pytest.raises(UserError, match="unknown split 'tset'; did you mean 'test'"):
        _photos("tset")
    with pytest.raises(UserError, match="unknown data source 'photo'; did you mean 'photos'"):
        open_source(ConfigDict({"source": "photo", "path": ""}), "train", _data())
    with pytest.raises(UserError, match="10 images|5000 images"):
        _photos("train", size=5000)


def test_aphotograph_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(packaged.PHOTOS, "cat", ("scikit-image", "skimage", "data/no_such_cat.png"))
    with pytest.raises(UserError, match="scikit-image.*no_such_cat"):
        packaged.photo_file("cat")
    monkeypatch.setitem(packaged.PHOTOS, "cat", ("no-such-package", "no_such_package", "cat.png"))
    with pytest.raises(UserError, match="pip install no-such-package"):
        packaged.photo_file("cat")


def test_digits_are_split_by_class_without_overlap():
    settings = ConfigDict({"source": "digits", "path": "", "size": 0})
    train, test, pretrain = (open_source(settings, split, _data()) for split in ("train", "test", "pretrain"))
    assert len(train) + len(test) == 1797 and abs(len(test) / 1797 - 0.2) < 0.005
    for source in (train, test):
        share = np.bincount([source.label(i) for i in range(len(source))]) / len(source)
        assert share.min() > 0.09 and share.max() < 0.11
    assert train[0]["image"].shape == (32, 32, 1) and pretrain[0]["image"].shape == (64, 64, 1)
    assert len(pretrain) == len(train) and [pretrain.label(i) for i in range(9)] == [train.label(i) for i in range(9)]
    whole = open_source(settings, "train", _data(image_size=8))
    from sklearn.datasets import load_digits

    originals = load_digits().data
    seen = {tuple(row) for row in originals}
    assert all(tuple(np.rint(whole[i]["image"].ravel() * (16 / 255))) in seen for i in range(0, 1442, 50))
    assert train.fingerprint() != test.fingerprint()
