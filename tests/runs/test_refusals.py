"""Asking for what cannot work: one line that says what to do, exit code 2, no compute."""

import cv2
import numpy as np
import pytest
from ml_collections import ConfigDict

from gssl_jax.errors import UserError
from gssl_jax.main import main
from gssl_jax.runs import chain, parts

RECIPE = "configs/maskcluster_vit.py"


@pytest.fixture
def refused(monkeypatch, capsys, tmp_path):
    """Calls main and returns what it wrote to stderr, having checked that it refused in one line before any compute."""

    def no_compute(*_, **__):
        raise AssertionError("this should have been refused before the stage began")

    monkeypatch.setattr(chain, "run_stage", no_compute)

    def call(*flags, workdir=tmp_path / "run"):
        assert main(["main", *flags, f"--workdir={workdir}"]) == 2
        printed = capsys.readouterr()
        assert printed.err.startswith("error: ") and printed.err.count("\n") == 1, printed.err
        assert "Traceback" not in printed.err and len(printed.err) < 600, printed.err
        return printed.err

    return call


def write_images(folder, count, side=40):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        cv2.imwrite(str(folder / f"{i}.png"), rng.integers(0, 255, (side, side, 3), np.uint8))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([f"--config={RECIPE}:tyni"], ["tyni", "tiny"]),
        ([f"--config={RECIPE}:tiny,steps=3"], ["tiny", "steps"]),
        ([f"--config={RECIPE}:imagenet,backbone=vit_x"], ["vit_x", "vit_s16"]),
        ([f"--config={RECIPE}:folder"], ["needs path", ":folder,path=VALUE"]),
        (
            [f"--config={RECIPE}:tiny", "--config.method.colapse.patch=memax"],
            ["colapse", "did you mean 'method.collapse.patch'"],
        ),
        ([f"--config={RECIPE}:tiny", "--config.optim.batch_size=many"], ["optim.batch_size=many", "int"]),
        ([f"--config={RECIPE}:tiny", "--wrokdir=x"], ["--wrokdir", "did you mean '--workdir'"]),
        ([f"--config={RECIPE}:tiny", "stray"], ["stray"]),
        (["--config=configs/none.py"], ["configs/none.py", "configs/maskcluster_vit.py"]),
        (["--debug=false"], ["--config="]),
        ([f"--config={RECIPE}:tiny", "--config.method.collapse.cls=sinkhron"], ["sinkhron", "did you mean 'sinkhorn'"]),
        ([f"--config={RECIPE}:tiny", "--config.data.image_size=33"], ["33", "backbone.patch=8", "data.image_size=32"]),
        (
            [f"--config={RECIPE}:tiny", "--config.backbone.patch=64"],
            ["image_size=32", "smaller than backbone.patch=64"],
        ),
        ([f"--config={RECIPE}:tiny", "--config.optim.batch_size=30"], ["30", "8 devices", "24", "32"]),
        ([f"--config={RECIPE}:tiny", "--config.evals.lowshot.shots=(1,500)"], ["200", "500"]),
        ([f"--config={RECIPE}:tiny", "--config.optim.duration=0.2"], ["optim.duration", "0.0"]),
        (
            [f"--config={RECIPE}:tiny", "--config.method.corruption.ratio=1.5"],
            ["method.corruption.ratio=1.5", "0 and 1"],
        ),
        ([f"--config={RECIPE}:tiny", "--config.run.log_every=0"], ["run.log_every=0", "at least 1"]),
        ([f"--config={RECIPE}:tiny", "--config.method.views.globals=0"], ["method.views.globals=0"]),
        ([f"--config={RECIPE}:tiny", "--config.run.steps_per_dispatch=50"], ["steps_per_dispatch=50", "1 to 20"]),
        ([f"--config={RECIPE}:tiny", "--config.evals.bootstrap.resamples=0"], ["evals.bootstrap.resamples=0"]),
        ([f"--config={RECIPE}:tiny", "--config.evals.lowshot.draws=0"], ["evals.lowshot.draws is 0", "2 or more"]),
        ([f"--config={RECIPE}:tiny", "--config.evals.linear.l2_grid=()"], ["evals.linear.l2_grid", "at least one"]),
        ([f"--config={RECIPE}:tiny", "--config.evals.lowshot.shots=(0,)"], ["evals.lowshot.shots", "at least 1"]),
        ([f"--config={RECIPE}:tiny", "--config.evals.knn.feature=tokens"], ["tokens", "last4_cls"]),
        (
            [f"--config={RECIPE}:photos_rgb", "--config.data.contrast_normalise=True"],
            ["data.contrast_normalise", "data.channels=3", "--config.data.contrast_normalise=False"],
        ),
        ([f"--config={RECIPE}:tiny", "--config.evals.which=techer"], ["techer", "did you mean 'teacher'"]),
        ([f"--config={RECIPE}:tiny", "--config.evals.linear.feature=faet"], ["faet", "did you mean 'feat'"]),
        ([f"--config={RECIPE}:tiny", "--config.method.projector.norm=bath"], ["bath", "did you mean 'batch'"]),
        ([f"--config={RECIPE}:tiny", "--config.data.streams.train.size=24"], ["24 images", "optim.batch_size=16"]),
        ([f"--config={RECIPE}:tiny", "--config.optim.unit=hour"], ["hour", "epoch"]),
        ([f"--config={RECIPE}:tiny", "--config.method.name=maskclutser"], ["did you mean 'maskcluster'"]),
        ([f"--config={RECIPE}:tiny", "--config.method.name=simclr"], ["method.temperature", "configs/objectives.py"]),
        ([f"--config={RECIPE}:tiny", "--config.stages=('first',)"], ["first", "target"]),
        ([f"--config={RECIPE}:tiny", "--config.data.streams.train.source=fotos"], ["fotos", "photos"]),
        ([f"--config={RECIPE}:cifar10"], ["cifar10", "array_record"]),
    ],
)
def test_a_wrong_word_or_number_is_refused_in_one_line(refused, flags, words):
    message = refused(*flags)
    assert all(word in message for word in words), message


def test_a_linear_classifier_that_would_not_fit_the_device(refused, monkeypatch):
    """3,800 images of 19 classes need six arrays of 4 bytes a logit, 1.65 MiB."""
    monkeypatch.setattr(parts, "memory_bytes", lambda mesh: 2**20)
    message = refused(f"--config={RECIPE}:photos", "--config.optim.batch_size=16")
    assert "3800 images and 19 classes" in message and "--config.evals.linear.train_images=1839" in message
    images = type("Images", (list,), {"classes": range(19)})(range(3800))
    parts.check_linear_memory(images, ConfigDict({"train_images": 1839}), 2**20)
    with pytest.raises(UserError):
        parts.check_linear_memory(images, ConfigDict({"train_images": 2400}), 2**20)


def test_a_folder_that_is_missing_or_empty(refused, tmp_path):
    assert "nowhere" in refused(f"--config={RECIPE}:folder,path={tmp_path / 'nowhere'}")
    (tmp_path / "empty").mkdir()
    assert "empty" in refused(f"--config={RECIPE}:folder,path={tmp_path / 'empty'}")


def test_too_few_images_of_a_class_for_the_shots(refused, tmp_path):
    write_images(tmp_path / "images" / "many", 90)
    write_images(tmp_path / "images" / "rare", 4)
    message = refused(f"--config={RECIPE}:folder,path={tmp_path / 'images'}")
    assert "'rare'" in message and "5" in message and "shots" in message


def test_a_folder_of_another_run_shows_the_difference_and_stays(refused, monkeypatch, tmp_path):
    class Reached(Exception):
        pass

    def reached(*_, **__):
        raise Reached

    monkeypatch.setattr(chain, "Judge", reached)
    flags = ["main", f"--config={RECIPE}:tiny", f"--workdir={tmp_path / 'run'}"]
    with pytest.raises(Reached):
        main(flags)
    before = (tmp_path / "run" / "config.json").read_text()
    assert (tmp_path / "run" / "stages" / "0-target").is_dir()  # begun, and killed before its first step
    message = refused(f"--config={RECIPE}:tiny", "--config.method.loss.patch=0.5")
    assert "method.loss.patch: 1.0 -> 0.5" in message and "--workdir" in message and "--redo=target" in message
    assert (tmp_path / "run" / "config.json").read_text() == before
    with pytest.raises(Reached):  # what cannot change results is free
        main([*flags, "--config.run.log_every=4"])


def test_a_workdir_with_other_things_in_it(refused, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.txt").write_text("mine")
    assert "not a run folder" in refused(f"--config={RECIPE}:tiny", workdir=tmp_path / "photos")
    assert (tmp_path / "photos" / "holiday.txt").read_text() == "mine"


def test_debug_gives_the_traceback(tmp_path):
    with pytest.raises(ValueError, match="unknown preset"):
        main(["main", f"--config={RECIPE}:tyni", "--debug", f"--workdir={tmp_path}"])


def test_help_says_how(capsys):
    assert main(["main", "--help"]) == 0
    assert "--config=FILE" in capsys.readouterr().out
