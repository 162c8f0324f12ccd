"""t-SNE: bounded, repeatable, and clusters stay clusters."""

from __future__ import annotations

import numpy as np

from gssl_jax.evals.projection import t_sne


def clusters():
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 3
    return (10 * np.eye(3, 20)[labels] + rng.normal(size=(90, 20))).astype(np.float32), labels


def test_clusters_stay_clusters_and_the_seed_decides():
    features, labels = clusters()
    rows, places = t_sne(features, points=60, seed=0)
    assert len(rows) == 60 and places.shape == (60, 2) and np.isfinite(places).all()
    distance = np.linalg.norm(places[:, None] - places[None], axis=2) + 1e9 * np.eye(60)
    assert (labels[rows][distance.argmin(1)] == labels[rows]).all()
    again, same = t_sne(features, points=60, seed=0)
    np.testing.assert_array_equal(rows, again)
    np.testing.assert_array_equal(places, same)
    assert (t_sne(features, points=60, seed=1)[0] != rows).any()


def test_one_dimension():
    line = np.abs(np.random.default_rng(0).normal(size=(30, 1))).astype(np.float32)
    line[::2] *= -1
    places = [t_sne(line, points=30, seed=0)[1] for _ in range(2)]
    np.testing.assert_array_equal(*places)


def test_broken_and_collapsed_features():
    features, _ = clusters()
    features[3, 7] = np.nan
    rows, places = t_sne(features, points=1000, seed=0)
    assert 3 not in rows and len(rows) == 89 == len(places)
    for useless in (np.ones((90, 20), np.float32), np.full((90, 20), np.nan, np.float32), features[:4]):
        rows, places = t_sne(useless, points=50, seed=0)
        assert rows.shape == (0,) and places.shape == (0, 2)
