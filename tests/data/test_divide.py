"""Lists for a folder of classes: stratified, the same for a seed, disjoint, never written over."""

import re

import pytest
from ml_collections import ConfigDict
from PIL import Image

from gssl_jax.data.divide import divide
from gssl_jax.data.sources import open_source
from gssl_jax.dataset import main
from gssl_jax.errors import UserError


def _folder(root, **classes):
    """A folder of classes with so many images each, all readable."""
    for name, count in classes.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            Image.new("L", (4, 4), i).save(root / name / f"{name} {i}.png")
    return root


def _names(root, name):
    return [line.rpartition(" ")[0] for line in (root / f"{name}.txt").read_text().splitlines()]


def test_shares_of_every_class_and_no_image_twice(tmp_path):
    """The shares of RESISC-45 (700 a class: 420, 140, 140) at a tenth of its size, and a class of three."""
    root = _folder(tmp_path / "set", field=70, sea=70, rare=3)
    assert divide(root, root, 0.6, 0.2, seed=0) == {"train": 85, "val": 29, "test": 29}
    names = {split: _names(root, split) for split in ("train", "val", "test")}
    for split, field, rare in (("train", 42, 1), ("val", 14, 1), ("test", 14, 1)):
        for one, count in (("field", field), ("sea", field), ("rare", rare)):
            assert sum(name.startswith(f"{one}/") for name in names[split]) == count
    together = [name for found in names.values() for name in found]
    assert len(together) == len(set(together)) == 143
    assert (root / "classes.txt").read_text().split() == ["field", "rare", "sea"]
    settings = ConfigDict({"source": "lists", "path": str(root), "size": 0})
    train, pretrain = (open_source(settings, split, None) for split in ("train", "pretrain"))
    assert len(pretrain) == 85 + 29 and train.classes == ("field", "rare", "sea")
    assert {train.classes[train.label(i)] in train.describe(i) for i in range(len(train))} == {True}
    assert train[0]["image"].shape == (4, 4, 1)


def test_the_draw_follows_the_seed_and_the_class_alone(tmp_path):
    root = _folder(tmp_path / "set", a=20, b=20)
    drawn = {}
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        divide(root, tmp_path / name, 0.6, 0.2, seed)
        drawn[name] = _names(tmp_path / name, "train")
    assert drawn["one"] == drawn["again"] != drawn["other"]
    _folder(root, aa=20)
    divide(root, tmp_path / "more", 0.6, 0.2, 0)
    assert [name for name in _names(tmp_path / "more", "train") if not name.startswith("aa/")] == drawn["one"]
    assert [name.replace("a", "b") for name in drawn["one"][:12]] != drawn["one"][12:]  # classes draw apart


def test_lists_elsewhere_find_their_images(tmp_path):
    root = _folder(tmp_path / "set", a=5, b=5)
    assert main(["dataset", "split", str(root), f"--out={tmp_path / 'lists'}"]) == 0
    source = open_source(ConfigDict({"source": "lists", "path": str(tmp_path / "lists"), "size": 0}), "test", None)
    assert source[0]["image"].shape == (4, 4, 1) and not (root / "train.txt").exists()


def test_nothing_is_written_over(tmp_path):
    root = _folder(tmp_path / "set", a=5, b=5)
    (root / "val.txt").write_text("mine")
    with pytest.raises(UserError, match="val.txt is there already"):
        divide(root, root, 0.6, 0.2, 0)
    assert (root / "val.txt").read_text() == "mine" and not (root / "train.txt").exists()
    (tmp_path / "out" / "images").mkdir(parents=True)
    with pytest.raises(UserError, match="out/images is there already"):
        divide(root, tmp_path / "out", 0.6, 0.2, 0)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["set", "--train=0.8", "--val=0.2"], "leave some images to test on"),
        (["set", "--train=most"], "--train=most: give a share"),
        (["set", "--seed=x"], "--seed=x: give a whole number"),
        (["set", "--trian=0.5"], "did you mean '--train'"),
        (["nowhere"], "no folder"),
        ([], "takes one folder"),
        (["small"], "class 'b' .* has 2 images; it needs at least 3"),
        (["flat"], "has no two class folders"),
        (["done"], "has test/ already"),
    ],
)
def test_the_command_refuses_in_one_line(tmp_path, capsys, monkeypatch, flags, words):
    _folder(tmp_path / "set", a=5, b=5)
    _folder(tmp_path / "small", a=5, b=2)
    _folder(tmp_path / "flat", only=5)
    _folder(tmp_path / "done", test=5, other=5)
    monkeypatch.chdir(tmp_path)
    assert main(["dataset", "split", *flags]) == 2
    printed = capsys.readouterr().err
    assert re.search(words, printed) and printed.count("\n") == 1, printed
    with pytest.raises(UserError, match=words):
        main(["dataset", "--debug", "split", *flags])
