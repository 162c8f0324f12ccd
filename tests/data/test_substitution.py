"""Broken files are replaced by the next readable one, counted once each, and only up to the bound."""

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from ml_collections import ConfigDict

from gssl_jax.data.sources import open_source
from gssl_jax.data.substitution import Substituted, as_readable
from gssl_jax.errors import UserError


def _folder(tmp_path, count, broken=(), small=()):
    """`count` flat images whose value is their number; some cut off in the middle, some only 3 pixels high."""
    for number in range(count):
        path = tmp_path / f"{number:03d}.jpg"
        cv2.imwrite(str(path), np.full((3 if number in small else 20, 20), number * 4, np.uint8))
        if number in broken:
            path.write_bytes(path.read_bytes()[:-60])
    data = ConfigDict({"holdout": 0.2, "seed": 0})
    return open_source(ConfigDict({"source": "folder", "path": str(tmp_path), "size": 0}), "pretrain", data)


def _value(sample):
    return round(float(sample["image"].mean()) / 4)


def test_the_next_readable_image_takes_the_place(tmp_path):
    source = Substituted(_folder(tmp_path, 10, broken=(3, 4, 9)), max_broken=0.3)
    assert [_value(source[i]) for i in range(10)] == [0, 1, 2, 5, 5, 5, 6, 7, 8, 0]
    assert source[3]["index"] == 5 and source[9]["index"] == 0
    assert [name.split(":")[0][-7:] for name in source.broken] == ["003.jpg", "004.jpg", "009.jpg"]
    assert "runcated" in source.broken[0]
    assert source.readable(4) is None and _value(source.readable(5)) == 5


def test_too_many_stop_with_their_names(tmp_path):
    source = Substituted(_folder(tmp_path, 10, broken=(3, 4, 9)), max_broken=0.2)
    with pytest.raises(UserError, match=r"3 unusable images.*2 of 10 are allowed.*003\.jpg.*004\.jpg.*009\.jpg"):
        for index in range(10):
            source[index]


def test_one_broken_image_is_always_allowed_and_counted_once(tmp_path):
    source = Substituted(_folder(tmp_path, 10, broken=(2,)), max_broken=0.0)
    for _ in range(3):
        assert _value(source[2]) == 3
    assert len(source.broken) == 1


def test_images_that_are_too_small_count_as_broken(tmp_path):
    source = Substituted(_folder(tmp_path, 5, small=(1,)), max_broken=0.0, min_side=4)
    assert _value(source[1]) == 2
    assert "001.jpg" in source.broken[0] and "3 x 20 px, smaller than the 4 px needed" in source.broken[0]


def test_when_nothing_can_be_read_it_says_so(tmp_path):
    with pytest.raises(UserError, match="no image.*can be read"):
        Substituted(_folder(tmp_path, 3, broken=(0, 1, 2)), max_broken=1.0)[1]


def test_threads_count_exactly(tmp_path):
    broken = tuple(range(0, 60, 4))
    source = Substituted(_folder(tmp_path, 60, broken=broken), max_broken=0.25)
    with ThreadPoolExecutor(8) as pool:
        values = list(pool.map(lambda i: _value(source[i]), list(range(60)) * 3))
    assert values == [i + 1 if i in broken else i for i in range(60)] * 3
    assert len(source.broken) == 15


def test_wrapping_twice_keeps_the_count(tmp_path):
    source = as_readable(_folder(tmp_path, 4), 0.1)
    assert as_readable(source, 0.5) is source and source.limit == 1


def test_an_empty_source_is_refused(tmp_path):
    empty = _folder(tmp_path, 2)
    empty._files.clear()
    with pytest.raises(UserError, match="holds no images"):
        Substituted(empty, 0.1)
