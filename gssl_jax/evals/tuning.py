"""What moves in fine-tuning, and how fast: the optimiser, the rate of every layer and of every step.

Layer-wise decay is that of BEiT (arXiv 2106.08254) and MAE (arXiv 2111.06377, table 9): a transformer of L blocks has
L + 2 layers, patches with positions first, then the blocks, then the last norm with the head, and layer l of them
moves at decay^(L + 1 - l) times the rate. A residual network has its stages in place of blocks: that is ours.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax import Array

from gssl_jax.errors import UserError, unknown
from gssl_jax.evals import sgd
from gssl_jax.models.build import Backbone
from gssl_jax.models.vit import ViT
from gssl_jax.training.optimizer import decays
from gssl_jax.training.trainable import RULES, trained

OPTIMISERS = ("sgd", "adamw")
"""SGD with momentum and the decay in the gradient, as torch's; AdamW with the decay apart, times the layer's rate."""

SCHEDULES = ("steps", "cosine")
STARTS = ("random", "linear")
"""How the head begins: weights from N(0, .01^2), or the logistic regression on the frozen features of the labelled
images. (iBOT, arXiv 2111.07832, fine-tunes from the first layer of its projection head, which a backbone lacks.)"""


class Rule(NamedTuple):
    """Everything about an update that a grid does not vary; hashable, for one program. `warmup` is in steps."""

    optimiser: str
    trains: str
    last_blocks: int
    momentum: float
    beta2: float
    weight_decay: float
    layer_decay: float
    head_rate: float
    label_smoothing: float


def rule_of(settings: Any) -> Rule:
    """That of `config.evals.finetune`."""
    return Rule(**{name: settings[name] for name in Rule._fields})


def check(settings: Any) -> None:
    """Raises UserError for words and numbers of `evals.finetune` that mean nothing."""
    for name, known in (("optimiser", OPTIMISERS), ("schedule", SCHEDULES), ("start", STARTS), ("trains", RULES)):
        if settings[name] not in known:
            raise unknown(f"evals.finetune.{name}", settings[name], known)
    for name in ("warmup", "label_smoothing"):
        if not 0 <= settings[name] < 1:
            raise UserError(f"evals.finetune.{name} is {settings[name]}: give a share from 0 to below 1")
    if not 0 < settings.layer_decay <= 1:
        raise UserError(f"evals.finetune.layer_decay is {settings.layer_decay}: give a factor above 0, 1.0 for none")
    if settings.weight_decay < 0:
        raise UserError(f"evals.finetune.weight_decay is {settings.weight_decay}: give 0 or more")


def check_backbone(settings: Any, backbone: Backbone) -> None:
    """Raises UserError for what this backbone cannot follow."""
    if settings.drop_path >= 1:
        raise UserError(f"evals.finetune.drop_path is {settings.drop_path}: give a rate below 1, or -1.0 for its own")
    if settings.drop_path >= 0 and not isinstance(backbone, ViT):
        raise UserError(
            "evals.finetune.drop_path is for vision transformers: set --config.evals.finetune.drop_path=-1.0"
        )
    depth = backbone.depth if isinstance(backbone, ViT) else sum(backbone.depths)
    if settings.trains == "last_k" and not 1 <= settings.last_blocks <= depth:
        raise UserError(
            f"evals.finetune.last_blocks is {settings.last_blocks} and the backbone has {depth} blocks: set "
            f"--config.evals.finetune.last_blocks to 1 up to {depth}"
        )


def with_drop_path(backbone: Backbone, rate: float) -> Backbone:
    """The same network at another rate of stochastic depth; -1 leaves its own."""
    return backbone.clone(drop_path=rate) if rate >= 0 and isinstance(backbone, ViT) else backbone


def layer_factors(params: Any, backbone: Backbone, decay: float) -> Any:
    """Tree of floats for `params` {"backbone", "head"}: what the learning rate of every leaf is multiplied by."""
    blocks: list[int]
    if isinstance(backbone, ViT):
        first: tuple[str, ...] = ("patch_embed", "cls_token", "positions", "registers")
        blocks = list(range(1, backbone.depth + 1))
    else:
        first = ("stem", "norm_stem")
        blocks = [stage + 1 for stage, depth in enumerate(backbone.depths) for _ in range(depth)]
    last = max(blocks) + 1

    def one(path: tuple[jax.tree_util.DictKey, ...], _: Any) -> float:
        name = str(path[1].key)
        layer = last
        if path[0].key == "backbone" and name in first:
            layer = 0
        elif path[0].key == "backbone" and name.startswith("block_"):
            layer = blocks[int(name.removeprefix("block_"))]
        return float(decay ** (last - layer))

    return jax.tree_util.tree_map_with_path(one, params)


def moments(rule: Rule) -> optax.GradientTransformation:
    """The running averages of the optimiser."""
    return optax.trace(rule.momentum) if rule.optimiser == "sgd" else optax.scale_by_adam(rule.momentum, rule.beta2)


def frozen(params: Any, rule: Rule) -> Any:
    """`params` with no gradient to the leaves that stay."""
    if rule.trains == "all":
        return params
    moving = trained(params, rule.trains, rule.last_blocks)
    return jax.tree.map(lambda leaf, on: leaf if on else jax.lax.stop_gradient(leaf), params, moving)


def moved(
    params: Any, state: Any, gradients: Any, rate: Array | float, rule: Rule, backbone: Backbone
) -> tuple[Any, Any]:
    """One update: the parameters {"backbone", "head"} and the optimiser's state. Frozen leaves stay bit for bit;
    biases, norms, positions and tokens do not decay."""
    decay = jax.tree.map(lambda on: rule.weight_decay if on else 0.0, decays(params, positions=False, vectors=False))

    def decayed(values: Any) -> Any:
        return jax.tree.map(lambda v, w, share: v + share * w if share else v, values, params, decay)

    first = decayed(gradients) if rule.optimiser == "sgd" else gradients
    updates, state = moments(rule).update(first, state, params)
    updates = updates if rule.optimiser == "sgd" else decayed(updates)
    factors = layer_factors(params, backbone, rule.layer_decay)
    factors["head"] = jax.tree.map(lambda factor: factor * rule.head_rate, factors["head"])
    moving = trained(params, rule.trains, rule.last_blocks)
    new = jax.tree.map(lambda w, u, f, on: w - rate * f * u if on else w, params, updates, factors, moving)
    return new, state


def rate_at(step: int, rate: float, settings: Any, steps: int, milestones: tuple[int, ...]) -> np.float32:
    """The learning rate of a step counted from 0: a ramp over the share `warmup` of the steps, then drops, or half a
    cosine to 0 at `steps`."""
    warmup = round(settings.warmup * steps)
    if step < warmup:
        return np.float32(rate * (step + 1) / warmup)
    if settings.schedule == "steps":
        return sgd.rate_at(step, rate, milestones, settings.factor)
    return np.float32(rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1))))
