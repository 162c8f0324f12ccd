"""Whole sets as arrays: nothing lost, nothing twice, padding marked."""

import cv2
import numpy as np
import pytest
from ml_collections import ConfigDict

from gssl_jax.data import arrays, decode
from gssl_jax.data.sources import open_source
from gssl_jax.data.substitution import Substituted
from gssl_jax.errors import UserError

BASE = dict(image_size=16, channels=1, canvas=24, contrast_normalise=False, seed=0, holdout=0.2, threads=2)
BASE |= dict(max_broken=0.2, resident_mib=8, max_zoom=4.0)


def _data(**changes):
    return ConfigDict(BASE | changes)


@pytest.fixture
def folder(tmp_path):
    """Eleven pictures of two classes, each of its own value and size."""
    for number in range(11):
        place = tmp_path / ("ab"[number % 2])
        place.mkdir(exist_ok=True)
        cv2.imwrite(str(place / f"{number:02d}.png"), np.full((20 + number, 40 - number, 3), 10 + number, np.uint8))
    return tmp_path


def _train(folder):
    return open_source(ConfigDict({"source": "folder", "path": str(folder), "size": 0}), "train", _data(holdout=0.01))


def _values(source):
    return [int(source.describe(i)[-6:-4]) + 10 for i in range(len(source))]


@pytest.mark.parametrize("threads", [0, 3])
def test_canvases_hold_every_image_in_order(folder, threads):
    source = _train(folder)
    canvases = arrays.load_canvases(source, _data(threads=threads, channels=3))
    assert canvases.shape == (9, 24, 24, 3) and canvases.dtype == np.uint8
    np.testing.assert_array_equal(canvases, np.array(_values(source))[:, None, None, None] + 0 * canvases)


def test_a_canvas_is_the_resized_central_square():
    settings = ConfigDict({"source": "photos", "path": "", "size": 5})
    source = open_source(settings, "pretrain", _data(canvas=64))
    canvases = arrays.load_canvases(source, _data(canvas=40))
    expected = cv2.resize(source[3]["image"], (40, 40), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(canvases[3, :, :, 0], expected)


def test_unreadable_images_are_replaced_in_canvases_and_left_out_of_evaluation(folder):
    source = _train(folder)
    open(source.describe(2), "wb").close()
    readable = Substituted(source, 0.2)
    canvases = arrays.load_canvases(readable, _data())
    assert canvases[2, 0, 0, 0] == canvases[3, 0, 0, 0] == _values(source)[3]
    assert len(readable.broken) == 1
    evaluation = arrays.evaluation_set(source, _data(), 16)
    assert evaluation["image"][:, 0, 0, 0].tolist() == [v for i, v in enumerate(_values(source)) if i != 2]
    with pytest.raises(UserError, match="unusable images"):
        open(source.describe(5), "wb").close()
        arrays.load_canvases(source, _data(max_broken=0.0))


def test_images_under_the_smallest_side_are_left_out(folder):
    source = _train(folder)
    kept = arrays.evaluation_set(source, _data(), 16, min_side=21)
    assert len(kept["label"]) == 8 and 10 not in kept["image"]


def test_an_evaluation_set_is_cut_at_the_centre_and_labelled(folder):
    source = _train(folder)
    found = arrays.evaluation_set(source, _data(), 18)
    assert found["image"].shape == (9, 16, 16, 1) and found["label"].dtype == np.int32
    assert found["label"].tolist() == [source.label(i) for i in range(9)]
    assert found["image"][:, 5, 5, 0].tolist() == _values(source)
    with pytest.raises(UserError, match="data.resident_mib"):
        arrays.evaluation_set(source, _data(resident_mib=0), 18)


def test_contrast_is_normalised_once(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(2):
        cv2.imwrite(str(tmp_path / f"{number}.png"), rng.integers(100, 140, (16, 16), np.uint8))
    source = open_source(ConfigDict({"source": "folder", "path": str(tmp_path), "size": 0}), "pretrain", _data())
    plain = arrays.evaluation_set(source, _data(), 16)["image"]
    normalised = arrays.evaluation_set(source, _data(contrast_normalise=True), 16)["image"]
    np.testing.assert_array_equal(normalised[1], decode.contrast_normalised(plain[1]))
    assert plain.std() < 15 < 35 < normalised.std()
    colour = _data(contrast_normalise=True, channels=3)
    np.testing.assert_array_equal(arrays.evaluation_set(source, colour, 16)["image"][..., :1], plain)
    photos = open_source(ConfigDict({"source": "photos", "path": ""}), "test", _data(contrast_normalise=True))
    found = arrays.evaluation_set(photos, _data(contrast_normalise=True), 16)["image"]
    np.testing.assert_array_equal(found[30], photos[30]["image"])  # normalised by the source, not again


@pytest.mark.parametrize("as_source", [False, True])
@pytest.mark.parametrize("batch_size", [1, 4, 9, 50])
def test_batches_hold_everything_once_and_mark_the_padding(folder, batch_size, as_source):
    source, data = _train(folder), _data()
    whole = arrays.evaluation_set(source, data, 18)
    given = (source, batch_size, data, 18) if as_source else (whole, batch_size)
    batches = list(arrays.evaluation_batches(*given))
    assert len(batches) == -(-9 // batch_size)
    assert all(batch["image"].shape == (batch_size, 16, 16, 1) for batch in batches)
    joined = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    valid = joined["valid"]
    assert valid.dtype == bool and valid.sum() == 9 and valid[:9].all()
    np.testing.assert_array_equal(joined["image"][valid], whole["image"])
    np.testing.assert_array_equal(joined["label"][valid], whole["label"])
    assert joined["index"][valid].tolist() == list(range(9)) and joined["index"].dtype == np.int32
    assert (joined["label"][~valid] == -1).all() and (joined["index"][~valid] == -1).all()


def test_an_unreadable_image_leaves_an_invalid_place_in_its_batch(folder):
    source = _train(folder)
    open(source.describe(5), "wb").close()
    first, second, third = arrays.evaluation_batches(source, 4, _data(), 18)
    assert first["valid"].all() and second["valid"].tolist() == [True, False, True, True]
    assert second["index"].tolist() == [4, -1, 6, 7] and third["valid"].tolist() == [True, False, False, False]
    with pytest.raises(UserError, match="at least 1"):
        next(arrays.evaluation_batches(source, 0, _data(), 18))


def test_several_labels_arrive_as_they_are_and_padding_has_none(tmp_path):
    for name in ("a", "b", "c"):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.full((20, 20), 50, np.uint8))
    (tmp_path / "train.txt").write_text("a.png 1 0\nb.png nan 1\nc.png 0 0\n")
    source = open_source(ConfigDict({"source": "lists", "path": str(tmp_path), "size": 0}), "train", _data())
    wanted = np.array([[1, 0], [np.nan, 1], [0, 0]], np.float32)
    whole = arrays.evaluation_set(source, _data(), resize=16)
    np.testing.assert_array_equal(whole["label"], wanted)
    assert whole["label"].dtype == np.float32
    for images in (whole, source):
        batches = list(arrays.evaluation_batches(images, 2, _data(), 16))
        labels = np.concatenate([batch["label"] for batch in batches])
        np.testing.assert_array_equal(labels, np.concatenate([wanted, np.full((1, 2), np.nan, np.float32)]))
        assert labels.dtype == np.float32 and batches[1]["valid"].tolist() == [True, False]


class Painted:
    """Images whose colour is their mask: value 10 m + 5 where the mask is m; the last image cannot be read."""

    name, classes, parts, normalised, multilabel = "painted", (), ("a", "b", "c", "d"), False, False

    def __len__(self):
        return 5

    def label(self, index):
        return -1

    def describe(self, index):
        return f"painted {index}"

    def fingerprint(self):
        return "ab"

    def __getitem__(self, index):
        if index == 4:
            raise decode.BrokenImage("painted 4", "made so")
        rng = np.random.default_rng(index)
        mask = np.kron(rng.integers(0, 4, (3, 5)), np.ones((16, 16))).astype(np.uint8)  # 48 x 80, cells of 16
        return {"image": 10 * mask[:, :, None] + 5, "label": -1, "index": index, "segmentation": mask}


@pytest.mark.parametrize(("resize", "size", "alike"), [(48, 20, 1.0), (24, 20, 1.0), (31, 30, 0.95), (96, 88, 0.975)])
def test_masks_are_cut_as_their_images_are(resize, size, alike):
    """Cells of 16 pixels stay whole at half the size; else pixels of the image are mixed where two cells meet."""
    found = arrays.evaluation_set(Painted(), _data(image_size=size), resize)
    masks = found["segmentation"]
    assert masks.shape == (4, size, size) and masks.dtype == np.uint8 and len(np.unique(masks)) == 4
    levels = np.rint((found["image"][..., 0].astype(float) - 5) / 10)
    assert (levels == masks).mean() >= alike
    if resize == 48:
        np.testing.assert_array_equal(masks[1], Painted()[1]["segmentation"][14:34, 30:50])


def test_batches_carry_masks_and_pad_them():
    data = _data(image_size=20)
    whole = arrays.evaluation_set(Painted(), data, 24)
    for batches in (arrays.evaluation_batches(whole, 3), arrays.evaluation_batches(Painted(), 3, data, 24)):
        batches = list(batches)
        assert [batch["segmentation"].shape for batch in batches] == [(3, 20, 20)] * 2
        masks = np.concatenate([batch["segmentation"][batch["valid"]] for batch in batches])
        np.testing.assert_array_equal(masks, whole["segmentation"])
        assert (batches[1]["segmentation"][1:] == 255).all()
    assert "segmentation" not in next(arrays.evaluation_batches({"image": whole["image"], "label": whole["label"]}, 3))
