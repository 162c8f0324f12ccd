"""k-shot draws, label fractions and permuted parts: exact counts, seeds, and the class that is short."""

import numpy as np
import pytest
from ml_collections import ConfigDict

from gssl_jax.data import subsets
from gssl_jax.data.sources.subset import Subset, Unlabelled
from gssl_jax.data.subsets import long_tail, split
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
    name, classes, parts, normalised, multilabel = "numbers", ("even", "odd"), ("one",), False, False

    def __len__(self):
        return 10

    def __getitem__(self, index):
        mask = np.full((1, 1), index, np.uint8)
        return {"image": mask[:, :, None], "label": index % 2, "index": index, "segmentation": mask}

    def label(self, index):
        return index % 2

    def describe(self, index):
        return f"number {index}"

    def fingerprint(self):
        return "ab"


def test_a_subset_is_a_source():
    subset = Subset(Numbers(), np.array([3, 8, 9]))
    assert len(subset) == 3 and subset.classes == ("even", "odd")
    assert subset[1]["image"].item() == 8 and subset[1]["index"] == 1 and subset[1]["label"] == 0
    assert subset[1]["segmentation"].item() == 8 and subset.parts == Unlabelled(subset, np.array([0])).parts == ("one",)
    assert subset.label(2) == 1 and subset.describe(0) == "number 3"
    other = Subset(Numbers(), np.array([3, 8, 7]))
    assert len({subset.fingerprint(), other.fingerprint(), Numbers().fingerprint()}) == 3


CIFAR_10, CIFAR_100 = (5000, 10), (500, 100)


def test_golden_counts_of_an_exponential_tail():
    assert subsets.long_tail_counts(5000, 10, 0.01).tolist() == [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    tenth = [5000, 3871, 2997, 2320, 1796, 1391, 1077, 834, 645, 500]
    assert subsets.long_tail_counts(5000, 10, 0.1).tolist() == tenth


@pytest.mark.parametrize(
    ("images", "factor", "total"),
    [
        (CIFAR_10, 0.01, 12406),
        (CIFAR_10, 0.02, 13996),
        (CIFAR_10, 0.05, 17023),
        (CIFAR_10, 0.1, 20431),
        (CIFAR_10, 1.0, 50000),
        (CIFAR_100, 0.01, 10847),
        (CIFAR_100, 0.02, 12608),
        (CIFAR_100, 0.05, 15907),
        (CIFAR_100, 0.1, 19573),
    ],
)
def test_golden_totals_of_an_exponential_tail(images, factor, total):
    each, classes = images
    assert subsets.long_tail_counts(each, classes, factor).sum() == total
    assert subsets.long_tail_counts([each] * classes, classes, factor, "exponential").sum() == total


def test_a_step_keeps_half_of_the_classes_whole():
    assert subsets.long_tail_counts(5000, 10, 0.01, "step").tolist() == [5000] * 5 + [50] * 5
    assert subsets.long_tail_counts(39, 5, 0.1, "step").tolist() == [39] * 2 + [3] * 3
    assert subsets.long_tail_counts(7, 1, 0.1, "step").tolist() == [7]


def test_unequal_classes_get_the_longest_tail_they_can_fill():
    """Shares 1, 1/10, 1/100: class 1 with 30 images allows 300 in the first class, the others allow more."""
    assert subsets.long_tail_counts([500, 30, 90], 3, 0.01).tolist() == [300, 30, 3]
    assert subsets.long_tail_counts([200, 30, 90], 3, 0.01).tolist() == [200, 20, 2]


def test_a_long_tail_needs_an_image_for_every_class():
    with pytest.raises(UserError, match="leaves class '2' with 0 images.* at least 0.020409 or") as told:
        subsets.long_tail_counts(49, 3, 0.01)  # int(.49) = 0
    least = float(str(told.value).split("at least ")[1].split()[0])
    assert subsets.long_tail_counts(49, 3, least).tolist()[-1] == 1
    with pytest.raises(UserError, match="leaves class 'rat' with 0 images.* at least 0.125 or") as told:
        subsets.long_tail_counts([50, 3, 100], 3, 0.01, names=("cat", "dog", "rat"))
    least = float(str(told.value).split("at least ")[1].split()[0])
    assert subsets.long_tail_counts([50, 3, 100], 3, least).tolist() == [8, 2, 1]
    with pytest.raises(UserError, match="class '1' has no image"):
        subsets.long_tail_counts([5, 0, 5], 3, 0.5)


def test_a_long_tail_refuses_what_makes_no_sense():
    for factor in (0.0, -0.1, 100.0, float("nan")):
        with pytest.raises(UserError, match=r"\(0, 1\], not .* 0.01"):
            subsets.long_tail_counts(5000, 10, factor)
    with pytest.raises(UserError, match="unknown .*'exp'; known: exponential, step"):
        subsets.long_tail_counts(5000, 10, 0.1, "exp")
    for available, classes in (([5, 5], 3), (5, 0), ([5], 3), ([[5, 5]], 2)):
        with pytest.raises(UserError, match=f"over {classes} classes needs"):
            subsets.long_tail_counts(available, classes, 0.5)


def test_a_long_tail_is_drawn_by_its_seed():
    labels = np.random.default_rng(0).permutation(np.append(np.repeat(np.arange(10), 500), [-1] * 50))
    chosen = subsets.long_tail(labels, 0.01, "exponential", seed=0)
    np.testing.assert_array_equal(np.bincount(labels[chosen]), subsets.long_tail_counts(500, 10, 0.01))
    assert (np.diff(chosen) > 0).all() and chosen.dtype == np.int64
    np.testing.assert_array_equal(chosen, subsets.long_tail(labels, 0.01, "exponential", seed=0))
    assert not np.array_equal(chosen, subsets.long_tail(labels, 0.01, "exponential", seed=1))
    wider = subsets.long_tail(labels, 0.1, "exponential", seed=0)
    assert set(chosen.tolist()) < set(wider.tolist())
    step = subsets.long_tail(labels, 0.1, "step", seed=0)
    assert np.bincount(labels[step]).tolist() == [500] * 5 + [50] * 5


def test_the_first_class_of_a_long_tail_may_be_limited():
    """Shares 1, 1/10, 1/100 of 200, not of 500."""
    assert subsets.long_tail_counts(500, 3, 0.01, most=200).tolist() == [200, 20, 2]
    assert subsets.long_tail_counts([500, 10, 90], 3, 0.01, most=200).tolist() == [100, 10, 1]
    assert subsets.long_tail_counts(500, 4, 0.1, "step", most=50).tolist() == [50, 50, 5, 5]
    with pytest.raises(UserError, match="to have -1 images; expected 1 or more, or 0 for all"):
        subsets.long_tail_counts(500, 3, 0.01, most=-1)


def test_the_seed_may_draw_which_class_is_rich():
    labels = np.repeat(np.arange(10), 500)
    tails = [
        np.bincount(labels[subsets.long_tail(labels, 0.01, "exponential", seed, shuffled=True)]) for seed in (0, 1, 2)
    ]
    for tail in tails:
        assert sorted(tail.tolist(), reverse=True) == subsets.long_tail_counts(500, 10, 0.01).tolist()
    assert len({tuple(tail.tolist()) for tail in tails}) == 3
    with pytest.raises(UserError, match="class '7' has no image"):  # by its own name, wherever it stands
        subsets.long_tail(np.delete(np.arange(10), 7), 0.5, "step", 0, shuffled=True)


def test_labels_out_of_range_are_refused_by_name():
    for labels, wrong in (([0, 1, 2, 3], "image 3 has the label 3; expected 0 to 2"), ([0, -2], "the label -2")):
        with pytest.raises(UserError, match=wrong):
            subsets.long_tail(np.array(labels), 0.5, "step", 0, classes=("cat", "dog", "cow"))
    with pytest.raises(UserError, match="class 'cow' has no image"):
        subsets.long_tail(np.array([0, 1]), 0.5, "step", 0, classes=("cat", "dog", "cow"))
    with pytest.raises(UserError, match=r"one class per image, not labels of the form \(2, 3\) float"):
        subsets.holdout(np.zeros((2, 3)), 0.1, 0)
    for unlabelled in (np.zeros(0, int), np.full(3, -1)):
        with pytest.raises(UserError, match="at least one class"):
            subsets.long_tail(unlabelled, 0.5, "step", 0)


def test_validation_images_come_from_what_a_long_tail_leaves_out():
    labels = np.random.default_rng(0).permutation(np.append(np.repeat(np.arange(10), 500), [-1] * 50))
    kept = subsets.long_tail(labels, 0.1, "exponential", seed=0)
    held = subsets.holdout_from_rest(labels, kept, 25, seed=0)
    assert np.bincount(labels[held], minlength=10).tolist() == [0] + [25] * 9  # the head leaves nothing out
    assert not set(held.tolist()) & set(kept.tolist()) and (np.diff(held) > 0).all()
    np.testing.assert_array_equal(held, subsets.holdout_from_rest(labels, kept, 25, seed=0))
    assert not np.array_equal(held, subsets.holdout_from_rest(labels, kept, 25, seed=1))
    few = subsets.holdout_from_rest(np.repeat([0, 1, 2], 6), np.arange(8), 5, seed=0)
    assert few[:4].tolist() == [8, 9, 10, 11] and len(few) == 9  # 0, 4 and 5 of 6
    with pytest.raises(UserError, match="the subset keeps all 18 labelled images"):
        subsets.holdout_from_rest(np.repeat([0, 1, 2], 6), np.arange(18), 5, seed=0)
    with pytest.raises(UserError, match="expected at least 1"):
        subsets.holdout_from_rest(labels, kept, 0, seed=0)


def test_a_share_of_every_class_is_held_out():
    labels = np.random.default_rng(0).permutation(np.repeat([-1, 0, 1, 2, 4], [50, 200, 40, 3, 1]))
    held = subsets.holdout(labels, 0.1, seed=0)
    assert np.bincount(labels[held], minlength=5).tolist() == [20, 4, 1, 0, 0]  # the only image of 4 stays
    np.testing.assert_array_equal(held, subsets.holdout(labels, 0.1, seed=0))
    assert not np.array_equal(held, subsets.holdout(labels, 0.1, seed=1))
    assert not np.array_equal(held, subsets.fraction(labels[labels < 4], 0.1, seed=0))
    most = subsets.holdout(labels, 0.99, seed=0)
    assert np.bincount(labels[most], minlength=5).tolist() == [198, 39, 2, 0, 0]
    for share in (0.0, 1.0):
        with pytest.raises(UserError, match=r"\(0, 1\)"):
            subsets.holdout(labels, share, 0)
    with pytest.raises(UserError, match="no class of the 3 training images has two"):
        subsets.holdout(np.array([-1, 0, 1]), 0.1, 0)


def test_a_number_of_labels_is_spread_evenly():
    labels = np.random.default_rng(0).permutation(np.append(np.repeat(np.arange(10), 500), [-1] * 50))
    for n in (4000, 1000, 40, 10):
        chosen = subsets.labelled_count(labels, n, seed=0)
        assert np.bincount(labels[chosen]).tolist() == [n // 10] * 10 and (np.diff(chosen) > 0).all()
    assert not np.array_equal(chosen, subsets.labelled_count(labels, 10, seed=1))
    for n, near in ((4005, "4000 or 4010"), (7, "10$"), (0, "10$")):
        with pytest.raises(UserError, match=f"^{n} labels .* 10 classes.*: {near}"):
            subsets.labelled_count(labels, n, seed=0)
    with pytest.raises(UserError, match="class '0' has 500 training images but 501"):
        subsets.labelled_count(labels, 5010, seed=0)
    with pytest.raises(UserError, match="do not divide among 3 classes"):
        subsets.labelled_count(labels, 10, seed=0, classes=("cat", "dog", "cow"))
    with pytest.raises(UserError, match="no image has one"):
        subsets.labelled_count(np.full(5, -1), 10, seed=0)


def test_a_number_of_labels_shows_every_class():
    """Invariant 12 of HPT: exactly n, every class at least once, by its seed; the others as frequent as they are."""
    labels = np.random.default_rng(0).permutation(np.repeat([-1, 0, 1, 2, 3], [50, 900, 90, 9, 1]))
    chosen = {n: subsets.at_least_one(labels, n, seed=0) for n in (4, 100, 1000)}
    for n, found in chosen.items():
        assert len(set(found.tolist())) == n and (np.diff(found) > 0).all()
        assert np.bincount(labels[found], minlength=4).min() >= 1  # bincount would refuse a -1
    assert np.bincount(labels[chosen[4]]).tolist() == [1] * 4
    assert np.bincount(labels[chosen[1000]]).tolist() == [900, 90, 9, 1]
    assert set(chosen[4]) < set(chosen[100]) < set(chosen[1000])
    np.testing.assert_array_equal(chosen[100], subsets.at_least_one(labels, 100, seed=0))
    assert not np.array_equal(chosen[100], subsets.at_least_one(labels, 100, seed=1))
    head = np.mean([(labels[subsets.at_least_one(labels, 104, seed)] == 0).sum() for seed in range(40)])
    assert abs(head - (1 + 100 * 899 / 996)) < 1.5  # one for sure, then 100 of the other 996; a spread of 3 / sqrt(40)


def test_a_number_of_labels_that_cannot_show_every_class_is_refused():
    labels = np.array([0, 1, 2, -1])
    with pytest.raises(UserError, match="2 labels cannot show every class, which takes 3"):
        subsets.at_least_one(labels, 2, 0)
    with pytest.raises(UserError, match="5 labels were asked for but 3 images have one"):
        subsets.at_least_one(labels, 5, 0)
    with pytest.raises(UserError, match="class 'd' has no image"):
        subsets.at_least_one(labels, 3, 0, ("a", "b", "c", "d"))


def test_of_several_labels_an_image_each_has_one_positive():
    rng = np.random.default_rng(0)
    labels = (rng.random((300, 6)) < [0.5, 0.5, 0.1, 0.02, 0.01, 0.0]).astype(np.float32)
    labels[:, 1] = labels[:, 0]
    labels[rng.random(300) < 0.2] = np.nan
    assert np.nansum(labels, 0)[4] > 0 == np.nansum(labels, 0)[5]
    for n in (5, 50):
        chosen = subsets.at_least_one(labels, n, seed=0)
        assert len(set(chosen.tolist())) == n and not np.isnan(labels[chosen]).any()
        assert (labels[chosen].sum(0) > 0).tolist() == [True] * 5 + [False]
    one = np.array([[1, 1, 1], [1, 0, 0], [0, 1, 0]], np.float32)
    assert subsets.at_least_one(one[:1], 1, 0).tolist() == [0]
    with pytest.raises(UserError, match="1 labels cannot show every class, which takes 2"):
        subsets.at_least_one(one[1:], 1, 0)


# -- what to train on and what to choose by ----------------------------------------------------------------------------


def chosen(kind, **changes):
    count = 0 if kind == "long_tail" else 6
    values = dict(kind=kind, profile="exponential", factor=0.1, shuffle_classes=False, count=count, share=0.25, seed=0)
    return ConfigDict(values | changes), ConfigDict(dict(per_class=5, share=0.2, seed=0))


@pytest.mark.parametrize(("kind", "kept"), [("all", 24), ("labels", 2), ("share", 6), ("shots", 6)])
def test_validation_comes_first_and_the_subset_from_the_rest(kind, kept):
    """Three classes of 30: six of each are held out, and of the 24 left the subset takes its part."""
    labels = np.arange(90) % 3
    train, validation = split(labels, *chosen(kind), ("a", "b", "c"))
    assert np.bincount(labels[validation]).tolist() == [6, 6, 6]
    assert np.bincount(labels[train]).tolist() == [kept] * 3
    assert not set(train) & set(validation) and (np.diff(train) > 0).all()


def test_a_long_tail_is_validated_by_what_it_leaves_out():
    """30 of the first class, 9 and 3 of the others: nothing of the first is left."""
    labels = np.arange(90) % 3
    train, validation = split(labels, *chosen("long_tail"), ("a", "b", "c"))
    assert np.bincount(labels[train]).tolist() == [30, 9, 3]
    np.testing.assert_array_equal(train, long_tail(labels, 0.1, "exponential", 0, ("a", "b", "c")))
    assert np.bincount(labels[validation], minlength=3).tolist() == [0, 5, 5] and not set(train) & set(validation)
    subset, held = chosen("long_tail", count=20, shuffle_classes=True, seed=3)
    train, validation = split(labels, subset, held, ("a", "b", "c"))
    assert sorted(np.bincount(labels[train])) == [2, 6, 20] and np.bincount(labels[validation]).tolist() == [5, 5, 5]
    np.testing.assert_array_equal(train, long_tail(labels, 0.1, "exponential", 3, ("a", "b", "c"), 20, True))


def test_no_validation_and_an_unknown_kind():
    labels = np.arange(90) % 3
    subset, validation = chosen("all")
    validation.update(dict(share=0.0, per_class=0))
    assert [len(part) for part in split(labels, subset, validation, ())] == [90, 0]
    assert [len(part) for part in split(labels, chosen("long_tail")[0], validation, ())] == [42, 0]
    with pytest.raises(UserError, match="subset.kind.*'sharp'.*did you mean 'share'"):
        split(labels, chosen("sharp")[0], validation, ())
