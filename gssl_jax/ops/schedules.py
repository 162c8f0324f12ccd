"""Schedules as functions of a step, traceable under jit; every length is in steps and may be zero."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike


def progress(step: ArrayLike, length: ArrayLike) -> Array:
    """How far `step` is on the way from 0 to `length`, clipped to [0, 1]; a length of 0 is already over."""
    length = jnp.asarray(length, jnp.float32)
    done = jnp.asarray(step, jnp.float32) / jnp.maximum(length, 1.0)
    return jnp.where(length > 0, jnp.clip(done, 0.0, 1.0), 1.0)


def linear(step: ArrayLike, start: float, end: float, length: ArrayLike) -> Array:
    """From `start` at step 0 to `end` at `length` in a straight line, flat afterwards."""
    return start + (end - start) * progress(step, length)


def cosine(step: ArrayLike, start: float, end: float, length: ArrayLike) -> Array:
    """From `start` at step 0 to `end` at `length` along half a cosine, flat afterwards."""
    return end + (start - end) * 0.5 * (1.0 + jnp.cos(jnp.pi * progress(step, length)))


def warmup_cosine(step: ArrayLike, peak: float, end: float, warmup: int, length: int) -> Array:
    """Linear from 0 to `peak` over `warmup` steps, then half a cosine to `end` at `length`.

    Step s uses the value at s + 1 of the ramp, so the first step already moves (a ramp that starts at zero
    wastes it).
    """
    step = jnp.asarray(step, jnp.float32)
    ramp = peak * jnp.minimum(1.0, (step + 1.0) / max(warmup, 1))
    return jnp.where(step < warmup, ramp, cosine(step - warmup, peak, end, max(length - warmup, 1)))


CURVES = {"cosine": cosine, "linear": linear}
"""The shapes a schedule of the configuration may name."""
