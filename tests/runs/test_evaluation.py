"""Some images of an evaluation set: the same ones in memory or not, spread over all of it and over its classes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from gssl_jax.errors import UserError
from gssl_jax.evals.lowshot import digest
from gssl_jax.runs.evaluation import Judge, stratified
from gssl_jax.runs.parts import assemble, stage_config
from tests.runs.recipes import recipe


@pytest.mark.parametrize("count", [5, 10_000])
def test_some_images_are_spread_over_the_set_in_memory_or_not(count):
    """The 19 classes of `photos` stand one after the other, 60 test images each."""
    found = []
    for mib in (1024, 1):  # 1140 x 32 x 32 grey is 1.1 MiB
        config = recipe("tiny")
        config.data.crop, config.data.resident_mib = "device", mib
        judge = Judge(assemble(stage_config(config, "target")), 0)
        assert isinstance(judge.sets["test"], dict) == (mib > 1)
        if count < 1000 or mib > 1:
            found.append(judge.some("test", count))
    if count == 5:
        assert found[0]["label"].tolist() == [0, 4, 9, 14, 18]
        for name in ("image", "label"):
            np.testing.assert_array_equal(found[0][name], found[1][name])
    else:
        assert len(found[0]["image"]) == 1140


@pytest.mark.parametrize(
    ("labels", "count", "rows"),
    [
        ([0, 0, 0, 1, 1, 2], 3, [0, 3, 5]),  # the first of each class, whether the set is sorted by class
        ([2, 0, 1, 0, 2, 1], 3, [1, 2, 0]),  # or not
        ([0, 0, 0, 1, 1, 2], 5, [0, 1, 3, 4, 5]),  # then a second one of those that have it
        ([0, 0, 0, 0, 1], 4, [0, 1, 2, 4]),
        ([0, 0, 1, 1, 2, 2, 3, 3, 4, 4], 3, [0, 4, 8]),  # three of five classes: the first, the middle and the last
        ([1, -1, 0, -1], 4, [2, 0]),  # images without a label are not shown beside others
        ([-1, -1, -1, -1, -1], 3, [0, 2, 4]),  # but where there is no other
    ],
)
def test_images_to_show_are_of_as_many_classes_as_can_be(labels, count, rows):
    assert stratified(np.asarray(labels), count).tolist() == rows


def judge_of(mib=1024, name="hpt_moco", **changes):
    """On 32 x 32 grey `photos`, 19 classes, for a small ResNet or ViT; 0 MiB hold no images."""
    config = recipe("tiny", name)
    config.data.resident_mib = mib
    config.data.crop = "device"
    config.evals.update(changes)
    return Judge(assemble(stage_config(config, "target")), 0)


@pytest.fixture(scope="module")
def network():
    """(a judge, fresh variables of its backbone)."""
    judge = judge_of()
    data = judge._parts.config.data
    blank = jnp.zeros((1, data.image_size, data.image_size, data.channels))
    return judge, jax.jit(judge._parts.backbone.init)(jax.random.key(0), blank)


def test_images_to_train_on_are_the_same_in_memory_and_not(network):
    rows = np.array([3, 700, 12, 40])
    held, streamed = network[0], judge_of(mib=0)
    assert isinstance(held.sets["train"], dict) and not isinstance(streamed.sets["train"], dict)
    asked = np.array([2, 0, 2])
    (images, labels), (again, others) = held._pool(rows).pick(asked), streamed._pool(rows).pick(asked)
    np.testing.assert_array_equal(images, held.sets["train"]["image"][rows[asked]])
    np.testing.assert_array_equal(images, again)
    np.testing.assert_array_equal(labels, others)
    np.testing.assert_array_equal(held._pool(rows).labels, streamed._pool(rows).labels)
    one, other = (list(judge._opened("train", rows)()) for judge in (held, streamed))
    for name in ("image", "label", "valid"):
        np.testing.assert_array_equal(one[0][name], other[0][name])


def test_labelled_images_show_every_class_and_none_is_chosen_by():
    judge = judge_of(finetune={"labels": (38, 0), "draws": 2})
    labels = judge._train_labels()
    for name, (draws, held) in judge._draws.items():
        count = int(name.replace("all", "0"))
        assert len(draws) == 2 and len(held) == round(0.2 * len(labels))
        for rows in draws:
            assert len(rows) == (count or len(labels) - len(held)) and not set(rows) & set(held)
            assert np.bincount(labels[rows], minlength=19).min() >= 1
    first, second = judge._draws["38"][0]
    assert set(first) != set(second)
    with pytest.raises(UserError, match="99999 labels were asked for but"):
        judge_of(finetune={"labels": (99999,)})


def test_protocols_that_train_are_off_unless_asked_for():
    judge = judge_of(name="maskcluster_vit")
    variables = jax.jit(judge._parts.backbone.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 1)))
    assert judge.teach(variables) == {}
    quick = dict(steps=2, every=1, batch_size=8, seeds=1, learning_rate=1.0)
    tuning = dict(labels=(19,), steps=2, batch_size=8, learning_rates=(0.01,))
    found = judge_of(name="maskcluster_vit", sgd_linear=quick, finetune=tuning).teach(variables)
    assert list(found) == ["linear_sgd/top1", "finetune_19/top1"]
    for name, entry in found.items():
        assert 0 <= entry["value"] <= 1 and "32 x 32 pixels" in entry["protocol"]["images"], name
        assert "statistics" not in entry["protocol"]


def test_refreshed_statistics_are_those_of_the_training_images(network):
    judge, variables = network
    assert judge.settled(variables) is variables
    other = judge_of(statistics="refreshed")
    settled = other.settled(variables)
    jax.tree.map(np.testing.assert_array_equal, settled["params"], variables["params"])
    stem = {name: tree["batch_stats"]["norm_stem"]["mean"] for name, tree in (("own", variables), ("new", settled))}
    assert np.abs(stem["own"] - stem["new"]).max() > 1e-3
    assert "training images" in other._told({"a": {"protocol": {}}})["a"]["protocol"]["statistics"]
    few = other.some("test", 8)
    plain = judge.features(settled, few)
    np.testing.assert_allclose(other.features(variables, few)["feat"], plain["feat"], rtol=1e-4, atol=1e-5)


def test_lists_name_images_by_file_whatever_cannot_be_read(tmp_path):
    """Labels are as many as classes; the third training image is broken, so that rows and files part there."""
    root, rng = tmp_path / "set", np.random.default_rng(0)
    root.mkdir()
    for split, count in (("train", 40), ("test", 20)):
        labels = rng.integers(0, 2, (count, 2))
        for i, (top, bottom) in enumerate(labels):
            pixels = np.repeat(np.array([[top], [bottom]], np.uint8) * 200, 16, axis=1).repeat(8, axis=0)
            Image.fromarray(pixels).save(root / f"{split}{i}.png")
        (root / f"{split}.txt").write_text("".join(f"{split}{i}.png {a} {b}\n" for i, (a, b) in enumerate(labels)))
    (root / "train2.png").write_bytes(b"no image")
    (tmp_path / "mine.txt").write_text("".join(f"train{i}.png\n" for i in range(5, 25)))
    config = recipe("tiny", "hpt_moco")
    place = dict(source="lists", path=str(root))
    config.data.streams.train.update(place | {"size": 0})
    config.data.max_broken = 0.1
    config.evals.data.update(place)
    config.evals.knn.k, config.evals.lowshot.shots = 5, ()
    config.evals.lowshot.lists = (str(tmp_path / "mine.txt"),)
    entries = Judge(assemble(stage_config(config, "target")), 0).judge_pixels()
    assert entries["lowshot_mine/map"]["value"] > 0.99 and entries["linear/f1_micro"]["value"] > 0.99
    protocol = entries["lowshot_mine/map"]["protocol"]
    assert protocol["digest"] == digest([np.arange(4, 24)])  # one row less than the file's number
    (tmp_path / "mine.txt").write_text("train3.png\nelsewhere.png\n")
    with pytest.raises(UserError, match=r"1 of 2 names in .*mine.txt are no readable images.*elsewhere.png"):
        assemble(stage_config(config, "target"))
