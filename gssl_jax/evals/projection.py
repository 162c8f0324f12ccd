"""A picture of the feature space: t-SNE of at most so many points."""

from __future__ import annotations

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from gssl_jax.evals.preprocess import single_threaded

LEAST = 5


def t_sne(features: np.ndarray, *, points: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Which rows of [N, D] were drawn, int64 [n] sorted, and their place in the plane, float32 [n, 2].

    At most `points` rows, chosen by `seed`; rows that are not finite are left out. l2-normalised, reduced to 50
    principal components, perplexity 30 or a third of the points. Deterministic. With fewer than five rows, or
    when all are one point (a collapsed backbone), both results are empty.
    """
    usable = np.flatnonzero(np.isfinite(features).all(1))
    rows = np.sort(np.random.default_rng(seed).permutation(usable)[:points])
    chosen = np.asarray(features[rows], np.float64)
    chosen /= np.maximum(np.linalg.norm(chosen, axis=1, keepdims=True), 1e-12)
    if len(rows) < LEAST or np.ptp(chosen, axis=0).max() < 1e-7:
        return np.zeros(0, np.int64), np.zeros((0, 2), np.float32)
    with single_threaded():
        size = min(50, *chosen.shape)
        reduced = PCA(size, svd_solver="full").fit_transform(chosen)
        perplexity, start = min(30.0, (len(rows) - 1) / 3), "pca" if size > 1 else "random"
        model = TSNE(perplexity=perplexity, init=start, random_state=seed, n_jobs=1)
        return rows, model.fit_transform(reduced).astype(np.float32)
