"""Accuracies of classes and groups by hand, with classes that no test image shows."""

from __future__ import annotations

import numpy as np
import pytest

from gssl_jax.data.subsets import long_tail_counts
from gssl_jax.errors import UserError
from gssl_jax.evals.per_class import balanced_accuracy, class_groups, grouped_accuracy, per_class_accuracy


def members(groups):
    return {name: np.flatnonzero(chosen).tolist() for name, chosen in groups.items()}


def test_accuracies_by_hand():
    """Class 0: 2 of 3, class 1: 0 of 1, class 2: no test image, class 3: 1 of 2; balanced (2/3 + 0 + 1/2) / 3."""
    labels = np.array([0, 0, 0, 1, -1, 3, 3])
    predictions = np.array([0, 2, 0, 0, 1, 3, 0])
    found = per_class_accuracy(predictions, labels, 4)
    np.testing.assert_allclose(found, [2 / 3, 0.0, np.nan, 0.5])
    assert balanced_accuracy(found) == pytest.approx(7 / 18)


def test_nothing_to_judge_by():
    assert np.isnan(per_class_accuracy(np.array([0]), np.array([-1]), 2)).all()
    assert np.isnan(per_class_accuracy(np.zeros(0, int), np.zeros(0, int), 2)).all()
    assert np.isnan(balanced_accuracy(np.full(3, np.nan)))


def test_balanced_accuracy_is_the_accuracy_of_a_balanced_test_set():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(5), 20)
    predictions = np.where(rng.random(100) < 0.6, labels, rng.integers(0, 5, 100))
    found = balanced_accuracy(per_class_accuracy(predictions, labels, 5))
    assert found == pytest.approx((predictions == labels).mean())
    always_0 = per_class_accuracy(np.zeros(90, int), np.repeat([0, 1, 2], [80, 5, 5]), 5)
    assert balanced_accuracy(always_0) == pytest.approx(1 / 3)


def test_what_does_not_fit_is_refused():
    with pytest.raises(UserError, match="a test label is 4; expected 0 to 3"):
        per_class_accuracy(np.array([0, 1]), np.array([0, 4]), 4)
    with pytest.raises(UserError, match=r"\(2,\) and \(3,\)"):
        per_class_accuracy(np.zeros(2, int), np.zeros(3, int), 4)
    with pytest.raises(UserError, match="few-shot classes is 50; .* 20"):
        class_groups(np.array([1, 2]), many=20, few=50)


def test_thresholds_are_those_of_the_benchmark():
    """More than 100 is many, fewer than 20 few, both ends belong to the middle."""
    groups = class_groups(np.array([500, 101, 100, 50, 20, 19, 1, 0]))
    assert members(groups) == {"many": [0, 1], "medium": [2, 3, 4], "few": [5, 6, 7]}
    moved = class_groups(np.array([500, 101, 100, 50, 20, 19, 1, 0]), many=19, few=1)
    assert members(moved) == {"many": [0, 1, 2, 3, 4], "medium": [5, 6], "few": [7]}
    hundred = class_groups(long_tail_counts(500, 100, 0.01))
    assert [int(chosen.sum()) for chosen in hundred.values()] == [35, 35, 30]


def test_a_smaller_profile_is_cut_into_thirds_by_rank():
    tail = class_groups(long_tail_counts(5000, 10, 0.01))  # 50 in the last class: none has few
    assert members(tail) == {"head": [0, 1, 2, 3], "middle": [4, 5, 6], "tail": [7, 8, 9]}
    small = class_groups(np.array([3, 90, 3, 40, 5, 6]))
    assert members(small) == {"head": [1, 3], "middle": [4, 5], "tail": [0, 2]}
    assert members(class_groups(np.array([7, 7]))) == {"head": [0], "middle": [1], "tail": []}


def test_accuracy_of_groups():
    """Means over the classes of a group that have test images: (1 + .5) / 2, .25, none."""
    groups = class_groups(np.array([500, 200, 60, 40, 2]))
    found = grouped_accuracy(np.array([1.0, 0.5, 0.25, np.nan, np.nan]), groups)
    assert list(found) == ["many", "medium", "few"]
    assert found["many"] == pytest.approx(0.75) and found["medium"] == 0.25 and np.isnan(found["few"])
