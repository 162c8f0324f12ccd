"""What a run folder gives back; the states that are chosen are those of tests/test_export.py."""

from gssl_jax.runs import restored


def test_lists_of_json_are_tuples_again():
    assert restored.tuples({"a": [1, [2.5]], "b": {"c": []}, "d": "x"}) == {"a": (1, (2.5,)), "b": {"c": ()}, "d": "x"}
