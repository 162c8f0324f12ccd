"""Choosing part of a set: k images per class, a fraction of the labels, the first n of a permutation.

All draws are functions of their arguments; indices come back sorted, int64.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from gssl_jax.data.sources import Sample, Source
from gssl_jax.errors import UserError


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
            name = classes[label] if classes else str(label)
            raise UserError(
                f"class {name!r} has {len(members)} training images but {k} per class were asked for; "
                "ask for fewer images per class or add some"
            )
        chosen.append(rng.choice(members, k, replace=False))
    return np.sort(np.concatenate(chosen)) if chosen else np.zeros(0, np.int64)


def fraction(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """`share` (0, 1] of every class, rounded, at least one image each; int labels [N] -> int64 [about share * N]."""
    if not 0 < share <= 1:
        raise UserError(f"a fraction of the labels must lie in (0, 1], not {share}")
    labels = np.asarray(labels)
    rng, chosen = np.random.default_rng(seed), [np.zeros(0, np.int64)]
    for label in np.unique(labels[labels >= 0]):
        members = np.flatnonzero(labels == label)
        chosen.append(rng.choice(members, max(1, round(share * len(members))), replace=False))
    return np.sort(np.concatenate(chosen))


def first_n_permuted(count: int, n: int, seed: int) -> np.ndarray:
    """The first `n` of a seeded permutation of `count`; sets of growing n are nested. `UserError` when n > count."""
    if not 0 < n <= count:
        raise UserError(f"{n} images were asked for but the set holds {count}; set size to 0 (all) or at most {count}")
    return np.sort(np.random.default_rng(seed).permutation(count)[:n])


class Subset:
    """The images `indices` of a source, as a source; `index` counts within the subset."""

    def __init__(self, source: Source, indices: np.ndarray) -> None:
        self._source, self._indices = source, np.asarray(indices, np.int64)
        self.name, self.classes, self.normalised = source.name, source.classes, source.normalised

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Sample:
        sample = self._source[int(self._indices[index])]
        return {"image": sample["image"], "label": sample["label"], "index": int(index)}

    def label(self, index: int) -> int:
        return self._source.label(int(self._indices[index]))

    def describe(self, index: int) -> str:
        return self._source.describe(int(self._indices[index]))

    def fingerprint(self) -> str:
        return hashlib.sha256(self._source.fingerprint().encode() + self._indices.tobytes()).hexdigest()
