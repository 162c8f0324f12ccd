"""Values by dotted path and the flags that change them."""

import math

import pytest

from gssl_jax.knobs import at, flag, is_number, scaled

CONFIG = {"a": {"whole": 8, "real": 0.03, "none": 0.0, "name": "x"}}


def test_values_by_path():
    assert at(CONFIG, "a.whole") == 8 and at(CONFIG, "a") is CONFIG["a"]
    assert at(CONFIG, "a.whole.deeper") is at(CONFIG, "b.c") is at(None, "a") is None


def test_numbers():
    assert is_number(0) and is_number(-1.5)
    assert not any(is_number(x) for x in (None, "1", True, math.nan, math.inf))


def test_flags_exist_only_for_knobs_that_do():
    assert flag(CONFIG, "a.name", "y") == "--config.a.name=y"
    assert flag(CONFIG, "a.other", "y") == ""


@pytest.mark.parametrize(
    ("path", "factor", "expected"),
    [("a.real", 0.5, "--config.a.real=0.015"), ("a.whole", 0.25, "--config.a.whole=2"), ("a.none", 2.0, ""),
     ("a.whole", 0.1, "--config.a.whole=2"), ("a.name", 2.0, ""), ("a.other", 2.0, "")],
)  # fmt: skip
def test_scaled_numbers_keep_their_kind(path, factor, expected):
    assert scaled(CONFIG, path, factor) == expected
