"""The run folder: whose configuration it holds, where its files are, and its results.

config.json  metrics.jsonl  results.json  report.html  lineage.json  figures/  tensorboard/
stages/<k>-<name>/checkpoints/
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from gssl_jax.errors import UserError

FREE = ("run",)
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


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dicts as `a.b.c` -> value."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    found: dict[str, Any] = {}
    for name, value in tree.items():
        found |= flat(value, f"{prefix}.{name}" if prefix else name)
    return found


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """`key: old -> new` for every knob that differs and may change results."""
    before, after = flat(old), flat(new)
    keys = sorted(before.keys() | after.keys())
    bound = [k for k in keys if k.split(".")[0] not in FREE or k in BOUND_IN_RUN]
    absent = "(absent)"
    changed = [k for k in bound if before.get(k, absent) != after.get(k, absent)]
    return [f"{k}: {before.get(k, absent)!r} -> {after.get(k, absent)!r}" for k in changed]


def write_atomically(path: Path, text: str) -> None:
    """Writes a whole file or, if killed, nothing."""
    temporary = path.with_suffix(path.suffix + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


class RunFolder:
    """The files of one run under `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config, self.metrics = path / "config.json", path / "metrics.jsonl"
        self.results, self.report, self.lineage = path / "results.json", path / "report.html", path / "lineage.json"
        self.figures, self.tensorboard = path / "figures", path / "tensorboard"

    def checkpoints(self, number: int, stage: str) -> Path:
        """The checkpoint folder of the stage with this number in the chain."""
        return self.path / "stages" / f"{number}-{stage}" / "checkpoints"

    def best(self, number: int, stage: str) -> Path:
        """Where the state of the stage that validation images chose is kept."""
        return self.path / "stages" / f"{number}-{stage}" / "best"

    def claim(self, config: ConfigDict) -> None:
        """Makes the folder this run's, or finds that it is already.

        Raises UserError where it belongs to a run with another configuration (naming the first differences), or holds
        files that are not a run's.
        """
        text = canonical(config)
        if self.config.exists():
            try:
                old = json.loads(self.config.read_text(encoding="utf-8"))
            except json.JSONDecodeError as problem:
                raise UserError(f"{self.config} is not readable JSON ({problem}): use another --workdir") from problem
            changed = differences(old, json.loads(text))
            if changed:
                more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
                raise UserError(
                    f"{self.path} belongs to a run with another configuration ({'; '.join(changed[:3])}{more}): go on "
                    f"with its own values, choose another --workdir, or delete the folder to start anew"
                )
        elif self.path.is_file() or (self.path.exists() and any(self.path.iterdir())):
            raise UserError(f"{self.path} is not empty and not a run folder: choose another --workdir")
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomically(self.config, text)

    def write_results(self, results: dict[str, Any]) -> None:
        """results.json, whole or not at all."""
        write_atomically(self.results, json.dumps(results, indent=1) + "\n")

    def read_results(self) -> dict[str, Any] | None:
        """The results of a finished run, or None."""
        return json.loads(self.results.read_text(encoding="utf-8")) if self.results.exists() else None
