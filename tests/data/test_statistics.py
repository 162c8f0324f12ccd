"""Mean and deviation of pixels, by hand and by NumPy over all pixels at once."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from ml_collections import ConfigDict

from gssl_jax.data.sources import open_source
from gssl_jax.data.statistics import channel_statistics
from gssl_jax.dataset import main
from gssl_jax.errors import UserError

DATA = ConfigDict(dict(channels=3, threads=2, max_broken=0.5, seed=0, holdout=0.2))


def folder(path):
    return open_source(ConfigDict(dict(source="folder", path=str(path), size=0)), "train", DATA)


def write(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image[..., ::-1])


def test_every_image_counts_once_whatever_its_size(tmp_path):
    """One pixel of 0 and four of 1 in the first channel: .5, not .8; deviation .5. The others are constant."""
    for name, side, value in (("a", 1, 0), ("b", 2, 255)):
        write(tmp_path / "train" / "one" / f"{name}.png", np.full((side, side, 3), (value, 51, 102), np.uint8))
    found = channel_statistics(folder(tmp_path), DATA)
    np.testing.assert_allclose(found.mean, [0.5, 0.2, 0.4])
    np.testing.assert_allclose(found.std, [0.5, 0.0, 0.0], atol=1e-7)
    assert found.images == 2 and found.broken == ()


def test_equal_sizes_equal_numpy_and_a_part_is_evenly_spaced(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (7, 5, 4, 3)).astype(np.uint8)
    for i, image in enumerate(images):
        write(tmp_path / "train" / "one" / f"{i}.png", image)
    source = folder(tmp_path)
    for count, rows in ((0, slice(None)), (3, [0, 3, 6]), (50, slice(None))):
        pixels = images[rows].reshape(-1, 3) / 255
        found = channel_statistics(source, DATA, count)
        np.testing.assert_allclose(found.mean, pixels.mean(0))
        np.testing.assert_allclose(found.std, pixels.std(0))
    grey = channel_statistics(source, ConfigDict(DATA.to_dict() | {"channels": 1}))
    assert grey.mean.shape == (1,)


def test_broken_images_are_left_out_and_named(tmp_path):
    write(tmp_path / "train" / "one" / "a.png", np.full((2, 2, 3), 51, np.uint8))
    (tmp_path / "train" / "one" / "b.png").write_bytes(b"no image")
    found = channel_statistics(folder(tmp_path), DATA)
    np.testing.assert_allclose(found.mean, 0.2)
    assert found.images == 1 and len(found.broken) == 1 and "b.png" in found.broken[0]
    (tmp_path / "train" / "one" / "a.png").write_bytes(b"no image either")
    with pytest.raises(UserError):
        channel_statistics(folder(tmp_path), DATA)


def test_the_command_prints_flags_that_can_be_copied(tmp_path, capsys):
    for i in range(4):
        write(tmp_path / "images" / "one" / f"{i}.png", np.full((40, 40, 3), (51, 102, 255), np.uint8))
    recipe = f"--config=configs/maskcluster_vit.py:folder,path={tmp_path / 'images'}"
    assert main(["dataset", "statistics", recipe, "--images=2"]) == 0
    printed = capsys.readouterr().out
    assert "--config.data.mean='(0.2000, 0.4000, 1.0000,)'" in printed and "2 images" in printed
    assert "--config.data.std='(0.0000, 0.0000, 0.0000,)'" in printed
    assert main(["dataset", "--help"]) == 0 and "statistics" in capsys.readouterr().out
    for flags, words in (
        (["statistic", recipe], "unknown command 'statistic'; did you mean 'statistics'"),
        (["statistics", recipe, "--images=few"], "--images=few: give a whole number"),
        (["statistics", recipe, "--image=3"], "unknown flag '--image'"),
    ):
        assert main(["dataset", *flags]) == 2
        assert words in capsys.readouterr().err
