"""Some images of an evaluation set: the same ones in memory or not, spread over all of it and over its classes."""

import numpy as np
import pytest

from gssl_jax.runs.evaluation import Judge, stratified
from gssl_jax.runs.parts import assemble, stage_config
from tests.runs.recipes import recipe


@pytest.mark.parametrize("count", [5, 10_000])
def test_some_images_are_spread_over_the_set_in_memory_or_not(count):
    """The 19 classes of `photos` stand one after the other, 60 test images each."""
    found = []
    for mib in (1024, 1):  # 1140 x 32 x 32 grey is 1.1 MiB
        config = recipe("tiny")
        config.data.crop, config.data.resident_mib = "device", mib
        judge = Judge(assemble(stage_config(config, "target")), 0)
        assert isinstance(judge.sets["test"], dict) == (mib > 1)
        if count < 1000 or mib > 1:
            found.append(judge.some("test", count))
    if count == 5:
        assert found[0]["label"].tolist() == [0, 4, 9, 14, 18]
        for name in ("image", "label"):
            np.testing.assert_array_equal(found[0][name], found[1][name])
    else:
        assert len(found[0]["image"]) == 1140


@pytest.mark.parametrize(
    ("labels", "count", "rows"),
    [
        ([0, 0, 0, 1, 1, 2], 3, [0, 3, 5]),  # the first of each class, whether the set is sorted by class
        ([2, 0, 1, 0, 2, 1], 3, [1, 2, 0]),  # or not
        ([0, 0, 0, 1, 1, 2], 5, [0, 1, 3, 4, 5]),  # then a second one of those that have it
        ([0, 0, 0, 0, 1], 4, [0, 1, 2, 4]),
        ([0, 0, 1, 1, 2, 2, 3, 3, 4, 4], 3, [0, 4, 8]),  # three of five classes: the first, the middle and the last
        ([1, -1, 0, -1], 4, [2, 0]),  # images without a label are not shown beside others
        ([-1, -1, -1, -1, -1], 3, [0, 2, 4]),  # but where there is no other
    ],
)
def test_images_to_show_are_of_as_many_classes_as_can_be(labels, count, rows):
    assert stratified(np.asarray(labels), count).tolist() == rows
