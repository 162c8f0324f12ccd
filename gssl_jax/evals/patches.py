"""Patches of images with masks: their features, what each is to be called, and masks from what patches are called."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gssl_jax.data.sources import IGNORED
from gssl_jax.evals.features import extract

IMAGES_AT_ONCE = 8  # whose scores are enlarged together: all of a batch at 150 classes would take gigabytes

Encode = Callable[..., Mapping[str, Array]]
Batches = Callable[[], Iterable[Mapping[str, np.ndarray]]]
"""Opens padded batches with `segmentation`, as `data.arrays.evaluation_batches` makes them."""

Scores = Callable[[Array], Array]
"""Features of a batch of maps, float32 [B, h, w, D] -> a score for each class, [B, h, w, C]."""


class Maps(NamedTuple):
    """Patch features of images, float32 [N, h, w, D], and their masks, uint8 [N, S, S]."""

    features: np.ndarray
    masks: np.ndarray


class Patches(NamedTuple):
    """Patches of which some pixel has a class: features [P, D], the share of each class among those pixels [P, C],
    the share of them among all pixels [P], and the image each is from [P]."""

    features: np.ndarray
    shares: np.ndarray
    known: np.ndarray
    image: np.ndarray


def maps(
    encode: Encode,
    variables: Any,
    batches: Iterable[Mapping[str, np.ndarray]],
    feature: str,
    sharding: jax.sharding.Sharding | None = None,
) -> Maps:
    """Features and masks of every valid image, in order."""
    with_masks = ({**batch, "label": batch["segmentation"]} for batch in batches)
    found = extract(encode, with_masks, (feature,), variables=variables, sharding=sharding)
    return Maps(found[feature], found["label"])


def patches_of(known: Maps, classes: int) -> Patches:
    """The patches of all images in order, row by row; a pixel belongs to the patch that holds its upper left corner."""
    count, height, width, size = known.features.shape
    side = known.masks.shape[1]
    rows, columns = np.arange(side) * height // side, np.arange(side) * width // side
    cell = (rows[:, None] * width + columns[None]) * classes
    pixels = np.zeros((count, height * width, classes), np.float32)
    for image, mask in enumerate(known.masks):
        seen = mask != IGNORED
        pixels[image] = np.bincount(cell[seen] + mask[seen], minlength=height * width * classes).reshape(-1, classes)
    pixels = pixels.reshape(-1, classes)
    total = pixels.sum(1)
    kept = total > 0
    each = np.bincount((cell // classes).ravel(), minlength=height * width)
    return Patches(
        known.features.reshape(-1, size)[kept],
        pixels[kept] / total[kept, None],
        (total / np.tile(each, count))[kept].astype(np.float32),
        np.repeat(np.arange(count), height * width)[kept],
    )


def some_patches(patches: Patches, most: int, seed: int | tuple[int, ...]) -> Patches:
    """At most so many of them, drawn by `seed`."""
    if len(patches.features) <= most:
        return patches
    rows = np.sort(np.random.default_rng(seed).permutation(len(patches.features))[:most])
    return Patches(*(values[rows] for values in patches))


def of_images(patches: Patches, images: np.ndarray) -> Patches:
    """The patches of some images."""
    kept = np.isin(patches.image, images)
    return Patches(*(values[kept] for values in patches))


def predicted(scores: Scores, features: np.ndarray, side: int) -> np.ndarray:
    """The class of every pixel, uint8 [B, side, side], of maps [B, h, w, D]."""
    return np.asarray(_pixels(scores(jnp.asarray(features)), side))


def draw_images(present: np.ndarray, shots: int, seed: int, draw: int) -> np.ndarray:
    """`shots` images for each class among those that show it (all of them where there are fewer), sorted and without
    repeats; `present` is bool [N, C]. Draw number `draw` of `seed` is independent of the others."""
    rng, chosen = np.random.default_rng((seed, draw)), [np.zeros(0, np.int64)]
    for column in present.T:
        members = np.flatnonzero(column)
        chosen.append(rng.permutation(members)[:shots])
    return np.unique(np.concatenate(chosen))


def present_in(patches: Patches, images: int) -> np.ndarray:
    """Which class is to be seen in which image, bool [N, C]."""
    found = np.zeros((images, patches.shares.shape[1]), bool)
    rows, classes = np.nonzero(patches.shares)
    found[patches.image[rows], classes] = True
    return found


def held_out_images(count: int, share: float, seed: int) -> np.ndarray:
    """Images that choose the penalty, at least one and not all, int64, by `seed`."""
    return np.random.default_rng(seed).permutation(count)[: min(max(1, round(share * count)), count - 1)]


@partial(jax.jit, static_argnames=("side",))
def _pixels(scores: Array, side: int) -> Array:
    """[B, h, w, C] enlarged bilinearly (pixels at their middles, no antialiasing) -> the largest, uint8 [B, S, S]."""

    def one(score: Array) -> Array:
        large = jax.image.resize(score, (side, side, score.shape[-1]), "bilinear", antialias=False)
        return large.argmax(-1).astype(jnp.uint8)

    return jax.lax.map(one, scores, batch_size=min(IMAGES_AT_ONCE, len(scores)))
