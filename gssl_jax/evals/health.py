"""Label-free signs of a representation's health; arrays in, scalars out, to be jitted by the caller."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from gssl_jax.evals.preprocess import unit


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
