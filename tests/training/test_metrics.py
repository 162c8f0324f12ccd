"""Rows of metrics: written, read after a kill, cut after a restart, and as TensorBoard events."""

from __future__ import annotations

import json
import struct

import pytest

from gssl_jax.training.metrics import JsonLines, TensorBoard, cut_rows, read_rows, replace_row


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.jsonl"


def written(path, *rows):
    writer = JsonLines(path)
    for stage, step, values in rows:
        writer.write(stage, step, values)
    writer.close()


def test_rows_come_back_flat(path):
    written(path, ("target", 10, {"train/loss": 0.5, "note": "warm"}), ("target", 20, {"train/loss": 0.25}))
    assert read_rows(path) == [
        {"stage": "target", "step": 10, "train/loss": 0.5, "note": "warm"},
        {"stage": "target", "step": 20, "train/loss": 0.25},
    ]
    written(path, ("target", 30, {}))  # a later writer adds to the file
    assert [row["step"] for row in read_rows(path)] == [10, 20, 30]


def test_a_row_is_on_disk_before_the_next(path):
    writer = JsonLines(path)
    writer.write("target", 1, {"train/loss": 1.0})
    assert len(read_rows(path)) == 1
    writer.close()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_json_does_not_know_become_null(path, value):
    written(path, ("target", 1, {"train/loss": value, "train/steps": 3}))
    text = path.read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=lambda name: pytest.fail(name)) == {
        "stage": "target", "step": 1, "train/loss": None, "train/steps": 3
    }  # fmt: skip


def test_without_a_file_there_are_no_rows(path):
    assert read_rows(path) == []
    cut_rows(path, "target", 5)
    assert not path.exists()


def test_a_row_that_is_written_again_replaces_its_first_writing(path):
    rows = [
        ("target", 4, {"train/loss": 1.0}),
        ("target", 4, {"eval/knn/top1": 0.5}),
        ("other", 4, {"eval/knn/top1": 1}),
    ]
    written(path, *rows)
    replace_row(path, "target", 4, {"eval/knn/top1": 0.75})
    replace_row(path, "target", 5, {"eval/knn/top1": 1.0})
    replace_row(path, "target", 5, {})
    assert read_rows(path) == [
        {"stage": "target", "step": 4, "train/loss": 1.0},
        {"stage": "other", "step": 4, "eval/knn/top1": 1},
        {"stage": "target", "step": 4, "eval/knn/top1": 0.75},
        {"stage": "target", "step": 5, "eval/knn/top1": 1.0},
    ]


def test_a_line_that_a_killed_process_left_half_written(path):
    written(path, *(("target", step, {"train/loss": 1.0}) for step in (1, 2, 3)))
    text = path.read_text(encoding="utf-8")
    path.write_text(text[:-9], encoding="utf-8")
    assert [row["step"] for row in read_rows(path)] == [1, 2]
    cut_rows(path, "target", 2)
    written(path, ("target", 3, {"train/loss": 2.0}))
    assert [row["step"] for row in read_rows(path)] == [1, 2, 3]
    assert read_rows(path)[-1]["train/loss"] == 2.0


def test_rows_after_a_restored_step_are_cut_in_their_own_stage_only(path):
    written(
        path, ("source", 50, {"a": 1.5}), ("target", 10, {}), ("target", 20, {}), ("target", 21, {}), ("source", 60, {})
    )
    cut_rows(path, "target", 20)
    assert [(row["stage"], row["step"]) for row in read_rows(path)] == [
        ("source", 50), ("target", 10), ("target", 20), ("source", 60)
    ]  # fmt: skip
    assert read_rows(path)[0]["a"] == 1.5
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # no temporary file is left


def records(path):
    """The payloads of a TensorBoard file: length (8 bytes), its checksum (4), payload, checksum (4)."""
    data, place = path.read_bytes(), 0
    while place < len(data):
        (length,) = struct.unpack_from("<Q", data, place)
        yield data[place + 12 : place + 12 + length]
        place += 12 + length + 4


def test_tensorboard_gets_the_numbers_and_not_the_words(tmp_path):
    writer = TensorBoard(tmp_path)
    writer.write("target", 7, {"train/loss": 0.5, "note": "warm"})
    writer.close()
    (file,) = tmp_path.glob("events.out.tfevents.*")
    scalars = [record for record in records(file) if b"target/train/loss" in record]
    assert len(scalars) == 1
    assert struct.pack("<f", 0.5) in scalars[0] and b"\x10\x07" in scalars[0]  # field 2, step: 7
    assert not any(b"note" in record for record in records(file))
