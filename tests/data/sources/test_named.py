"""TFDS names through the package's own mock (no files, no network, no TensorFlow), and one really prepared set."""

import io
import subprocess
import sys

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds
from ml_collections import ConfigDict

from gssl_jax.data import arrays
from gssl_jax.data.sources import open_source
from gssl_jax.errors import UserError

DATA = ConfigDict(
    dict(image_size=32, channels=3, canvas=32, contrast_normalise=False, seed=0, max_broken=0.01, threads=2)
    | dict(resident_mib=64, holdout=0.2)
)


def _open(path, split):
    return open_source(ConfigDict({"source": "tfds", "path": str(path), "size": 0}), split, DATA)


def test_cifar10_through_the_mock():
    with tfds.testing.mock_data(num_examples=7):
        train, test = _open("cifar10", "pretrain"), _open("cifar10", "test")
        assert len(train) == 7 and len(train.classes) == 10
        sample = train[2]
        assert sample["image"].shape == (32, 32, 3) and sample["image"].dtype == np.uint8
        assert sample["label"] in range(10) and sample["index"] == 2  # `label` alone: the prepared set below
        evaluation = arrays.evaluation_set(test, DATA, 32)
        assert evaluation["image"].shape == (7, 32, 32, 3) and evaluation["label"].dtype == np.int32
        assert train.fingerprint() == _open("cifar10", "pretrain").fingerprint() != test.fingerprint()


class Squares(tfds.core.GeneratorBasedBuilder):
    """Four grey pictures and a validation split instead of a test split."""

    VERSION = tfds.core.Version("1.0.0")
    code_path = None  # there are no checksum files beside this test

    def _info(self):
        image = tfds.features.Image(shape=(None, None, 1), encoding_format="png")
        features = {"image": image, "label": tfds.features.ClassLabel(names=["dark", "light"])}
        return tfds.core.DatasetInfo(builder=self, description="x", features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(3), "validation": self._generate_examples(1)}

    def _generate_examples(self, count):
        for number in range(count):
            # an encoded file; TFDS would want TensorFlow to encode an array
            png = cv2.imencode(".png", np.full((5, 4 + number, 1), 90 * number, np.uint8))[1].tobytes()
            yield number, {"image": io.BytesIO(png), "label": number % 2}


def test_a_prepared_folder_and_its_validation_split(tmp_path):
    builder = Squares(data_dir=tmp_path, file_format="array_record")
    builder.download_and_prepare()
    train, test = _open(builder.data_dir, "train"), _open(builder.data_dir, "test")
    assert (len(train), len(test), train.classes) == (3, 1, ("dark", "light"))
    assert sorted((s["image"].shape, s["label"]) for s in map(train.__getitem__, range(3))) == [
        ((5, 4, 1), 0),
        ((5, 5, 1), 1),
        ((5, 6, 1), 0),
    ]
    assert [train.label(i) for i in range(3)] == [train[i]["label"] for i in range(3)]
    assert len(_open(builder.data_dir, "train[:2]")) == 2
    assert len(_open(builder.data_dir, "train+validation")) == 4 and len(_open(builder.data_dir, "train[2:]")) == 1
    with pytest.raises(UserError, match="unknown split.*'extra'.*validation"):
        _open(builder.data_dir, "extra")


def test_mistakes_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(UserError, match="did you mean 'cifar10'"):
        _open("cifar1x", "train")
    with pytest.raises(UserError, match="cifar10 has not been prepared.*tfds build cifar10 --file_format=array_record"):
        _open("cifar10", "train")
    Squares(data_dir=tmp_path / "records", file_format="array_record").download_and_prepare()
    info = tmp_path / "records" / "squares" / "1.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(UserError, match="holds no files with random access; run: tfds build"):
        _open(tmp_path / "records" / "squares" / "1.0.0", "train")
    with pytest.raises(UserError, match="no prepared TFDS data set"):
        _open(tmp_path, "train")
    with pytest.raises(UserError, match="needs the name"):
        _open("", "train")


def test_neither_tensorflow_nor_jax_is_imported():
    code = "import sys, gssl_jax.data.sources.named; print('jax' in sys.modules, 'tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
