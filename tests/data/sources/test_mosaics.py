"""Mosaics of photographs: exact masks, labels that say what is in them, and a test half that was never seen."""

from __future__ import annotations

import numpy as np
import pytest
from ml_collections import ConfigDict

from gssl_jax.data import decode
from gssl_jax.data.sources import open_source
from gssl_jax.data.sources.mosaics import COUNTS, regions
from gssl_jax.data.sources.packaged import PHOTOS, photograph
from gssl_jax.errors import UserError


def mosaics(split="train", **changes):
    data = dict(image_size=32, canvas=48, channels=3, seed=0, contrast_normalise=False) | changes
    return open_source(ConfigDict(dict(source="mosaics", path="")), split, ConfigDict(data))


@pytest.mark.parametrize(("split", "channels"), [("train", 3), ("test", 1), ("pretrain", 3)])
def test_every_pixel_is_that_of_the_named_photograph(split, channels):
    source = mosaics(split, channels=channels)
    side = 48 if split == "pretrain" else 32
    for i in range(0, len(source), len(source) // 40):
        sample, (pieces, _) = source[i], source.pieces(i)
        mask, image = sample["segmentation"], sample["image"]
        assert image.shape == (side, side, channels) and mask.shape == (side, side) and mask.dtype == np.uint8
        assert set(np.unique(mask)) == {piece.label for piece in pieces} == set(np.flatnonzero(sample["label"]))
        assert 2 <= len(pieces) <= 4 and min(np.bincount(mask.ravel())[[p.label for p in pieces]]) >= 0.1 * side**2
        for piece in pieces:
            inside = np.argwhere(mask == piece.label)
            picture = photograph(list(PHOTOS)[piece.label], channels)
            rows, columns = (inside + (piece.top, piece.left)).T
            np.testing.assert_array_equal(image[tuple(inside.T)], picture[rows, columns])


def test_test_columns_are_never_in_train():
    for split, other in (("train", False), ("pretrain", False), ("test", True)):
        source = mosaics(split)
        for i in range(len(source) if split != "pretrain" else 400):
            for piece in source.pieces(i)[0]:
                width = photograph(list(PHOTOS)[piece.label], 3).shape[1]
                first, last = piece.left, piece.left + (48 if split == "pretrain" else 32) - 1
                assert (10 * first >= 7 * width) if other else (10 * last < 7 * width), (split, i)


def test_a_set_is_fixed_whatever_the_seed():
    one, other = mosaics(), mosaics(seed=7)
    for i in (0, 5, 599):
        for name in ("image", "label", "segmentation"):
            np.testing.assert_array_equal(one[i][name], other[i][name])
    assert one.fingerprint() == other.fingerprint()
    assert len({mosaics(split).fingerprint() for split in COUNTS} | {mosaics(image_size=40).fingerprint()}) == 4
    assert (len(one), len(mosaics("test")), len(mosaics("pretrain"))) == (600, 200, 4096)
    assert one.multilabel and one.classes == one.parts == tuple(PHOTOS)
    counts = np.sum([one.label(i) for i in range(600)], axis=0)
    assert counts.min() > 60 and counts.sum() == pytest.approx(1800, rel=0.05)  # 3 of 19 on average
    with pytest.raises(IndexError):
        one[600]


def test_grey_mosaics_are_normalised_photograph_by_photograph():
    source, raw = mosaics(channels=1, contrast_normalise=True), mosaics(channels=1)
    assert source.normalised and not raw.normalised and not mosaics("pretrain", channels=1).normalised
    sample, (pieces, region) = source[3], source.pieces(3)
    for number, piece in enumerate(pieces):
        picture = photograph(list(PHOTOS)[piece.label], 3)
        square = picture[piece.top : piece.top + 32, piece.left : piece.left + 32]
        expected = decode.contrast_normalised(decode.luma(square))
        np.testing.assert_array_equal(sample["image"][region == number], expected[region == number])


def test_regions_are_whole_and_wavy():
    found = regions(np.random.default_rng(1), 64, 3)
    assert np.bincount(found.ravel()).min() >= 0.1 * 64**2 and len(np.unique(found)) == 3
    # a straight border between two half-planes would cross rows at places on a line: second differences of 0
    edge = np.argmax(regions(np.random.default_rng(4), 256, 2) != regions(np.random.default_rng(4), 256, 2)[:, :1], 1)
    steps = np.diff(edge[edge > 0])
    assert np.ptp(steps) > 1


def test_what_cannot_be_made_is_refused():
    with pytest.raises(UserError, match="unknown split 'val'"):
        mosaics("val")
    with pytest.raises(UserError, match="do not fit the photograph.*smaller data.image_size"):
        mosaics("test", image_size=400)
