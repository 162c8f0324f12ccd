"""The contract of a method, and the clock that turns durations of the configuration into steps.

A method is a NamedTuple of pure functions, composed and not inherited, as `optax.GradientTransformation` is.
The training loop, the evaluators and the hand-over between stages know nothing else about it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jax import Array

Params = Mapping[str, Any]
"""Trainable arrays of the student under the prefixes `backbone`, `projector`, `prototypes`, `predictor`, `gate`,
`heads`: handing over to a later stage is an operation on these prefixes."""

MethodState = dict[str, Any]
"""What a method carries besides its parameters (`teacher`, `centre`, `queue`, ...); the keys are fixed per method."""

Batches = Mapping[str, Mapping[str, Array]]
"""Stream name -> batch: `image` [B, V, S, S, C], `index` int32 [B], and `local`, `label`, `valid` where they exist."""


class Clock(NamedTuple):
    """How long a stage is. Durations in the configuration count `optim.unit`s (steps or epochs)."""

    total: int
    """Steps of the whole stage."""
    unit: int
    """Steps in one unit: 1 for `step`, the batches of one pass over the data for `epoch`."""

    def steps(self, duration: float) -> int:
        """A duration in units, as a whole number of steps."""
        return round(duration * self.unit)


class Kind(NamedTuple):
    """A method before it is built: what a run has to know to open its data and to check its configuration.

    build(config, backbone, clock, counts) -> Method; `counts` int [classes] are the labelled training images of each
      class, None for a method that learns without labels.
    labelled: whether it learns from labels, and is judged by its own predictions too.
    positive: configuration keys that have to be at least 1.
    host_views(config) -> {"global": [...], "local": [...]}: what the host cuts where `data.crop` is `host`, for each
      view `size`, `scale`, `ratio` and `interpolation`.
    warnings(config, backbone) -> lines for what is allowed but unlikely to be meant.
    needs: further keys that tell its settings from those of another method.
    """

    build: Callable[..., Method]
    labelled: bool
    positive: tuple[str, ...]
    host_views: Callable[[Any], dict[str, list[dict[str, Any]]]]
    warnings: Callable[[Any, Any], tuple[str, ...]]
    needs: tuple[str, ...] = ()


def host_crop(preset: Any) -> dict[str, Any]:
    """What the host has to know of a view's augmentation preset to cut it."""
    return {
        "size": preset.size,
        "scale": tuple(preset.scale),
        "ratio": tuple(preset.ratio),
        "interpolation": preset.interpolation,
    }


class Method(NamedTuple):
    """Pure functions that are a pretraining method.

    streams: the names of the batches it wants.
    init(key, views) -> (params, method_state): parameters from one batch of views, used for its shapes only.
    views(batches, key, step) -> views: every augmentation and mask draw; floats in [0, 1].
    loss(params, method_state, views, key, step, train) -> (loss, (method_state, metrics)): metrics are scalars by
      their full names, `train/...` and `health/...`. Centres and queues: use the old, return the new.
    after_update(params, method_state, step) -> method_state: the EMA teacher, after the optimiser step.
    backbone(params, method_state, which) -> variables of the backbone, `which` in `teacher`, `student`.
    reconstruct(params, views) -> pixels [B, V, S, S, C] in [0, 1] for the report, or None where nothing is rebuilt.
    predict(params, method_state, images) -> logits, or None for a label-free method.
    classify(params, method_state, features) -> logits of the backbone's `feat` [B, D], for Grad-CAM; None as `predict`.
    """

    streams: tuple[str, ...]
    init: Callable[..., tuple[Params, MethodState]]
    views: Callable[..., dict[str, Array]]
    loss: Callable[..., tuple[Array, tuple[MethodState, dict[str, Array]]]]
    after_update: Callable[..., MethodState]
    backbone: Callable[..., Mapping[str, Any]]
    reconstruct: Callable[..., Array] | None
    predict: Callable[..., Array] | None
    classify: Callable[..., Array] | None = None
