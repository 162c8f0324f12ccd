"""The benchmark of the data path: its table, that its parts do the work they claim, and a short run of all of it."""

import json

import cv2
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from gssl_jax.data.sources import open_source
from tests.benchmarks.scripts import benchmark

data = benchmark("data")


def test_a_short_run_of_everything(tmp_path, capsys):
    found = data.main(["--quick", f"--json={tmp_path / 'found.json'}"])
    said = capsys.readouterr().out
    assert {"stream from files", "stream from ArrayRecord", "images resident on the device"} <= set(found)
    assert all(rate.clock > 0 and rate.processor > 0 for rate in found.values())
    assert "of the decoder's rate (goal 0.85)" in said and said.count("\n| ") == len(found) + 1
    kept = json.loads((tmp_path / "found.json").read_text())
    assert kept["stream from files"]["clock"] == found["stream from files"].clock


def test_images_are_as_they_are_said_to_be(tmp_path):
    data.write_images(tmp_path, 3)
    with Image.open(tmp_path / "00001.jpg") as image:
        assert (image.size, image.format, image.mode) == ((500, 375), "JPEG", "RGB")
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 3


def test_shares_are_of_the_decoder():
    found = {"limit": data.Rate(1000.0, 500.0), "half": data.Rate(500.0, 125.0)}
    assert data.table(found, "limit")[-1] == "| half | 500 | 125 | 0.50; 0.25 |"


def test_a_turn_counts_its_images_and_the_first_one_does_not_count(monkeypatch):
    now = iter(np.cumsum([0, 9, 0, 4, 0, 2]).tolist())  # three turns of 9, 4 and 2 seconds
    monkeypatch.setattr(data.time, "perf_counter", lambda: next(now))
    assert data.measured({"a": lambda: 8}, 2)["a"].clock == pytest.approx(4.0)


def test_pillow_cuts_the_box_that_the_stream_cuts():
    """A ramp: the same corner of the image within a resampling's difference."""
    ramp = np.repeat(np.linspace(0, 255, 500)[None, :], 375, axis=0)
    image = np.repeat(ramp[:, :, None], 3, axis=2).astype(np.uint8)
    ours = data.cut(image, np.random.default_rng(3), data.VIEW)
    theirs = np.asarray(data.pillow_cut(Image.fromarray(image), np.random.default_rng(3)))
    assert ours.shape == theirs.shape == (224, 224, 3)
    assert np.abs(ours.astype(int) - theirs).max() <= 3


def test_the_same_images_from_shards(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    data.write_images(tmp_path / "in", 4)
    settings = ConfigDict({"source": "folder", "path": str(tmp_path / "in")})
    source = open_source(settings, "train", ConfigDict({"seed": 0, "holdout": 0.2}))
    shards = data.shards_of(source, tmp_path / "out", 1)
    assert len(shards) == 4 and shards.payload(2) == source.payload(2)
    assert data.decoder(source, 2)() == 4 and cv2.getNumThreads() == 1
