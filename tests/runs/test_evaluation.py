"""Some images of an evaluation set, held in memory or not: the same ones, spread over all of it."""

import numpy as np
import pytest

from gssl_jax.runs.evaluation import Judge
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
