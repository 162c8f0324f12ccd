"""Which stages of a run no longer follow from its configuration, and putting them aside.

A stage follows from its own settings and from the stages before it, so a change of one makes it and all later ones
stale. What is stale is kept in `stale-<n>/` of the run folder, never deleted.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gssl_jax.knobs import flat

Tree = Mapping[str, Any]

CHAIN = ("stages", "stage", "run")
"""Groups that are no settings of a single stage."""


def effective(config: Tree, stage: str) -> dict[str, Any]:
    """The settings of one stage by flat key: the base groups and what `stage.<name>` changes; `config` as in JSON."""
    base = flat({name: group for name, group in config.items() if name not in CHAIN})
    own = flat(config["stage"].get(stage, {}))
    own = {key: value for key, value in own.items() if key.split(".")[0] not in CHAIN}
    return base | own | {"run.deterministic": config["run"]["deterministic"]}


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
    what = [*begun(path, number), *(one for name in ("results.json", "report.html") if (one := path / name).exists())]
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
