"""Operations of a step against a count by hand, and what is kept of it."""

from __future__ import annotations

import json

import pytest

from gssl_jax.cli import alone
from gssl_jax.errors import UserError
from gssl_jax.runs import costs


def tiny(**changes):
    flags = [f"--config.{key}={value}" for key, value in changes.items()]
    return alone("study", "configs/objectives.py:tiny", *flags).lock()


def by_hand(config):
    """Products of one step: of the student's forward pass (a multiply and an add each), three times for the student,
    once for the teacher, heads and the reconstruction's included. 16 patches of 8 pixels and a class token; one block
    of width 64 with an MLP of 256; projector 64-64-32 and 16 or 32 prototypes; two hidden layers of width 64."""
    images, tokens, width, hidden = 2 * config.optim.batch_size, 16, 64, 256
    embed = tokens * 8 * 8 * width
    block = (tokens + 1) * (4 * width**2 + 2 * width * hidden) + 2 * (tokens + 1) ** 2 * width
    projector = 64 * 64 + 64 * 32
    heads = projector + 32 * 16 + tokens * (projector + 32 * 32)
    rebuilt = tokens * (2 * width**2 + width * 8 * 8)
    return 2 * images * (4 * (embed + block + heads) + 3 * rebuilt)


def test_xla_counts_what_the_products_of_a_step_are_by_hand():
    """What is no product, such as norms, GELU and augmentation, comes on top; nothing is compiled."""
    config = tiny()
    found = costs.counted(config)
    assert 1.0 < found.flops / by_hand(config) < 1.2
    assert found.unit == 1


def test_costs_are_found_once_and_kept(tmp_path, monkeypatch):
    path, recipes = tmp_path / "costs.json", {"maskcluster": tiny()}
    found, step = costs.look(recipes, None, path, tmp_path, [])
    assert found["maskcluster"].flops > 1e8
    assert step is None
    monkeypatch.setattr(costs, "ProcessPoolExecutor", None)  # another process would be a TypeError
    assert costs.look(recipes, None, path, tmp_path, [])[0] == found
    with pytest.raises(TypeError):
        costs.look({"maskcluster": tiny(**{"optim.batch_size": 16})}, None, path, tmp_path, [])
    assert [*json.loads(path.read_text())["costs"]] == ["maskcluster"]


def test_a_method_that_cannot_be_counted_says_why_and_a_mistake_is_refused(monkeypatch):
    def broken(config):
        raise ValueError("of\nmine")

    monkeypatch.setattr(costs, "counted", broken)
    assert costs._counted(tiny()) == costs.Cost(0.0, 1, "", "ValueError: of mine")
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"optim.batch_size"):
        costs._counted(tiny(**{"optim.batch_size": 100000}))
