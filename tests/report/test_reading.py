"""Reading a run folder: order of steps over stages, half-written and missing files."""

import json

import numpy as np

from gssl_jax.knobs import at
from gssl_jax.report.reading import Metrics, flatten, read_run


def test_stages_follow_each_other_on_one_axis():
    rows = [{"stage": "source", "step": s, "a": float(s)} for s in (10, 20)]
    rows += [{"stage": "target", "step": s, "a": 100.0 + s} for s in (5, 15)]
    metrics = Metrics(tuple(rows))
    assert metrics.stages == {"source": 0, "target": 20}
    np.testing.assert_array_equal(metrics.series("a").steps, [10, 20, 25, 35])
    np.testing.assert_array_equal(metrics.series("a", "target").steps, [5, 15])
    np.testing.assert_array_equal(metrics.series("a", "target").values, [105, 115])


def test_values_that_are_not_numbers_are_no_points_but_are_counted():
    losses = (float("nan"), 1.0, None, float("inf"))
    metrics = Metrics(tuple({"stage": "t", "step": 1 + k, "train/loss": loss} for k, loss in enumerate(losses)))
    np.testing.assert_array_equal(metrics.series("train/loss").steps, [2])
    assert metrics.not_finite("train/") == 2
    assert metrics.keys("train/") == ["train/loss"] and metrics.keys("eval/") == []


def test_a_whole_folder_has_no_problems(make_folder):
    run = read_run(make_folder())
    assert run.problems == () and run.results["schema"] == 1 and len(run.metrics.rows) == 40
    assert at(run.config, "method.collapse.patch") == "centring" and at(run.config, "method.nothing.here") is None


def test_half_a_line_and_lines_without_a_step_are_left_out_and_said(make_folder):
    folder = make_folder()
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('[1]\n{"stage": "target"}\n{"stage": "target", "st')
    run = read_run(folder)
    assert len(run.metrics.rows) == 40
    assert run.problems == ("3 lines of metrics.jsonl could not be read and were left out.",)


def test_missing_and_broken_files_become_sentences(tmp_path):
    (tmp_path / "results.json").write_text("{")
    (tmp_path / "config.json").write_text(json.dumps([1]))
    run = read_run(tmp_path)
    assert run.config == {} and run.results == {} and run.metrics.rows == ()
    assert run.problems == (
        "config.json does not hold a JSON object.",
        "results.json could not be read as JSON.",
        "metrics.jsonl is missing.",
    )


def test_flatten_keeps_lists_as_leaves():
    assert flatten({"a": {"b": 1, "c": [1, 2]}, "d": {}}) == {"a.b": 1, "a.c": [1, 2]}
