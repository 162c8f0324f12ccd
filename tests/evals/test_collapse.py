"""Limits of a collapse on both sides of each, and what is said of it."""

import math

import pytest

from gssl_jax.evals.collapse import assignment_signs, features_collapsed, in_words, remedy


@pytest.mark.parametrize(
    ("values", "signs"),
    [((0.1, 0.99, 0.1), []), ((0.099, 0.5, 0.5), ["one"]), ((0.5, 0.991, 0.5), ["uniform"]),
     ((0.5, 0.5, 0.099), ["few"]), ((0.01, 0.5, 0.01), ["one", "few"]), ((None, None, None), [])],
)  # fmt: skip
def test_signs_of_assignments(values, signs):
    assert assignment_signs(*values) == signs


@pytest.mark.parametrize(
    ("left", "rank", "collapsed"),
    [(0.01, 2.0, False), (0.0099, 9.0, True), (1.0, 1.99, True), (math.nan, None, True), (None, None, False)],
)
def test_signs_of_features(left, rank, collapsed):
    assert features_collapsed(left, rank) is collapsed


def test_words_and_remedies():
    assert in_words("few", "patch", value=0.05).startswith("Only 5 % of the patch prototypes")
    both = in_words("features", "", left=0.5, rank=1.5)
    assert "is 0.5 times that at the start and their effective rank (RankMe) is 1.5." in both
    assert in_words("features", "", left=float("nan"), rank=1.5).endswith(
        "backbone: their effective rank (RankMe) is 1.5."
    )
    assert in_words("features", "").endswith("not finite.")
    assert remedy("features", "", {"optim": {"learning_rate": 0.5}}) == "--config.optim.learning_rate=0.25"
    assert remedy("one", "cls", {}) == ""  # a method without this knob
