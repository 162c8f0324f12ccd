"""A study: which cells it has, how each is run, and what became of it.

<workdir>/study.json          its configuration
<workdir>/costs.json          operations of a step of every method, and how fast this machine is
<workdir>/cells/<cell>/       the run folder of a cell: one method with its controls, and one seed
<workdir>/ledger/<cell>.json  how it ended: state, seconds over all of its starts, and why it failed
<workdir>/judged/<cell>/<name>/  what `judged` asks for beside the recipe's own evaluation
<workdir>/logs/<cell>.log     all that its processes said
"""

from __future__ import annotations

import fcntl
import fnmatch
import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from gssl_jax.errors import UserError, unknown
from gssl_jax.knobs import flat
from gssl_jax.methods.collapse import CONTROLS
from gssl_jax.runs.folder import RunFolder, canonical, differences, plain, write_atomically

BUDGETS = ("flops", "steps")
STATES = ("finished", "failed", "interrupted")
REASON = 300
"""Letters of the last line of a log that are kept as the reason of a failure."""


class Cell(NamedTuple):
    """One method with its controls, `cls/patch`, `cls` alone or none, and one seed."""

    method: str
    controls: str
    seed: int

    @property
    def name(self) -> str:
        """The name of its folder: "maskcluster-sinkhorn-memax-s0"."""
        return "-".join((self.method, *filter(None, self.controls.split("/")), f"s{self.seed}"))


def cells(config: ConfigDict) -> list[Cell]:
    """Every cell, seeds outermost: a study that is cut short has every setting about equally often.

    `config` is a study's. Raises UserError where it has none, and for a control or family that is not known."""
    if not config.seeds:
        raise UserError("seeds=() makes no study: give at least one, e.g. --config.seeds='(0,1,2)'")
    if config.budget.kind not in BUDGETS:
        raise unknown("budget.kind", config.budget.kind, BUDGETS)
    for key in ("budget.reference", "report.method"):
        group, name = key.split(".")
        if config[group][name] not in config.methods:
            raise unknown(key, config[group][name], list(config.methods))
    settings = [(name, controls) for name, method in config.methods.items() for controls in method.controls]
    for name, controls in settings:
        for control in filter(None, controls.split("/")):
            if control not in CONTROLS:
                raise unknown(f"control in methods.{name}.controls", control, CONTROLS)
    for name in config.cell_of:
        if name not in config.methods:
            raise unknown("method in cell_of", name, list(config.methods))
    found = [Cell(name, controls, int(seed)) for seed in config.seeds for name, controls in settings]
    if not found or len(set(found)) < len(found):
        raise UserError("methods names no cell, or one of them twice: give every method controls, each once")
    return found


def chosen(every: Sequence[Cell], patterns: str, share: str) -> list[Cell]:
    """The cells whose name fits one of `patterns`, with commas between them ("" = all), and of those the `share` "i/n".

    Raises UserError where nothing is left by the patterns, or the share is none.
    """
    wanted = [one.strip() for one in patterns.split(",") if one.strip()]
    found = [cell for cell in every if not wanted or any(fnmatch.fnmatchcase(cell.name, one) for one in wanted)]
    if not found:
        raise UserError(f"--cells={patterns} fits no cell: their names are like {every[0].name}, * stands for any")
    if not share:
        return found
    parts = re.fullmatch(r"(\d+)/(\d+)", share)
    if not parts or not 1 <= int(parts[1]) <= int(parts[2]):
        raise UserError(f"--cell={share} is no share of the cells: give i/n with i from 1 to n, e.g. --cell=1/4")
    return found[int(parts[1]) - 1 :: int(parts[2])]


def recipe(config: ConfigDict, method: str) -> str:
    """The recipe of a method, as --config has it."""
    return f"{config.recipe}:{','.join(filter(None, (config.preset, config.options, f'method={method}')))}"


def overrides(config: ConfigDict, cell: Cell, duration: float | None) -> tuple[str, ...]:
    """The flags of a cell beside its recipe; `duration` in optim.unit, None for the recipe's own."""
    changes = flat(config.cell.to_dict())
    if cell.method in config.cell_of:
        changes |= flat(config.cell_of[cell.method].to_dict())
    values = {key: value for key, value in changes.items() if key}
    levels = cell.controls.split("/") if cell.controls else []
    values |= {f"method.collapse.{level}": one for level, one in zip(("cls", "patch"), levels, strict=False)}
    values |= {"seed": cell.seed} | ({} if duration is None else {"optim.duration": float(duration)})
    return tuple(f"--config.{key}={value}" for key, value in values.items())


class Folder:
    """The files of a study under `path`."""

    def __init__(self, path: Path) -> None:
        self.path, self.config, self.costs = path, path / "study.json", path / "costs.json"
        self.report, self.figures, self.compiled = path / "report.html", path / "figures", path / "compiled"

    def run(self, cell: Cell) -> Path:
        """The run folder of a cell."""
        return self.path / "cells" / cell.name

    def judged(self, cell: Cell, name: str) -> Path:
        """Where one of the further judgements of a cell lives."""
        return self.path / "judged" / cell.name / name

    def log(self, cell: Cell) -> Path:
        """What the processes of a cell said."""
        return self.path / "logs" / f"{cell.name}.log"

    def claim(self, config: ConfigDict) -> None:
        """Writes the study's configuration. Raises UserError where the folder holds something else."""
        text = canonical(config)
        if not self.config.exists() and self.path.exists() and any(self.path.iterdir()):
            raise UserError(f"{self.path} is not empty and not a study's folder: choose another --workdir")
        self.path.mkdir(parents=True, exist_ok=True)
        if not self.config.exists() or self.config.read_text(encoding="utf-8") != text:
            write_atomically(self.config, text)

    def entry(self, cell: Cell) -> dict[str, Any] | None:
        """What the ledger says of a cell, None where it was never begun."""
        path = self.path / "ledger" / f"{cell.name}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    def note(self, cell: Cell, code: int, seconds: float, said: str, stopped: bool) -> dict[str, Any]:
        """Writes and returns how a cell ended; `stopped` where a signal was passed on to it."""
        state = "finished" if code == 0 else "interrupted" if stopped else "failed"
        before = self.entry(cell)
        entry = {
            "state": state,
            "code": code,
            "seconds": seconds + (before["seconds"] if before else 0.0),
            "reason": reason(said, code) if state == "failed" else "",
        }
        path = self.path / "ledger" / f"{cell.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(entry, indent=1) + "\n")
        return entry

    def trained(self, cell: Cell) -> bool:
        """Whether the run of a cell has come to its end."""
        folder = RunFolder(self.run(cell))
        return folder.report.exists() and folder.results.exists()

    def state(self, cell: Cell, judged: Sequence[str]) -> str:
        """One of `STATES`, or "missing"; a run with its report and the results of everything `judged` is finished,
        whoever ran it."""
        if self.trained(cell) and all((self.judged(cell, name) / "results.json").exists() for name in judged):
            return "finished"
        entry = self.entry(cell)
        return entry["state"] if entry and entry["state"] != "finished" else "missing"

    def check(self, cell: Cell, config: ConfigDict) -> None:
        """Raises UserError where a finished cell was run by other settings than `config`, its whole recipe."""
        folder = RunFolder(self.run(cell))
        if not self.trained(cell):
            return
        changed = differences(folder.read_config(), plain(config))
        if changed:
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            raise UserError(
                f"{folder.path} was trained by other settings ({'; '.join(changed[:3])}{more}): go on with its own, or "
                "choose another --workdir"
            )

    @contextmanager
    def held(self, cell: Cell) -> Iterator[bool]:
        """Whether the cell is this process's: False where another one is at it."""
        path = self.path / "ledger" / f"{cell.name}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True


def reason(said: str, code: int) -> str:
    """The last line that a process said, or the signal that ended it."""
    if code < 0:
        return f"ended by signal {-code}" + (", as when memory runs out" if code == -9 else "")
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1][:REASON] if lines else f"exit code {code} without a word"


def waiting(folder: Folder, wanted: Sequence[Cell], judged: Sequence[str], retry: bool) -> list[Cell]:
    """The cells to run: those without an end, and with `retry` those that failed."""
    over = ("finished",) if retry else ("finished", "failed")
    return [cell for cell in wanted if folder.state(cell, judged) not in over]


def commands(config: ConfigDict, cell: Cell, duration: float | None, folder: Folder) -> tuple[tuple[str, ...], ...]:
    """What stands after `python` for a cell: its run, which prints its table where it is over, and every judgement."""
    flags, run = overrides(config, cell, duration), folder.run(cell)
    found = [("-m", "gssl_jax.main", f"--config={recipe(config, cell.method)}", f"--workdir={run}", *flags)]
    for name, options in config.judged.items():
        own = (f"--backbone={run}", f"--out={folder.judged(cell, name)}", *shlex.split(options))
        found.append(("-m", "gssl_jax.evaluate", *own))
    return tuple(found)


def durations(config: ConfigDict, costs: Mapping[str, Any], reference: ConfigDict) -> dict[str, float | None]:
    """How long every method of `costs` trains, in its optim.unit; None where its operations could not be counted and
    the budget asks for them. `reference` is the recipe of `budget.reference`, `costs` are `Cost` by method."""
    length = config.budget.duration or float(reference.optim.duration)
    if config.budget.kind == "steps":
        return dict.fromkeys(costs, length)
    whole = costs[config.budget.reference]
    found: dict[str, float | None] = {}
    for name, own in costs.items():
        countable = own.flops > 0 and whole.flops > 0
        steps = equal_steps(round(length * whole.unit), whole.flops, own.flops) if countable else 0
        found[name] = steps / own.unit if countable else None
    return found


def equal_steps(steps: int, flops: float, other: float) -> int:
    """Steps of `other` operations each that cost what `steps` of `flops` do; at least one."""
    return max(1, round(steps * flops / other))
