"""Which stages of a run no longer follow from its configuration, and putting them aside.

A stage follows from its own settings and from the stages before it, so a change of one makes it and all later ones
stale. How a backbone is judged is no part of that where nothing is chosen by it: other settings of the evaluation only
make the results stale. What is stale is kept in `stale-<n>/` of the run folder, never deleted.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gssl_jax.knobs import flat
from gssl_jax.methods.known import METHODS

Tree = Mapping[str, Any]

CHAIN = ("stages", "stage", "arms", "run")
"""Groups that are no settings of a single stage."""

DECIDING = ("evals.which", "evals.data", "evals.knn")
"""Settings of the evaluation that decide what a stage without labels hands over: the network that is judged, and what
its start is watched by. A method that learns from labels chooses its state by all of them."""


def effective(config: Tree, stage: str) -> dict[str, Any]:
    """The settings that decide how one stage is trained, by flat key; `config` as in JSON."""
    every = settings(config, stage)
    if METHODS[every["method.name"]].labelled:
        return every
    return {key: value for key, value in every.items() if not key.startswith("evals.") or key.startswith(DECIDING)}


def settings(config: Tree, stage: str) -> dict[str, Any]:
    """Every setting of one stage by flat key: the base groups and what `stage.<name>` changes."""
    base = flat({name: group for name, group in config.items() if name not in CHAIN})
    own = flat(config["stage"].get(stage, {}))
    own = {key: value for key, value in own.items() if key.split(".")[0] not in CHAIN}
    return base | own | {"run.deterministic": config["run"]["deterministic"]}


def judged_alike(old: Tree, new: Tree) -> bool:
    """Whether two chains that end with the same stage judge it by the same settings."""
    return settings(old, old["stages"][-1]) == settings(new, new["stages"][-1])


def first_changed(old: Tree, new: Tree) -> int | None:
    """The number of the first stage whose name or settings differ, or that one chain lacks; None without one."""
    for number in range(max(len(old["stages"]), len(new["stages"]))):
        if number >= min(len(old["stages"]), len(new["stages"])):
            return number
        before, after = old["stages"][number], new["stages"][number]
        if before != after or effective(old, before) != effective(new, after):
            return number
    return None


def begun(path: Path, number: int) -> list[Path]:
    """The folders of the stages from `number` on that have been started, in order."""
    found = {}
    for one in (path / "stages").glob("*-*"):
        place = one.name.partition("-")[0]
        if place.isdigit() and int(place) >= number:
            found[int(place)] = one
    return [found[place] for place in sorted(found)]


def put_aside(path: Path, number: int) -> Path | None:
    """Moves the stages from `number` on, results and report into a new `stale-<n>` folder; None if there are none."""
    files = (path / name for name in ("results.json", "pictures.npz", "report.html"))
    what = [*begun(path, number), *(one for one in files if one.exists())]
    if not what:
        return None
    count = 1
    while (path / f"stale-{count}").exists():
        count += 1
    shelf = path / f"stale-{count}"
    shelf.mkdir()
    for one in what:
        one.rename(shelf / one.name)
    return shelf
