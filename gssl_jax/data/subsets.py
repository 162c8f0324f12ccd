"""Choosing part of a set: k images per class, a fraction or number of labels, a long tail, what is held out for
validation, the first n of a permutation.

All draws are functions of their arguments; indices come back sorted, int64.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from gssl_jax import errors
from gssl_jax.errors import UserError

LONG_TAILS = ("exponential", "step")


def k_shot(labels: np.ndarray, k: int, seed: int, draw: int, classes: Sequence[str] = ()) -> np.ndarray:
    """Exactly `k` images of every class that occurs; int labels [N] (-1 = unlabelled) -> int64 [classes * k].

    Unlabelled images are never drawn. Draw number `draw` of `seed` is independent of the other draws. With class names
    in `classes`, each of them must have k images. Raises `UserError` naming the class that has fewer than `k`.
    """
    labels = np.asarray(labels)
    wanted = range(len(classes)) if classes else np.unique(labels[labels >= 0])
    rng, chosen = np.random.default_rng((seed, draw)), []
    for label in wanted:
        members = np.flatnonzero(labels == label)
        if len(members) < k:
            raise UserError(
                f"class {_name(label, classes)} has {len(members)} training images but {k} per class were asked for; "
                "ask for fewer images per class or add some"
            )
        chosen.append(rng.choice(members, k, replace=False))
    return np.sort(np.concatenate(chosen)) if chosen else np.zeros(0, np.int64)


def fraction(labels: np.ndarray, share: float, seed: int | tuple[int, int]) -> np.ndarray:
    """`share` (0, 1] of every class, rounded, at least one image each; int labels [N] -> int64 [about share * N]."""
    if not 0 < share <= 1:
        raise UserError(f"a fraction of the labels must lie in (0, 1], not {share}")
    labels = np.asarray(labels)
    rng, chosen = np.random.default_rng(seed), [np.zeros(0, np.int64)]
    for label in np.unique(labels[labels >= 0]):
        members = np.flatnonzero(labels == label)
        chosen.append(rng.choice(members, max(1, round(share * len(members))), replace=False))
    return np.sort(np.concatenate(chosen))


def labelled_count(labels: np.ndarray, n: int, seed: int, classes: Sequence[str] = ()) -> np.ndarray:
    """`n` labelled images in all, equally many of every class; int labels [N] (-1 = unlabelled) -> int64 [n].

    4,000 labels of CIFAR-10 are 400 of each class. With names in `classes` each of them gets its share, else every
    class that occurs. Raises `UserError` where `n` does not divide, and for a class with fewer images than its share.
    """
    labels = np.asarray(labels)
    number = len(classes) or len(np.unique(labels[labels >= 0]))
    if number == 0:
        raise UserError(f"{n} labels were asked for but no image has one")
    if n < 1 or n % number:
        below = n // number * number
        near = f"{below} or {below + number}" if below > 0 else f"{number}"
        raise UserError(f"{n} labels in all do not divide among {number} classes; expected a multiple: {near}")
    return k_shot(labels, n // number, seed, 0, classes)


def at_least_one(labels: np.ndarray, n: int, seed: int, classes: Sequence[str] = ()) -> np.ndarray:
    """`n` labelled images with every class among them, the others drawn uniformly; -> int64 [n].

    HPT's 1,000 labels (arXiv 2103.12718): 345 classes leave about three images of each, and none may be missing.
    Labels are int [N] (-1 = unlabelled) or float [N, C] (NaN unknown), where every class that has a positive image gets
    one. Subsets of one seed are nested. Raises `UserError` where `n` images do not exist or cannot show every class.
    """
    labels = np.asarray(labels)
    if labels.ndim == 2:
        members, labelled = [np.flatnonzero(column == 1) for column in labels.T], ~np.isnan(labels).all(1)
    else:
        members, labelled = _members(labels, classes), labels >= 0
        for label, own in enumerate(members):
            if classes and not len(own):
                raise UserError(f"class {_name(label, classes)} has no image and each class was to have one; add some")
    order = np.random.default_rng((seed, zlib.crc32(b"at_least_one"))).permutation(np.flatnonzero(labelled))
    if n > len(order):
        raise UserError(f"{n} labels were asked for but {len(order)} images have one; ask for at most {len(order)}")
    place = np.zeros(len(labels), np.int64)
    place[order] = np.arange(len(order))
    first = np.zeros(0, np.int64)
    for own in sorted(members, key=len):  # the rarest first: its image may show a common class too
        if len(own) and not np.isin(own, first).any():
            first = np.append(first, own[place[own].argmin()])
    if n < len(first):
        raise UserError(f"{n} labels cannot show every class, which takes {len(first)}; ask for {len(first)} or more")
    return np.sort(np.append(first, order[~np.isin(order, first)])[:n])


def long_tail_counts(
    available: int | Sequence[int] | np.ndarray,
    classes: int,
    factor: float,
    kind: str = "exponential",
    names: Sequence[str] = (),
    most: int = 0,
) -> np.ndarray:
    """How many images each class keeps in a long-tailed set; int64 [classes], class 0 the most.

    The profiles of LDAM-DRW (arXiv 1906.07413, section 4), truncated as its code does: class i of C keeps
    int(n_max factor^(i / (C - 1))) ("exponential"), or all n_max in the first C // 2 classes and int(n_max factor) in
    the others ("step").

    Args:
        available: n_max, the images of every class; or those of each class [classes], and then n_max is the largest
            number at which no class is asked for more than it has (the same where all have equally many).
        classes: C.
        factor: images of the last class over those of the first, in (0, 1]; an imbalance of 100 is 0.01.
        kind: one of `LONG_TAILS`.
        names: of the classes, for the messages.
        most: n_max where the classes have more; 0 = as many as there are.

    Raises:
        UserError: unknown kind, factor out of range, `most` below 0, `available` for another number of classes,
            or a class that would be left without an image.
    """
    if kind not in LONG_TAILS:
        raise UserError(f"unknown long-tail profile {kind!r}; known: {', '.join(LONG_TAILS)}")
    if not 0.0 < factor <= 1.0:
        raise UserError(f"a long-tail factor must lie in (0, 1], not {factor}; an imbalance of 100 is written 0.01")
    if classes < 1 or np.shape(available) not in ((), (classes,)):
        raise UserError(
            f"a long tail over {classes} classes needs at least one class and the images of each, "
            f"not counts of the form {np.shape(available)}"
        )
    if most < 0:
        raise UserError(f"the first class of a long tail was to have {most} images; expected 1 or more, or 0 for all")
    per_class = np.broadcast_to(available, classes)
    if per_class.min() < 1:
        raise UserError(f"class {_name(int(per_class.argmin()), names)} has no image to make a long tail of; add some")
    counts = _profile(per_class, factor, kind, most)
    if not counts.all():
        least, fitting = factor, counts
        while not fitting.all():  # where classes differ in size, another factor has another n_max
            least = math.ceil(1e6 / fitting.max()) / 1e6
            fitting = _profile(per_class, least, kind, most)
        raise UserError(
            f"a long tail of factor {factor} over {classes} classes leaves class {_name(int(counts.argmin()), names)} "
            f"with 0 images, for the first class keeps only {counts[0]}; "
            f"use a factor of at least {least:g} or leave classes out"
        )
    return counts


def _profile(available: np.ndarray, factor: float, kind: str, limit: int) -> np.ndarray:
    """`long_tail_counts` of the images of each class [C], which may come out as 0."""
    classes = len(available)
    if kind == "exponential":
        shares = [factor ** (i / max(classes - 1, 1)) for i in range(classes)]
    else:
        shares = [1.0 if i < max(classes // 2, 1) else factor for i in range(classes)]
    most = min(int(n / share) for n, share in zip(available, shares, strict=True))
    most = min(most, limit or most)
    return np.asarray([int(most * share) for share in shares], np.int64)


def long_tail(
    labels: np.ndarray,
    factor: float,
    kind: str,
    seed: int,
    classes: Sequence[str] = (),
    most: int = 0,
    shuffled: bool = False,
) -> np.ndarray:
    """The images of a long-tailed subset, `long_tail_counts` of each class; int labels [N] (-1 = unlabelled) -> int64.

    Class 0 is the head; `shuffled`, the seed draws which class is where on the tail, so that over seeds what is rare
    is not mixed up with what is hard. `most` as in `long_tail_counts`. Without names in `classes` there are as many
    classes as the largest label says. The subsets of one seed are nested: a class that keeps fewer images keeps the
    first of the same random order.

    Raises:
        UserError: a label out of range, and what `long_tail_counts` refuses.
    """
    members = _members(labels, classes)
    order = np.random.default_rng((seed, zlib.crc32(b"long_tail/classes"))).permutation(len(members))
    order = order if shuffled else np.arange(len(members))
    names = [classes[label] if classes else str(label) for label in order]
    counts = np.zeros(len(members), np.int64)
    counts[order] = long_tail_counts([len(members[i]) for i in order], len(members), factor, kind, names, most)
    rng = np.random.default_rng((seed, zlib.crc32(b"long_tail")))
    return np.sort(np.concatenate([rng.permutation(own)[:n] for own, n in zip(members, counts, strict=True)]))


def holdout(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """The images held out of a training set for validation: `share` (0, 1) of every class, rounded.

    int labels [N] (-1 = unlabelled, never held out) -> int64, sorted. A class with two or more images gives at least
    one of them and keeps at least one; a class with a single image keeps it. The draw is independent of that of
    `fraction` at the same seed.

    Raises:
        UserError: share out of range, a label out of range, or nothing that could be held out.
    """
    if not 0.0 < share < 1.0:
        raise UserError(f"the share held out for validation must lie in (0, 1), not {share}")
    members = _members(labels, ())
    counts = [min(max(1, round(share * len(own))), max(len(own) - 1, 0)) for own in members]
    return _held_out(members, counts, seed, f"no class of the {len(labels)} training images has two with a label")


def holdout_from_rest(
    labels: np.ndarray, kept: np.ndarray, per_class: int, seed: int, classes: Sequence[str] = ()
) -> np.ndarray:
    """`per_class` validation images of every class from those that a long-tailed subset leaves out.

    The subset keeps its counts. A class of which it leaves fewer than `per_class` gives all that are left, so the head
    of a long tail, which keeps every image, gives none: judge by the mean over the classes that are there.

    Args:
        labels: int [N], -1 = unlabelled.
        kept: int, the indices that `long_tail` chose.
        per_class: at least 1.

    Returns: int64, sorted, disjoint from `kept`.

    Raises:
        UserError: per_class below 1, a label out of range, or nothing left out of any class.
    """
    if per_class < 1:
        raise UserError(f"{per_class} validation images per class were asked for; expected at least 1")
    members = [np.setdiff1d(own, kept) for own in _members(labels, classes)]
    counts = [min(per_class, len(own)) for own in members]
    return _held_out(members, counts, seed, f"the subset keeps all {len(kept)} labelled images")


SUBSETS = ("all", "long_tail", "labels", "share", "shots")
"""What `subset.kind` of a labelled stream may be."""


def split(labels: np.ndarray, subset: Any, validation: Any, classes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Which images of a labelled set to train on and which to choose a model by, int64 each and disjoint.

    Args:
        labels: int [N], -1 = unlabelled.
        subset: `config.data.streams.<name>.subset`: `kind` (one of `SUBSETS`), and as it says `profile`, `factor` and
            `shuffle_classes` (long_tail), `count` (labels in all, shots per class, or the images of a tail's first
            class, 0 = all), `share`; `seed`.
        validation: `config.data.validation`: beside a long tail `per_class` of what it leaves out, else `share` of
            every class, taken before the subset is chosen; 0 = none. `seed`.

    Raises:
        UserError: an unknown kind, and what the chosen rule refuses.
    """
    if subset.kind not in SUBSETS:
        raise errors.unknown("data.streams.train.subset.kind", subset.kind, SUBSETS)
    if subset.kind == "long_tail":
        tail = (subset.factor, subset.profile, subset.seed, classes, subset.count, subset.shuffle_classes)
        kept = long_tail(labels, *tail)
        per_class, none = validation.per_class, np.zeros(0, np.int64)
        return kept, holdout_from_rest(labels, kept, per_class, validation.seed, classes) if per_class else none
    held_out = holdout(labels, validation.share, validation.seed) if validation.share else np.zeros(0, np.int64)
    rest = np.setdiff1d(np.arange(len(labels)), held_out)
    own = np.asarray(labels)[rest]
    chosen = {
        "all": lambda: np.flatnonzero(own >= 0),
        "labels": lambda: labelled_count(own, subset.count, subset.seed, classes),
        "share": lambda: fraction(own, subset.share, subset.seed),
        "shots": lambda: k_shot(own, subset.count, subset.seed, 0, classes),
    }[subset.kind]()
    return rest[chosen], held_out


def _held_out(members: Sequence[np.ndarray], counts: Sequence[int], seed: int, empty: str) -> np.ndarray:
    """`counts` random images of each class; `UserError` saying `empty` where that is none at all."""
    if not any(counts):
        raise UserError(f"there is no image to hold out for validation: {empty}; add images or validate elsewhere")
    rng = np.random.default_rng((seed, zlib.crc32(b"holdout")))
    chosen = [rng.permutation(own)[:n] for own, n in zip(members, counts, strict=True)]
    return np.sort(np.concatenate(chosen))


def _members(labels: np.ndarray, classes: Sequence[str]) -> list[np.ndarray]:
    """The indices of each class's images, one class per image; classes are 0 to the last name or the largest label."""
    labels = np.asarray(labels)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise UserError(f"this subset needs one class per image, not labels of the form {labels.shape} {labels.dtype}")
    number = len(classes) or int(labels.max(initial=-1)) + 1
    wrong = np.flatnonzero((labels < -1) | (labels >= number))
    if len(wrong):
        raise UserError(
            f"image {wrong[0]} has the label {labels[wrong[0]]}; expected 0 to {number - 1}, or -1 for no label"
        )
    return [np.flatnonzero(labels == label) for label in range(number)]


def _name(label: int, names: Sequence[str]) -> str:
    return repr(names[label] if names else str(label))


def first_n_permuted(count: int, n: int, seed: int) -> np.ndarray:
    """The first `n` of a seeded permutation of `count`; sets of growing n are nested. `UserError` when n > count."""
    if not 0 < n <= count:
        raise UserError(f"{n} images were asked for but the set holds {count}; set size to 0 (all) or at most {count}")
    return np.sort(np.random.default_rng(seed).permutation(count)[:n])
