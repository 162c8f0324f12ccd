"""The part of `Judge` that is about masks: what a backbone's patch features know of every pixel."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax import Array

from gssl_jax.data import subsets
from gssl_jax.data.arrays import evaluation_batches
from gssl_jax.data.sources.subset import Subset
from gssl_jax.evals import segment_finetune, segmentation
from gssl_jax.evals.patches import draw_images, held_out_images
from gssl_jax.ops.patches import patchify

if TYPE_CHECKING:
    from gssl_jax.runs.evaluation import Entries, Judge

SHOWN = 6
"""Test images whose masks the report shows."""


def judge(judge: Judge, variables: Any) -> Entries:
    """k-NN and linear heads on the patches of a backbone; empty where the images have no masks."""
    if not judge.segmented:
        return {}
    feature, known = judge.settings.segmentation.feature, judge.settled(variables)
    return judge._told(_entries(judge, judge._apply, known, feature, sharding=judge._sharding))


def teach(judge: Judge, variables: Any) -> Entries:
    """The decoder of `evals.segmentation.decoder`, for every number of labelled images; empty where it is off.

    The images that choose are the same for every backbone and every number, and are never among the labelled ones.
    """
    settings, found = judge.settings.segmentation.decoder, dict[str, dict[str, Any]]()
    if not judge.segmented or not settings.steps:
        return {}
    known, count = judge.settled(variables), len(judge._train_labels())
    held = np.sort(held_out_images(count, settings.validation, judge._seed))
    rows = np.setdiff1d(np.arange(count), held)
    kind = "decoder" if settings.frozen else "upernet"
    for shots in settings.shots:
        draws = [rows] * settings.draws
        if shots:
            present = _present(judge, rows)
            draws = [rows[draw_images(present, shots, judge._seed, draw)] for draw in range(settings.draws)]
        found |= segment_finetune.finetune(
            judge._parts.backbone,
            known,
            [_pool(judge, drawn) for drawn in draws],
            judge._opened("train", held),
            judge._opened("test"),
            name=f"segment_{shots}_{kind}" if shots else f"segment_{kind}",
            settings=settings,
            names=judge._parts.train.parts,
            seed=judge._seed,
            resamples=judge.settings.bootstrap.resamples,
            sharding=judge._placed(settings.batch_size),
        )
    return judge._told(found)


def _present(judge: Judge, rows: np.ndarray) -> np.ndarray:
    """Which class is to be seen in which of some training images, bool [n, classes]."""
    batches = judge._opened("train", rows)()
    masks = np.concatenate([batch["segmentation"][batch["valid"]] for batch in batches])
    return np.stack([(masks == part).any((1, 2)) for part in range(len(judge._parts.train.parts))], axis=1)


def _pool(judge: Judge, rows: np.ndarray) -> segment_finetune.MaskPool:
    """Training images by row with their masks, from memory where they fit, else decoded as they are picked."""
    held, data, resize = judge.sets["train"], judge._parts.config.data, judge.settings.data.resize

    def pick(asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if isinstance(held, Mapping):
            return held["image"][rows[asked]], held["segmentation"][rows[asked]]
        batch = next(evaluation_batches(Subset(held, rows[asked]), len(asked), data, resize))
        return batch["image"], batch["segmentation"]

    return segment_finetune.MaskPool(len(rows), pick)


def judge_pixels(judge: Judge) -> Entries:
    """The same on the pixels of each patch, shrunk so that the image has at most `evals.pixel_side` a side, and each
    patch at least one."""
    if not judge.segmented:
        return {}
    data = judge._parts.config.data
    blank = jax.ShapeDtypeStruct((1, data.image_size, data.image_size, data.channels), np.float32)
    given = jax.eval_shape(lambda x: judge._parts.backbone.init_with_output(jax.random.key(0), x)[0], blank)
    grid = given[judge.settings.segmentation.feature].shape[1]
    cell = max(1, min(data.image_size, judge.settings.pixel_side) // grid)
    return _entries(judge, partial(patch_pixels, grid=grid, cell=cell), None, "pixels")


def patch_pixels(images: Array, grid: int, cell: int) -> dict[str, Array]:
    """The control encoder of masks: every patch as its `cell` x `cell` averaged pixels, [B, S, S, C] in [0, 1] ->
    {"pixels": [B, grid, grid, cell * cell * C]}."""
    side, (count, *_, channels) = grid * cell, images.shape
    small = jax.image.resize(images, (count, side, side, channels), "bilinear")  # antialiased where it shrinks
    return {"pixels": patchify(small, cell).reshape(count, grid, grid, -1)}


def shown_masks(judge: Judge, variables: Any, rows: np.ndarray, test: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """For the report: some of the images `test` with their true masks and those of the linear head."""
    known, parts = judge.settled(variables), judge._parts.train.parts
    some = {name: values[rows] for name, values in test.items()}
    found = segmentation.masks_by_linear_head(
        judge._apply, known, _train(judge), lambda: judge.batches(some), judge.settings.segmentation,
        classes=len(parts), seed=judge._seed,
    )  # fmt: skip
    return {"images": some["image"].astype(np.float32) / 255, "truth": some["segmentation"], "found": found,
            "names": np.array(parts)}  # fmt: skip


def _entries(judge: Judge, encode: Any, variables: Any, feature: str, **options: Any) -> Entries:
    settings = judge.settings
    return segmentation.evaluate(
        encode,
        variables,
        _train(judge),
        judge._opened("test"),
        settings.segmentation,
        names=judge._parts.train.parts,
        seed=judge._seed,
        resamples=settings.bootstrap.resamples,
        feature=feature,
        **options,
    )


def _train(judge: Judge) -> segmentation.Batches:
    """Opens at most `evals.segmentation.images` training images, drawn by the seed."""
    held = judge.sets["train"]
    count = len(held["image"] if isinstance(held, Mapping) else held)
    some = min(count, judge.settings.segmentation.images)
    return judge._opened("train", subsets.first_n_permuted(count, some, judge._seed))
