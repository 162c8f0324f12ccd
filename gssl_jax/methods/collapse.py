"""Collapse control: the four meanings of `config.method.collapse`, the same for every clustering method.

A control turns the teacher's cosines into targets, and may add a penalty on the student's probabilities. It is
chosen separately for class tokens and for patch tokens. MaskCluster compares centring, ME-MAX and sinkhorn
(arXiv 2406.17460); how each is set follows DINO, MSN and SwAV, since the paper has no public code.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from gssl_jax.errors import unknown
from gssl_jax.methods.base import Clock
from gssl_jax.ops import assignment, schedules


class Control(NamedTuple):
    """targets(logits [G, R, K], centre [K], step, counted) -> [G, R, K]; G groups are balanced separately (usually 1),
    over the rows that the loss counts, bool [G, R], or all where `counted` is None.

    penalty(student probabilities [R, K], counted [R] or None) -> scalar added to the loss; centre(centre, logits, step)
    -> next centre.
    """

    targets: Callable[[Array, Array, Array, Array | None], Array]
    penalty: Callable[[Array, Array | None], Array]
    centre: Callable[[Array, Array], Array]


def _keep(centre: Array, logits: Array) -> Array:
    return centre


def _no_penalty(probabilities: Array, counted: Array | None) -> Array:
    return jnp.zeros((), jnp.float32)


def _teacher_temperature(settings: ConfigDict, clock: Clock, step: Array) -> Array:
    """Linear warm-up that reaches its end on the last of `warmup` units (DINO's `linspace`, stepped per unit)."""
    t = settings.temperature
    unit = jnp.floor_divide(step, clock.unit)
    return schedules.linear(unit, t.teacher_start, t.teacher_end, max(round(t.teacher_warmup) - 1, 0))


def _none(settings: ConfigDict, clock: Clock) -> Control:
    def targets(logits, centre, step, counted):
        return jax.nn.softmax(logits / _teacher_temperature(settings, clock, step), axis=-1)

    return Control(targets, _no_penalty, _keep)


def _centring(settings: ConfigDict, clock: Clock) -> Control:
    def targets(logits, centre, step, counted):
        rows = logits.reshape(-1, logits.shape[-1])
        return assignment.centred(rows, centre, _teacher_temperature(settings, clock, step)).reshape(logits.shape)

    def centre(centre, logits):
        return assignment.updated_centre(centre, logits.reshape(-1, logits.shape[-1]), settings.centring.momentum)

    return Control(targets, _no_penalty, centre)


def _sinkhorn(settings: ConfigDict, clock: Clock) -> Control:
    def targets(logits, centre, step, counted):
        balance = functools.partial(assignment.sinkhorn, iterations=settings.sinkhorn.iterations)
        scores = logits / settings.sinkhorn.eps
        return jax.vmap(balance)(scores) if counted is None else jax.vmap(balance)(scores, counted=counted)

    return Control(targets, _no_penalty, _keep)


def _memax(settings: ConfigDict, clock: Clock) -> Control:
    def targets(logits, centre, step, counted):
        probabilities = jax.nn.softmax(logits / settings.temperature.student, axis=-1)
        return assignment.sharpen(probabilities, settings.memax.sharpen)

    def penalty(probabilities, counted):
        return settings.memax.weight * assignment.me_max(probabilities, counted)

    return Control(targets, penalty, _keep)


CONTROLS = {"sinkhorn": _sinkhorn, "memax": _memax, "centring": _centring, "none": _none}
"""Every value `config.method.collapse.cls` and `.patch` may have."""


def control(name: str, settings: ConfigDict, clock: Clock) -> Control:
    """The control called `name`; `settings` is `config.method`. Raises UserError for a name that is not known."""
    if name not in CONTROLS:
        raise unknown("collapse control", name, CONTROLS)
    return CONTROLS[name](settings, clock)


def starved(config: ConfigDict, backbone: Any) -> tuple[str, ...]:
    """A warning for each level of the method that has more prototypes than the rows of a batch can fill."""
    found = []
    for level, count in config.method.prototypes.items():
        available = config.optim.batch_size * config.method.views.globals
        available *= (config.data.image_size // backbone.patch) ** 2 if level == "patch" else 1
        if count > 16 * available:
            found.append(
                f"method.prototypes.{level}={count} is more than 16 times the {available} rows of a batch: most stay "
                f"unused; try --config.method.prototypes.{level}={2 ** int(math.log2(available))} or a larger batch"
            )
    return tuple(found)
