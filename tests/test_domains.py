"""The 16 data sets of HPT: the specification's numbers, and what a recipe does when one is there, absent or another."""

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from gssl_jax import domains
from gssl_jax.dataset import main
from gssl_jax.domains import DOMAINS
from gssl_jax.errors import UserError
from gssl_jax.runs.evaluation import Judge
from gssl_jax.runs.parts import all_labels, assemble, stage_config
from gssl_jax.runs.pictures import leading
from tests.runs.recipes import recipe

MEANS = """resisc .368 .381 .3436 / .2035 .1854 .1849
ucmerced .4842 .4901 .4505 / .2180 .2021 .1958
bdd .2789 .2929 .2902 / .2474 .2653 .2761
viper .3485 .3422 .3395 / .2449 .2408 .2390
flowers .4355 .3777 .2880 / .2970 .2459 .2705
chexpert .5028 / .2919
chest_xray_kids .4815 / .2377
xview .368 .381 .3436 / .2035 .1854 .1849
coco_2014 .4702 .4470 .4076 / .2785 .2740 .2889
pascal .4511 .4292 .3967 / .2764 .2729 .2849
clipart .7362 .7167 .6834 / .3642 .3654 .3887
infograph .6888 .6970 .6648 / .3331 .3094 .3281
painting .5743 .5466 .5083 / .3088 .3007 .3168
quickdraw .9525 / .2128
real .6059 .5890 .5558 / .3344 .3279 .3493
sketch .8327 .8270 .8179 / .2727 .2753 .2810"""
"""Specification 3.3, as it stands there."""

CLASSES = dict(resisc=45, ucmerced=21, bdd=6, viper=23, flowers=102, chexpert=5, chest_xray_kids=10, xview=36)
CLASSES |= dict(coco_2014=80, pascal=20)
SEVERAL = {"chexpert", "coco_2014", "pascal", "viper", "xview"}


def look_alike(root, name, classes=0, several=None):
    """Grey 16 px images and lists with as many classes as the data set has, two images of each in train."""
    classes, rng = classes or DOMAINS[name].classes[0], np.random.default_rng(0)
    several = name in SEVERAL if several is None else several
    root.mkdir()
    for split, count in (("train", max(40, 2 * classes)), ("val", 4), ("test", max(6, classes))):
        lines = []
        for i in range(count):
            Image.fromarray(rng.integers(0, 255, (16, 16), np.uint8)).save(root / f"{split} {i}.png")
            label = " ".join(str(int(i % 3 == c % 3)) for c in range(classes)) if several else str(i % classes)
            lines.append(f"{split} {i}.png {label}")
        (root / f"{split}.txt").write_text("\n".join(lines))
    return root


def config(name, path, source="lists"):
    """The target stage of a toy recipe on a data set of HPT."""
    c = recipe("tiny", "hpt_moco")
    c.data.streams.train.size = 0
    c.evals.lowshot.shots = (1,)
    c.evals.knn.k = 5
    domains.use(c, name, str(path), source)
    return c


def test_the_table_is_that_of_the_specification():
    assert len(DOMAINS) == 16
    for line in MEANS.splitlines():
        name, _, rest = line.partition(" ")
        mean, std = (tuple(float(x) for x in part.split()) for part in rest.split("/"))
        assert (DOMAINS[name].mean, DOMAINS[name].std) == (mean, std), name
        assert DOMAINS[name].classes[0] == (CLASSES[name] if name in CLASSES else 345)
        assert DOMAINS[name].metric == ("auroc" if name in SEVERAL else "top1")
    assert DOMAINS["resisc"].images == (18_900, 6_300, 6_300) and DOMAINS["resisc"].exact
    assert DOMAINS["resisc"].holds("pretrain", "lists") == 25_200
    assert DOMAINS["ucmerced"].images == (1_260, 420, 420)
    assert DOMAINS["sketch"].holds("train", "lists") == 39_200 and DOMAINS["sketch"].holds("train", "tfds") == 49_000
    assert DOMAINS["real"].holds("elsewhere", "lists") == 0 and not DOMAINS["real"].exact


def test_flowers_has_seven_batches_an_epoch():
    """Specification 3.12, invariant 10: train and val are 2,040 images, and the last batch of 256 is dropped."""
    assert DOMAINS["flowers"].holds("pretrain", "tfds") // 256 == 7


@pytest.mark.parametrize("name", DOMAINS)
def test_names_of_tfds_are_in_its_catalogue(name):
    named = DOMAINS[name].tfds
    if named is not None:
        path, _, variant = named.path.partition("/")
        assert path in tfds.list_builders(with_community_datasets=False)
        label = tfds.builder(named.path).info.features["label"]
        assert label.num_classes in DOMAINS[name].classes and variant in ("", name)


@pytest.mark.parametrize("name", DOMAINS)
def test_every_data_set_is_refused_where_absent_and_runs_where_it_is(name, tmp_path):
    with pytest.raises(UserError) as refused:
        assemble(stage_config(config(name, tmp_path / "absent"), "target"))
    for words in (DOMAINS[name].title, str(tmp_path / "absent"), "Get ", "train.txt, val.txt and test.txt"):
        assert words in str(refused.value)
    parts = assemble(stage_config(config(name, look_alike(tmp_path / "here", name)), "target"))
    count = max(40, 2 * DOMAINS[name].classes[0])
    assert len(parts.streams["train"]) == count + 4 and len(parts.train) == count
    assert parts.train.multilabel == (name in SEVERAL) and len(parts.train.classes) == DOMAINS[name].classes[0]
    assert set(parts.config.data.mean) == set(DOMAINS[name].mean) and not parts.streams["train"].multilabel
    if name in SEVERAL:
        assert all_labels(parts.streams["train"]).max() == -1  # none of them reaches the training
    assert sum("HPT has" in line and DOMAINS[name].title in line for line in parts.warnings) == 3


def test_other_classes_and_another_kind_of_label_are_refused(tmp_path):
    with pytest.raises(UserError, match="NWPU-RESISC45 .resisc. has 45 classes and six/pretrain 6: check .*six"):
        assemble(stage_config(config("resisc", look_alike(tmp_path / "six", "resisc", classes=6)), "target"))
    assemble(stage_config(config("viper", look_alike(tmp_path / "viper", "viper", classes=6)), "target"))
    with pytest.raises(UserError, match="CheXpert .* has several labels an image and one/pretrain one class"):
        assemble(stage_config(config("chexpert", look_alike(tmp_path / "one", "chexpert", several=False)), "target"))


def test_counts_are_compared_exactly_or_about(tmp_path, monkeypatch):
    root = look_alike(tmp_path / "set", "ucmerced")  # 42 train, 4 val, 21 test

    def lines(images, exact):
        changed = DOMAINS["ucmerced"]._replace(images=images, exact=exact)
        monkeypatch.setitem(domains.DOMAINS, "ucmerced", changed)
        return [line for line in assemble(stage_config(config("ucmerced", root), "target")).warnings if "HPT" in line]

    assert lines((42, 4, 21), True) == []
    assert lines((42, 4, 22), True) == ["set/test holds 21 images, HPT has 22 of UC Merced Land Use in test"]
    assert lines((42, 4, 22), False) == [] and "about 24" in lines((42, 4, 24), False)[0]
    c = config("ucmerced", root)
    c.data.streams.train.size = 40  # a part says nothing about the whole
    monkeypatch.setitem(domains.DOMAINS, "ucmerced", DOMAINS["ucmerced"]._replace(images=(42, 50, 21), exact=True))
    assert not any("HPT" in line for line in assemble(stage_config(c, "target")).warnings)


def test_a_stage_before_the_target_has_its_own_images(tmp_path):
    """resisc -> ucmerced, a sequence of the paper (specification 3.6)."""
    c = config("ucmerced", look_alike(tmp_path / "target", "ucmerced"))
    c.stage.source = domains.stage(c, "resisc", str(look_alike(tmp_path / "source", "resisc")))
    source, target = (stage_config(c, stage) for stage in ("source", "target"))
    assert source.data.streams.train.path == str(tmp_path / "source") and source.data.mean == DOMAINS["resisc"].mean
    assert target.data.streams.train.path == source.evals.data.path == str(tmp_path / "target")
    assert target.data.mean == DOMAINS["ucmerced"].mean
    parts = assemble(source)
    assert parts.streams["train"].name == "source/pretrain" and len(parts.train.classes) == 21
    assert any("RESISC" in line for line in parts.warnings) and any("UC Merced" in line for line in parts.warnings)


def test_tfds_splits_are_cut_to_the_sizes_of_the_paper():
    c = config("resisc", "", "tfds")
    assert (c.data.streams.train.path, c.data.streams.train.split) == ("resisc45", "train[:25200]")
    assert (c.evals.data.train, c.evals.data.test) == ("train[:18900]", "train[25200:]")
    assert DOMAINS["resisc"].holds("train[25200:]", "tfds") == 31_500 - 25_200 == 6_300
    c = config("flowers", "", "tfds")
    assert (c.data.streams.train.split, c.evals.data.train, c.evals.data.test) == ("train+validation", "train", "test")


@pytest.mark.parametrize(
    ("name", "path", "source", "words"),
    [
        ("resics", "x", "lists", "unknown data set of HPT 'resics'; did you mean 'resisc'"),
        ("bdd", "", "lists", "BDD100K, weather needs a folder: give path=DIR. Get BDD100K"),
        ("coco_2014", "", "tfds", "TFDS does not have COCO 2014 as images with labels: give kind=lists,path=DIR"),
    ],
)
def test_what_cannot_be_meant_is_refused(name, path, source, words):
    with pytest.raises(UserError, match=words):
        config(name, path, source)


def test_methods_that_learn_one_class_refuse_several_labels(tmp_path):
    c = recipe("tiny", "gated_cifar_lt")
    c.data.streams.train.update(dict(source="lists", path=str(look_alike(tmp_path / "set", "chexpert")), size=0))
    c.data.streams.train.split = "train"
    with pytest.raises(UserError, match="learns one class an image and set/train has several labels"):
        assemble(stage_config(c, "target"))


def test_several_labels_are_judged_by_auroc(tmp_path):
    """A patch is bright where it has the label: pixels alone find it."""
    root, rng = tmp_path / "set", np.random.default_rng(0)
    root.mkdir()
    for split, count in (("train", 40), ("test", 20)):
        labels = rng.integers(0, 2, (count, 2))
        for i, (top, bottom) in enumerate(labels):
            pixels = np.repeat(np.array([[top], [bottom]], np.uint8) * 200, 16, axis=1).repeat(8, axis=0)
            Image.fromarray(pixels).save(root / f"{split}{i}.png")
        (root / f"{split}.txt").write_text("".join(f"{split}{i}.png {a} {b}\n" for i, (a, b) in enumerate(labels)))
    c = recipe("tiny", "hpt_moco")
    place = dict(source="lists", path=str(root))
    c.data.streams.train.update(place)
    c.data.streams.train.size, c.evals.knn.k = 0, 5
    c.evals.data.update(place)
    parts = assemble(stage_config(c, "target"))
    entries = Judge(parts, 0).judge_pixels()
    assert entries["linear/auroc"]["value"] > 0.99 and entries["knn/auroc"]["value"] > 0.9
    assert entries["linear/map"]["value"] > 0.99 and entries["lowshot_5/map"]["value"] > 0.9


def test_pictures_go_by_the_first_label_of_an_image():
    labels = np.array([[0, 1, 1], [np.nan, 0, 1], [0, np.nan, 0], [1, 0, 0]], np.float32)
    np.testing.assert_array_equal(leading(labels), [1, 2, -1, 0])
    np.testing.assert_array_equal(leading(np.array([2, -1])), [2, -1])


def test_the_command_shows_all_sixteen_within_eighty_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["dataset", "domains"]) == 0
    printed = capsys.readouterr().out
    for name, domain in DOMAINS.items():
        row = next(line for line in printed.splitlines() if line.split()[:1] == [name])
        about = "" if domain.exact else "~"
        assert row.split()[-4:] == [*(f"{about}{count:,}" for count in domain.images), domain.metric]
        assert len(row) <= 80 and f"{name}: Get {domain.origin}" in printed
    assert main(["dataset", "domains", "more"]) == 2
