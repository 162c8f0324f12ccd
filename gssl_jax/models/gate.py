"""The gate of G-SSL: which pretext losses count how much, read from the shared feature."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from gssl_jax.models.classifiers import KAIMING_NORMAL


class Gate(nn.Module):
    """One linear layer (G-SSL, arXiv 2301.05865): features [B, D] -> logits [B, T] of T tasks, float32.

    `gssl_jax.ops.gating` turns the logits into weights of losses. Weights start Kaiming-normal, the bias at zero. The
    layer stays plain where the classifiers beside it are cosines.
    """

    tasks: int

    @nn.compact
    def __call__(self, features: Array) -> Array:
        highest = jax.lax.Precision.HIGHEST
        return nn.Dense(self.tasks, kernel_init=KAIMING_NORMAL, dtype=jnp.float32, precision=highest, name="linear")(
            features
        )
