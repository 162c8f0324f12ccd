"""How a linear classifier on a frozen backbone holds up: corrupted images, attacks, and images of another domain.

The classifier is the one of `evals.linear`, fitted on clean training features. Corruptions are those of
`ops/corruptions.py`. The attacks see everything: PGD goes through the classifier and the backbone in eval mode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax import Array
from jax.sharding import Sharding
from ml_collections import ConfigDict

from gssl_jax.data.sources import Source, open_source
from gssl_jax.errors import UserError, unknown
from gssl_jax.evals.features import to_unit_range
from gssl_jax.evals.intervals import LEVEL, bootstrap_interval, entry
from gssl_jax.evals.linear import Classifier
from gssl_jax.evals.sgd import decide
from gssl_jax.ops.attacks import NORMS, pgd
from gssl_jax.ops.corruptions import NAMES, SEVERITIES, corrupt, table_side
from gssl_jax.ops.keys import named, per_sample

Batches = Callable[[], Iterable[Mapping[str, np.ndarray]]]
Entries = dict[str, dict[str, Any]]
Change = Callable[[Array, Array, Array], Array]
"""(images float32 [B, S, S, C] in [0, 1], labels int32 [B], keys [B]) -> the images to be judged on."""

ALL = "all"


class Judged(NamedTuple):
    """A frozen backbone with its classifier: encode (variables, images) -> features by name, and which one it sees.

    `told` is what every protocol says of the classifier; `sharding` places images on several devices.
    """

    encode: Callable[[Any, Array], Mapping[str, Array]]
    variables: Any
    feature: str
    classifier: Classifier
    told: Mapping[str, Any]
    seed: int
    resamples: int
    sharding: Sharding | None


def wanted(settings: Any) -> bool:
    """Whether `evals.robustness` asks for anything."""
    return any(len(settings[name]) for name in ("corruptions", *NORMS, "shift"))


def corruptions(settings: Any) -> tuple[str, ...]:
    """The names that `evals.robustness.corruptions` means."""
    return NAMES if ALL in settings.corruptions else tuple(settings.corruptions)


def check(settings: Any, train: Source, data: Any) -> None:
    """Raises UserError for values of `evals.robustness` that mean nothing, for images of several labels, and for a
    domain whose classes `train` does not have; `data` is `config.data`."""
    if not wanted(settings) or not len(train.classes):
        return
    if train.multilabel:
        raise UserError(
            "evals.robustness judges one class an image and the evaluation's images have several labels: set its "
            "corruptions, linf, l2 and shift to ()"
        )
    for name in settings.corruptions:
        if name not in (*NAMES, ALL):
            raise unknown("evals.robustness.corruptions", name, (*NAMES, ALL))
    for severity in settings.severities:
        if severity not in SEVERITIES:
            raise UserError(f"evals.robustness.severities has {severity!r}: give whole numbers from 1 to 5")
    if not settings.severities:
        raise UserError("evals.robustness.severities is empty: give whole numbers from 1 to 5")
    for norm in NORMS:
        if min(settings[norm], default=1.0) <= 0:
            raise UserError(f"evals.robustness.{norm} is {settings[norm]}: give lengths above 0 in units of [0, 1]")
    if settings.steps < 1 or settings.step <= 0 or settings.images < 0:
        raise UserError("evals.robustness: steps has to be 1 or more, step above 0, images 0 or more")
    shifted(settings, train.classes, data)


def shifted(settings: Any, classes: Sequence[str], data: Any) -> dict[str, tuple[Source, np.ndarray]]:
    """The data sets of `evals.robustness.shift` by name, each with the class of `classes` that each of its own is.

    A name is the last part of the path, or the source where there is no path. Raises UserError for an entry that is not
    (source, path, split), for two of one name, and for classes that `classes` does not have.
    """
    found: dict[str, tuple[Source, np.ndarray]] = {}
    for given in settings.shift:
        if not isinstance(given, (tuple, list)) or len(given) != 3:
            raise UserError(
                f"evals.robustness.shift has {given!r}: give (source, path, split) for each, such as "
                "--config.evals.robustness.shift=\"(('earth', 'shaded', 'test'),)\""
            )
        kind, path, split = given
        name = Path(path).name or kind
        if name in found:
            raise UserError(f"evals.robustness.shift has two data sets named {name!r}: rename a folder")
        source = open_source(ConfigDict(dict(source=kind, path=path)), split, data)
        found[name] = source, matched(source, classes)
    return found


def matched(source: Source, classes: Sequence[str]) -> np.ndarray:
    """int32 [classes of the source]: the place of each in `classes`, by name. Raises UserError for names that are not
    there, for a source without labels and for one of several labels an image."""
    if source.multilabel or not len(source.classes):
        kind = "several labels an image" if source.multilabel else "no labels"
        raise UserError(f"evals.robustness.shift: {source.name} has {kind}; a domain needs one class an image")
    missing = [name for name in source.classes if name not in classes]
    if missing:
        known = ", ".join(list(classes)[:6]) + (", ..." if len(classes) > 6 else "")
        raise UserError(
            f"evals.robustness.shift: the classes {', '.join(map(repr, missing[:6]))} of {source.name} are none of "
            f"those that the classifier learns ({known}): classes are matched by name, so rename or leave out folders"
        )
    return np.asarray([list(classes).index(name) for name in source.classes], np.int32)


def correct(judged: Judged, batches: Batches, change: Change | None = None, classes: np.ndarray | None = None) -> Any:
    """bool [M]: which labelled images are classified rightly, changed by `change`; `classes` translates labels.

    Batches are those of `data.arrays.evaluation_batches`; a sample draws by its index.
    """
    found = []
    for batch in batches():
        labels = np.asarray(batch["label"])
        kept = np.asarray(batch["valid"], bool) & (labels >= 0)
        labels = np.maximum(labels, 0) if classes is None else classes[np.maximum(labels, 0)]
        index = np.maximum(batch["index"], 0)
        images, labels, index = jax.device_put((batch["image"], labels, index), judged.sharding)
        images = to_unit_range(images)
        if change is not None:
            images = change(images, labels, per_sample(jax.random.key(judged.seed), index))
        guesses = _classes(judged.encode, judged.feature, judged.variables, judged.classifier, images)
        found.append(np.asarray(guesses == labels)[kept])
    return np.concatenate(found)


@partial(jax.jit, static_argnames=("encode", "feature"))
def _classes(encode: Any, feature: str, variables: Any, classifier: Classifier, images: Array) -> Array:
    return decide(classifier._asdict(), encode(variables, images)[feature]).argmax(-1)


def entries(judged: Judged, settings: Any, clean: Batches, side: int) -> Entries:
    """`robust_<corruption>/top1`, their mean `robust_mean/top1`, the share of the clean accuracy that it is
    `robust_kept/top1`, and `robust_pgd_<norm>_<epsilon>/top1` (of linf in 255ths), with `robust_clean/top1` beside.

    Args:
      clean: opens the test images.
      side: of the images in pixels.
    """
    names = corruptions(settings)
    if not names and not any(settings[norm] for norm in NORMS):
        return {}
    options = judged.seed, judged.resamples
    right = correct(judged, clean)
    found = {"robust_clean": _entry(right, judged, {})}
    under = {}
    for name in names:
        each = np.stack([correct(judged, clean, corruption(name, severity)) for severity in settings.severities])
        told = {
            "severities": dict(zip(map(str, settings.severities), each.mean(1).tolist(), strict=True)),
            "clean": float(right.mean()),
            "strengths": f"arXiv 1903.12261, made for {table_side(side)} pixels",
        }
        under[name] = each.mean(0)
        found[f"robust_{name}"] = _entry(under[name], judged, told)
    if names:
        told = {"corruptions": list(names), "clean": float(right.mean())}
        if ALL in settings.corruptions:
            told |= {"left out": "frost, which needs photographs"}
        mean = np.mean([*under.values()], axis=0)
        found["robust_mean"] = _entry(mean, judged, told)
        found["robust_kept"] = kept_share(mean, right, *options, protocol={**judged.told, **told})
    for norm in NORMS:
        for epsilon in settings[norm]:
            attack = {"norm": norm, "epsilon": epsilon, "steps": settings.steps}
            attack["step_size"] = settings.step * epsilon / settings.steps
            told = {"attack": "PGD on classifier and backbone, random start", **attack, "clean": float(right.mean())}
            survived = correct(judged, clean, pgd_change(judged, attack))
            size = f"{255 * epsilon:.3g}" if norm == "linf" else f"{epsilon:.3g}"
            found[f"robust_pgd_{norm}_{size}"] = _entry(survived, judged, told)
    return {f"{name}/top1": one for name, one in found.items()}


def corruption(name: str, severity: int) -> Change:
    """The corruption as a change of images; a sample has the same draw at every severity."""
    return lambda images, labels, keys: corrupt(name, images, keys, severity)


def pgd_change(judged: Judged, attack: Mapping[str, Any]) -> Change:
    """PGD on the cross-entropy of the label as a change of images."""
    given = {name: value for name, value in attack.items() if name != "norm"}

    def change(images: Array, labels: Array, keys: Array) -> Array:
        fixed = judged.encode, judged.feature, attack["norm"]
        return _attacked(*fixed, judged.variables, judged.classifier, images, labels, keys, given)

    return change


@partial(jax.jit, static_argnames=("encode", "feature", "norm"))
def _attacked(
    encode: Any, feature: str, norm: str, variables: Any, classifier: Classifier, images: Array, labels: Array,
    keys: Array, attack: Any,
) -> Array:  # fmt: skip
    def loss(changed: Array) -> Array:
        logits = decide(classifier._asdict(), encode(variables, changed)[feature])
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).sum()

    keys = jax.vmap(lambda key: named(key, f"pgd_{norm}"))(keys)
    return pgd(loss, images, keys=keys, norm=norm, **attack)


def shift_entry(judged: Judged, source: Source, classes: np.ndarray, batches: Batches, own: Sequence[str]) -> Any:
    """The entry of a domain: the classifier of the training domain on the images of `source`."""
    told: dict[str, Any] = {"domain": source.name, "classes": len(classes)}
    absent = [name for k, name in enumerate(own) if k not in classes]
    return _entry(correct(judged, batches, classes=classes), judged, told | ({"absent": absent} if absent else {}))


def _entry(right: np.ndarray, judged: Judged, told: Mapping[str, Any]) -> dict[str, Any]:
    """Of one number an image, in [0, 1]: right or wrong, or how often over severities."""
    interval = bootstrap_interval(right, judged.seed, judged.resamples)
    return entry(*interval, len(right), {**judged.told, **told}, "bootstrap-test")


def kept_share(
    under: np.ndarray, clean: np.ndarray, seed: int, resamples: int, protocol: Mapping[str, Any]
) -> dict[str, Any]:
    """Accuracy under corruption over clean accuracy, with a bootstrap over images in which both see the same draw."""
    if not clean.any():
        problem = {"problem": "no clean image is classified rightly"}
        return entry(None, None, None, len(clean), {**protocol, **problem}, None)
    rng = np.random.default_rng(seed)
    draws = (rng.integers(len(clean), size=len(clean)) for _ in range(resamples))
    shares = [under[rows].mean() / clean[rows].mean() for rows in draws if clean[rows].any()]
    low, high = np.percentile(shares, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return entry(under.mean() / clean.mean(), low, high, len(clean), protocol, "bootstrap-test")
