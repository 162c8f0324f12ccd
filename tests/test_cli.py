"""Words and options of the entry points that take no recipe; those that do are tested with the runs."""

from __future__ import annotations

import pytest

from gssl_jax.cli import words_and_values
from gssl_jax.errors import UserError


def test_words_and_options_in_any_order():
    argv = ["program", "--out=a=b", "RUN", "--debug", "other"]
    assert words_and_values(argv, "", {"out": "", "feature": "feat"}) == (
        ["RUN", "other"],
        {"out": "a=b", "feature": "feat"},
    )


@pytest.mark.parametrize("argv", [["p"], ["p", "x", "--help"], ["p", "-h"]])
def test_help(argv, capsys):
    assert words_and_values(argv, "the usage\n", {}) is None
    assert capsys.readouterr().out == "the usage\n"


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("--oot=x", "unknown flag '--oot'; did you mean '--out'"),
        ("--out", "--out needs a value"),
        ("--out=", "a value"),
    ],
)
def test_refusals(argument, said):
    with pytest.raises(UserError, match=said):
        words_and_values(["p", argument], "", {"out": ""})
