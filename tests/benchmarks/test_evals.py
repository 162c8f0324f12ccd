"""The benchmark of the evaluators on a few images, with a search of our own in the place of faiss."""

from __future__ import annotations

import importlib.machinery
import sys
import types

import numpy as np
import pytest

from tests.benchmarks.scripts import benchmark

TRAIN, TEST = 400, 1000


@pytest.fixture
def script():
    module = benchmark("evals")
    module.CLASSES, module.IN_ALL, module.PER_CLASS, module.K = 4, 20, 10, 3
    return module


def search_module(wrong=0):
    """What the benchmark uses of faiss, by brute force; the first `wrong` images get the images furthest away."""

    class Index:
        def __init__(self, size):
            self.rows = np.zeros((0, size), np.float32)

        def add(self, rows):
            self.rows = np.concatenate([self.rows, rows])

        def search(self, asked, k):
            similarity = asked @ self.rows.T
            similarity[:wrong] *= -1
            order = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
            return np.take_along_axis(similarity, order, 1), order

    module = types.ModuleType("faiss")
    module.__spec__ = importlib.machinery.ModuleSpec("faiss", None)
    module.IndexFlatIP = Index
    return module


def cells(lines, name):
    """The cells of the row of a table that begins with `name`."""
    (line,) = [line for line in lines if line.startswith(f"| {name}")]
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize(("wrong", "share"), [(0, "100.0"), (250, "75.0")])
def test_neighbours_are_compared_and_times_divided(script, monkeypatch, wrong, share):
    monkeypatch.setitem(sys.modules, "faiss", search_module(wrong))
    monkeypatch.setattr(script, "best_turns", lambda calls, rounds: {"a": (3.0, 8.0), "b": (2.0, 4.0)})
    lines = script.knn_report(TRAIN, TEST, rounds=1)
    assert f"same votes for {share} % of 1,000" in lines[-1]
    assert cells(lines, "ratio")[1:3] == ["1.50", "2.00"]
    assert cells(lines, "a")[3] == f"{2 * TRAIN * TEST * script.SIZE / 8.0 / 1e9:.0f}"


def test_without_faiss_ours_alone_is_timed(script, monkeypatch):
    monkeypatch.setattr(script.importlib.util, "find_spec", lambda name: None)
    lines = script.knn_report(TRAIN, 50, rounds=1)
    assert "nothing to compare with" in lines[-1]
    assert float(cells(lines, "knn_scores")[1]) >= 0 and not any("ratio" in line for line in lines)


def test_each_number_of_labels_is_fitted_on_its_images(script):
    lines = script.lowshot_report(200)
    images = {name: int(cells(lines, name)[1]) for name in ("1 per class", "2 per class", "5 per class", "1 %")}
    assert images == {"1 per class": 4, "2 per class": 8, "5 per class": 20, "1 %": 20}
    assert cells(lines, "all")[1] == "" and float(cells(lines, "all")[2]) > 0
    shares = [float(cells(lines, name)[4]) for name in ("1 per class", "5 per class")]
    assert all(0 <= share <= 1 for share in shares) and shares[1] > 0.25


def test_the_best_of_the_turns_counts(script):
    clock = iter([0.0, 5.0, 10.0, 12.0, 20.0, 23.0])
    script.timed = lambda call: (next(clock), next(clock), call())
    assert script.best_turns({"one": lambda: 0}, rounds=3) == {"one": (0.0, 5.0)}
    first = iter([4.0, 9.0, 7.0, 6.0])
    script.timed = lambda call: (next(first), next(first), call())
    assert script.best_turns({"one": lambda: 0}, rounds=2) == {"one": (4.0, 6.0)}
