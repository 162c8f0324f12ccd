"""The run folder: whose configuration it holds, where its files are, and its results.

config.json  metrics.jsonl  results.json  pictures.npz  report.html  lineage.json  figures/  tensorboard/
stages/<k>-<name>/lineage.json  stages/<k>-<name>/checkpoints/  stale-<n>/
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from gssl_jax.errors import UserError, unknown
from gssl_jax.knobs import flat
from gssl_jax.runs import staleness
from gssl_jax.training.metrics import cut_rows

FREE = ("run", "arms")
"""Groups that change nothing about results, so that a folder may go on with other values."""

BOUND_IN_RUN = ("run.deterministic",)


def plain(value: Any) -> Any:
    """A configuration as what JSON can hold: dicts, lists and scalars."""
    if isinstance(value, ConfigDict):
        value = value.to_dict()
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(v) for v in value]
    return value


def canonical(config: ConfigDict) -> str:
    """The resolved configuration as JSON with sorted keys: equal configurations give equal text."""
    return json.dumps(plain(config), indent=1, sort_keys=True) + "\n"


ABSENT = "(absent)"
"""Stands for the value of a knob that a configuration does not have."""


def differing(*trees: dict[str, Any]) -> dict[str, list[Any]]:
    """Knobs that may change results and do not have one value in all configurations, by dotted name: the value of
    each, `ABSENT` where it has none."""
    every = [flat(tree) for tree in trees]
    keys = sorted({key for one in every for key in one})
    bound = [k for k in keys if k.split(".")[0] not in FREE or k in BOUND_IN_RUN]
    values = {k: [one.get(k, ABSENT) for one in every] for k in bound}
    return {k: found for k, found in values.items() if any(value != found[0] for value in found)}


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """`key: old -> new` for every knob that differs and may change results."""
    return [f"{key}: {before!r} -> {after!r}" for key, (before, after) in differing(old, new).items()]


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a whole file or, if killed, nothing; text as UTF-8."""
    temporary = path.with_suffix(path.suffix + ".tmp")
    temporary.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    temporary.replace(path)


class RunFolder:
    """The files of one run under `path`; what the processes of a run keep together, its checkpoints, under `shared`,
    which is the same for one process."""

    def __init__(self, path: Path, shared: Path | None = None) -> None:
        self.path, self.shared = path, shared or path
        self.config, self.metrics = path / "config.json", path / "metrics.jsonl"
        self.results, self.report, self.lineage = path / "results.json", path / "report.html", path / "lineage.json"
        self.figures, self.tensorboard, self.pictures = path / "figures", path / "tensorboard", path / "pictures.npz"

    def stage(self, number: int, name: str) -> Path:
        """The folder of the stage with this number in the chain."""
        return self.path / "stages" / f"{number}-{name}"

    def kept(self, number: int, name: str) -> Path:
        """What all processes of a run see of the folder of a stage."""
        return self.shared / "stages" / f"{number}-{name}"

    def checkpoints(self, number: int, stage: str) -> Path:
        """The checkpoint folder of a stage."""
        return self.kept(number, stage) / "checkpoints"

    def best(self, number: int, stage: str) -> Path:
        """Where the state of the stage that validation images chose is kept."""
        return self.kept(number, stage) / "best"

    def claim(self, config: ConfigDict) -> str:
        """Makes the folder this run's, or finds that it is already; returns what changed in words, "" for nothing.

        The configuration may change where nothing was trained with what changed: results of the shorter or other chain,
        or of another way to judge, are then put aside. Raises UserError where stages have become stale (naming the
        first differences and them), or the folder holds files that are not a run's.
        """
        text, said = canonical(config), ""
        if self.config.exists():
            old, new = self.read_config(), json.loads(text)
            changed, number = differences(old, new), staleness.first_changed(old, new)
            stale = staleness.begun(self.path, number) if number is not None else []
            if changed and stale:
                more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
                names = [one.name.partition("-")[2] for one in stale]
                raise UserError(
                    f"{self.path} belongs to a run with another configuration ({'; '.join(changed[:3])}{more}); "
                    f"trained with it and stale now: {', '.join(names)}. Go on with its own values, choose another "
                    f"--workdir, or train {'it' if len(names) == 1 else 'them'} anew with --redo={names[0]}"
                )
            if number is not None and (shelf := staleness.put_aside(self.path, number)):
                said = f"the chain changed: earlier results are in {shelf}"
            elif number is None and not staleness.judged_alike(old, new):
                shelf = staleness.put_aside(self.path, len(new["stages"]))
                said = f"judged anew, by other settings: earlier results are in {shelf}" if shelf else ""
        elif self.path.is_file() or (self.path.exists() and any(self.path.iterdir())):
            raise UserError(f"{self.path} is not empty and not a run folder: choose another --workdir")
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomically(self.config, text)
        return said

    def read_config(self) -> dict[str, Any]:
        """config.json; raises UserError where it cannot be read."""
        try:
            return json.loads(self.config.read_text(encoding="utf-8"))
        except json.JSONDecodeError as problem:
            raise UserError(f"{self.config} is not readable JSON ({problem}): use another --workdir") from problem

    def redo(self, stage: str) -> str:
        """Puts the stage and all after it aside, with the results, so that they are trained anew; says so in words.

        Raises UserError where the folder is no run's, or its chain has no such stage.
        """
        if not self.config.exists():
            raise UserError(f"--redo={stage}: {self.path} holds no run yet, leave the flag out")
        stages = self.read_config()["stages"]
        if stage not in stages:
            raise unknown("stage for --redo", stage, stages)
        number = stages.index(stage)
        names = [one.name.partition("-")[2] for one in staleness.begun(self.path, number)]
        shelf = staleness.put_aside(self.path, number)
        for name in names:
            cut_rows(self.metrics, name, -1)
        return f"put aside in {shelf}: {', '.join(names) or 'the results'}" if shelf else "nothing to put aside"

    def write_results(self, results: dict[str, Any]) -> None:
        """results.json, whole or not at all."""
        write_atomically(self.results, json.dumps(results, indent=1) + "\n")

    def read_results(self) -> dict[str, Any] | None:
        """The results of a finished run, or None."""
        return json.loads(self.results.read_text(encoding="utf-8")) if self.results.exists() else None
