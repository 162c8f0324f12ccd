"""k-NN against brute force in numpy and against scikit-learn; tiles must not matter."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from gssl_jax.errors import UserError
from gssl_jax.evals import knn as module
from gssl_jax.evals.knn import knn_scores, largest
from gssl_jax.training.mesh import make_mesh, on_data

RNG = np.random.default_rng(0)
TRAIN, TEST = RNG.normal(size=(60, 8)).astype(np.float32), RNG.normal(size=(23, 8)).astype(np.float32)
LABELS = RNG.integers(0, 4, 60)


def test_equals_brute_force():
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731
    similarity = unit(TEST.astype(np.float64)) @ unit(TRAIN.astype(np.float64)).T
    expected = np.zeros((23, 4))
    for row in range(23):
        for near in np.argsort(-similarity[row])[:7]:
            expected[row, LABELS[near]] += np.exp(similarity[row, near] / 0.07)
    expected /= expected.sum(1, keepdims=True)
    np.testing.assert_allclose(knn_scores(TRAIN, LABELS, TEST, k=7, temperature=0.07, classes=4), expected, atol=1e-5)


def test_equals_scikit_learn():
    # scikit-learn's cosine distance is 1 - similarity.
    model = KNeighborsClassifier(5, metric="cosine", weights=lambda d: np.exp((1 - d) / 0.1), algorithm="brute")
    expected = model.fit(TRAIN, LABELS).predict_proba(TEST)
    np.testing.assert_allclose(knn_scores(TRAIN, LABELS, TEST, k=5, temperature=0.1, classes=4), expected, atol=1e-5)


@pytest.mark.parametrize(("tiles", "k"), [((7, 5), 6), ((60, 4), 6), ((64, 1024), 79), ((1, 23), 6), ((33, 9), 80)])
def test_tiles_do_not_matter(tiles, k):
    train = np.concatenate([TRAIN, TRAIN[:20]])  # duplicates with other labels: ties
    labels = np.concatenate([LABELS, (LABELS[:20] + 1) % 4])
    options = {"k": k, "temperature": 1.0, "classes": 4}  # the farthest count too
    whole = knn_scores(train, labels, TEST, **options)
    tiled = knn_scores(train, labels, TEST, train_tile=tiles[0], test_tile=tiles[1], **options)
    np.testing.assert_allclose(tiled, whole, atol=1e-6)


def test_scale_does_not_matter_and_small_temperature_does_not_overflow():
    scores = knn_scores(1000 * TRAIN, LABELS, TEST / 1000, k=3, temperature=0.001, classes=4)
    nearest = knn_scores(TRAIN, LABELS, TEST, k=1, temperature=1.0, classes=4)
    assert np.isfinite(scores).all()
    np.testing.assert_array_equal(np.argmax(scores, 1), np.argmax(nearest, 1))


@pytest.mark.parametrize("k", [0, 61])
def test_k_out_of_range_names_the_numbers(k):
    with pytest.raises(UserError, match=rf"evals.knn.k is {k} but there are 60 training images"):
        knn_scores(TRAIN, LABELS, TEST, k=k, temperature=0.07, classes=4)


def test_labels_of_several_classes_are_voted_on_by_neighbours_that_know_them():
    labels = (RNG.random((60, 3)) < 0.5).astype(np.float32)
    labels[RNG.random((60, 3)) < 0.5] = np.nan
    labels[:, 2] = np.nan
    labels[7, 2] = 1.0
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731
    similarity = unit(TEST.astype(np.float64)) @ unit(TRAIN.astype(np.float64)).T
    expected = np.zeros((23, 3))
    for row in range(23):
        near = np.argsort(-similarity[row])[:4]
        for c in range(3):
            knowing = near[~np.isnan(labels[near, c])]
            votes = np.exp(similarity[row, knowing] / 0.07)
            expected[row, c] = votes @ labels[knowing, c] / votes.sum() if len(knowing) else np.nanmean(labels[:, c])
    for tiles in ({}, {"train_tile": 16, "test_tile": 5}):
        found = knn_scores(TRAIN, labels, TEST, k=4, temperature=0.07, classes=3, **tiles)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_one_label_an_image_votes_as_a_class_does():
    as_labels = np.eye(4, dtype=np.float32)[LABELS]
    found = [knn_scores(TRAIN, given, TEST, k=5, temperature=0.1, classes=4) for given in (LABELS, as_labels)]
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)


def test_the_largest_by_blocks_are_those_of_a_stable_sort():
    """Values of few kinds: ties within blocks, between them and across what is left out."""
    values = RNG.integers(0, 6, (40, 12 * module.BLOCK)).astype(np.float32)
    values[3], values[4] = 0.0, -np.inf
    values[5, -1] = 9.0
    assert values.shape[1] >= module.SPARSE * 3 * module.BLOCK  # the blocks are used
    top, place = largest(jnp.asarray(values), 3)
    expected = np.argsort(-values, axis=1, kind="stable")[:, :3]
    np.testing.assert_array_equal(place, expected)
    np.testing.assert_array_equal(top, np.take_along_axis(values, expected, 1))
    odd = values[:, :-1]  # no whole number of blocks: searched as it is
    np.testing.assert_array_equal(largest(jnp.asarray(odd), 3)[1], np.argsort(-odd, axis=1, kind="stable")[:, :3])


@pytest.mark.parametrize("tile", [16384, 700, 512])
def test_blocks_find_the_neighbours_of_brute_force(tile):
    train = RNG.normal(size=(2003, 8)).astype(np.float32)  # 700: padded tiles, 512: whole blocks
    labels = RNG.integers(0, 4, 2003)
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731
    similarity = unit(TEST.astype(np.float64)) @ unit(train.astype(np.float64)).T
    near = np.argsort(-similarity, axis=1)[:, :4]
    votes = np.exp(np.take_along_axis(similarity, near, 1) / 0.07)
    expected = np.stack([np.bincount(labels[n], v, 4) for n, v in zip(near, votes, strict=True)])
    found = knn_scores(train, labels, TEST, k=4, temperature=0.07, classes=4, train_tile=tile)
    np.testing.assert_allclose(found, expected / expected.sum(1, keepdims=True), atol=1e-5)


def test_eight_devices_find_what_one_finds():
    train = np.concatenate([TRAIN, TRAIN[:4]])  # 64 images, eight of which are tied in pairs
    labels, mesh = np.arange(64) % 4, make_mesh()
    assert mesh.size == 8
    spread = jax.device_put((train, labels, TEST[:16]), on_data(mesh))
    one = knn_scores(train, labels, TEST[:16], k=5, temperature=0.07, classes=4)
    many = knn_scores(*spread, k=5, temperature=0.07, classes=4, train_tile=16, test_tile=8)
    np.testing.assert_allclose(many, one, atol=1e-6)
