"""The stream: one order whatever the threads, hosts, prefetch and restarts, and crops that follow the position."""

import itertools
import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
from ml_collections import ConfigDict

from gssl_jax.data import decode, pipeline
from gssl_jax.data.sources import open_source
from gssl_jax.data.sources.subset import Subset
from gssl_jax.errors import UserError
from gssl_jax.ops import boxes

GLOBAL = {"size": 24, "scale": (0.3, 1.0), "ratio": (0.75, 1.333), "interpolation": "bicubic"}
LOCAL = GLOBAL | {"size": 12, "scale": (0.05, 0.3)}
VIEWS = {"global": [GLOBAL, GLOBAL], "local": [LOCAL, LOCAL, LOCAL]}


def _data(**changes):
    base = dict(image_size=32, channels=1, canvas=48, contrast_normalise=True, seed=0, max_zoom=2.0, max_broken=0.2)
    base |= dict(threads=2, prefetch=3, crop="auto", resident_mib=1, holdout=0.2)
    return ConfigDict(base | changes)


def _source(count=13):
    return open_source(ConfigDict({"source": "photos", "path": "", "size": count}), "pretrain", _data())


def _batches(count, *, source=None, data=None, **options):
    options = {"batch_size": 4, "seed": 1} | options
    stream = pipeline.open_stream(_source() if source is None else source, data or _data(), **options)
    try:
        return list(itertools.islice(stream, count))
    finally:
        stream.close()


def _assert_equal(left, right):
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_what_a_resident_batch_holds():
    (batch,) = _batches(1)
    assert batch.keys() == {"index", "draw"} and batch["index"].dtype == np.int32 and batch["index"].shape == (4,)


def test_what_a_host_batch_holds():
    source = _source()
    (batch,) = _batches(1, source=source, views=VIEWS)
    assert batch["image"].shape == (4, 2, 24, 24, 1) and batch["image"].dtype == np.uint8
    assert batch["local"].shape == (4, 3, 12, 12, 1) and batch["local"].dtype == np.uint8
    assert batch["index"].dtype == batch["label"].dtype == np.int32 and batch["valid"].all()
    assert batch["label"].tolist() == [source.label(i) for i in batch["index"]]
    assert (batch["image"][:, 0] != batch["image"][:, 1]).any(axis=(1, 2, 3)).all()
    (batch,) = _batches(1, views={"global": [GLOBAL], "local": []})
    assert "local" not in batch and batch["image"].shape == (4, 1, 24, 24, 1)


def test_every_epoch_is_a_new_order_of_the_whole_set():
    order = np.concatenate([batch["index"] for batch in _batches(39)])  # 156 = 12 epochs of 13
    epochs = order.reshape(12, 13)
    assert all(sorted(epoch) == list(range(13)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 12


@pytest.mark.parametrize("views", [None, VIEWS], ids=["resident", "host"])
@pytest.mark.parametrize("threads", [0, 2])
def test_a_restart_goes_on_as_if_nothing_had_happened(views, threads):
    data = _data(threads=threads)
    straight = _batches(9, data=data, views=views)
    stream = pipeline.open_stream(_source(), data, batch_size=4, seed=1, views=views)
    for _ in range(5):
        next(stream)
    state = json.loads(json.dumps(stream.state()))
    stream.close()
    assert state["next_batch"] == 5 and "grain" in state
    assert state["fingerprint"] == _source().fingerprint()
    _assert_equal(_batches(4, data=data, views=views, start_batch=state["next_batch"]), straight[5:])


@pytest.mark.parametrize("views", [None, VIEWS], ids=["resident", "host"])
def test_threads_and_prefetch_change_nothing(views):
    reference = _batches(6, data=_data(threads=0), views=views)
    for threads, prefetch in ((1, 1), (3, 2), (2, 16)):
        _assert_equal(_batches(6, data=_data(threads=threads, prefetch=prefetch), views=views), reference)


@pytest.mark.parametrize("views", [None, VIEWS], ids=["resident", "host"])
def test_draws_are_the_places_in_the_stream(views):
    assert [batch["draw"].tolist() for batch in _batches(2, views=views, start_batch=3)] == [
        [12, 13, 14, 15],
        [16, 17, 18, 19],
    ]
    assert _batches(1, views=views)[0]["draw"].dtype == np.int32


def test_the_seed_changes_order_and_crops():
    first, second = (_batches(3, seed=seed, views=VIEWS) for seed in (1, 2))
    assert any((a["index"] != b["index"]).any() for a, b in zip(first, second, strict=True))
    one = Subset(_source(), np.array([6]))  # one image: the order is the same, the crops are not
    crops = [_batches(1, source=one, seed=seed, views=VIEWS)[0]["image"] for seed in (1, 2)]
    assert (crops[0] != crops[1]).any()
    assert len({crop.tobytes() for crop in crops[0][:, 0]}) == 4  # nor do the crops of one image repeat


@pytest.mark.parametrize("views", [None, VIEWS], ids=["resident", "host"])
@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_the_stream_out_without_gap_or_overlap(views, processes):
    """The parts of a batch, laid end to end in the order of the processes, are the batch of one, crops included."""
    whole = _batches(5, views=views)
    parts = [_batches(5, views=views, process_index=p, process_count=processes) for p in range(processes)]
    for number, batch in enumerate(whole):
        for name, expected in batch.items():
            assert {len(part[number][name]) for part in parts} == {4 // processes}
            np.testing.assert_array_equal(np.concatenate([part[number][name] for part in parts]), expected)


def test_a_restart_may_change_the_number_of_processes():
    straight = _batches(6, views=VIEWS)
    for process in (0, 1):
        part = _batches(2, views=VIEWS, start_batch=4, process_index=process, process_count=2)
        half = slice(2 * process, 2 * process + 2)
        _assert_equal(part, [{name: value[half] for name, value in batch.items()} for batch in straight[4:]])


def test_a_batch_larger_than_the_set_repeats_it():
    (batch,) = _batches(1, source=_source(3), batch_size=10)
    assert len(batch["index"]) == 10 and sorted(batch["index"][:3]) == [0, 1, 2] and set(batch["index"]) == {0, 1, 2}


def test_a_crop_is_the_box_of_the_shared_function():
    """Whole image in view: the box from `ops.boxes`, cut and averaged by hand with reduceat-free block means."""
    image = np.random.default_rng(0).integers(0, 255, (96, 64, 3), dtype=np.uint8)
    view = {"size": 16, "scale": (0.5, 0.9), "ratio": (0.8, 1.25), "interpolation": "bilinear"}
    for seed in range(20):
        uniforms = np.random.default_rng(seed).random((boxes.ATTEMPTS, 4))
        top, left, height, width = boxes.rounded(boxes.crop_box(uniforms, 96, 64, (0.5, 0.9), (0.8, 1.25)), 96, 64)
        found = pipeline.cut(image, np.random.default_rng(seed), view)
        part = image[top : top + height, left : left + width]
        np.testing.assert_array_equal(found, cv2.resize(part, (16, 16), interpolation=cv2.INTER_AREA))
        assert 0.4 < height * width / (96 * 64) < 1.0
    centre = np.zeros((90, 90, 1), np.uint8)
    centre[30:60] = 240
    whole = pipeline.cut(centre, np.random.default_rng(0), view | {"size": 3, "scale": (1.0, 1.0), "ratio": (1.0, 1.0)})
    assert whole[:, :, 0].tolist() == [[0] * 3, [240] * 3, [0] * 3]


@pytest.mark.parametrize("channels", [4, 5, 9])
@pytest.mark.parametrize("size", [8, 90])  # averaged, and interpolated
def test_any_number_of_channels_is_cut_as_each_of_them_alone(channels, size):
    image = np.random.default_rng(1).integers(0, 2**16, (64, 50, channels), dtype=np.uint16)
    view = {"size": size, "scale": (0.5, 0.9), "ratio": (0.8, 1.25), "interpolation": "bicubic"}
    whole = pipeline.cut(image, np.random.default_rng(2), view)
    assert whole.shape == (size, size, channels) and whole.dtype == np.uint16
    for place in range(channels):
        alone = pipeline.cut(image[:, :, place : place + 1], np.random.default_rng(2), view)
        off = np.abs(whole[:, :, place].astype(int) - alone[:, :, 0])
        assert off.max() <= 1, place  # of 65,535: one channel is rounded in another order
    assert decode.square_canvas(image, 24).shape == (24, 24, channels)


def test_a_small_box_is_interpolated_as_asked():
    image = np.random.default_rng(0).integers(0, 255, (8, 8, 1), dtype=np.uint8)
    view = {"size": 16, "scale": (1.0, 1.0), "ratio": (1.0, 1.0)}
    for name, kernel in (("bilinear", cv2.INTER_LINEAR), ("bicubic", cv2.INTER_CUBIC)):
        found = pipeline.cut(image, np.random.default_rng(0), view | {"interpolation": name})
        np.testing.assert_array_equal(found[:, :, 0], cv2.resize(image, (16, 16), interpolation=kernel))


def _folder(tmp_path, broken):
    for number in range(10):
        path = tmp_path / f"{number}.png"
        cv2.imwrite(str(path), np.full((30, 30), 20 * number, np.uint8))
        if number in broken:
            path.write_bytes(path.read_bytes()[:40])
    settings = ConfigDict({"source": "folder", "path": str(tmp_path), "size": 0})
    return open_source(settings, "pretrain", _data())


@pytest.mark.parametrize("threads", [0, 2])
def test_unreadable_files_are_replaced_and_counted(tmp_path, threads):
    source = _folder(tmp_path, broken=(2, 7))
    stream = pipeline.open_stream(source, _data(threads=threads), batch_size=5, seed=0, views=VIEWS)
    first, second = next(stream), next(stream)
    index = np.concatenate([first["index"], second["index"]])
    assert sorted(index.tolist()) == [0, 1, 3, 3, 4, 5, 6, 8, 8, 9]
    np.testing.assert_array_equal(np.concatenate([first["image"], second["image"]])[:, 0, 0, 0, 0], 20 * index)
    assert len(stream.broken) == 2 and "2.png" in stream.broken[0]
    stream.close()


@pytest.mark.parametrize("threads", [0, 2])
def test_too_many_unreadable_files_stop_the_stream_with_their_names(tmp_path, threads):
    source = _folder(tmp_path, broken=(2, 5, 7))
    with pytest.raises(UserError, match=r"3 unusable images.*2\.png.*5\.png.*7\.png"):
        _batches(3, source=source, data=_data(threads=threads), views=VIEWS)


def test_mistakes_are_named(tmp_path):
    def check(pattern, **options):
        with pytest.raises(UserError, match=pattern):
            _batches(1, **options)

    check("holds no images", source=Subset(_source(), np.zeros(0, np.int64)))
    check("batch of 5 does not divide among 2", batch_size=5, process_count=2)
    check("batch of 0", batch_size=0)
    check("did you mean 'bicubic'", views={"global": [GLOBAL | {"interpolation": "bicubik"}], "local": []})
    check(r"one size, not \[12, 24\]", views={"global": [GLOBAL, LOCAL], "local": []})
    check("at least one global view", views={"global": [], "local": [LOCAL]})


def test_the_place_of_the_crops_is_chosen_by_size():
    # 1 MiB holds 455 canvases of 48 x 48 (2,304 bytes each), not 456
    assert pipeline.choose_crop(_data(), 455) == "device"
    assert pipeline.choose_crop(_data(), 456) == "host"
    assert pipeline.choose_crop(_data(channels=3), 455) == "host"
    assert pipeline.choose_crop(_data(crop="host"), 1) == "host"
    assert pipeline.choose_crop(_data(crop="device"), 10**9) == "device"
    with pytest.raises(UserError, match="did you mean 'host'"):
        pipeline.choose_crop(_data(crop="hots"), 1)


def test_data_code_needs_no_jax():
    """The whole package works where jax cannot be imported (grain imports it only where it is there)."""
    code = (
        "import sys; sys.modules['jax'] = None\n"
        "from gssl_jax.data import arrays, decode, subsets, substitution\n"
        "from gssl_jax.data.sources import folder, packaged\n"
        "import gssl_jax.data.pipeline\n"
        "assert sys.modules['jax'] is None; print('fine')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "fine"
