"""Several pretext losses made one: weighed by a gate, by their usefulness or by fixed numbers, with what is logged.

Letters: B samples, T pretexts.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from gssl_jax.errors import UserError, unknown
from gssl_jax.methods.base import MethodState
from gssl_jax.ops import gating

MODES = (*gating.MODES, "usefulness")
"""What `method.gate.mode` may be."""


def check(settings: ConfigDict) -> None:
    """Raises UserError for words and numbers of `config.method.gate` that mean nothing."""
    for key, value, known in (("mode", settings.mode, MODES), ("formula", settings.formula, gating.FORMULAS)):
        if value not in known:
            raise unknown(f"method.gate.{key}", value, known)
    if settings.mode == "usefulness" and not (0.0 <= settings.momentum < 1.0 and settings.temperature > 0):
        raise UserError(
            f"method.gate.momentum={settings.momentum} has to lie in [0, 1) and "
            f"method.gate.temperature={settings.temperature} above 0"
        )


def warnings(config: ConfigDict, backbone: Any) -> tuple[str, ...]:
    """A gate over one pretext or none weighs nothing."""
    mode, names = config.method.gate.mode, config.method.pretexts.names
    if len(names) < 2 and mode in ("learned", "frozen", "usefulness"):
        return (f"method.gate.mode={mode} has {len(names)} pretexts to weigh: it is the same as uniform",)
    return ()


def fresh(settings: ConfigDict, tasks: int) -> MethodState:
    """What weighing carries from step to step: the average alignment of each pretext and how often it was updated."""
    if settings.mode != "usefulness":
        return {}
    return {"usefulness": {"average": jnp.zeros((tasks,)), "updates": jnp.zeros((), jnp.int32)}}


def current(settings: ConfigDict, tasks: int, logits: Array | None, state: MethodState) -> Array:
    """The weights of the losses now, [T], or [B, T] where the gate has them by sample."""
    if settings.mode == "usefulness":
        own = state["usefulness"]
        return gating.usefulness_weights(own["average"], own["updates"], settings.momentum, settings.temperature)
    gate = None if logits is None else gating.gate_weights(logits, settings.formula)
    return gating.task_weights(settings.mode, tasks, gate)


def mixed(
    settings: ConfigDict,
    classes: dict[str, int],
    losses_BxT: Array,
    aligned_T: Array,
    logits_BxT: Array | None,
    state: MethodState,
) -> tuple[Array, MethodState, dict[str, Array]]:
    """(weighed sum and what keeps a learned gate open, next state, metrics).

    Args:
      settings: `config.method.gate`.
      classes: of each pretext, in the order of T.
      losses_BxT: cross-entropies.
      aligned_T: how well each pretext pulls where the labels pull, see `gating.alignment`.
      logits_BxT: of the gate, in the modes `learned` and `frozen`; None in the others.
      state: of the method.
    """
    raw = losses_BxT
    losses = gating.chance_normalised(raw, tuple(classes.values())) if settings.chance_normalised else raw
    if settings.mode == "usefulness":
        average = gating.updated_average(state["usefulness"]["average"], aligned_T, settings.momentum)
        updates = state["usefulness"]["updates"] + 1
        state = {**state, "usefulness": {"average": average, "updates": updates}}
    weights = current(settings, len(classes), logits_BxT, state)
    total = gating.gated_loss(losses if weights.ndim == 2 else losses.mean(0), weights)
    if settings.mode == "learned":
        total = total + gating.gate_penalty(weights, settings.entropy_weight, settings.load_balance_weight)
    metrics = {f"gate/{name}": value for name, value in gating.mixture_metrics(weights).items()}
    mean = weights.reshape(-1, len(classes)).mean(0)
    for i, name in enumerate(classes):
        metrics |= {f"train/loss_{name}": raw[:, i].mean(), f"gate/weight_{name}": mean[i]}
        metrics[f"gate/alignment_{name}"] = aligned_T[i]
    return total, state, metrics
