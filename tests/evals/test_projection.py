"""t-SNE: bounded, repeatable, and clusters stay clusters; colours of patches against scikit-learn's components."""

from __future__ import annotations

import numpy as np
from sklearn.decomposition import PCA

from gssl_jax.evals.projection import pca_colours, t_sne


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


def test_colours_are_the_first_three_principal_components():
    """Without clipping each colour is a component of scikit-learn, up to its sign, from its least to its largest."""
    grid = np.random.default_rng(0).normal(size=(3, 4, 5, 7)).astype(np.float32) * np.arange(7, 0, -1)
    colours = pca_colours(grid, clipped=0.0)
    places = PCA(3, svd_solver="full").fit_transform(grid.reshape(-1, 7).astype(np.float64))
    for channel, place in zip(colours.reshape(-1, 3).T, places.T, strict=True):
        stretched = (place - place.min()) / np.ptp(place)
        turned = np.corrcoef(channel, stretched)[0, 1] < 0
        np.testing.assert_allclose(channel, 1 - stretched if turned else stretched, atol=1e-5)
    assert colours.shape == (3, 4, 5, 3) and colours.dtype == np.float32


def test_colours_have_one_sign_and_few_outliers_do_not_rule():
    """Mostly along (1, -2): its largest loading, the second, counts as positive, so more of the second is brighter."""
    line = np.linspace(0.0, 1.0, 200)
    line[-1] = 50.0
    grid = (line[:, None] * [1.0, -2.0]).reshape(2, 10, 10, 2)
    colours = pca_colours(grid)[..., 0].ravel()
    assert colours[0] == 1.0 and colours[-1] == 0.0  # far out in the first feature
    assert 0.45 < colours[100] < 0.55  # in the middle, whatever lies outside
    assert (pca_colours(grid)[..., 1:] == 0.5).all()  # no second direction, and no third


def test_colours_of_patches_that_are_all_alike_are_grey():
    assert (pca_colours(np.full((2, 2, 2, 5), 3.0)) == 0.5).all()
