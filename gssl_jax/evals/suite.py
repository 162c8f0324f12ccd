"""k-NN, linear and low-shot scores of one set of frozen features, as entries of results.json.

Images of one class each (labels int [N]) are judged by top-1 accuracy, those of several labels (float [N, C] of 0, 1
and NaN) by mean average precision, mean AUROC and F1 (`multilabel_scores.MEASURES`).
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from gssl_jax.errors import UserError, unknown
from gssl_jax.evals import few_images, finetune, sgd_linear
from gssl_jax.evals.few_images import Few
from gssl_jax.evals.intervals import bootstrap_interval, drawn_entry, entry
from gssl_jax.evals.knn import knn_scores
from gssl_jax.evals.linear import linear
from gssl_jax.evals.lowshot import digest, low_shot
from gssl_jax.evals.lowshot_labels import low_shot_labels
from gssl_jax.evals.multilabel import one_vs_rest
from gssl_jax.evals.multilabel_scores import (
    HALF,
    MEASURES,
    THRESHOLDS,
    VALIDATION,
    multilabel_entries,
    thresholds_of,
    values_of,
)
from gssl_jax.evals.preprocess import single_threaded, whiten
from gssl_jax.evals.ranked import AVERAGE_PRECISIONS

# Draws up to this many images share one compiled solver whatever the shots; larger ones would waste time on padding.
SHARED_ROWS = 512

_whiten = jax.jit(whiten)

Features = Mapping[str, np.ndarray]
Entries = dict[str, dict[str, Any]]


class Task(NamedTuple):
    """What an evaluator needs; `feature` replaces the configured names."""

    train: Features
    test: Features
    settings: Any
    seed: int
    classes: Sequence[str]
    feature: str | None

    @property
    def several(self) -> bool:
        """Whether images have several labels."""
        return self.train["label"].ndim == 2


EVALUATORS = ("knn", "linear", "lowshot")
"""What `evaluate` can do, by the group of `config.evals` that it is set by."""


def evaluate(
    train: Features,
    test: Features,
    settings: Any,
    seed: int,
    classes: Sequence[str],
    feature: str | None = None,
    only: Collection[str] = EVALUATORS,
    names: Sequence[str] = (),
) -> Entries:
    """The entries `knn/<measure>`, `linear/<measure>` and `lowshot_<which>/<measure>` of features by name ([N, D], and
    "label" int [N] or float [N, C]); `which` is a number of shots, a share ("1pct") or the stem of a list.

    `settings` is `config.evals` (groups knn, linear, lowshot, multilabel, bootstrap); `feature` replaces the feature
    names it gives, as the pixel control needs; `only` are the evaluators to run; `names` are the paths of the training
    images, for `lowshot.lists`.
    Unlabelled images (label -1 or NaN) are left out; without labels the result is empty. Features that are not finite
    give entries without a value: a diverged backbone is a result, not an error.
    """
    kept = has_label(np.asarray(train["label"]))
    names = [name for name, known in zip(names, kept, strict=True) if known] if len(names) else ()
    train, test = _labelled(train), _labelled(test)
    if not len(classes) or not len(train["label"]) or not len(test["label"]):
        return {}
    check(train["label"], settings, classes)
    task = Task(train, test, settings, seed, classes, feature)
    entries = (_knn(task) if "knn" in only else {}) | (_linear(task) if "linear" in only else {})
    wanted = few_images.draws_of(train["label"], settings.lowshot, seed, classes, names)
    for few in wanted if "lowshot" in only else ():
        entries |= _low_shot_labels(task, few) if task.several else _low_shot(task, few)
    return entries


def check(train_labels: np.ndarray, settings: Any, classes: Sequence[str]) -> None:
    """Raise the `UserError`s of `evaluate`, so that a run can do it before it trains; unlabelled data passes."""
    labels = np.asarray(train_labels)
    labels = labels[has_label(labels)]
    if not len(classes) or not len(labels):
        return
    if not 1 <= settings.knn.k <= len(labels):
        raise UserError(
            f"evals.knn.k is {settings.knn.k} but there are {len(labels)} labelled training images; set "
            f"--config.evals.knn.k={max(1, min(settings.knn.k, len(labels)))}"
        )
    if settings.knn.whiten < 0:
        raise UserError(f"evals.knn.whiten is {settings.knn.whiten}: give a share above 0, as 0.05, or 0.0 for off")
    for group in ("linear", "lowshot"):
        if not settings[group].l2_grid or min(settings[group].l2_grid) <= 0:
            raise UserError(f"evals.{group}.l2_grid is {settings[group].l2_grid}: give at least one strength above 0")
    if not 0 < settings.linear.validation < 1:
        raise UserError(f"evals.linear.validation is {settings.linear.validation}: give a share between 0 and 1")
    if settings.linear.train_images < 0:
        raise UserError(f"evals.linear.train_images is {settings.linear.train_images}: give a number, or 0 for all")
    for key, known in (("average_precision", AVERAGE_PRECISIONS), ("threshold", THRESHOLDS)):
        if settings.multilabel[key] not in known:
            raise unknown(f"evals.multilabel.{key}", settings.multilabel[key], known)
    few_images.check(settings.lowshot)
    sgd_linear.check(settings.sgd_linear)
    finetune.check(settings.finetune, len(classes) if labels.ndim == 1 else 0)
    if labels.ndim == 2:
        return
    counts = np.bincount(labels, minlength=len(classes))
    most = max(settings.lowshot.shots, default=0)
    if most > counts.min():
        raise UserError(
            f"class {classes[int(counts.argmin())]!r} has {counts.min()} training images but evals.lowshot.shots asks "
            f"for {most} per class; add images or set --config.evals.lowshot.shots="
            f"'({', '.join(str(k) for k in settings.lowshot.shots if k <= counts.min())},)'"
        )


def _knn(task: Task) -> Entries:
    known, wanted, protocol = _pair(task, "knn")
    knn, labels = task.settings.knn, task.train["label"]
    protocol |= {"k": knn.k, "temperature": knn.temperature, "similarity": "cosine", "train_images": len(known)}
    if not _finite(known, wanted):
        return _without_value(task, "knn", protocol, len(wanted))
    if knn.whiten:
        protocol |= {"preprocessing": f"whitened, floor {knn.whiten}"}
        with single_threaded():
            known, wanted = _whiten(known, wanted, knn.whiten)
    options: dict[str, Any] = {"temperature": knn.temperature, "classes": len(task.classes)}
    scores = np.asarray(knn_scores(known, labels, wanted, k=knn.k, **options))
    if not task.several:
        return {"knn/top1": _bootstrap(scores.argmax(1) == task.test["label"], protocol, task)}
    thresholds: float | np.ndarray = 0.5
    if task.settings.multilabel.threshold == VALIDATION:
        held = np.zeros(len(known), bool)
        order = np.random.default_rng(task.seed).permutation(len(known))
        held[order[: round(task.settings.linear.validation * len(known))]] = True
        found = knn_scores(known[~held], labels[~held], known[held], k=min(knn.k, int((~held).sum())), **options)
        thresholds = thresholds_of(np.asarray(found), labels[held], otherwise=0.5)
    return _labels_entries(task, "knn", scores, protocol, thresholds)


def _linear(task: Task) -> Entries:
    known, wanted, protocol = _pair(task, "linear")
    objective = "one against the rest, mean BCE + l2/2 |w|^2" if task.several else "mean CE + l2/2 |W|^2"
    protocol |= {"preprocessing": "standardised", "objective": objective}
    if not _finite(known, wanted):
        return _without_value(task, "linear", protocol, len(wanted))
    options = solver_options(task.settings) | {"seed": task.seed}
    if task.several:
        options |= {"threshold": task.settings.multilabel.threshold}
        by_label = one_vs_rest(known, task.train["label"], wanted, **options)
        protocol |= _solved(by_label, task.settings)
        return _labels_entries(task, "linear", by_label.scores, protocol, by_label.thresholds)
    found = linear(known, task.train["label"], wanted, task.test["label"], classes=len(task.classes), **options)
    return {"linear/top1": _bootstrap(found.correct, protocol | _solved(found, task.settings), task)}


def solver_options(settings: Any) -> dict[str, Any]:
    """The options of `linear` that `config.evals` holds."""
    names = ("l2_grid", "validation", "train_images", "max_iterations", "tolerance")
    return {name: settings.linear[name] for name in names}


def _solved(result: Any, settings: Any) -> dict[str, Any]:
    """What a fit adds to its protocol."""
    found = {"train_images": result.images, "validation": settings.linear.validation, "l2": result.l2}
    return found | {
        "l2_grid": list(settings.linear.l2_grid),
        "converged": result.converged,
        "iterations": result.iterations,
    }


def _low_shot(task: Task, few: Few) -> Entries:
    known, wanted, protocol = _pair(task, "lowshot")
    protocol |= _low_shot_words(task, few) | {"objective": "mean CE + lambda/(2n) |W|^2"}
    if not _finite(known, wanted):
        return _without_value(task, few.name, protocol, len(few.draws))
    result = low_shot(
        known,
        task.train["label"],
        wanted,
        task.test["label"],
        few.draws,
        classes=len(task.classes),
        **_solver(task, few),
    )
    protocol |= {"converged": result.converged}
    protocol |= {"chosen": [round(float(s), 8) for s in result.strength]} if _folds(task, few) else {}
    if len(few.draws) == 1:
        return {f"{few.name}/top1": _bootstrap(result.correct[0], protocol, task)}
    return {f"{few.name}/top1": drawn_entry(result.correct.mean(1), protocol)}


def _low_shot_labels(task: Task, few: Few) -> Entries:
    known, wanted, protocol = _pair(task, "lowshot")
    protocol |= _low_shot_words(task, few) | {"objective": "one against the rest, mean BCE + lambda/(2n) |w|^2"}
    if not _finite(known, wanted):
        return _without_value(task, few.name, protocol, len(few.draws))
    found = list(low_shot_labels(known, task.train["label"], wanted, few.draws, **_solver(task, few)))
    protocol |= {"converged": sum(one.converged for one in found)}
    protocol |= {"chosen": [round(one.strength, 8) for one in found]} if _folds(task, few) else {}
    last = _labels_entries(task, few.name, found[-1].scores, protocol, 0.0, resampled=len(found) == 1)
    if len(found) == 1:  # the interval is over test images
        return last
    kind = task.settings.multilabel.average_precision
    values = [values_of(one.scores, task.test["label"], 0.0, kind) for one in found]
    entries = {}
    for name in MEASURES:
        shared = {k: v for k, v in last[f"{few.name}/{name}"]["protocol"].items() if k != "per_class"}  # of one draw
        entries[f"{few.name}/{name}"] = drawn_entry(np.array([one[name] for one in values]), shared)
    return entries


def _low_shot_words(task: Task, few: Few) -> dict[str, Any]:
    low, folds = task.settings.lowshot, _folds(task, few)
    words = few.words | {"draws": len(few.draws), "images": [len(rows) for rows in few.draws]}
    words |= {"preprocessing": "centred, l2-normalised", "msn_transductive": low.msn_transductive}
    words |= {"test_images": len(task.test["label"]), "digest": digest(few.draws)}
    return words | {"lambda": f"{folds}-fold on the draw" if folds else low.l2}


def _folds(task: Task, few: Few) -> int:
    """Folds that choose lambda: none below `kfold_from` images a class, on average, and not more than those."""
    low, labels = task.settings.lowshot, task.train["label"]
    each = min(len(rows) if labels.ndim == 1 else int((labels[rows] == 1).sum()) for rows in few.draws)
    mean = few.words.get("shots", each // len(task.classes))
    return min(low.folds, mean) if mean >= low.kfold_from else 0


def _solver(task: Task, few: Few) -> dict[str, Any]:
    low = task.settings.lowshot
    room = max(low.shots, default=0) * len(task.classes)
    return {
        "strength": low.l2,
        "folds": _folds(task, few),
        "grid": low.l2_grid,
        "transductive": low.msn_transductive,
        "max_iterations": low.max_iterations,
        "tolerance": low.tolerance,
        "seed": task.seed,
        "room": room if room <= SHARED_ROWS and "shots" in few.words else 0,
    }


def _without_value(task: Task, name: str, protocol: dict[str, Any], count: int) -> Entries:
    nothing = entry(None, None, None, count, protocol | {"problem": "features are not finite"}, None)
    return {f"{name}/{measure}": copy.deepcopy(nothing) for measure in (MEASURES if task.several else ("top1",))}


def _bootstrap(correct: np.ndarray, protocol: dict[str, Any], task: Task) -> dict[str, Any]:
    value, low, high = bootstrap_interval(correct, task.seed, task.settings.bootstrap.resamples)
    return entry(value, low, high, len(correct), protocol, "bootstrap-test", samples=correct)


def _labels_entries(
    task: Task,
    name: str,
    scores: np.ndarray,
    protocol: dict[str, Any],
    thresholds: float | np.ndarray,
    resampled: bool = True,
) -> Entries:
    found = multilabel_entries(
        scores,
        task.test["label"],
        classes=task.classes,
        protocol=protocol,
        seed=task.seed,
        resamples=task.settings.bootstrap.resamples if resampled else 0,
        thresholds=thresholds,
        threshold=VALIDATION if np.ndim(thresholds) else HALF,
        kind=task.settings.multilabel.average_precision,
    )
    return {f"{name}/{measure}": one for measure, one in found.items()}


def _pair(task: Task, group: str) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Training and test features of a group of the settings, and the start of its protocol."""
    name = task.feature or task.settings[group].feature
    if name not in task.train:
        raise unknown("feature", name, [known for known in task.train if known != "label"])
    return task.train[name], task.test[name], {"feature": name}


def _labelled(features: Features) -> dict[str, np.ndarray]:
    known = has_label(np.asarray(features["label"]))
    return {name: np.asarray(values)[known] for name, values in features.items()}


def has_label(labels: np.ndarray) -> np.ndarray:
    """bool [N]: a class (int [N], -1 = none) or at least one known label (float [N, C], NaN = unknown)."""
    return labels >= 0 if labels.ndim == 1 else ~np.isnan(labels).all(1)


def _finite(*arrays: np.ndarray) -> bool:
    return all(bool(np.isfinite(array).all()) for array in arrays)
