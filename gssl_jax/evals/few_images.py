"""Which labelled images a low-shot evaluation learns from: shots, shares of the labels, and lists of the user's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gssl_jax.data import draws
from gssl_jax.data.subsets import fraction, k_shot
from gssl_jax.errors import UserError


class Few(NamedTuple):
    """A low-shot entry: its name, the rows of each draw, and how they were drawn, for the protocol."""

    name: str
    draws: list[np.ndarray]
    words: dict[str, Any]


def draws_of(
    labels: np.ndarray, settings: Any, seed: int, classes: Sequence[str], names: Sequence[str] = ()
) -> Iterator[Few]:
    """The draws of `evals.lowshot`: shots, shares and lists of the user's own, files of one stem being draws of one
    entry. Labels are int [N] or float [N, C]; `names` as for `evaluate`."""
    several = labels.ndim == 2
    for shots in settings.shots:
        turns = range(settings.draws)
        chosen = [
            draws.k_shot_labels(labels, shots, seed, d) if several else k_shot(labels, shots, seed, d, classes)
            for d in turns
        ]
        yield Few(f"lowshot_{shots}", chosen, {"shots": shots} | _short_classes(labels, shots, classes))
    for share in settings.shares:
        turns = range(settings.share_draws)
        chosen = [
            draws.share_of_labels(labels, share, seed, d) if several else fraction(labels, share, (seed, d))
            for d in turns
        ]
        yield Few(f"lowshot_{100 * share:g}pct", chosen, {"share": share})
    for stem, files in lists_by_stem(settings.lists).items():
        yield Few(f"lowshot_{stem}", [draws.listed(file, names) for file in files], {"lists": files})


def lists_by_stem(files: Sequence[str]) -> dict[str, list[str]]:
    """List files by their name without folder and ending."""
    found: dict[str, list[str]] = {}
    for file in files:
        found.setdefault(Path(file).stem, []).append(str(file))
    return found


def check(settings: Any) -> None:
    """Raises UserError for values of `evals.lowshot` that mean nothing, whatever the images."""
    for name in ("draws", "share_draws", "folds"):
        if settings[name] < 2:
            raise UserError(f"evals.lowshot.{name} is {settings[name]}: set it to 2 or more")
    if min(settings.shots, default=1) < 1:
        raise UserError(f"evals.lowshot.shots is {settings.shots}: give images per class, each at least 1")
    if not all(0 < share <= 1 for share in settings.shares):
        raise UserError(
            f"evals.lowshot.shares is {settings.shares}: give shares of the labels above 0 and up to 1, such as "
            "(0.01, 0.1)"
        )
    if settings.kfold_from < 2:
        raise UserError(
            f"evals.lowshot.kfold_from is {settings.kfold_from}: k-fold needs at least 2 images per class; "
            "set it to 2 or more"
        )
    missing = [file for file in settings.lists if not Path(file).expanduser().is_file()]
    if missing:
        raise UserError(
            f"evals.lowshot.lists: there is no file {missing[0]!r}; give text files with an image name a line"
        )
    named = {f"{shots}" for shots in settings.shots} | {f"{100 * share:g}pct" for share in settings.shares}
    taken = sorted(named & set(lists_by_stem(settings.lists)))
    if taken:
        raise UserError(f"evals.lowshot.lists has a file {taken[0]}.txt, and lowshot_{taken[0]} is taken: rename it")


def check_lists(settings: Any, names: Sequence[str]) -> None:
    """Raises UserError where a file of `lists` names images that are not among `names`."""
    for file in settings.lists:
        draws.listed(file, names)


def _short_classes(labels: np.ndarray, shots: int, classes: Sequence[str]) -> dict[str, Any]:
    """Classes of several labels an image that have fewer positives than the shots asked for."""
    if labels.ndim == 1:
        return {}
    short = [name for name, count in zip(classes, (labels == 1).sum(0), strict=True) if count < shots]
    return {"fewer_positives": short} if short else {}
