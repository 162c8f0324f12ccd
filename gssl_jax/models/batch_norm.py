"""Batch norm whose statistics are those of groups of the batch."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike


class GroupedBatchNorm(nn.Module):
    """`flax.linen.BatchNorm` with statistics of its own for each of several equal groups of the batch; same parameters.

    One program over a global batch has global statistics, which is what MoCo must not have: a query and its key would
    share them, and a network can tell the key by them (arXiv 1911.05722, section 3.3). The published code avoids that
    by one group a GPU, and by sending the images of the keys to other GPUs. Here a group is a run of B / groups
    neighbours of the batch, whatever the number of devices, or whichever images `members` puts together: none has to
    move, since nothing but the statistics depends on who is in a group.

    The running averages move towards the mean over the groups of their means and (biased) variances. In torch each GPU
    has running averages of its own and those of the first are saved: the same in expectation, with more noise. As
    there, what the means of the groups differ by is in no group's variance.

    Attributes:
      groups: has to divide the batch.
      use_running_average: True normalises by the running averages, which no group can tell apart.
      momentum: share of the old running averages that each step keeps.
    """

    groups: int
    use_running_average: bool
    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array, members: Array | None = None) -> Array:
        """[B, ..., D] -> the same shape, as `dtype`; statistics and the normalisation itself are float32.

        Args:
          members: int32 [B], the group of every image, each B / groups times; None = runs of neighbours.

        Raises ValueError where the groups do not divide the batch.
        """
        width = x.shape[-1]
        mean = self.variable("batch_stats", "mean", jnp.zeros, (width,), jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, (width,), jnp.float32)
        scale = self.param("scale", nn.initializers.ones, (width,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (width,), jnp.float32)
        images = x.astype(jnp.float32).reshape(x.shape[0], -1, width)
        if self.use_running_average:
            centre, spread = mean.value[None], var.value[None]
        else:
            centres = self._by_group(jnp.mean(images, axis=1), members)
            centre = self._to_images(centres, members, len(images))
            squares = jnp.mean(jnp.square(images - centre[:, None]), axis=1)  # two passes: no cancellation
            spreads = self._by_group(squares, members)
            spread = self._to_images(spreads, members, len(images))
            if not self.is_initializing():
                keep = self.momentum
                mean.value = keep * mean.value + (1.0 - keep) * jnp.mean(centres, axis=0)
                var.value = keep * var.value + (1.0 - keep) * jnp.mean(spreads, axis=0)
        gain = jax.lax.rsqrt(spread + self.epsilon) * scale[None]
        y = (images - centre[:, None]) * gain[:, None] + bias[None, None]
        return y.reshape(x.shape).astype(self.dtype)

    def _by_group(self, rows: Array, members: Array | None) -> Array:
        """Means over the groups, [B, D] -> [groups, D]."""
        if rows.shape[0] % self.groups:
            raise ValueError(f"{self.groups} groups do not divide a batch of {rows.shape[0]}")
        if members is None:
            return jnp.mean(rows.reshape(self.groups, -1, rows.shape[-1]), axis=1)
        share = self.groups / rows.shape[0]
        return share * jnp.matmul(jax.nn.one_hot(members, self.groups).T, rows, precision=jax.lax.Precision.HIGHEST)

    def _to_images(self, groups: Array, members: Array | None, images: int) -> Array:
        """What belongs to its group for every image, [groups, D] -> [B, D]."""
        if members is None:
            return jnp.repeat(groups, images // self.groups, axis=0)
        return jnp.matmul(jax.nn.one_hot(members, self.groups), groups, precision=jax.lax.Precision.HIGHEST)
