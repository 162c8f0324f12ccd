"""What do gated pretexts add to supervised training? Seven arms, two settings, five seeds, on the embedded photographs.

    python benchmarks/gated_study.py --workdir=runs/gated_study [--arms=...] [--settings=...] [--seeds=5] [--dry-run]

Settings: `long_tail`, 200 patches of the first photograph down to 2 of the last (factor 0.01), and `few`, 10 patches of
each. Arms: supervised training alone, LoRot-E alone, and three pretexts (LoRot-E, flip, channel permutation) added up,
averaged, and weighed by a frozen, a learned and a usefulness gate. Seed s chooses the patches, the order and the
initial network; arms share them, so differences are taken seed by seed.

Each cell is a run of configs/gated_cifar_lt.py:photos in a process of its own and a folder of its own; a cell that has
its results.json is not run again, so that the study goes on where it stopped. The cost is printed before anything
runs: from the cells that are there, or from one that is then measured.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

ROOT = Path(__file__).resolve().parents[1]
RECIPE = "configs/gated_cifar_lt.py:photos"
LIMIT = 90.0  # seconds a cell may take; the next ones are not begun after one that took longer

THREE = "('lorot_e', 'flip', 'channels')"
ARMS: dict[str, dict[str, str]] = {
    "supervised": {"method.pretexts.names": "()", "method.gate.mode": "none"},
    "lorot_e": {"method.pretexts.names": "('lorot_e',)", "method.gate.mode": "sum"},
    "sum": {"method.pretexts.names": THREE, "method.gate.mode": "sum"},
    "uniform": {"method.pretexts.names": THREE, "method.gate.mode": "uniform"},
    "frozen": {"method.pretexts.names": THREE, "method.gate.mode": "frozen"},
    "learned": {"method.pretexts.names": THREE, "method.gate.mode": "learned"},
    "usefulness": {"method.pretexts.names": THREE, "method.gate.mode": "usefulness"},
}
SETTINGS: dict[str, dict[str, str]] = {
    "long_tail": {},
    "few": {
        "data.streams.train.subset.kind": "shots",
        "data.streams.train.subset.count": "10",
        "method.loss.kind": "ce",
        "method.loss.reweighting": "none",
        "method.heads.normed": "False",
    },
}
MEASURES = {"long_tail": ("accuracy/top1", "accuracy/few"), "few": ("accuracy/top1",)}
CONTROL = "supervised"


def command(setting: str, arm: str, seed: int, workdir: Path) -> list[str]:
    """The run of one cell."""
    values = SETTINGS[setting] | ARMS[arm] | {"seed": str(seed), "data.streams.train.subset.seed": str(seed)}
    flags = [f"--config.{key}={value}" for key, value in values.items()]
    return [sys.executable, "-m", "gssl_jax.main", f"--config={RECIPE}", f"--workdir={workdir}", *flags]


def folder(workdir: Path, setting: str, arm: str, seed: int) -> Path:
    """Where a cell lives."""
    return workdir / f"{setting}-{arm}-{seed}"


def finished(path: Path) -> dict[str, Any] | None:
    """The results of a cell that is over, or None."""
    if not (path / "report.html").exists():
        return None
    return json.loads((path / "results.json").read_text(encoding="utf-8"))


def run(cells: list[tuple[str, str, int]], workdir: Path) -> None:
    """Runs the cells that are missing, one after the other; says after the first what the rest will take."""
    missing = [cell for cell in cells if finished(folder(workdir, *cell)) is None]
    for place, cell in enumerate(missing):
        begun = time.perf_counter()
        path = folder(workdir, *cell)
        done = subprocess.run(command(*cell, path), cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{path.name} failed with {done.returncode}:\n{done.stderr[-2000:]}")
        took = time.perf_counter() - begun
        left = (len(missing) - place - 1) * took / 60
        print(f"{place + 1}/{len(missing)} {path.name}: {took:.0f} s, about {left:.0f} min left", flush=True)
        if took > LIMIT:
            sys.exit(f"a cell took {took:.0f} s, more than {LIMIT:.0f}: the study would take {left:.0f} min more")


def interval(values: list[float]) -> str:
    """Mean and the half width of the 95 % interval by Student's t over seeds, in per cent."""
    if len(values) < 2:
        return f"{100 * values[0]:.1f}"
    half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return f"{100 * statistics.mean(values):.1f} +- {100 * half:.1f}"


def table(setting: str, arms: list[str], seeds: list[int], workdir: Path) -> str:
    """Accuracy of every arm and its difference from the control, seed by seed."""
    names = MEASURES[setting]
    lines = ["| arm | " + " | ".join(f"{n} | difference from {CONTROL}" for n in names) + " |"]
    lines.append("|---" * (1 + 2 * len(names)) + "|")
    for arm in arms:
        cells = []
        for name in names:
            scores, against = [], []
            for seed in seeds:
                own, base = (finished(folder(workdir, setting, a, seed)) for a in (arm, CONTROL))
                if own is None:
                    continue
                scores.append(own["eval"][name]["value"])
                if base is not None and arm != CONTROL:
                    against.append(scores[-1] - base["eval"][name]["value"])
            cells += [interval(scores) if scores else "-", interval(against) if against else "-"]
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return "\n".join(lines)


def gate_ends(setting: str, arm: str, seeds: list[int], workdir: Path) -> str:
    """Mean weight of every pretext over the last tenth of the training, by seed."""
    found: dict[str, list[float]] = {}
    for seed in seeds:
        path = folder(workdir, setting, arm, seed) / "metrics.jsonl"
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
        rows = [row for row in rows if "gate/entropy" in row]
        for name in rows[0] if rows else ():
            if name.startswith(("gate/weight_", "gate/alignment_")):
                last = [row[name] for row in rows if row["step"] > 0.9 * rows[-1]["step"]]
                found.setdefault(name, []).append(float(np.mean(last)))
    return "; ".join(
        f"{name.removeprefix('gate/')} {np.mean(v):.3f} ({min(v):.3f}-{max(v):.3f})" for name, v in found.items()
    )


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--workdir", type=Path, default=Path("runs/gated_study"), help="folder of the cells")
    flags.add_argument("--arms", default=",".join(ARMS), help="a part of the arms")
    flags.add_argument("--settings", default=",".join(SETTINGS), help="a part of the settings")
    flags.add_argument("--seeds", type=int, default=5, help="seeds 0 to this")
    flags.add_argument("--dry-run", action="store_true", help="print the cost and the commands")
    given = flags.parse_args()
    arms, settings, seeds = given.arms.split(","), given.settings.split(","), list(range(given.seeds))
    for name, known in ((arms, ARMS), (settings, SETTINGS)):
        wrong = [one for one in name if one not in known]
        if wrong:
            sys.exit(f"error: {wrong[0]!r} is not known: choose from {', '.join(known)}")
    # seeds outermost: a study that is cut short has every arm equally often
    cells = [(s, a, k) for k, s, a in itertools.product(seeds, settings, arms)]
    missing = [cell for cell in cells if finished(folder(given.workdir, *cell)) is None]
    print(f"{len(cells)} cells, {len(missing)} to run, at most {len(missing) * LIMIT / 60:.0f} min")
    if given.dry_run:
        for cell in missing:
            print(" ".join(command(*cell, folder(given.workdir, *cell))))
        return
    run(cells, given.workdir)
    for setting in settings:
        print(f"\n{setting}\n\n{table(setting, arms, seeds, given.workdir)}\n")
        for arm in arms:
            if arm in ("frozen", "learned", "usefulness"):
                print(f"{arm}: {gate_ends(setting, arm, seeds, given.workdir)}")


if __name__ == "__main__":
    main()
