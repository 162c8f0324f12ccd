"""Frozen features of a whole evaluation set, by name."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gssl_jax.errors import UserError, unknown

IN_FLIGHT = 2


def extract(
    encode: Callable[..., Mapping[str, Array]],
    batches: Iterable[Mapping[str, np.ndarray]],
    names: Sequence[str],
    dtype: Any = np.float32,
    *,
    variables: Any = None,
    sharding: jax.sharding.Sharding | None = None,
) -> dict[str, np.ndarray]:
    """Features `names` [N, D] of every valid image, in order, and "label" [N].

    A batch is `{"image": uint8, uint16 or float [B, S, S, C] (or [B, 1, S, S, C]), "valid": bool [B], "label"}`;
    all batches have one size, so that one program serves them. `encode(images)` sees float32 images in [0, 1]; with
    `variables` it is called as `encode(variables, images)`, and then the same function at other variables, as in
    evaluations during training, is not compiled again. `sharding` places the images on several devices.
    Results are copied to the host while the next batches run.

    Raises:
        UserError: the encoder gives no feature of that name (the nearest is named), or there is no image.
    """
    waiting: deque[tuple[dict[str, Array], np.ndarray]] = deque()
    done: dict[str, list[np.ndarray]] = {name: [] for name in (*names, "label")}

    def collect() -> None:
        outputs, valid = waiting.popleft()
        for name, values in outputs.items():
            done[name].append(np.asarray(values, dtype)[valid])

    for batch in batches:
        valid = np.asarray(batch["valid"], bool)
        outputs = _encode(encode, tuple(names), variables, jax.device_put(batch["image"], sharding))
        for values in outputs.values():
            values.copy_to_host_async()
        done["label"].append(np.asarray(batch["label"])[valid])
        waiting.append((outputs, valid))
        if len(waiting) > IN_FLIGHT:
            collect()
    while waiting:
        collect()
    if not done["label"]:
        raise UserError("there is no image to evaluate: the evaluation set is empty; check evals.data")
    return {name: np.concatenate(parts) for name, parts in done.items()}


def pixels(images: Array) -> dict[str, Array]:
    """The control encoder: the pixels themselves, flattened, in [0, 1]; [B, S, S, C] -> {"pixels": [B, S * S * C]}."""
    images = to_unit_range(images)
    return {"pixels": images.reshape(images.shape[0], -1)}


def to_unit_range(images: Array) -> Array:
    """uint8 and uint16 images as float32 in [0, 1] over their full range; floats pass as float32."""
    if jnp.issubdtype(images.dtype, jnp.integer):
        return images.astype(jnp.float32) / jnp.iinfo(images.dtype).max
    return images.astype(jnp.float32)


@partial(jax.jit, static_argnames=("encode", "names"))
def _encode(encode: Callable[..., Any], names: tuple[str, ...], variables: Any, images: Array) -> dict[str, Array]:
    images = to_unit_range(images[:, 0] if images.ndim == 5 else images)
    given = encode(images) if variables is None else encode(variables, images)
    for name in names:
        if name not in given:
            raise unknown("feature", name, given)
    return {name: given[name] for name in names}
