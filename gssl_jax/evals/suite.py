"""k-NN, linear and low-shot scores of one set of frozen features, as entries of results.json.

Images of one class each (labels int [N]) are judged by top-1 accuracy, those of several labels (float [N, C] of 0, 1
and NaN) by the mean AUROC over classes and without shots.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from gssl_jax.errors import UserError, unknown
from gssl_jax.evals import finetune, sgd_linear
from gssl_jax.evals.auroc import auroc_entry
from gssl_jax.evals.intervals import bootstrap_interval, entry, t_interval
from gssl_jax.evals.knn import knn_scores
from gssl_jax.evals.linear import linear
from gssl_jax.evals.lowshot import low_shot
from gssl_jax.evals.multilabel import one_vs_rest
from gssl_jax.evals.preprocess import single_threaded, whiten

# Draws up to this many images share one compiled solver whatever the shots; larger ones would waste time on padding.
SHARED_ROWS = 512

_whiten = jax.jit(whiten)

Features = Mapping[str, np.ndarray]


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
) -> dict[str, dict[str, Any]]:
    """The entries `knn/top1`, `linear/top1` and `lowshot_<k>/top1` of features by name ([N, D], and "label" int [N]),
    or `knn/auroc` and `linear/auroc` where "label" is float [N, C].

    `settings` is `config.evals` (groups knn, linear, lowshot, bootstrap); `feature` replaces the feature names it
    gives, as the pixel control needs; `only` are the evaluators to run. Unlabelled images (label -1 or NaN) are left
    out; without labels the result is empty. Features that are not finite give entries without a value: a diverged
    backbone is a result, not an error.
    """
    train, test = _labelled(train), _labelled(test)
    if not len(classes) or not len(train["label"]) or not len(test["label"]):
        return {}
    check(train["label"], settings, classes)
    several = train["label"].ndim == 2
    metric, by_regression = ("auroc", _one_vs_rest) if several else ("top1", _linear)
    entries = {}
    if "knn" in only:
        entries[f"knn/{metric}"] = _knn(train, test, settings, seed, classes, feature or settings.knn.feature)
    if "linear" in only:
        name = feature or settings.linear.feature
        entries[f"linear/{metric}"] = by_regression(train, test, settings, seed, classes, name)
    if several or "lowshot" not in only:
        return entries
    for shots in settings.lowshot.shots:
        name = feature or settings.lowshot.feature
        entries[f"lowshot_{shots}/top1"] = _low_shot(train, test, settings, seed, classes, name, shots)
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
        raise UserError(
            f"evals.knn.whiten is {settings.knn.whiten}: give a share above 0, such as 0.05, or 0.0 for off"
        )
    for key, least in (("lowshot.draws", 2), ("lowshot.folds", 2)):
        group, name = key.split(".")
        if settings[group][name] < least:
            raise UserError(f"evals.{key} is {settings[group][name]}: set it to {least} or more")
    for group in ("linear", "lowshot"):
        if not settings[group].l2_grid or min(settings[group].l2_grid) <= 0:
            raise UserError(f"evals.{group}.l2_grid is {settings[group].l2_grid}: give at least one strength above 0")
    if not 0 < settings.linear.validation < 1:
        raise UserError(f"evals.linear.validation is {settings.linear.validation}: give a share between 0 and 1")
    if settings.linear.train_images < 0:
        raise UserError(f"evals.linear.train_images is {settings.linear.train_images}: give a number, or 0 for all")
    if min(settings.lowshot.shots, default=1) < 1:
        raise UserError(f"evals.lowshot.shots is {settings.lowshot.shots}: give images per class, each at least 1")
    if settings.lowshot.kfold_from < 2:
        raise UserError(
            f"evals.lowshot.kfold_from is {settings.lowshot.kfold_from}: k-fold needs at least 2 images per class; "
            "set it to 2 or more"
        )
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


STATISTICS = ("own", "refreshed")


def check_statistics(settings: Any, has_statistics: bool) -> None:
    """Raises UserError for a word `evals.statistics` that is not known, or one that the backbone cannot follow."""
    if settings.statistics not in STATISTICS:
        raise unknown("evals.statistics", settings.statistics, STATISTICS)
    if settings.statistics == "refreshed" and not has_statistics:
        raise UserError(
            "evals.statistics=refreshed renews the statistics of batch norm, which a vision transformer has not: set "
            "--config.evals.statistics=own"
        )


def _knn(
    train: Features, test: Features, settings: Any, seed: int, classes: Sequence[str], name: str
) -> dict[str, Any]:
    known, wanted, protocol = _pair(train, test, name)
    knn = settings.knn
    protocol |= {"k": knn.k, "temperature": knn.temperature, "similarity": "cosine", "train_images": len(known)}
    if not _finite(known, wanted):
        return entry(None, None, None, len(wanted), protocol | {"problem": "features are not finite"}, None)
    if knn.whiten:
        protocol |= {"preprocessing": f"whitened, floor {knn.whiten}"}
        with single_threaded():
            known, wanted = _whiten(known, wanted, knn.whiten)
    scores = knn_scores(known, train["label"], wanted, k=knn.k, temperature=knn.temperature, classes=len(classes))
    if test["label"].ndim == 2:
        return _areas(np.asarray(scores), test, protocol, settings, seed, classes)
    correct = np.asarray(scores).argmax(1) == test["label"]
    return _bootstrap(correct, protocol, settings, seed)


def _linear(
    train: Features, test: Features, settings: Any, seed: int, classes: Sequence[str], name: str
) -> dict[str, Any]:
    known, wanted, protocol = _pair(train, test, name)
    protocol |= {"preprocessing": "standardised", "objective": "mean CE + l2/2 |W|^2"}
    if not _finite(known, wanted):
        return entry(None, None, None, len(wanted), protocol | {"problem": "features are not finite"}, None)
    options = solver_options(settings) | {"classes": len(classes), "seed": seed}
    result = linear(known, train["label"], wanted, test["label"], **options)
    return _bootstrap(result.correct, protocol | _solved(result, settings), settings, seed)


def _one_vs_rest(
    train: Features, test: Features, settings: Any, seed: int, classes: Sequence[str], name: str
) -> dict[str, Any]:
    known, wanted, protocol = _pair(train, test, name)
    protocol |= {"preprocessing": "standardised", "objective": "one against the rest, mean BCE + l2/2 |w|^2"}
    if not _finite(known, wanted):
        return entry(None, None, None, len(wanted), protocol | {"problem": "features are not finite"}, None)
    result = one_vs_rest(known, train["label"], wanted, seed=seed, **solver_options(settings))
    return _areas(result.scores, test, protocol | _solved(result, settings), settings, seed, classes)


def solver_options(settings: Any) -> dict[str, Any]:
    """The options of `linear` that `config.evals` holds."""
    names = ("l2_grid", "validation", "train_images", "max_iterations", "tolerance")
    return {name: settings.linear[name] for name in names}


def _solved(result: Any, settings: Any) -> dict[str, Any]:
    """What a fit adds to its protocol."""
    found = {"train_images": result.images, "validation": settings.linear.validation}
    found |= {"l2": result.l2, "l2_grid": list(settings.linear.l2_grid)}
    return found | {"converged": result.converged, "iterations": result.iterations}


def _low_shot(
    train: Features, test: Features, settings: Any, seed: int, classes: Sequence[str], name: str, shots: int
) -> dict[str, Any]:
    known, wanted, protocol = _pair(train, test, name)
    low = settings.lowshot
    folds = shots >= low.kfold_from
    protocol |= {"shots": shots, "draws": low.draws, "preprocessing": "centred, l2-normalised"}
    protocol |= {"msn_transductive": low.msn_transductive, "objective": "mean CE + lambda/(2n) |W|^2"}
    protocol |= {"test_images": len(wanted)}
    if not _finite(known, wanted):
        return entry(None, None, None, low.draws, protocol | {"problem": "features are not finite"}, None)
    result = low_shot(
        known,
        train["label"],
        wanted,
        test["label"],
        shots=shots,
        draws=low.draws,
        strength=low.l2,
        kfold_from=low.kfold_from,
        folds=low.folds,
        grid=low.l2_grid,
        transductive=low.msn_transductive,
        max_iterations=low.max_iterations,
        tolerance=low.tolerance,
        classes=classes,
        seed=seed,
        pad_to=max(low.shots) if max(low.shots) * len(classes) <= SHARED_ROWS else 0,
    )
    protocol |= {"lambda": f"{min(low.folds, shots)}-fold on the draw" if folds else low.l2}
    protocol |= {"converged": result.converged}
    protocol |= {"chosen": [round(float(s), 8) for s in result.strength]} if folds else {}
    mean, lowest, highest = t_interval(result.accuracy)
    if len(set(map(float, result.accuracy))) == 1 and low.draws > 1:
        lowest = highest = None  # a class with just these images gives the same draw every time: no spread to tell
        protocol |= {"problem": "all draws gave the same accuracy, so there is no interval"}
    kind = None if lowest is None else "t-draws"
    protocol |= {"digest": result.digest}
    return entry(mean, lowest, highest, low.draws, protocol, kind, samples=result.accuracy)


def _bootstrap(correct: np.ndarray, protocol: dict[str, Any], settings: Any, seed: int) -> dict[str, Any]:
    value, low, high = bootstrap_interval(correct, seed, settings.bootstrap.resamples)
    return entry(value, low, high, len(correct), protocol, "bootstrap-test", samples=correct)


def _areas(
    scores: np.ndarray, test: Features, protocol: dict[str, Any], settings: Any, seed: int, classes: Sequence[str]
) -> dict[str, Any]:
    options: dict[str, Any] = {"seed": seed, "resamples": settings.bootstrap.resamples}
    return auroc_entry(scores, test["label"], classes=classes, protocol=protocol, **options)


def _pair(train: Features, test: Features, name: str) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    if name not in train:
        raise unknown("feature", name, [known for known in train if known != "label"])
    return train[name], test[name], {"feature": name}


def _labelled(features: Features) -> dict[str, np.ndarray]:
    known = has_label(np.asarray(features["label"]))
    return {name: np.asarray(values)[known] for name, values in features.items()}


def has_label(labels: np.ndarray) -> np.ndarray:
    """bool [N]: a class (int [N], -1 = none) or at least one known label (float [N, C], NaN = unknown)."""
    return labels >= 0 if labels.ndim == 1 else ~np.isnan(labels).all(1)


def _finite(*arrays: np.ndarray) -> bool:
    return all(bool(np.isfinite(array).all()) for array in arrays)
