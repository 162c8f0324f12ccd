"""AdamW with schedules, masked decay, global-norm clipping and a late start for the prototypes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from gssl_jax.methods.base import Clock
from gssl_jax.ops import schedules


def learning_rate(settings: ConfigDict, clock: Clock) -> optax.Schedule:
    """Step -> learning rate: linear warm-up to `learning_rate * batch_size / 256`, then half a cosine."""
    peak = settings.learning_rate * settings.batch_size / 256
    warmup = clock.steps(settings.warmup)
    return lambda step: schedules.warmup_cosine(step, peak, settings.final_learning_rate, warmup, clock.total)


def weight_decay(settings: ConfigDict, clock: Clock) -> optax.Schedule:
    """Step -> decoupled weight decay, half a cosine from `weight_decay` to `final_weight_decay`."""
    return lambda step: schedules.cosine(step, settings.weight_decay, settings.final_weight_decay, clock.total)


def schedules_of(settings: ConfigDict, clock: Clock) -> dict[str, optax.Schedule]:
    """What the optimiser varies with the step, by name, for the log."""
    return {"learning_rate": learning_rate(settings, clock), "weight_decay": weight_decay(settings, clock)}


def decays(params: Any, positions: bool) -> Any:
    """True for the leaves that decay: matrices, and class token, positions and registers if `positions`."""
    tokens = ("cls_token", "positions", "registers", "mask_token")

    def rule(path: tuple[jax.tree_util.DictKey, ...], leaf: Any) -> bool:
        return positions if path[-1].key in tokens else leaf.ndim > 1

    return jax.tree_util.tree_map_with_path(rule, params)


def hold(prefix: str, steps: int) -> optax.GradientTransformation:
    """Zeroes what passes under the top-level key `prefix` during the first `steps` updates.

    Put before the moments it hides the gradient from clipping and from Adam, put last it also stops the decoupled
    decay, which would otherwise move a layer that is said to be frozen.
    """

    def update(updates, state, params=None):
        open_ = (state >= steps).astype(jnp.float32)
        held = {**updates, prefix: jax.tree.map(lambda u: u * open_.astype(u.dtype), updates[prefix])}
        return held, optax.safe_increment(state)

    return optax.GradientTransformation(lambda params: jnp.zeros((), jnp.int32), update)


def late_moments(moments: optax.GradientTransformation, prefix: str, steps: int) -> optax.GradientTransformation:
    """`moments`, with those under the top-level key `prefix` beginning after `steps` updates.

    Moments that had averaged zeros for t steps are no longer corrected for their start: Adam's first free step would be
    (1 - b1) / (1 - b1^t) * sqrt((1 - b2^t) / (1 - b2)) times as long as a first step is, 3.2 times for large t.
    """
    late = optax.transforms.conditionally_mask(moments, lambda step: step >= steps)
    return optax.partition(
        {"now": moments, "late": late}, lambda params: {k: "late" if k == prefix else "now" for k in params}
    )


def build_optimiser(settings: ConfigDict, clock: Clock) -> optax.GradientTransformation:
    """The optimiser of `config.optim` over `clock.total` steps."""
    frozen = clock.steps(settings.freeze_prototypes)
    held = [hold("prototypes", frozen)] if frozen else []
    clip = [optax.clip_by_global_norm(settings.clip_norm)] if settings.clip_norm else []
    adam = optax.scale_by_adam(settings.beta1, settings.beta2)
    return optax.chain(
        *held,
        *clip,
        late_moments(adam, "prototypes", frozen) if frozen else adam,
        optax.add_decayed_weights(weight_decay(settings, clock), lambda p: decays(p, settings.decay_positions)),
        optax.scale_by_learning_rate(learning_rate(settings, clock)),
        *held,
    )
