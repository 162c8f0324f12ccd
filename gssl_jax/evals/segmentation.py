"""Masks from frozen patch features: k-NN, a linear head on all labelled images, and one on a few of them.

A patch of the map learns from the share of each class among its pixels; what is predicted for a patch is enlarged
bilinearly to pixels, and the pixel takes the largest score. The linear head is the converged multinomial regression of
`logistic` on these shares, weighted by the pixels that have a class: the pixel-wise cross-entropy of logits that are
equal over a patch, which is convex and has no schedule to tune. For few labelled images no protocol has been published
with its splits; here a draw takes k images for each class, of those that show it, and the strength of the penalty is
fixed, so that nothing is chosen by labels that a user of k images would not have.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gssl_jax.data.sources import IGNORED
from gssl_jax.errors import UserError, unknown
from gssl_jax.evals import logistic, segment_finetune
from gssl_jax.evals.intervals import entry, t_interval
from gssl_jax.evals.knn import knn_scores
from gssl_jax.evals.miou import Counts, counted, joined, miou, miou_entry, told
from gssl_jax.evals.patches import (
    Batches,
    Encode,
    Maps,
    Patches,
    Scores,
    draw_images,
    held_out_images,
    maps,
    of_images,
    patches_of,
    predicted,
    present_in,
    some_patches,
)
from gssl_jax.evals.preprocess import moments, single_threaded, whitening
from gssl_jax.models.build import Backbone


class Head(NamedTuple):
    """A linear head, weight [D, C] and bias [C], on raw features."""

    weight: Array
    bias: Array


def check(settings: Any, parts: Sequence[str], backbone: Backbone, data: Any) -> None:
    """Raises UserError for values of `evals.segmentation` that mean nothing, and for a feature that is no map of the
    backbone on images of `data`; a set without masks, `parts`, passes."""
    if not parts:
        return
    image = jax.ShapeDtypeStruct((1, data.image_size, data.image_size, data.channels), np.float32)
    given = jax.eval_shape(lambda k, x: backbone.init_with_output(k, x)[0], jax.random.key(0), image)
    found = sorted(name for name, value in given.items() if value.ndim == 4)
    if settings.feature not in found:
        raise unknown("evals.segmentation.feature", settings.feature, found)
    if len(parts) > IGNORED:
        raise UserError(f"there are {len(parts)} classes of pixels, and a mask of 8 bits tells {IGNORED} apart")
    for name, least in (("images", 2), ("patches", 1), ("draws", 2)):
        if settings[name] < least:
            raise UserError(f"evals.segmentation.{name} is {settings[name]}: set it to {least} or more")
    for name in ("k", "temperature"):
        if settings.knn[name] <= 0:
            raise UserError(f"evals.segmentation.knn.{name} is {settings.knn[name]}: give a number above 0")
    if min(settings.shots, default=1) < 1:
        raise UserError(f"evals.segmentation.shots is {settings.shots}: give images per class, each at least 1")
    segment_finetune.check(settings.decoder)
    linear = settings.linear
    if not linear.l2_grid or min(*linear.l2_grid, linear.shots_l2) <= 0:
        raise UserError(
            f"evals.segmentation.linear.l2_grid is {linear.l2_grid} and .shots_l2 {linear.shots_l2}: give strengths "
            "above 0"
        )
    if not 0 < linear.validation < 1:
        raise UserError(f"evals.segmentation.linear.validation is {linear.validation}: give a share between 0 and 1")


def evaluate(
    encode: Encode,
    variables: Any,
    train: Batches,
    test: Batches,
    settings: Any,
    *,
    names: Sequence[str],
    seed: int,
    resamples: int,
    feature: str,
    sharding: jax.sharding.Sharding | None = None,
) -> dict[str, dict[str, Any]]:
    """The entries `segment_knn/miou`, `segment_linear/miou` and `segment_<k>_linear/miou`, without values where
    features are not finite.

    Args:
      encode: (variables, images) -> features by name, or (images) with `variables` None; `feature` is [B, h, w, D].
      train: opens at most `settings.images` images with masks; their features are held in memory.
      test: opens the test images; of them one batch is held at a time.
      settings: `config.evals.segmentation`.
      names: of the classes of pixels.
    """
    known = maps(encode, variables, train(), feature, sharding)
    patches = patches_of(known, len(names))
    side, grid = known.masks.shape[1], known.features.shape[1:3]
    about = {"feature": feature, "map": f"{grid[0]} x {grid[1]} patches of {side} px", "train_images": len(known.masks)}
    predictors: dict[str, Scores] = {}
    protocols: dict[str, dict[str, Any]] = {}
    if len(patches.features) and np.isfinite(patches.features).all():
        bank = some_patches(patches, settings.patches, seed)
        predictors["segment_knn"], protocols["segment_knn"] = _neighbours(bank, settings.knn, len(names))
        head, protocols["segment_linear"] = _head(known, patches, settings, len(names), seed)
        predictors["segment_linear"] = partial(_linear_scores, head)
        heads, low = _low_shot(known, patches, settings, names, seed)
        predictors |= {name: partial(_linear_scores, one) for name, one in heads.items()}
    counts = _counts(encode, variables, test(), predictors, len(names), feature, sharding)
    if counts is None:
        problem = "features are not finite" if len(patches.features) else "no pixel of the training images has a class"
        return _failed(settings, about | {"problem": problem})
    options: dict[str, Any] = {"names": names, "seed": seed, "resamples": resamples}
    entries = {f"{name}/miou": miou_entry(counts[name], protocol=about | protocols[name], **options)
               for name in ("segment_knn", "segment_linear")}  # fmt: skip
    for shots in settings.shots:
        found = [counts[_draw_name(shots, draw)] for draw in range(settings.draws)]
        entries[f"segment_{shots}_linear/miou"] = _over_draws(found, about | low[shots], names)
    return entries


def masks_by_linear_head(
    encode: Encode, variables: Any, train: Batches, shown: Batches, settings: Any, *, classes: int, seed: int
) -> np.ndarray:
    """What the head of `segment_linear` makes of some images, uint8 [n, S, S]; its feature is `settings.feature`."""
    known = maps(encode, variables, train(), settings.feature)
    head, _ = _head(known, patches_of(known, classes), settings, classes, seed)
    asked = maps(encode, variables, shown(), settings.feature)
    return predicted(partial(_linear_scores, head), asked.features, asked.masks.shape[1])


def fit_heads(patches: Patches, l2: Sequence[float], settings: Any, weights: np.ndarray, room: int = 0) -> logistic.Fit:
    """Regressions with intercept on standardised features, for raw ones: l2 [K], weights [K, P] -> leaves [K, ...].

    With `room` there are places for so many patches, the surplus without weight: draws share a compiled program.
    """
    mean, spread = moments(jnp.asarray(patches.features))
    spare = max(0, room - len(patches.features))
    features = np.pad((patches.features - np.asarray(mean)) / np.asarray(spread), ((0, spare), (0, 0)))
    with single_threaded():
        fit = logistic.fit_many(
            jnp.asarray(features),
            jnp.asarray(np.pad(patches.shares, ((0, spare), (0, 0)))),
            l2=jnp.asarray(l2, jnp.float32),
            weights=jnp.asarray(np.pad(weights, ((0, 0), (0, spare))), jnp.float32),
            classes=patches.shares.shape[1],
            intercept=True,
            max_iterations=settings.max_iterations,
            tolerance=settings.tolerance,
        )
        weight = fit.weight / spread[:, :, None]
        bias = fit.bias - jnp.einsum("d,kdc->kc", mean[0], weight, precision=jax.lax.Precision.HIGHEST)
        return jax.block_until_ready(fit._replace(weight=weight, bias=bias))


def _neighbours(bank: Patches, settings: Any, classes: int) -> tuple[Scores, dict[str, Any]]:
    known, k = jnp.asarray(bank.features), min(settings.k, len(bank.features))
    protocol = {"k": k, "temperature": settings.temperature, "similarity": "cosine", "train_patches": len(known)}
    mean, axes = jnp.zeros((1, known.shape[1])), None
    if settings.whiten:
        protocol |= {"preprocessing": f"whitened, floor {settings.whiten}"}
        with single_threaded():
            mean, axes = jax.block_until_ready(whitening(known, settings.whiten))
    known = _moved(known, mean, axes)

    def scores(features: Array) -> Array:
        asked = _moved(features.reshape(-1, features.shape[-1]), mean, axes)
        found = knn_scores(known, bank.shares, asked, k=k, temperature=settings.temperature, classes=classes)
        return found.reshape(*features.shape[:3], classes)

    return scores, protocol


@jax.jit
@jax.default_matmul_precision("highest")
def _moved(features: Array, mean: Array, axes: Array | None) -> Array:
    return features if axes is None else (features - mean) @ axes


def _head(known: Maps, patches: Patches, settings: Any, classes: int, seed: int) -> tuple[Head, dict[str, Any]]:
    """The head on all images, its penalty chosen by the mIoU of images held out; the final fit sees them too."""
    linear, side = settings.linear, known.masks.shape[1]
    held = held_out_images(len(known.masks), linear.validation, seed)
    grid = sorted(map(float, linear.l2_grid), reverse=True)
    some = some_patches(patches, settings.patches, seed)
    best, scores = grid[0], []
    if len(grid) > 1:
        kept = np.where(np.isin(some.image, held), 0.0, some.known)
        tried = fit_heads(some, grid, linear, np.tile(kept, (len(grid), 1)))
        for weight, bias in zip(tried.weight, tried.bias, strict=True):
            found = predicted(partial(_linear_scores, Head(weight, bias)), known.features[held], side)
            scores.append(miou(counted(known.masks[held], found, classes)))
        best = grid[int(np.nan_to_num(scores, nan=-1.0).argmax())]  # the strongest of equals
    fit = fit_heads(some, [best], linear, some.known[None])
    protocol = {"preprocessing": "standardised", "objective": "CE of a patch's class shares + l2/2 |W|^2", "l2": best}
    protocol |= {"l2_grid": list(linear.l2_grid), "validation": linear.validation, "train_patches": len(some.features)}
    protocol |= {"converged": bool(fit.converged[0]), "iterations": int(fit.iterations[0])}
    return Head(fit.weight[0], fit.bias[0]), protocol


def _low_shot(
    known: Maps, patches: Patches, settings: Any, names: Sequence[str], seed: int
) -> tuple[dict[str, Head], dict[int, dict[str, Any]]]:
    """A head for each draw of each number of shots by name, and the protocols by shots."""
    heads, protocols, linear = {}, {}, settings.linear
    present = present_in(patches, len(known.masks))
    cells = int(np.prod(known.features.shape[1:3]))
    for shots in settings.shots:
        draws = [draw_images(present, shots, seed, draw) for draw in range(settings.draws)]
        room = min(settings.patches, shots * len(names) * cells, len(patches.features))
        converged = 0
        for draw, images in enumerate(draws):
            own = some_patches(of_images(patches, images), settings.patches, (seed, draw))
            fit = fit_heads(own, [linear.shots_l2], linear, own.known[None], room)
            converged += int(fit.converged[0])
            heads[_draw_name(shots, draw)] = Head(fit.weight[0], fit.bias[0])
        digest = hashlib.sha256(b"".join(images.astype("<i8").tobytes() for images in draws)).hexdigest()[:16]
        protocols[shots] = {"shots": shots, "draws": settings.draws, "drawn": "images for each class that show it",
                            "labelled_images": [len(images) for images in draws], "l2": linear.shots_l2,
                            "converged": converged, "digest": digest}  # fmt: skip
        short = [name for name, count in zip(names, present.sum(0), strict=True) if count < shots]
        protocols[shots] |= {"fewer_images_of": short} if short else {}
    return heads, protocols


def _draw_name(shots: int, draw: int) -> str:
    return f"{shots}/{draw}"


def _counts(
    encode: Encode,
    variables: Any,
    batches: Iterable[Mapping[str, np.ndarray]],
    predictors: Mapping[str, Scores],
    classes: int,
    feature: str,
    sharding: jax.sharding.Sharding | None,
) -> dict[str, Counts] | None:
    """The counts of the test images for every predictor; None without one, or where features are not finite."""
    found: dict[str, list[Counts]] = {name: [] for name in predictors}
    for batch in batches if predictors else ():
        if not batch["valid"].any():
            continue
        asked = maps(encode, variables, [batch], feature, sharding)
        if not np.isfinite(asked.features).all():
            return None
        spare = len(batch["valid"]) - len(asked.masks)  # one shape for every batch: one program
        padded = np.pad(asked.features, ((0, spare), (0, 0), (0, 0), (0, 0)))
        for name, scores in predictors.items():
            masks = predicted(scores, padded, asked.masks.shape[1])[: len(asked.masks)]
            found[name].append(counted(asked.masks, masks, classes))
    return {name: joined(parts) for name, parts in found.items()} if predictors else None


def _over_draws(found: Sequence[Counts], protocol: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The entry of several draws: classes and pixels in its protocol are those of all draws together."""
    values = [miou(counts) for counts in found]
    protocol |= {"test_images": len(found[0].true), "values": values, **told(joined(found), names)}
    if len(set(values)) == 1:
        problem = "all draws gave the same masks, so there is no interval"
        return entry(values[0], None, None, len(values), protocol | {"problem": problem}, None)
    return entry(*t_interval(values), len(values), protocol, "t-draws")


def _failed(settings: Any, protocol: dict[str, Any]) -> dict[str, dict[str, Any]]:
    kinds = ("knn", "linear", *(f"{shots}_linear" for shots in settings.shots))
    return {f"segment_{kind}/miou": entry(None, None, None, None, protocol, None) for kind in kinds}


@jax.jit
def _linear_scores(head: Head, features: Array) -> Array:
    with jax.default_matmul_precision("highest"):
        return features @ head.weight + head.bias[None, None, None]
