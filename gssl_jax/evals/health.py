"""Label-free signs of a representation's health: arrays in, scalars out, to be jitted by the caller unless NumPy's.

Letters: N images, q augmented views of each, D features.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gssl_jax.evals.preprocess import single_threaded, unit
from gssl_jax.ops.augment import augment_batch

SHARPNESS = 2.0
"""t of the uniformity, as in its paper."""

RIDGE = 1e-4
"""What LiDAR adds to the spread within images, as a share of the mean variance of the features."""


def rank_me(features: Array) -> Array:
    """Effective rank of features [N, D], from 1 to min(N, D): exp of the entropy of the normalised singular values.

    RankMe (Garrido et al., 2023, arXiv 2210.02885, equation 3), without its 1e-7 inside the logarithm: 0 log 0 is 0.
    Features are taken as they are, not centred. NaN where a feature is not finite or all are zero.
    """
    features = features.astype(jnp.float32)
    finite = jnp.isfinite(features).all()
    # LAPACK need not return from NaN input, so the decomposition sees zeros instead, whose shares are 0 / 0.
    singular = jnp.linalg.svd(jnp.where(finite, features, 0.0), compute_uv=False)
    share = singular / singular.sum()
    return jnp.exp(-jax.scipy.special.xlogy(share, share).sum())


def feature_std(features: Array) -> Array:
    """Mean over dimensions of the standard deviation of l2-normalised features [N, D]; 0 when all are one direction.

    Isotropic features give 1 / sqrt(D) (Chen and He, 2021, arXiv 2011.10566, figure 2). NaN where a feature is NaN.
    """
    return unit(features.astype(jnp.float32)).std(0).mean()


def alignment(views: Array) -> Array:
    """Mean squared distance of two views of one image, from 0 (views are one point) to 4; views [N, q, D], q >= 2.

    Wang and Isola (2020, arXiv 2005.10242, equation 3, alpha = 2), on l2-normalised features and over all pairs of the
    q views. Small is good only while `distance` is not.
    """
    return jnp.mean(jax.vmap(distance)(views))


def distance(features: Array) -> Array:
    """Mean squared distance of two different rows of l2-normalised features [N, D]: what `alignment` is to be held
    against, since both shrink where all features are alike. 2 for features in all directions."""
    rows = unit(features.astype(jnp.float32))
    spread = jnp.square(rows - rows.mean(0, keepdims=True)).sum()  # from the mean: no difference of near equals
    return 2.0 * spread / (len(rows) - 1)


def uniformity(features: Array) -> Array:
    """log of the mean over pairs of different images of exp(-2 squared distance), l2-normalised features [N, D].

    Wang and Isola (2020, arXiv 2005.10242, equation 4, t = 2): 0 where all are one point, about -4 where they are
    spread over a sphere of many dimensions, so lower is better. Their expectation is over all pairs; a sample's is
    over i != j, without the zeros of a row with itself.
    """
    rows = unit(features.astype(jnp.float32))
    cosine = jnp.matmul(rows, rows.T, precision=jax.lax.Precision.HIGHEST)
    own = jnp.diagonal(cosine)
    squared = jnp.maximum(own[:, None] + own[None, :] - 2.0 * cosine, 0.0)
    n = len(rows)
    apart = jnp.where(jnp.eye(n, dtype=bool), -jnp.inf, -SHARPNESS * squared)
    return jax.scipy.special.logsumexp(apart) - math.log(max(n * (n - 1), 1))


def lidar(views: np.ndarray, ridge: float = RIDGE) -> float:
    """In how many directions images differ by more than their own views do, from 1 to min(N - 1, D); [N, q, D].

    After LiDAR (Thilak et al., 2024, arXiv 2312.04000): every image is a class of a linear discriminant analysis and
    its q views are the samples. With S_b the covariance of the class means and S_w the mean covariance within a class,

        score = exp(-sum_i p_i log p_i), p = eigenvalues of (S_w + delta I)^-1/2 S_b (S_w + delta I)^-1/2, sum 1.

    Ours is not theirs in four ways. delta is `ridge` (their 1e-4) times the mean variance of the features and not 1e-4
    as such, so that the score does not change with their scale. S_w / q is taken off S_b, the part of it that comes
    from means of few views, and what falls below 0 counts as 0: they draw 50 views, and with the few that are cheap
    features of augmentation noise alone would come out as of full rank. There is no epsilon inside the logarithm. And
    it is measured on the backbone's features, which are what is judged here, not on the projector's.

    NumPy, float64. NaN where a feature is not finite, there are fewer than two images or views, or no direction tells
    images apart.
    """
    views = np.asarray(views, np.float64)
    number, samples, _ = views.shape
    if number < 2 or samples < 2 or not np.isfinite(views).all():
        return math.nan
    means = views.mean(1)
    within = (views - means[:, None]).reshape(-1, views.shape[2]) / math.sqrt(number * (samples - 1))
    between = (means - means.mean(0)) / math.sqrt(number - 1)
    variance = (np.square(within).sum() + np.square(between).sum()) / views.shape[2]
    if not variance > 0:
        return math.nan
    with single_threaded():
        noise, axes = np.linalg.eigh(within.T @ within)
        noise = np.maximum(noise, 0.0)
        scale = np.sqrt(noise + ridge * variance)
        seen = between @ axes / scale
        told = np.linalg.eigvalsh(seen.T @ seen - np.diag(noise / scale**2 / samples))
    told = np.maximum(told, 0.0)
    told[told < 1e-12 * told.max()] = 0.0  # rounding
    share = told[told > 0] / told.sum() if told.sum() > 0 else np.full(1, math.nan)
    return float(np.exp(-(share * np.log(share)).sum()))


def alpha_req(features: np.ndarray) -> float:
    """How steeply the variances of features [N, D] along their principal axes fall: -slope of log variance over log
    rank. Near 1 was found to go with good features, above with few directions that count, below with noise.

    alpha-ReQ (Agrawal et al., 2022, NeurIPS), by least squares over all ranks that have variance, each with the weight
    1 / rank as in Stringer et al. (2019), so that the many small ones do not rule. NumPy, float64; NaN where a feature
    is not finite or fewer than two ranks have variance.
    """
    features = np.asarray(features, np.float64)
    if not np.isfinite(features).all():
        return math.nan
    with single_threaded():
        singular = np.linalg.svd(features - features.mean(0), compute_uv=False)
    variance = np.square(singular[singular > 1e-6 * singular[0]])
    if len(variance) < 2:
        return math.nan
    rank = np.arange(1, len(variance) + 1)
    x, y = np.log(rank), np.log(variance)
    weight = 1.0 / rank
    x, y = x - np.average(x, weights=weight), y - np.average(y, weights=weight)
    return float(-(weight * x * y).sum() / (weight * x * x).sum())


Draw = Callable[[np.ndarray, int], np.ndarray]
"""(uint8 images [N, S, S, C], number of the view) -> the same form."""

AT_ONCE = 128
"""Images that are augmented in one call."""


def drawer(preset: Mapping[str, Any]) -> Draw:
    """What draws augmented views by `preset` (see `ops.augment.augment`), by number of image and of view alone, so that
    they are the same for every backbone and method. One program for any number of images."""
    named = json.dumps(preset, sort_keys=True)

    def drawn(images: np.ndarray, place: int) -> np.ndarray:
        found = np.empty_like(images)
        for start in range(0, len(images), AT_ONCE):
            part = images[start : start + AT_ONCE]
            padded = np.zeros((AT_ONCE, *part.shape[1:]), part.dtype)
            padded[: len(part)] = part
            index = np.arange(start, start + AT_ONCE, dtype=np.int32)
            found[start : start + len(part)] = np.asarray(_views(np.int32(place), index, padded, named))[: len(part)]
        return found

    return drawn


@partial(jax.jit, static_argnames="preset")
def _views(place: Array, index: Array, images: Array, preset: str) -> Array:
    """The preset comes as JSON, which can be compared: two drawers of one preset share the program."""
    views = augment_batch(jax.random.fold_in(jax.random.key(0), place), index, images, json.loads(preset))
    return jnp.round(views * 255.0).astype(jnp.uint8)


def label_free(
    encode: Callable[[Any, np.ndarray], np.ndarray], variables: Any, images: np.ndarray, draw: Draw, views: int
) -> dict[str, float]:
    """Every label-free score of one backbone, from `images` as they are and from augmented `views` of each.

    Args:
        encode: (variables, uint8 [n, S, S, C]) -> features [n, D]; called once for the images and once for each view.
        variables: of the backbone, passed on to `encode`.
        images: uint8 [N, S, S, C].
        draw: what makes a view, see `drawer`.
        views: how many of each image.

    Returns:
        `rankme`, `feature_std`, `uniformity`, `distance`, `alpha_req` of the images and `alignment`, `lidar` of the
        views; NaN where one cannot be told, as with fewer than two images or views or features that are not finite.
    """
    clean = np.asarray(encode(variables, images), np.float32)
    found = dict(zip(OF_IMAGES, map(float, _of_images(clean)), strict=True)) | {"alpha_req": alpha_req(clean)}
    if views < 2:
        return found | {"alignment": math.nan, "lidar": math.nan}
    features = [np.asarray(encode(variables, draw(images, place)), np.float32) for place in range(views)]
    stacked = np.stack(features, axis=1)
    return found | {"alignment": float(_of_views(stacked)), "lidar": lidar(stacked)}


OF_IMAGES = ("rankme", "feature_std", "uniformity", "distance")
_of_views = jax.jit(alignment)


@jax.jit
def _of_images(features: Array) -> tuple[Array, ...]:
    return rank_me(features), feature_std(features), uniformity(features), distance(features)
