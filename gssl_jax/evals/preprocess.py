"""What is done to frozen features before a linear classifier sees them; statistics come from training features."""

from __future__ import annotations

from contextlib import AbstractContextManager

import jax
import jax.numpy as jnp
from jax import Array
from threadpoolctl import threadpool_limits


def standardise(train: Array, test: Array) -> tuple[Array, Array]:
    """Training mean 0 and standard deviation 1 in every dimension; [N, D], [M, D] -> the same shapes.

    A dimension that is constant over the training features stays near 0 instead of being blown up.
    """
    mean, spread = moments(train)
    return (train - mean) / spread, (test - mean) / spread


def moments(train: Array) -> tuple[Array, Array]:
    """Mean and standard deviation of every dimension of [N, D] as `standardise` takes them, both [1, D]."""
    spread = train.std(0, keepdims=True)
    return train.mean(0, keepdims=True), jnp.maximum(spread, 1e-4 * spread.max() + 1e-12)


def whiten(train: Array, test: Array, floor: float) -> tuple[Array, Array]:
    """Principal axes of the training features, each divided by its spread; [N, D], [M, D] -> the same shapes.

    PCA whitening, label-free and usual in retrieval (Jegou and Chum, 2012), with a floor so that directions without
    spread are not blown up: the divisor is sigma_i + `floor` max(sigma), `floor` above 0. Cosines of raw features are
    ruled by the few directions of most variance, brightness for one; after it every direction counts alike.
    """
    mean, axes = whitening(train, floor)
    with jax.default_matmul_precision("highest"):
        return (train - mean) @ axes, (test - mean) @ axes


def whitening(train: Array, floor: float) -> tuple[Array, Array]:
    """What `whiten` subtracts, [1, D], and then multiplies by, [D, D]."""
    mean = train.mean(0, keepdims=True)
    centred = train - mean
    with jax.default_matmul_precision("highest"):
        variance, axes = jnp.linalg.eigh(centred.T @ centred / len(train))
    spread = jnp.sqrt(jnp.maximum(variance, 0.0))
    return mean, axes / (spread + floor * spread[-1] + 1e-12)[None]


def centre_and_normalise(features: Array, mean: Array) -> Array:
    """Subtract `mean` [D] from [N, D], then scale every row to unit l2 norm."""
    return unit(features - mean[None])


def unit(features: Array) -> Array:
    """Rows of [N, D] scaled to l2 norm 1; a row of zeros stays zero."""
    return features / jnp.maximum(jnp.linalg.norm(features, axis=-1, keepdims=True), 1e-12)


def single_threaded() -> AbstractContextManager[object]:
    """Within it, LAPACK on the CPU and scikit-learn run on one thread: at these sizes more wait for each other.

    Measured on 2 busy cores: `eigh` of 1,024 x 1,024 takes 0.2 s on one thread and 0.5-1.2 s on two, twenty small
    QR decompositions 0.04 s and 9-14 s. JAX's own threads are not touched.
    """
    return threadpool_limits(limits=1)
