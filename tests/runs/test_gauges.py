"""What a watch measures by, on features written by hand."""

from __future__ import annotations

import numpy as np
import pytest
from ml_collections import ConfigDict

from gssl_jax import presets
from gssl_jax.errors import UserError
from gssl_jax.runs.gauges import EffectiveRank, Look, NearestNeighbours, gauge_of, halves


class Judge:
    """In the place of `evaluation.Judge`: the features of an image are its pixels times the variables [D]."""

    settings = ConfigDict({"knn": {"feature": "feat", "k": 20, "temperature": 0.07}})

    def __init__(self, pixels, labels, labelled=True):
        self.sets, self.labelled = {"train": {"image": pixels, "label": labels}}, labelled

    def some(self, split, count):
        return {name: values[:count] for name, values in self.sets[split].items()}

    def features(self, variables, images):
        return {"feat": images["image"] * np.float32(variables)[None], "label": images["label"]}


def settings(**changes):
    found = presets.continuation()
    found.update(changes)
    return found


def two_classes(n=40):
    """Class 0 along the first axis, class 1 along the second, with a third axis that says nothing."""
    labels = np.arange(n) % 2
    pixels = np.eye(3, dtype=np.float32)[labels] + 0.01
    pixels[:, 2] = np.random.default_rng(0).standard_normal(n)
    return Judge(pixels, labels)


@pytest.mark.parametrize("count", [8, 13, 40, 1000])
def test_halves_are_disjoint_balanced_and_the_same_again(count):
    labels = np.array([0] * 50 + [1] * 3 + [2] * 9 + [-1] * 30 + [3])
    known, asked = halves(labels, count)
    assert len(known) + len(asked) <= count and not set(known) & set(asked)
    for rows in (known, asked):
        assert labels[rows].min() >= 0 and 3 not in labels[rows]  # a single image cannot be found by its own kind
    np.testing.assert_array_equal(known, halves(labels, count)[0])
    sizes = [np.bincount(labels[rows], minlength=3) for rows in (known, asked)]
    assert np.all(sizes[0] - sizes[1] <= 1) and np.all(sizes[0] >= sizes[1])
    assert {8: [2, 0, 2], 13: [2, 1, 2], 40: [14, 1, 4], 1000: [25, 1, 4]}[count] == sizes[1].tolist()


def test_many_classes_are_thinned_out_until_each_has_four_images():
    known, asked = halves(np.arange(1000) % 100, 60)
    assert np.all(np.unique(np.arange(1000)[known] % 100, return_counts=True)[1] == 2) and len(asked) == 30
    assert not halves(np.zeros(10, int), 8)[0].size  # one class is no question


def test_accuracy_of_a_backbone_that_sees_and_of_one_that_does_not():
    gauge = NearestNeighbours(two_classes(), settings())
    assert gauge.look([1, 1, 0]) == Look(1.0, "1" * 20)
    blind = gauge.look([0, 0, 1])
    assert blind.score == blind.right.count("1") / 20 < 0.8
    assert gauge.look([np.nan, 1, 1]) == Look(0.0, "0" * 20)


@pytest.mark.parametrize(
    ("lost", "won", "fallen"),
    [
        (2, 0, False),  # .05, the margin itself
        (3, 0, False),  # .075; error sqrt(3 - 9 / 40) / 40 = .0416, twice that is .083
        (5, 0, True),  # .125; error sqrt(5 - 25 / 40) / 40 = .0523, twice that is .105
        (9, 4, False),  # .125 too, and error sqrt(13 - 25 / 40) / 40 = .0879
        (0, 9, False),
    ],
)
def test_a_fall_is_more_than_the_margin_and_more_than_chance(lost, won, fallen):
    gauge = NearestNeighbours(two_classes(80), settings())
    best = "1" * lost + "0" * won + "1" * (40 - lost - won)
    now = "0" * lost + "1" * won + "1" * (40 - lost - won)
    assert gauge.size == 40 and gauge.fallen(0.0, Look(0.9, best), Look(0.8, now)) == fallen
    patient = NearestNeighbours(two_classes(80), settings(margin=0.2))
    assert not patient.fallen(0.0, Look(0.9, best), Look(0.8, now))


def test_effective_rank_against_its_share_of_the_start():
    judge = two_classes()
    gauge = EffectiveRank(judge, settings(images=30, rank_share=0.5))
    assert gauge.size == 30
    one, several = gauge.look([1, 0, 0]).score, gauge.look([1, 1, 1]).score
    assert one == pytest.approx(1.0, abs=1e-3) and 1.5 < several <= 3.0
    assert gauge.look([np.inf, 0, 0]) == Look(0.0)
    best = Look(100.0)  # has no say
    assert [gauge.fallen(4.0, best, Look(rank)) for rank in (1.9, 2.0, 4.0)] == [True, False, False]


def test_labels_decide_what_is_measured():
    labelled, bare = two_classes(), two_classes()
    bare.labelled = False
    assert isinstance(gauge_of(labelled, settings()), NearestNeighbours)
    assert isinstance(gauge_of(labelled, settings(watch="health")), EffectiveRank)
    assert isinstance(gauge_of(bare, settings()), EffectiveRank)
    assert gauge_of(labelled, settings(watch="off")) is None
    several = Judge(np.ones((20, 3), np.float32), np.ones((20, 4), np.float32))
    assert isinstance(gauge_of(several, settings()), EffectiveRank)
    unknown = Judge(np.ones((20, 3), np.float32), np.full(20, -1))
    assert isinstance(gauge_of(unknown, settings()), EffectiveRank)  # class names, and no image with a label
    with pytest.raises(UserError, match="needs evals.data with one label per image.*watch=health"):
        gauge_of(bare, settings(watch="knn"))
    assert gauge_of(Judge(np.zeros((0, 3)), np.zeros(0, int), False), settings()) is None
