"""How well a method's own classifier does on test images, clean and under attack, as entries of results.json."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
import optax
from jax import Array

from gssl_jax.evals.features import to_unit_range
from gssl_jax.evals.intervals import LEVEL, entry
from gssl_jax.evals.per_class import balanced_accuracy, class_groups, grouped_accuracy, per_class_accuracy
from gssl_jax.ops.attacks import pgd
from gssl_jax.ops.keys import per_sample

Predict = Callable[[Any, Array], Array]
"""(variables, images float32 [B, S, S, C] in [0, 1]) -> logits [B, classes]; one object for one compiled program."""


def predictions(
    predict: Predict,
    variables: Any,
    batches: Iterable[Mapping[str, np.ndarray]],
    attack: Mapping[str, Any] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and true classes of every valid image that has a label, int [M] each.

    Batches are those of `data.arrays.evaluation_batches`. With `attack` (`epsilon`, `step_size`, `steps`, `seed`) the
    images are attacked by PGD with a random start that raises the cross-entropy of the label.
    """
    found, wanted = [], []
    for batch in batches:
        kept = np.asarray(batch["valid"], bool) & (np.asarray(batch["label"]) >= 0)
        if attack is None:
            guesses = _clean(predict, variables, batch["image"])
        else:
            guesses = _attacked(
                predict,
                variables,
                batch["image"],
                np.maximum(batch["label"], 0),
                per_sample(jax.random.key(attack["seed"]), np.maximum(batch["index"], 0)),
                {name: attack[name] for name in ("epsilon", "step_size", "steps")},
            )
        found.append(np.asarray(guesses)[kept])
        wanted.append(np.asarray(batch["label"])[kept])
    return np.concatenate(found), np.concatenate(wanted)


@partial(jax.jit, static_argnames=("predict",))
def _clean(predict: Predict, variables: Any, images: Array) -> Array:
    return predict(variables, to_unit_range(images)).argmax(-1)


@partial(jax.jit, static_argnames=("predict",))
def _attacked(predict: Predict, variables: Any, images: Array, labels: Array, keys: Array, attack: Any) -> Array:
    def loss(changed: Array) -> Array:
        return optax.softmax_cross_entropy_with_integer_labels(predict(variables, changed), labels).sum()

    return predict(variables, pgd(loss, to_unit_range(images), keys=keys, **attack)).argmax(-1)


def entries(
    found: np.ndarray,
    wanted: np.ndarray,
    *,
    counts: np.ndarray,
    classes: Sequence[str],
    seed: int,
    resamples: int,
    prefix: str = "accuracy",
) -> dict[str, dict[str, Any]]:
    """Entries `<prefix>/top1`, `<prefix>/balanced` (the mean over classes) and one for each group of classes.

    Groups are many, medium and few training images, or head, middle and tail (see `per_class.class_groups`); there are
    none where all classes have equally many. The protocol of `top1` holds the accuracy of every class. Intervals are
    percentiles of `resamples` bootstrap draws of test images; a draw that misses a class leaves it out of its means.
    """
    groups = class_groups(counts) if np.ptp(counts) else {}

    def scores(rows: np.ndarray | slice) -> list[float]:
        own = per_class_accuracy(found[rows], wanted[rows], len(classes))
        top1 = float((found[rows] == wanted[rows]).mean())
        return [top1, balanced_accuracy(own), *grouped_accuracy(own, groups).values()]

    rng = np.random.default_rng(seed)
    draws = np.array([scores(rng.integers(len(wanted), size=len(wanted))) for _ in range(resamples)])
    known = ~np.isnan(draws).all(axis=0)  # a group without any test image has no interval
    low, high = np.full((2, draws.shape[1]), np.nan)
    low[known], high[known] = np.nanpercentile(draws[:, known], [50 * (1 - LEVEL), 50 * (1 + LEVEL)], axis=0)
    each = per_class_accuracy(found, wanted, len(classes))
    protocols: list[dict[str, Any]] = [
        {"per_class": {name: None if np.isnan(a) else float(a) for name, a in zip(classes, each, strict=True)},
         "train_images": [int(n) for n in counts]},
        {"mean over": "classes"},
        *({"mean over": "classes", "classes": np.asarray(classes)[g].tolist()} for g in groups.values()),
    ]  # fmt: skip
    names = ("top1", "balanced", *groups)
    return {
        f"{prefix}/{name}": entry(value, low[i], high[i], len(wanted), protocol, "bootstrap-test")
        for i, (name, value, protocol) in enumerate(zip(names, scores(slice(None)), protocols, strict=True))
    }
