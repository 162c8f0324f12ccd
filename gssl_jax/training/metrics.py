"""Writers of metrics: one flat JSON object a line, and TensorBoard events.

clu's own writers need TensorFlow, which this project does not want at run time; its averages are used in `step`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from tensorboardX import SummaryWriter


class Writer(Protocol):
    """Takes rows of scalars."""

    def write(self, stage: str, step: int, row: Mapping[str, Any]) -> None:
        """Records `row` for a step of a stage; values are numbers or words."""

    def close(self) -> None:
        """Everything is on disk afterwards."""


class JsonLines:
    """metrics.jsonl: `{"stage": ..., "step": ..., "train/loss": ..., ...}` a line. NaN and infinities become null."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")

    def write(self, stage: str, step: int, row: Mapping[str, Any]) -> None:
        values = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        self._file.write(json.dumps({"stage": stage, "step": step, **values}) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class TensorBoard:
    """TensorBoard events through tensorboardX; words are left to the JSON lines. Steps after `start` that an earlier
    start has written are withdrawn."""

    def __init__(self, folder: Path, start: int = 0) -> None:
        self._writer = SummaryWriter(str(folder), purge_step=start + 1)

    def write(self, stage: str, step: int, row: Mapping[str, Any]) -> None:
        for name, value in row.items():
            if isinstance(value, (int, float)):
                self._writer.add_scalar(f"{stage}/{name}", value, step)

    def close(self) -> None:
        self._writer.close()


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl, without a last line that a killed process left unfinished."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def append_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Adds rows as they are."""
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def cut_rows(path: Path, stage: str, step: int) -> None:
    """Removes the rows of `stage` after `step`: a run that goes on from a checkpoint writes them again."""
    if path.exists():
        _rewrite(path, [row for row in read_rows(path) if row["stage"] != stage or row["step"] <= step])


def replace_row(path: Path, stage: str, step: int, row: Mapping[str, Any]) -> None:
    """Appends a row; what the stage logged at this step under the same names before goes."""
    if not row:
        return
    _rewrite(
        path,
        [r for r in read_rows(path) if r["stage"] != stage or r["step"] != step or not r.keys() & row.keys()],
    )
    log = JsonLines(path)
    log.write(stage, step, row)
    log.close()


def _rewrite(path: Path, rows: list[dict[str, Any]]) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    temporary.replace(path)
