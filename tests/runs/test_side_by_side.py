"""Backbones set against each other: whose samples make pairs, and label-free scores apart from the others."""

from __future__ import annotations

import numpy as np
import pytest

from gssl_jax.evals.intervals import entry
from gssl_jax.runs.side_by_side import differing, health_of


def test_differences_need_the_same_samples():
    def of(samples, kind="t-draws"):
        return {"a/top1": entry(0.5, 0.4, 0.6, 3, {}, kind, samples=samples)}

    ours = of(np.array([0.5, 0.6, 0.8]))
    assert differing(ours, of(np.array([0.4, 0.6, 0.6])), 0, 10)["a/top1"]["value"] == pytest.approx(0.1)
    for theirs in (
        of(np.ones(4)),
        of(None),
        of(np.ones(3), "bootstrap-test"),
        {},
        {"a/top1": dict(of(None)["a/top1"])},
    ):
        assert differing(ours, theirs, 0, 10) == {}


def test_label_free_scores_by_backbone():
    of = {"health/rankme": entry(3.5, None, None, 9, {"views": 2}, None), "knn/top1": entry(1, 1, 1, 1, {}, None)}
    found = health_of({"a": of, "pixels": {}})
    assert found == {"a": {"rankme": 3.5}, "protocol": {"images": 9, "views": 2}} and health_of({"a": {}}) == {}
