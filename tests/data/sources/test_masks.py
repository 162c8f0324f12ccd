"""Folders of images with masks: layouts, hold-out, names, and every odd mask by its name."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from gssl_jax.data import arrays
from gssl_jax.data.sources import open_source
from gssl_jax.data.substitution import Substituted
from gssl_jax.errors import UserError


def opened(root, split="train", **changes):
    data = ConfigDict(dict(holdout=0.25, max_broken=0.5) | changes)
    return open_source(ConfigDict(dict(source="masks", path=str(root))), split, data)


def write(root, name, mask, mode="P"):
    """An image whose red is 10 times its mask, and the mask."""
    for part in ("images", "masks"):
        (root / part / name).parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(mask.astype(np.uint8))
    if mode == "P":
        picture = picture.convert("P")
        picture.putdata(mask.astype(np.uint8).ravel().tolist())
        picture.putpalette(list(range(255, -1, -1)) * 3)  # colours that are not the classes
    picture.save(root / "masks" / f"{name}.png")
    cv2.imwrite(str(root / "images" / f"{name}.jpg"), np.full((*mask.shape, 3), 10, np.uint8))


def mask_of(number, side=8):
    return np.random.default_rng(number).integers(0, 3, (side, side + number))


@pytest.fixture
def root(tmp_path):
    for number in range(8):
        write(tmp_path, f"{'deep/' if number % 2 else ''}{number}", mask_of(number), "PL"[number % 2])
    return tmp_path


def test_masks_are_values_and_not_colours(root):
    sets = {split: opened(root, split) for split in ("train", "test", "pretrain")}
    assert {split: len(found) for split, found in sets.items()} == {"train": 6, "test": 2, "pretrain": 6}
    seen = set()
    for source in (sets["train"], sets["test"]):
        assert source.parts == ("0", "1", "2") and source.classes == () and not source.multilabel
        for i in range(len(source)):
            number = int(source.describe(i).rsplit("/", 1)[1][0])
            np.testing.assert_array_equal(source[i]["segmentation"], mask_of(number))
            assert source[i]["image"].shape == (8, 8 + number, 3) and source[i]["label"] == source.label(i) == -1
            seen.add(number)
    assert seen == set(range(8))
    again = opened(root, "test")
    assert [again.describe(i) for i in range(2)] == [sets["test"].describe(i) for i in range(2)]


def test_split_folders_and_names(tmp_path):
    write(tmp_path / "train", "a", mask_of(0))
    write(tmp_path / "test", "b", np.full((8, 8), 255))
    (tmp_path / "classes.txt").write_text("sky\nroad\ntree\nnever seen\n")
    train, test = opened(tmp_path), opened(tmp_path, "test")
    assert train.parts == test.parts == ("sky", "road", "tree", "never seen")
    assert (len(train), len(test)) == (1, 1) and (test[0]["segmentation"] == 255).all()
    before = train.fingerprint()
    (tmp_path / "classes.txt").write_text("sky\nroad\ntree\n")
    assert opened(tmp_path).fingerprint() != before
    (tmp_path / "classes.txt").write_text("sky\nroad\n")
    with pytest.raises(UserError, match="the value 2 is no class; there are 2"):
        opened(tmp_path)[0]
    (tmp_path / "classes.txt").write_text("sky\nsky\n")
    with pytest.raises(UserError, match="names the class 'sky' twice"):
        opened(tmp_path)


def test_odd_masks_are_counted_and_named(root):
    source = opened(root)
    places = [source.describe(i).replace("/images/", "/masks/").replace(".jpg", ".png") for i in range(4)]
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(places[0])
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(places[1])
    open(places[2], "wb").close()
    (root / places[3]).unlink()
    readable = Substituted(source, 1.0)
    data = ConfigDict(
        dict(image_size=8, channels=3, contrast_normalise=False, max_broken=1.0, resident_mib=8, threads=0)
    )
    assert len(arrays.evaluation_set(readable, data, 8)["image"]) == 2
    for file, reason in zip(
        places, ("RGB", "5 x 5 px and its image", "cannot identify", "no mask of this name"), strict=True
    ):
        assert any(file in line and reason in line for line in readable.broken), (file, readable.broken)
    with pytest.raises(UserError, match="unusable images"):
        arrays.evaluation_set(Substituted(source, 0.1), data, 8)


def test_folders_that_are_no_such_set(tmp_path):
    with pytest.raises(UserError, match="no folder"):
        opened(tmp_path / "none")
    with pytest.raises(UserError, match="has no train/images/"):
        opened(tmp_path)
    write(tmp_path, "a", mask_of(0))
    with pytest.raises(UserError, match="unknown split"):
        opened(tmp_path, "val")
    (tmp_path / "masks" / "a.png").unlink()
    with pytest.raises(UserError, match=r"no mask that can be read; the first image needs .*masks/a.png"):
        opened(tmp_path)
    (tmp_path / "masks").rmdir()
    with pytest.raises(UserError, match="has no masks/"):
        opened(tmp_path)
