"""The devices a plan is made for."""

import jax
import pytest

from gssl_jax.errors import UserError
from gssl_jax.runs import chips


def test_this_machine_is_a_target():
    found = chips.target("host")
    assert list(found.devices) == jax.devices() and found.hosts == 1
    assert found.chip.flops is None and found.chip.memory > 2**28


@pytest.mark.parametrize(
    ("name", "words"),
    [("v5:2x4", "v5e"), ("v5e", "v5e:2x4"), ("v5e:2x2x2", "2 sides"), ("v5p:4x4", "4x4x8"), ("v6e:2xx4", "2 sides")],
)
def test_a_slice_that_cannot_be_is_refused(name, words):
    with pytest.raises(UserError, match=words):
        chips.target(name)


def test_hosts_are_as_many_as_their_chips_take():
    chip = chips.CHIPS["v5p"]
    assert [chips.Target("", chip, [None] * count).hosts for count in (1, 4, 5, 128)] == [1, 1, 2, 32]
