"""Masks by a decoder of the UperNet kind, trained with the backbone or on it frozen.

After BEiT's and iBOT's recipe (arXiv 2106.08254, 2111.07832): AdamW, a rate that falls by `layer_decay` from block to
block towards the input, linear warm-up and decay, pixel-wise cross-entropy. The rate and the step are chosen by images
held out, never by test images. Crops and flips move image and mask alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import Sharding

from gssl_jax.data.sources import IGNORED
from gssl_jax.errors import UserError
from gssl_jax.evals import sgd
from gssl_jax.evals.features import to_unit_range
from gssl_jax.evals.intervals import entry, t_interval
from gssl_jax.evals.miou import Counts, counted, joined, miou, miou_entry, told
from gssl_jax.evals.patches import Batches, predicted
from gssl_jax.evals.tuning import layer_factors
from gssl_jax.models.build import Backbone
from gssl_jax.models.upernet import UperNet, captured, pyramid, resized
from gssl_jax.ops.augment import crop_and_resize
from gssl_jax.ops.boxes import ATTEMPTS, crop_box, rounded
from gssl_jax.ops.keys import named

_adam = optax.scale_by_adam()


class MaskPool(NamedTuple):
    """Images to train on: their number, and `pick(rows)` -> images uint8 [B, S, S, C], masks uint8 [B, S, S]."""

    images: int
    pick: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


class Tuned(NamedTuple):
    """Networks {"backbone", "decoder"} and the other collections of the backbone, at the best mIoU on images held out;
    None where training diverged."""

    name: str
    params: Any
    rest: Any
    score: float | None


def check(settings: Any) -> None:
    """Raises UserError for values of `evals.segmentation.decoder` that mean nothing; with `steps` 0 it is off."""
    if not settings.steps:
        return
    for name, least in (("batch_size", 1), ("width", 1), ("draws", 1), ("every", 0), ("steps", 0)):
        if settings[name] < least:
            raise UserError(f"evals.segmentation.decoder.{name} is {settings[name]}: set it to {least} or more")
    if not settings.learning_rates or min(settings.learning_rates) <= 0:
        raise UserError(
            f"evals.segmentation.decoder.learning_rates is {settings.learning_rates}: give at least one rate above 0"
        )
    if min(settings.shots, default=-1) < 0:
        raise UserError(
            f"evals.segmentation.decoder.shots is {settings.shots}: give images per class, 0 for all images"
        )
    for name in ("validation", "layer_decay"):
        if not 0 < settings[name] <= 1 or (name, settings[name]) == ("validation", 1):
            raise UserError(f"evals.segmentation.decoder.{name} is {settings[name]}: give a share between 0 and 1")


def finetune(
    backbone: Backbone,
    variables: Any,
    pools: Sequence[MaskPool],
    validation: Batches,
    test: Batches,
    *,
    name: str,
    settings: Any,
    names: Sequence[str],
    seed: int,
    resamples: int,
    sharding: Sharding | None = None,
) -> dict[str, dict[str, Any]]:
    """The entry `<name>/miou` of the labelled images `pools`, one for each draw.

    With one draw the interval is over test images, with more of them Student's t over the draws.
    """
    keys = ("steps", "batch_size", "width", "layer_decay", "weight_decay", "warmup", "frozen", "flip", "validation")
    protocol: dict[str, Any] = {key: settings[key] for key in keys} | {"scale": list(settings.scale)}
    protocol |= {"maps": list(captured(backbone)), "labelled_images": [pool.images for pool in pools]}
    found, grids, chosen = [], [], []
    for draw, pool in enumerate(pools):
        tuned = [
            tune(backbone, variables, pool, validation, settings, rate, len(names), (seed, draw), sharding)
            for rate in settings.learning_rates
        ]
        grids.append({point.name: point.score for point in tuned})
        usable = [point for point in tuned if point.score is not None]
        if not usable:
            problem = "the loss was not finite anywhere: lower evals.segmentation.decoder.learning_rates"
            failed = entry(None, None, None, None, protocol | {"grid": grids, "problem": problem}, None)
            return {f"{name}/miou": failed}
        best = max(usable, key=lambda point: point.score or 0.0)
        chosen.append(best.name)
        decoder = UperNet(settings.width, len(names))
        found.append(_counts(backbone, decoder, best.params, best.rest, test, len(names)))
    protocol |= {"grid": grids, "chosen": chosen}
    if len(pools) == 1:
        options: dict[str, Any] = {"names": names, "seed": seed, "resamples": resamples}
        return {f"{name}/miou": miou_entry(found[0], protocol=protocol, **options)}
    values = [miou(counts) for counts in found]
    protocol |= {"values": values, "test_images": len(found[0].true), **told(joined(found), names)}
    return {f"{name}/miou": entry(*t_interval(values), len(values), protocol, "t-draws")}


def tune(
    backbone: Backbone,
    variables: Any,
    pool: MaskPool,
    validation: Batches,
    settings: Any,
    rate: float,
    classes: int,
    seed: tuple[int, int],
    sharding: Sharding | None = None,
) -> Tuned:
    """Trains at one rate; of the states every `settings.every` steps (0 = the end only) the first best is kept."""
    key, decoder = jax.random.fold_in(jax.random.key(seed[0]), seed[1]), UperNet(settings.width, classes)
    images = pool.pick(np.zeros(1, np.int64))[0]
    maps = jax.eval_shape(lambda v: _maps(backbone, v, to_unit_range(jnp.asarray(images)), False, {})[0], variables)
    fresh = jax.jit(decoder.init)(named(key, "decoder"), [jnp.zeros(one.shape) for one in maps])["params"]
    params = {"backbone": variables["params"], "decoder": fresh}
    rest = {name: values for name, values in variables.items() if name != "params"}
    scales = layer_factors(params, backbone, settings.layer_decay)
    if settings.frozen:
        scales["backbone"] = jax.tree.map(lambda _: 0.0, scales["backbone"])
    moments, rows = _adam.init(params), sgd.rows_of(pool.images, settings.batch_size, seed)
    every, best, name = settings.every or settings.steps, Tuned(f"rate {rate:g}", None, None, None), f"rate {rate:g}"
    options = {"backbone": backbone, "decoder": decoder, "scale": tuple(settings.scale), "flip": settings.flip,
               "frozen": bool(settings.frozen)}  # fmt: skip
    for step in range(settings.steps):
        batch = jax.device_put(pool.pick(next(rows)), sharding)
        now = np.float32(rate_at(step, rate, settings.steps, settings.warmup))
        params, moments, rest = _step(
            params, moments, rest, scales, *batch, jax.random.fold_in(key, step), now, settings.weight_decay, **options
        )
        if (step + 1) % every == 0 or step + 1 == settings.steps:
            if not all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(params)):
                return best
            score = miou(_counts(backbone, decoder, params, rest, validation, classes))
            if best.score is None or score > best.score:
                best = Tuned(name, params, rest, score)
    return best


def rate_at(step: int, rate: float, steps: int, warmup: float) -> float:
    """Linear from 0 over the share `warmup` of the steps, then linear towards 0 at the end."""
    first = warmup * steps
    return rate * ((step + 1) / first if step < first else (steps - step) / (steps - first))


def cut_alike(images: Array, masks: Array, key: Array, scale: tuple[float, float], flip: float) -> tuple[Array, Array]:
    """Random crops resized to the images' own size and flipped, image and mask by the same box; uint8 [B, S, S, C] and
    [B, S, S] -> float32 in [0, 1] and uint8, by the nearest pixel."""
    side = images.shape[1]

    def one(image: Array, mask: Array, own: Array) -> tuple[Array, Array]:
        uniforms = jax.random.uniform(named(own, "crop"), (ATTEMPTS, 4))
        box = rounded(crop_box(uniforms, side, side, scale, sgd.RATIO), side, side)
        image = crop_and_resize(image, box.astype(jnp.float32), side, "bilinear")
        places = (2 * jnp.arange(side) + 1)[None] * box[2:, None] // (2 * side) + box[:2, None]
        mask = mask[places[0]][:, places[1]]
        turned = jax.random.uniform(named(own, "flip")) < flip
        return jnp.where(turned, image[:, ::-1], image), jnp.where(turned, mask[:, ::-1], mask)

    return jax.vmap(one)(to_unit_range(images), masks, jax.random.split(key, len(images)))


def pixel_loss(logits: Array, masks: Array) -> Array:
    """Mean cross-entropy over the pixels that have a class; logits [B, h, w, C] are enlarged to the masks [B, S, S]."""
    large = resized(logits, masks.shape[1])
    known = masks != IGNORED
    losses = optax.softmax_cross_entropy_with_integer_labels(large, jnp.where(known, masks, 0).astype(jnp.int32))
    return jnp.where(known, losses, 0.0).sum() / jnp.maximum(known.sum(), 1)


@partial(jax.jit, static_argnames=("backbone", "decoder", "scale", "flip", "frozen"))
def _step(
    params: Any,
    moments: Any,
    rest: Any,
    scales: Any,
    images: Array,
    masks: Array,
    key: Array,
    rate: Array,
    weight_decay: float,
    *,
    backbone: Backbone,
    decoder: UperNet,
    scale: tuple[float, float],
    flip: float,
    frozen: bool,
) -> tuple[Any, Any, Any]:
    views, masks = cut_alike(images, masks, named(key, "crop"), scale, flip)
    rngs = {name: named(key, name) for name in ("dropout", "drop_path")}

    def loss(params: Any) -> tuple[Array, Any]:
        own = jax.lax.stop_gradient(params["backbone"]) if frozen else params["backbone"]
        maps, new = _maps(backbone, {"params": own, **rest}, views, not frozen, rngs)
        return pixel_loss(decoder.apply({"params": params["decoder"]}, maps), masks), new

    gradients, new = jax.grad(loss, has_aux=True)(params)
    updates, moments = _adam.update(gradients, moments)

    def moved(value: Array, update: Array, factor: Array) -> Array:
        return value - rate * factor * (update + (weight_decay * value if value.ndim > 1 else 0.0))

    return jax.tree.map(moved, params, updates, scales), moments, {**rest, **new}


def _maps(backbone: Backbone, variables: Any, images: Array, train: bool, rngs: Any) -> tuple[list[Array], Any]:
    names = captured(backbone)
    found = backbone.apply(
        variables, images, train=train, capture=tuple(dict.fromkeys(names)), rngs=rngs,
        mutable=["batch_stats"] if train else False,
    )  # fmt: skip
    out, new = found if train else (found, {})
    return pyramid(backbone, out, names), new


@partial(jax.jit, static_argnames=("backbone", "decoder"))
def _logits(params: Any, rest: Any, images: Array, backbone: Backbone, decoder: UperNet) -> Array:
    maps, _ = _maps(backbone, {"params": params["backbone"], **rest}, to_unit_range(images), False, {})
    return decoder.apply({"params": params["decoder"]}, maps)


def _counts(backbone: Backbone, decoder: UperNet, params: Any, rest: Any, batches: Batches, classes: int) -> Counts:
    found = []
    for batch in batches():
        kept = np.asarray(batch["valid"], bool)
        logits = np.asarray(_logits(params, rest, batch["image"], backbone, decoder))
        masks = predicted(lambda scores: scores, logits, batch["segmentation"].shape[1])
        found.append(counted(batch["segmentation"][kept], masks[kept], classes))
    return joined(found)
