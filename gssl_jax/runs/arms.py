"""Several chains over the same stages, each trained once: the arms of a comparison such as HPT's.

An arm is a chain of stages with a run folder of its own. A stage is known by its settings and by those of the stages
before it; arms that begin with the same stages share them, whichever trains them first:

    <workdir>/<arm>/                      the run folder of an arm
    <workdir>/<arm>/stages/<k>-<name>     leads to
    <workdir>/stages/<digest>-<name>/     lineage.json, checkpoints/, and the rows that it logged
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from gssl_jax.errors import UserError, unknown
from gssl_jax.runs import staleness
from gssl_jax.runs.folder import RunFolder, canonical, write_atomically
from gssl_jax.runs.lineage import settings_digest
from gssl_jax.training.metrics import append_rows, cut_rows, read_rows

ROWS, OVER = "metrics.jsonl", "over"
"""Beside the checkpoints of a stage: what it logged, for the arms that did not train it, and the mark that it ended."""


def chosen(config: ConfigDict, names: Sequence[str]) -> dict[str, ConfigDict]:
    """The configuration of every arm in `names`, in their order; without names of all of them, sorted.

    Raises UserError where the recipe has no arms, for an unknown arm, and for one with an unknown stage.
    """
    if "arms" not in config or not config.arms:
        raise UserError("this recipe has no arms: choose one that has, e.g. configs/hpt_moco.py:earth")
    for name in names:
        if name not in config.arms:
            raise unknown("arm", name, config.arms.keys())
    found = {}
    for name in names or config.arms:
        for stage in config.arms[name]:
            if stage not in config.stage:
                raise unknown(f"stage of the arm {name!r}", stage, config.stage.keys())
        arm = config.copy_and_resolve_references()
        with arm.unlocked():
            arm.stages = tuple(config.arms[name])
        found[name] = arm.lock()
    return found


def places(config: ConfigDict, shared: Path) -> list[Path]:
    """Where the stages of a chain live, in order: below `shared`, by settings and by what led there."""
    tree, led, found = json.loads(canonical(config)), hashlib.sha256(), []
    for name in config.stages:
        led.update(settings_digest(tree, name).encode())
        found.append(shared / f"{led.hexdigest()[:12]}-{name}")
    return found


@contextmanager
def held(stages: Sequence[Path]) -> Iterator[None]:
    """Keeps other processes from training the same stages; those that are over may be read by any number of them.

    Raises UserError where another process is at one of them.
    """
    with ExitStack() as stack:
        for place in stages:
            if (place / OVER).exists():
                continue
            place.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context((place / "lock").open("w"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"another process trains the stage in {place}: wait for it, or give another --workdir"
                ) from None
        yield


def close(stages: Sequence[Path]) -> None:
    """Says of stages that they are over."""
    for place in stages:
        (place / OVER).touch()


def prepare(config: ConfigDict, folder: RunFolder, shared: Path) -> str:
    """Makes a folder an arm's: its stages lead to `shared`, with the rows of those that other arms have trained.

    Stages that led elsewhere, because they were other ones when the arm ran last, stay where they are: nothing is lost
    by a change, and its undoing finds everything again. Returns what changed in words, as `RunFolder.claim` does, and
    raises what that raises; UserError also where a stage was trained in the folder itself.
    """
    if folder.config.exists():
        number = staleness.first_changed(folder.read_config(), json.loads(canonical(config)))
        for old in staleness.begun(folder.path, number) if number is not None else ():
            if old.is_symlink():
                old.unlink()
                cut_rows(folder.metrics, old.name.partition("-")[2], -1)
    said = folder.claim(config)
    for number, (name, place) in enumerate(zip(config.stages, places(config, shared), strict=True)):
        here = folder.stage(number, name)
        if here.exists() and not here.is_symlink():
            raise UserError(f"{here} was trained outside of these arms: give another --workdir")
        place.mkdir(parents=True, exist_ok=True)
        if not here.is_symlink():
            here.parent.mkdir(parents=True, exist_ok=True)
            here.symlink_to(os.path.relpath(place, here.parent), target_is_directory=True)
        if not any(row["stage"] == name for row in read_rows(folder.metrics)):
            append_rows(folder.metrics, read_rows(place / ROWS))
    return said


def share(folder: RunFolder) -> None:
    """Leaves the rows of every stage of an arm beside it, for the other arms."""
    for here in staleness.begun(folder.path, 0):
        name = here.name.partition("-")[2]
        rows = [row for row in read_rows(folder.metrics) if row["stage"] == name]
        end = max((row["step"] for row in rows), default=0)
        rows = [row for row in rows if row["step"] < end or not _scores(row)]  # the end's scores are the arm's own
        if here.is_symlink() and len(rows) >= len(read_rows(here / ROWS)):
            write_atomically(here / ROWS, "".join(json.dumps(row) + "\n" for row in rows))


def _scores(row: dict[str, Any]) -> bool:
    """Whether a row holds nothing but scores."""
    return all(name in ("stage", "step") or name.startswith("eval/") for name in row)
