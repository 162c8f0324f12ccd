"""Shards: the images of their source bit for bit and in its order, by any number of jobs, killed or not."""

import json

import cv2
import numpy as np
import pytest
import tifffile
from ml_collections import ConfigDict
from PIL import Image

from gssl_jax.data import prepare
from gssl_jax.data.decode import BrokenImage
from gssl_jax.data.pipeline import open_stream
from gssl_jax.data.prepare import Options, layout, made_from, make, merged, whole
from gssl_jax.data.sources import open_source
from gssl_jax.errors import UserError

DATA = ConfigDict(
    {"seed": 0, "holdout": 0.2, "channels": 3, "threads": 0, "prefetch": 0, "max_broken": 0.5, "image_size": 8}
)


def opened(kind, path, split="train"):
    return open_source(ConfigDict({"source": kind, "path": str(path)}), split, DATA)


@pytest.fixture
def folder(tmp_path):
    """Seven JPEGs and PNGs of two classes, one of them cut off, and three to test on."""
    draw = np.random.default_rng(0)
    for split, count in (("train", 7), ("test", 3)):
        for i in range(count):
            file = tmp_path / "in" / split / "ab"[i % 2] / f"{i}.{'jpg' if i % 3 else 'png'}"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw.integers(0, 256, (24 + i, 30, 3), np.uint8)).save(file)
    broken = tmp_path / "in" / "train" / "a" / "4.jpg"
    broken.write_bytes(broken.read_bytes()[:300])
    return tmp_path / "in"


THREE = Options(shards=3)


def prepared(folder, out, options=THREE, job=(0, 1), kind="folder"):
    """The sources, and what `merged` returned after one job has made its shards."""
    out.mkdir(exist_ok=True)
    sources = {split: opened(kind, folder, split) for split in ("train", "test")}
    shards = layout(sources, options)
    for place, shard in enumerate(shards):
        source = sources[shard.split]
        origin = made_from(source, options)
        if place % job[1] == job[0] and whole(shard, out, origin) is None:
            make(source, shard, out, options, origin, threads=2)
    return sources, merged(sources, shards, out)


def test_shards_hold_the_files_of_the_source_in_its_order(folder, tmp_path):
    sources, manifest = prepared(folder, tmp_path / "out")
    assert manifest == tmp_path / "out" / "manifest.json"
    for split, source in sources.items():
        shards = opened("shards", tmp_path / "out", split)
        assert (len(shards), shards.classes, shards.multilabel, shards.parts) == (len(source), ("a", "b"), False, ())
        assert [shards.label(i) for i in range(len(shards))] == [source.label(i) for i in range(len(source))]
        for i in range(len(source)):
            if split == "train" and source.describe(i).endswith("4.jpg"):
                with pytest.raises(BrokenImage, match="4.jpg"):
                    shards[i]
                continue
            assert shards.payload(i) == source.payload(i)
            np.testing.assert_array_equal(shards[i]["image"], source[i]["image"])
            assert source.describe(i) in shards.describe(i)
    said = json.loads(manifest.read_text())
    assert [len(said["splits"][name]["shards"]) for name in ("train", "test")] == [3, 3]
    assert len(said["splits"]["train"]["broken"]) == 1 and "4.jpg" in said["splits"]["train"]["broken"][0]


def test_a_stream_from_shards_is_that_from_the_source(folder, tmp_path):
    prepared(folder, tmp_path / "out")
    view = {"size": 8, "scale": (0.3, 1.0), "ratio": (0.75, 1.33), "interpolation": "bilinear"}
    found = []
    for kind, path in (("folder", folder), ("shards", tmp_path / "out")):
        options = dict(batch_size=4, seed=3, views={"global": [view], "local": []})
        stream = open_stream(opened(kind, path), DATA, **options)
        found.append([next(stream) for _ in range(5)])
        stream.close()
    for one, other in zip(*found, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_jobs_make_their_part_and_the_last_writes_the_manifest_whatever_the_order(folder, tmp_path):
    _, alone = prepared(folder, tmp_path / "alone")
    results = [prepared(folder, tmp_path / "jobs", job=(job, 3))[1] for job in (2, 0, 1)]
    assert results[:2] == [None, None] and results[2] is not None
    assert json.loads(results[2].read_text()) == json.loads(alone.read_text())
    with pytest.raises(UserError, match="has 2 shards but no manifest.json: some are still to be made"):
        prepared(folder, tmp_path / "some", job=(0, 3))
        opened("shards", tmp_path / "some")


def test_what_is_whole_is_not_made_again_and_what_was_damaged_is(folder, tmp_path, monkeypatch):
    sources, _ = prepared(folder, tmp_path / "out")
    made = []
    monkeypatch.setattr(prepare, "make", lambda *_, **__: made.append(_[1].file))
    shard = layout(sources, Options(shards=3))[1]
    file = tmp_path / "out" / shard.file
    before = file.read_bytes()
    assert whole(shard, tmp_path / "out", made_from(sources["train"], Options(shards=3))) is not None
    file.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))  # as large as before
    assert whole(shard, tmp_path / "out", made_from(sources["train"], Options(shards=3))) is None
    file.write_bytes(before[:-1])
    with pytest.raises(UserError, match=rf"{shard.file} has {len(before) - 1} bytes and should have {len(before)}"):
        opened("shards", tmp_path / "out")
    file.unlink()
    with pytest.raises(UserError, match=f"{shard.file} is missing"):
        opened("shards", tmp_path / "out")


def test_other_options_or_images_are_refused(folder, tmp_path):
    prepared(folder, tmp_path / "out")
    with pytest.raises(UserError, match="was made with another side: choose another --out"):
        prepared(folder, tmp_path / "out", Options(shards=3, side=16))
    Image.new("RGB", (30, 30)).save(folder / "train" / "a" / "new.png")
    with pytest.raises(UserError, match="was made with another fingerprint"):
        prepared(folder, tmp_path / "out")


def test_a_killed_job_leaves_nothing_that_counts(folder, tmp_path):
    sources = {"train": opened("folder", folder)}
    shard = layout(sources, Options(shards=2))[0]
    origin = made_from(sources["train"], Options())

    def killed(count):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(sources["train"], shard, tmp_path, Options(), origin, 1, killed)
    assert whole(shard, tmp_path, origin) is None and list(tmp_path.glob("*.tmp")) == []
    assert list(tmp_path.glob(".*")) == []


@pytest.mark.parametrize("encoding", ["auto", "jpeg", "png", "raw"])
def test_resized_images(folder, tmp_path, encoding):
    sources, _ = prepared(folder, tmp_path / "out", Options(side=16, encoding=encoding, shards=1))
    shards = opened("shards", tmp_path / "out")
    assert min(shards[0]["image"].shape[:2]) == 16
    expected = prepare.resized(sources["train"][0]["image"], 16)
    off = np.abs(shards[0]["image"].astype(int) - expected)
    assert off.max() == 0 if encoding in ("png", "raw") else 0 < off.mean() < 30  # noise is hard on JPEG
    prepared(folder, tmp_path / "large", Options(side=99, encoding="raw", shards=1))
    np.testing.assert_array_equal(opened("shards", tmp_path / "large")[0]["image"], sources["train"][0]["image"])


def test_sixteen_bits_and_many_channels_keep_their_values(tmp_path):
    draw = np.random.default_rng(1)
    for i, shape in enumerate([(9, 8, 5), (9, 8)]):
        (tmp_path / "in").mkdir(exist_ok=True)
        tifffile.imwrite(tmp_path / "in" / f"{i}.tif", draw.integers(0, 2**16, shape, np.uint16))
    source = opened("folder", tmp_path / "in")
    shard = layout({"train": source}, Options())[0]
    for encoding in ("auto", "raw"):
        options = Options(encoding=encoding, side=1000)  # nothing changes, and no file is kept
        out = tmp_path / encoding
        out.mkdir()
        make(source, shard, out, options, made_from(source, options), 1)
        merged({"train": source}, [shard], out)
        for i in range(2):
            found = opened("shards", out)[i]["image"]
            assert found.dtype == np.uint16
            np.testing.assert_array_equal(found, source[i]["image"])


def test_several_labels_and_masks(tmp_path):
    for name in ("a", "b"):
        Image.new("RGB", (6, 5), 40).save(tmp_path / f"{name}.png")
        cv2.imwrite(str(tmp_path / f"{name}m.png"), np.full((5, 6), "ab".index(name), np.uint8))
    rows = "path,mask,x,y,split\na.png,am.png,1,,train\nb.png,bm.png,0,1,test\n"
    (tmp_path / "index.csv").write_text(rows)
    sources, _ = prepared(tmp_path / "index.csv", tmp_path / "out", Options(), kind="index")
    for split, source in sources.items():
        shards = opened("shards", tmp_path / "out", split)
        assert (shards.classes, shards.parts, shards.multilabel) == (("x", "y"), ("0", "1"), True)
        np.testing.assert_array_equal(shards.label(0), source.label(0))
        np.testing.assert_array_equal(shards[0]["segmentation"], source[0]["segmentation"])


def test_shards_are_by_size_where_nothing_says_how_many(folder, monkeypatch):
    source = opened("folder", folder)
    assert len(layout({"train": source}, Options())) == 1
    size = prepare.reckoned(source, Options())
    held = sum(len(prepare.packed(prepare.record(source, i, Options()))) for i in range(len(source)))
    assert size == pytest.approx(held, abs=1)
    monkeypatch.setattr(prepare, "SHARD_BYTES", size // 3 + 1)
    shards = layout({"train": source}, Options())
    assert [shard.file for shard in shards] == [f"train-0000{k}-of-00003.arrayrecord" for k in range(3)]
    assert [(shard.first, shard.last) for shard in shards] == [(0, 2), (2, 5), (5, 7)]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (Options(encoding="webp"), "--encode"),
        (Options(encoding="keep", side=8), "--side=8 changes them"),
        (Options(quality=0), "--quality=0: give 1 to 100"),
    ],
)
def test_options_that_cannot_be_meant(options, said):
    with pytest.raises(UserError, match=said):
        prepare.check(options)


def test_folders_without_shards(tmp_path):
    with pytest.raises(UserError, match="expected a folder that dataset prepare has written"):
        opened("shards", tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(UserError, match="is not readable JSON"):
        opened("shards", tmp_path)
    (tmp_path / "manifest.json").write_text('{"format": 9}')
    with pytest.raises(UserError, match="has format 9, this version reads 1"):
        opened("shards", tmp_path)
