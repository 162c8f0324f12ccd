"""The robustness of a backbone at the end of a run, by `evals.robustness`."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from gssl_jax.evals import robustness
from gssl_jax.evals.features import extract
from gssl_jax.evals.intervals import entry
from gssl_jax.evals.linear import linear
from gssl_jax.evals.suite import has_label, solver_options
from gssl_jax.runs.evaluation import Entries, Judge


def judge(judge: Judge, variables: Any) -> Entries:
    """Corruptions, attacks and other domains; empty without labels and where `evals.robustness` asks for nothing.

    They take many passes over the test images and are for the end of a run. Features that are not finite give one
    entry without a value.
    """
    settings, parts = judge.settings.robustness, judge._parts
    if not judge.labelled or not robustness.wanted(settings):
        return {}
    feature, encode, classes = judge.settings.linear.feature, judge._apply, parts.train.classes
    variables = judge.settled(variables)
    known = extract(
        encode, judge.batches(judge.sets["train"]), (feature,), variables=variables, sharding=judge._sharding
    )
    labelled = has_label(known["label"])
    features, labels = known[feature][labelled], known["label"][labelled]
    if not np.isfinite(features).all():
        problem = {"feature": feature, "problem": "features are not finite"}
        return {"robust_clean/top1": entry(None, None, None, None, problem, None)}
    options = solver_options(judge.settings) | {"classes": len(classes), "seed": judge._seed}
    found = linear(features, labels, features[:1], labels[:1], **options)
    told = {"feature": feature, "classifier": "linear on clean training images", "l2": found.l2}
    told |= {"train_images": found.images}
    judged = robustness.Judged(
        encode, variables, feature, found.classifier, told, judge._seed, judge.settings.bootstrap.resamples,
        judge._sharding,
    )  # fmt: skip
    test = judge.some("test", settings.images) if settings.images else judge.sets["test"]
    entries = robustness.entries(judged, settings, lambda: judge.batches(test), parts.config.data.image_size)
    for name, (source, place) in robustness.shifted(settings, classes, parts.config.data).items():
        opened = partial(judge.batches, source)
        entries[f"shift_{name}/top1"] = robustness.shift_entry(judged, source, place, opened, classes)
    return judge._told(entries)
