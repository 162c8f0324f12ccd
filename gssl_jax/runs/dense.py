"""The part of `Judge` that is about masks: what a backbone's patch features know of every pixel."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax import Array

from gssl_jax.data import subsets
from gssl_jax.evals import segmentation
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
