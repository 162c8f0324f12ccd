"""The wording of errors a user can mend."""

from __future__ import annotations

import pytest

from gssl_jax.errors import UserError, unknown


def test_unknown_names_the_nearest_and_lists_all():
    error = unknown("collapse control", "sinkhron", ["sinkhorn", "none", "memax"])
    assert isinstance(error, UserError) and isinstance(error, ValueError)
    assert str(error) == "unknown collapse control 'sinkhron'; did you mean 'sinkhorn'? known: memax, none, sinkhorn"


@pytest.mark.parametrize("name", ["xyzzy", ""])
def test_unknown_far_from_everything_only_lists(name):
    assert str(unknown("source", name, ["photos", "digits"])) == f"unknown source {name!r}; known: digits, photos"
