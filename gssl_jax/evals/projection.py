"""Pictures of the feature space: t-SNE of at most so many points, principal components of patches as colours."""

from __future__ import annotations

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from gssl_jax.evals.preprocess import single_threaded

LEAST = 5

CLIPPED = 1.0
"""Per cent of the patches at each end of a component that have its darkest and its brightest shade."""


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


def pca_colours(grid: np.ndarray, clipped: float = CLIPPED) -> np.ndarray:
    """Patch features [n, h, w, D] as colours [n, h, w, 3] in [0, 1]: like colours are like features, in all images.

    The first three principal components over the patches of all images are red, green and blue, each stretched from
    its `clipped` to its 100 - `clipped` percentile (DINOv2, Oquab et al., 2023, arXiv 2304.07193, figure 1, without
    its first component that parts objects from background). The sign of a component is that in which its largest
    loading is positive. A component without spread, or beyond the third where D or the patches are fewer, is 0.5.
    """
    flat = np.asarray(grid, np.float64).reshape(-1, grid.shape[-1])
    centred = flat - flat.mean(0)
    with single_threaded():
        axes = np.linalg.svd(centred, full_matrices=False)[2][:3]
    axes *= np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])[:, None]
    places = centred @ axes.T
    low, high = np.percentile(places, (clipped, 100.0 - clipped), axis=0)
    spread = high - low
    told = spread > 1e-6 * max(1e-12, np.abs(flat).max())
    colours = np.full((len(flat), 3), 0.5)
    shown = np.clip((places - low) / np.where(told, spread, 1.0), 0.0, 1.0)
    colours[:, : places.shape[1]] = np.where(told, shown, 0.5)
    return colours.reshape(*grid.shape[:3], 3).astype(np.float32)
