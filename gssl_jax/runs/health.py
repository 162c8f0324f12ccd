"""Label-free scores at the end of a run, by one augmentation for all methods: `health` of results.json."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from gssl_jax.evals.collapse import THINGS
from gssl_jax.evals.health import Draw, drawer, label_free
from gssl_jax.runs.evaluation import Judge
from gssl_jax.training.metrics import read_rows

Scores = dict[str, float | None]

LOGGED = ("target_entropy", "mean_target_entropy", "prototypes_in_use")
"""What a clustering method logs of its targets, at each level, in shares of the most there can be."""


def judged_health(judge: Judge, data: ConfigDict, backbones: dict[str, Any], metrics: Path, stage: str) -> Any:
    """`health` of results.json: `{name: scores}` for the variables of each of `backbones`, and the `protocol`.

    `trained` also has the last of what the stage logged of its targets. Empty with `evals.health.images=0`.
    """
    settings = judge.settings.health
    if not settings.images or not len(sample(judge)):
        return {}
    found: dict[str, Any] = {name: label_free_scores(judge, data, one) for name, one in backbones.items()}
    if "trained" in found:
        found["trained"] |= last_logged(metrics, stage)
    protocol = {"images": len(sample(judge)), "views": settings.views, "feature": settings.feature, "split": "train"}
    return found | {"protocol": protocol}


def label_free_scores(judge: Judge, data: ConfigDict, variables: Any) -> Scores:
    """RankMe, LiDAR, alignment, uniformity and the others of `evals.health.label_free` for one backbone, on training
    images of the evaluation and views of them by `evals.health.augment`; None where one cannot be told.

    `data` is the group of the configuration: it gives the side and the contrast of the views.
    """
    settings = judge.settings.health
    encode = functools.partial(judge.encoded, name=settings.feature)
    found = label_free(encode, judge.settled(variables), sample(judge), view_drawer(judge, data), settings.views)
    return {name: value if math.isfinite(value) else None for name, value in found.items()}


def sample(judge: Judge) -> np.ndarray:
    """The images, uint8 [n, S, S, C], evenly spaced over the training images of the evaluation."""
    return judge.some("train", judge.settings.health.images)["image"]


def view_drawer(judge: Judge, data: ConfigDict) -> Draw:
    """Draws the views: `evals.health.augment` in the side and with the contrast of the evaluation's images."""
    own = {"size": data.image_size, "crop": True, "pad": 0, "contrast_normalise": data.contrast_normalise}
    return drawer(judge.settings.health.augment.to_dict() | own)


def pairs(judge: Judge, data: ConfigDict, images: np.ndarray) -> np.ndarray:
    """Two views of every other of `images`, uint8 [n, S, S, C], the first views before the second ones; the same form
    where n is even."""
    draw = view_drawer(judge, data)
    return np.concatenate([draw(images[::2], place) for place in range(2)])


def last_logged(metrics: Path, stage: str) -> Scores:
    """The last entropies and share of the prototypes in use that a stage has logged, by name and level."""
    found: Scores = {}
    for row in read_rows(metrics):
        for level in THINGS if row["stage"] == stage else ():
            for name in (f"{one}_{level}" for one in LOGGED):
                if row.get(f"health/{name}") is not None:
                    found[name] = row[f"health/{name}"]
    return found
