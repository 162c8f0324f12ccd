"""Draws of several labels and lists of file names, on sets small enough to count by hand."""

from __future__ import annotations

import numpy as np
import pytest

from gssl_jax.data.draws import k_shot_labels, listed, share_of_labels
from gssl_jax.errors import UserError

RNG = np.random.default_rng(0)


def labels(count=200):
    found = (RNG.random((count, 5)) < [0.5, 0.3, 0.1, 0.05, 0.03]).astype(np.float32)
    found[RNG.random(found.shape) < 0.1] = np.nan
    return found


@pytest.mark.parametrize("k", [1, 2, 5])
def test_every_class_has_k_of_either_kind_or_all_it_has(k):
    several = labels()
    several[:, 4] = np.where(several[:, 4] == 0, 1, several[:, 4])
    several[:4, 4] = 0.0  # a class with more positives than negatives, of which there are four
    drawn = k_shot_labels(several, k, 0, 0)
    assert (np.diff(drawn) > 0).all() and len(drawn) <= 2 * 5 * k
    for value in (0, 1):
        counts, there = (several[drawn] == value).sum(0), (several == value).sum(0)
        assert (counts >= np.minimum(k, there)).all()
    assert (several[drawn, 4] == 0).sum() == min(k, 4)
    np.testing.assert_array_equal(drawn, k_shot_labels(several, k, 0, 0))
    others = {tuple(k_shot_labels(several, k, seed, draw)) for seed, draw in ((0, 1), (1, 0), (2, 0))}
    assert tuple(drawn) not in others and len(others) == 3


def test_an_image_of_a_rare_class_serves_a_common_one():
    """Class 1 has one image, which has class 0 too: it is the positive of one shot, the last image the negative."""
    several = np.array([[1, 0], [1, 1], [1, 0], [0, 0]], np.float32)
    for draw in range(8):
        assert k_shot_labels(several, 1, 0, draw).tolist() == [1, 3]
    assert len(k_shot_labels(several[:3], 2, 0, 0)) == 3  # one more of class 0, and two without class 1


def test_a_share_has_every_class_and_leaves_unlabelled_images_out():
    several = labels()
    several[:20] = np.nan
    known = (~np.isnan(several).all(1)).sum()
    for draw in range(5):
        drawn = share_of_labels(several, 0.1, 0, draw)
        assert len(drawn) == len(set(drawn)) == round(0.1 * known) and drawn.min() >= 20
        assert (several[drawn] == 1).any(0).all()
    assert len(share_of_labels(several, 1.0, 0, 0)) == known
    few = share_of_labels(several, 0.001, 0, 0)  # less than an image, and still every class
    assert (several[few] == 1).any(0).all() and len(few) <= 10
    with pytest.raises(UserError, match=r"must lie in \(0, 1\], not 0"):
        share_of_labels(several, 0, 0, 0)


NAMES = ["/data/train/a/n1_1.JPEG", "/data/train/a/n1_2.JPEG", "/data/train/b/n2_1.JPEG", "/data/train/b/n1_2.JPEG"]


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("n2_1.JPEG\nn1_1.JPEG\n", [0, 2]),
        ("b/n1_2.JPEG\n\n  n2_1.JPEG  \n", [2, 3]),
        ("train/a/n1_2.JPEG\r\na/n1_2.JPEG\r\n./a/n1_1.JPEG", [0, 1]),
        ("/data/train/a/n1_1.JPEG", [0]),
    ],
)
def test_a_list_names_images_by_file_or_by_the_end_of_their_path(tmp_path, text, rows):
    (tmp_path / "list.txt").write_text(text)
    assert listed(tmp_path / "list.txt", NAMES).tolist() == rows


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("n2_1.JPEG\nn9_1.JPEG\n1_1.JPEG\n", r"2 of 3 names in .*list.txt are no readable images.*n9_1.JPEG, 1_1.JPEG; "
         r"its images have names such as /data/train/a/n1_1.JPEG"),
        ("n1_2.JPEG", r"1 of 1 names in .* fit several images, n1_2.JPEG both /data/train/a/n1_2.JPEG and .*/b/n1_2"),
        ("\n \n", r"list.txt is empty"),
    ],
)  # fmt: skip
def test_lists_that_do_not_fit_are_refused(tmp_path, text, message):
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        listed(tmp_path / "list.txt", NAMES)


def test_a_list_that_is_not_there():
    with pytest.raises(UserError, match="there is no file 'nowhere.txt'"):
        listed("nowhere.txt", NAMES)
