"""AdamW and SGD with schedules, masked decay, global-norm clipping and a late start for prototypes or backbone."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike
from ml_collections import ConfigDict

from gssl_jax.errors import UserError, unknown
from gssl_jax.methods.base import Clock
from gssl_jax.ops import schedules


def learning_rate(settings: ConfigDict, clock: Clock) -> optax.Schedule:
    """Step -> learning rate, by `optim.schedule` (one of `SCHEDULES`).

    The peak is `learning_rate`, times batch_size / reference_batch where `reference_batch` is not 0.
    """
    scale = settings.batch_size / settings.reference_batch if settings.reference_batch else 1.0
    return SCHEDULES[settings.schedule](settings, clock, settings.learning_rate * scale)


def _cosine(settings: ConfigDict, clock: Clock, peak: float) -> optax.Schedule:
    """Linear warm-up, then half a cosine to `final_learning_rate`, changing with every step."""
    warmup = clock.steps(settings.warmup)
    return lambda step: schedules.warmup_cosine(step, peak, settings.final_learning_rate, warmup, clock.total)


def _cosine_by_unit(settings: ConfigDict, clock: Clock, peak: float) -> optax.Schedule:
    """The same, changing with every `optim.unit`."""
    warmup, units = round(settings.warmup), max(round(settings.duration), 1)
    return lambda step: schedules.warmup_cosine(
        jnp.floor_divide(step, clock.unit), peak, settings.final_learning_rate, warmup, units
    )


def _steps(settings: ConfigDict, clock: Clock, peak: float) -> optax.Schedule:
    """Linear warm-up by unit, then the peak, times `factors[i]` from unit `milestones[i]` on."""
    warmup = round(settings.warmup)

    def rate(step: ArrayLike) -> Array:
        unit = jnp.floor_divide(jnp.asarray(step), clock.unit)
        value = peak * jnp.minimum(1.0, (unit + 1.0) / max(warmup, 1))
        for milestone, factor in zip(settings.milestones, settings.factors, strict=True):
            value = jnp.where(unit >= milestone, peak * factor, value)
        return value

    return rate


def _fixmatch(settings: ConfigDict, clock: Clock, peak: float) -> optax.Schedule:
    """peak cos(7 pi t / 16 T) (FixMatch, arXiv 2001.07685)."""
    return lambda step: peak * jnp.cos(7.0 / 16.0 * jnp.pi * schedules.progress(step, clock.total))


SCHEDULES = {"cosine": _cosine, "cosine_by_unit": _cosine_by_unit, "steps": _steps, "fixmatch": _fixmatch}
"""Every value `config.optim.schedule` may have."""


def weight_decay(settings: ConfigDict, clock: Clock) -> optax.Schedule:
    """Step -> decoupled weight decay, half a cosine from `weight_decay` to `final_weight_decay`."""
    return lambda step: schedules.cosine(step, settings.weight_decay, settings.final_weight_decay, clock.total)


def schedules_of(settings: ConfigDict, clock: Clock) -> dict[str, optax.Schedule]:
    """What the optimiser varies with the step, by name, for the log."""
    return {"learning_rate": learning_rate(settings, clock), "weight_decay": weight_decay(settings, clock)}


def decays(params: Any, positions: bool, vectors: bool) -> Any:
    """True for the leaves that decay: matrices and kernels; biases and scales of norms if `vectors`; and class token,
    positions and registers if `positions`."""
    tokens = ("cls_token", "positions", "registers", "mask_token")

    def rule(path: tuple[jax.tree_util.DictKey, ...], leaf: Any) -> bool:
        return positions if path[-1].key in tokens else vectors or leaf.ndim > 1

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


def late_moments(moments: optax.GradientTransformation, frozen: dict[str, int]) -> optax.GradientTransformation:
    """`moments`, with those under each top-level key of `frozen` beginning after so many updates.

    Moments that had averaged zeros for t steps are no longer corrected for their start: Adam's first free step would be
    (1 - b1) / (1 - b1^t) * sqrt((1 - b2^t) / (1 - b2)) times as long as a first step is, 3.2 times for large t.
    """

    def late(steps: int) -> optax.GradientTransformation:
        return optax.transforms.conditionally_mask(moments, lambda step: step >= steps)

    kinds = {"now": moments, **{prefix: late(steps) for prefix, steps in frozen.items()}}
    return optax.partition(kinds, lambda params: {name: name if name in frozen else "now" for name in params})


AUTOMATIC = -1.0
"""The value of `optim.freeze_backbone` that leaves the warm-up of the heads to where the backbone comes from."""


def heads_warm_up(settings: ConfigDict, published: bool) -> float:
    """`optim.freeze_backbone` in units, with `AUTOMATIC` resolved: a twentieth of a stage that starts from published
    weights, so that the first gradients of new heads do not spoil them, and none elsewhere: HPT (arXiv 2103.12718)
    hands over from stage to stage without. Raises UserError for another negative number."""
    units = settings.freeze_backbone
    if units == AUTOMATIC:
        return settings.duration / 20 if published else 0.0
    if units < 0:
        raise UserError(f"optim.freeze_backbone={units}: give 0 or more {settings.unit}s, or -1.0 for automatic")
    return units


def build_optimiser(settings: ConfigDict, clock: Clock) -> optax.GradientTransformation:
    """The optimiser of `config.optim` over `clock.total` steps, its `freeze_backbone` resolved (`heads_warm_up`).

    `adamw` decays apart from the gradient; `sgd` as torch's does, with the decay in the gradient and so in the
    momentum. Raises UserError for words that are not known.
    """
    if settings.name not in OPTIMISERS:
        raise unknown("optim.name", settings.name, OPTIMISERS)
    if settings.schedule not in SCHEDULES:
        raise unknown("optim.schedule", settings.schedule, SCHEDULES)
    if len(settings.milestones) != len(settings.factors):
        raise UserError(
            f"optim.milestones={settings.milestones} and optim.factors={settings.factors} need equal lengths"
        )
    waits = {"prototypes": settings.freeze_prototypes, "backbone": settings.freeze_backbone}
    frozen = {prefix: clock.steps(units) for prefix, units in waits.items() if clock.steps(units) > 0}
    held = [hold(prefix, steps) for prefix, steps in frozen.items()]
    clip = [optax.clip_by_global_norm(settings.clip_norm)] if settings.clip_norm else []
    decay = optax.add_decayed_weights(
        weight_decay(settings, clock), lambda p: decays(p, settings.decay_positions, settings.decay_vectors)
    )

    def late(moments: optax.GradientTransformation) -> optax.GradientTransformation:
        return late_moments(moments, frozen) if frozen else moments

    inner = OPTIMISERS[settings.name](settings, decay, late)
    return optax.chain(*held, *clip, *inner, optax.scale_by_learning_rate(learning_rate(settings, clock)), *held)


def _adamw(settings: ConfigDict, decay: Any, late: Any) -> tuple[optax.GradientTransformation, ...]:
    return late(optax.scale_by_adam(settings.beta1, settings.beta2)), decay


def _sgd(settings: ConfigDict, decay: Any, late: Any) -> tuple[optax.GradientTransformation, ...]:
    return decay, late(optax.trace(settings.momentum, settings.nesterov))


OPTIMISERS = {"adamw": _adamw, "sgd": _sgd}
"""Every value `config.optim.name` may have."""
