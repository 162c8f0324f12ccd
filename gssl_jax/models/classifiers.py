"""Linear classifiers on a feature, for the labels and for pretexts."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from gssl_jax.models.layers import l2_normalise

KAIMING_NORMAL = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
"""Kaiming-normal weights of a linear layer (arXiv 1502.01852); Flax's own `he_normal` is a truncated normal."""


def unit_columns(key: Array, shape: tuple[int, int], dtype=jnp.float32) -> Array:
    """Uniform on (-1, 1), then every column of [D, classes] at length 1 (LDAM-DRW's `NormedLinear`)."""
    return l2_normalise(jax.random.uniform(key, shape, dtype, -1.0, 1.0), axis=0).astype(dtype)


class Classifier(nn.Module):
    """Logits of a feature, float32: [B, D] -> [B, classes].

    Attributes:
      normed: cosines of feature and weights without bias (the NormedLinear of arXiv 1906.07413) in place of a plain
        linear layer (Kaiming-normal weights, zero bias).
      scale: multiplies the cosines; 1.0 as in the published code. Bounded logits bound the loss from below: with
        cross-entropy over C classes no sample gets under ln(1 + (C - 1) exp(-2 scale)), and balanced labels on
        average not under ln(1 + (C - 1) exp(-scale C / (C - 1))), which weights on a simplex reach. At scale 1 the
        two are 1.11 and 1.82 for 16 classes; 16 to 30 lifts the limit.

    Raises ValueError for a scale other than 1 without `normed`: it would be a learning rate in disguise.
    """

    classes: int
    normed: bool = False
    scale: float = 1.0

    @nn.compact
    def __call__(self, features: Array) -> Array:
        # The default precision of a float32 product is bfloat16 on TPU and TF32 on recent GPUs.
        highest = jax.lax.Precision.HIGHEST
        if self.normed:
            directions = self.param("directions", unit_columns, (features.shape[-1], self.classes))
            cosines = jnp.matmul(l2_normalise(features), l2_normalise(directions, axis=0), precision=highest)
            return self.scale * cosines
        if self.scale != 1.0:
            raise ValueError(f"scale={self.scale} multiplies cosines: a plain linear layer has none, leave it at 1.0")
        linear = nn.Dense(self.classes, kernel_init=KAIMING_NORMAL, dtype=jnp.float32, precision=highest, name="linear")
        return linear(features)
