"""k-shot draws, label fractions and permuted parts: exact counts, seeds, and the class that is short."""

import numpy as np
import pytest

from gssl_jax.data import subsets
from gssl_jax.errors import UserError

LABELS = np.array([2, 0, 1, -1, 0, 0, 2, 1, -1, 0, 2, 1, 2])


def test_k_shot_draws_exactly_k_of_every_class():
    for k in (1, 2, 3):
        chosen = subsets.k_shot(LABELS, k, seed=0, draw=0)
        assert len(set(chosen.tolist())) == 3 * k
        assert np.bincount(LABELS[chosen]).tolist() == [k, k, k]  # bincount would refuse a -1


def test_k_shot_draws_differ_by_draw_and_seed_alone():
    labels = np.repeat(np.arange(5), 100)
    first = subsets.k_shot(labels, 5, seed=0, draw=0)
    np.testing.assert_array_equal(first, subsets.k_shot(labels, 5, seed=0, draw=0))
    for seed, draw in ((0, 1), (1, 0)):
        assert not np.array_equal(first, subsets.k_shot(labels, 5, seed=seed, draw=draw))
    drawn = np.concatenate([subsets.k_shot(labels, 5, 0, draw) for draw in range(200)])
    assert np.bincount(drawn, minlength=500).min() >= 1  # 10 expected each; every image is drawn sometimes


def test_k_shot_names_the_class_that_is_short():
    with pytest.raises(UserError, match="class '1' has 3 training images but 4 per class"):
        subsets.k_shot(LABELS, 4, 0, 0)
    with pytest.raises(UserError, match="class 'ape' has 0 training images but 1"):
        subsets.k_shot(LABELS, 1, 0, 0, classes=("cat", "dog", "cow", "ape"))
    with pytest.raises(UserError, match="class 'dog' has 3"):
        subsets.k_shot(LABELS, 4, 0, 0, classes=("cat", "dog", "cow"))


def test_a_fraction_keeps_at_least_one_of_each_class():
    labels = np.repeat([0, 1, 2], [200, 40, 3])
    chosen = subsets.fraction(labels, 0.1, seed=3)
    assert np.bincount(labels[chosen]).tolist() == [20, 4, 1]
    np.testing.assert_array_equal(subsets.fraction(labels, 1.0, 0), np.arange(243))
    assert not np.array_equal(chosen, subsets.fraction(labels, 0.1, seed=4))
    for share in (0.0, 1.5):
        with pytest.raises(UserError, match="fraction"):
            subsets.fraction(labels, share, 0)


def test_permuted_parts_are_nested():
    small, large = (set(subsets.first_n_permuted(100, n, 7).tolist()) for n in (10, 30))
    assert len(small) == 10 and len(large) == 30 and small < large
    assert small != set(range(10))
    assert set(subsets.first_n_permuted(100, 100, 7).tolist()) == set(range(100))
    for n in (0, 101):
        with pytest.raises(UserError, match="the set holds 100"):
            subsets.first_n_permuted(100, n, 7)


class Numbers:
    name, classes, normalised = "numbers", ("even", "odd"), False

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return {"image": np.full((1, 1, 1), index, np.uint8), "label": index % 2, "index": index}

    def label(self, index):
        return index % 2

    def describe(self, index):
        return f"number {index}"

    def fingerprint(self):
        return "ab"


def test_a_subset_is_a_source():
    subset = subsets.Subset(Numbers(), np.array([3, 8, 9]))
    assert len(subset) == 3 and subset.classes == ("even", "odd")
    assert subset[1]["image"].item() == 8 and subset[1]["index"] == 1 and subset[1]["label"] == 0
    assert subset.label(2) == 1 and subset.describe(0) == "number 3"
    other = subsets.Subset(Numbers(), np.array([3, 8, 7]))
    assert len({subset.fingerprint(), other.fingerprint(), Numbers().fingerprint()}) == 3
