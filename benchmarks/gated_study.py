"""What do gated pretexts add to supervised training? Seven arms, two settings, five seeds, on the embedded photographs.

    python benchmarks/gated_study.py --workdir=runs/gated_study [--arms=...] [--settings=...] [--seeds=5] [--jobs=2]
                                     [--figure=FILE.png] [--dry-run]

Settings of the study: `long_tail`, 100 patches of one photograph down to one of another (factor 0.01), cross-entropy
with deferred re-weighting, and `few`, 10 patches of each, cross-entropy. Arms: supervised training alone, LoRot-E
alone, and three pretexts (LoRot-E, flip, channel permutation) added up, averaged, and weighed by a frozen, a learned
and a usefulness gate. Seed s chooses which photographs are rare, the patches, the order and the initial network; arms
share them, so differences are taken seed by seed, with Student's t over seeds and Holm's correction over the contrasts
of a measure.

Against the recipe the pretext losses count in full instead of a tenth and the heads are linear instead of cosines:
at a tenth, or with cosines of scale 1, no pretext leaves chance within so few steps, and the gate would be judged on
noise.

Two settings more, by name only: `adversarial`, configs/gated_adversarial.py:photos with and without gated pretexts,
clean and under PGD of 20 steps, and `semi`, FixMatch with 76 labels with and without them. Their cells take minutes
each.

Each cell is a run of a recipe's `photos` preset in a process of its own, on a core of its own where there are
several jobs, in a folder of its own; a cell that has its report is not run again, so that the study goes on where it
stopped. The most it may cost is printed before anything runs, and it stops where that will not hold.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from pathlib import Path

import numpy as np
from cells import Cell, by_seed, minutes, missing, run, spread
from scipy import stats

from gssl_jax.evals.intervals import t_interval
from gssl_jax.evals.paired import holm

EXPECTED = {"long_tail": 90.0, "few": 90.0, "adversarial": 420.0, "semi": 420.0}  # at most, seconds a cell on a core

CHEAP = {"evals.tsne_points": "200", "evals.linear.max_iterations": "100"}
SHORT = CHEAP | {
    "optim.duration": "160.0",
    "optim.schedule": "cosine",
    "evals.every": "40.0",
    "method.loss.kind": "ce",
    "method.heads.normed": "False",
    "method.pretexts.weight": "1.0",
}
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
STUDY = ("long_tail", "few")
RECIPES = {
    "long_tail": "gated_cifar_lt",
    "few": "gated_cifar_lt",
    "adversarial": "gated_adversarial",
    "semi": "gated_semi",
}
SETTINGS: dict[str, dict[str, str]] = {
    "long_tail": SHORT
    | {
        "data.streams.train.subset.count": "100",
        "data.streams.train.subset.shuffle_classes": "True",
        "method.loss.drw_start": "120.0",
    },
    "few": SHORT
    | {
        "data.streams.train.subset.kind": "shots",
        "data.streams.train.subset.count": "10",
        "method.loss.reweighting": "none",
    },
    "adversarial": CHEAP | {"optim.duration": "150.0", "evals.every": "150.0"},
    "semi": CHEAP,
}
MEASURES = {
    "long_tail": ("accuracy/top1", "accuracy/tail"),
    "few": ("accuracy/top1",),
    "adversarial": ("accuracy/top1", "accuracy_pgd20/top1"),
    "semi": ("accuracy/top1",),
}
CONTROL = "supervised"
CONTRASTS = (*((arm, CONTROL) for arm in ARMS if arm != CONTROL), ("usefulness", "uniform"), ("learned", "uniform"))


def command(setting: str, arm: str, seed: int, workdir: Path) -> list[str]:
    """What stands after `python` for one cell in the folder `workdir`."""
    stream = "labelled" if setting == "semi" else "train"
    values = SETTINGS[setting] | ARMS[arm] | {"seed": str(seed), f"data.streams.{stream}.subset.seed": str(seed)}
    if setting == "semi" and arm == CONTROL:
        values |= {"method.semi.transformed": "()", "method.semi.recognised": "()"}
    flags = [f"--config.{key}={value}" for key, value in values.items()]
    recipe = f"--config=configs/{RECIPES[setting]}.py:photos"
    return ["-m", "gssl_jax.main", recipe, f"--workdir={workdir}", *flags]


def folder(workdir: Path, setting: str, arm: str, seed: int) -> Path:
    """Where a cell lives."""
    return workdir / f"{setting}-{arm}-{seed}"


def cell(workdir: Path, setting: str, arm: str, seed: int) -> Cell:
    """The run of one cell and what it may cost."""
    own = folder(workdir, setting, arm, seed)
    return Cell(tuple(command(setting, arm, seed, own)), own, EXPECTED[setting])


def scores(setting: str, arm: str, name: str, seeds: list[int], workdir: Path) -> dict[int, float]:
    """One measure of an arm by seed, of the cells that are there."""
    folders = {seed: folder(workdir, setting, arm, seed) for seed in seeds}
    return by_seed(folders, lambda results: results["eval"][name]["value"])


def table(setting: str, arms: list[str], seeds: list[int], workdir: Path) -> str:
    """Every measure of every arm."""
    names = MEASURES[setting]
    lines = ["| arm | " + " | ".join(names) + " |", "|---" * (1 + len(names)) + "|"]
    for arm in arms:
        found = [list(scores(setting, arm, name, seeds, workdir).values()) for name in names]
        lines.append(f"| {arm} | " + " | ".join(spread(values) if values else "-" for values in found) + " |")
    return "\n".join(lines)


def differences(
    setting: str, name: str, arms: list[str], seeds: list[int], workdir: Path
) -> list[tuple[str, list[float]]]:
    """`one - other` and the differences by seed, for each contrast with at least two seeds in common."""
    found = []
    for one, other in CONTRASTS:
        if one in arms and other in arms:
            own, base = (scores(setting, arm, name, seeds, workdir) for arm in (one, other))
            both = [own[seed] - base[seed] for seed in seeds if seed in own and seed in base]
            found += [(f"{one} - {other}", both)] if len(both) > 1 else []
    return found


def contrasts(setting: str, name: str, arms: list[str], seeds: list[int], workdir: Path) -> str:
    """The differences of a measure in points, with p of a paired t-test before and after Holm's correction."""
    found = differences(setting, name, arms, seeds, workdir)
    raw = [float(stats.ttest_1samp(values, 0.0).pvalue) if np.ptp(values) else 1.0 for _, values in found]
    lines = [f"| {name} | points | p | p (Holm) |", "|---|---|---|---|"]
    for (words, values), p, corrected in zip(found, raw, holm(raw), strict=True):
        lines.append(f"| {words} | {spread(values)} | {p:.3f} | {corrected:.3f} |")
    return "\n".join(lines)


def trajectories(setting: str, arm: str, seeds: list[int], workdir: Path) -> dict[str, np.ndarray]:
    """`step` [n] and every logged weight and alignment of a gate, [seeds, n]."""
    found: dict[str, list[list[float]]] = {}
    steps: list[int] = []
    for seed in seeds:
        path = folder(workdir, setting, arm, seed) / "metrics.jsonl"
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
        rows = [row for row in rows if "gate/entropy" in row]
        steps = [row["step"] for row in rows] or steps
        for name in rows[0] if rows else ():
            if name.startswith(("gate/weight_", "gate/alignment_")):
                found.setdefault(name.removeprefix("gate/"), []).append([row[name] for row in rows])
    return {"step": np.asarray(steps)} | {name: np.asarray(values) for name, values in found.items()}


def gate_ends(setting: str, arm: str, seeds: list[int], workdir: Path) -> str:
    """Mean weight and alignment of every pretext over the last tenth of the training, with the range over seeds."""
    found = trajectories(setting, arm, seeds, workdir)
    last = found.pop("step")
    last = last > 0.9 * last.max(initial=0)
    ends = {name: values[:, last].mean(1) for name, values in found.items()}
    return "; ".join(f"{name} {v.mean():.3f} ({v.min():.3f}-{v.max():.3f})" for name, v in ends.items())


def draw(settings: list[str], arms: list[str], seeds: list[int], workdir: Path, file: Path) -> None:
    """Differences from the control with their intervals, and below them the weights of the gates over training."""
    from matplotlib.figure import Figure

    gates = [arm for arm in ("frozen", "learned", "usefulness") if arm in arms]
    gates = [arm for arm in gates if len(trajectories(settings[0], arm, seeds, workdir)["step"])]
    panels = [(setting, name) for setting in settings for name in MEASURES[setting]]
    columns = max(len(panels), len(gates), 1)
    figure = Figure(figsize=(3.6 * columns, 6.4), layout="constrained")
    axes = figure.subplots(2, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_visible(False)
    for axis, (setting, name) in zip(axes[0], panels, strict=False):
        axis.set_visible(True)
        found = [d for d in differences(setting, name, arms, seeds, workdir) if d[0].endswith(f" - {CONTROL}")]
        for place, (_, values) in enumerate(found):
            mean, low, high = (100 * one for one in t_interval(values) if one is not None)  # two seeds or more
            axis.errorbar(mean, place, xerr=[[mean - low], [high - mean]], color="black", capsize=3)
            axis.plot(100 * np.asarray(values), [place] * len(values), "o", color="tab:blue", alpha=0.5, ms=4)
            axis.plot(mean, place, "D", color="black", ms=5)
        axis.axvline(0.0, color="grey", linewidth=1)
        axis.set_yticks(range(len(found)), [words.split(" - ")[0] for words, _ in found])
        axis.invert_yaxis()
        axis.set_title(f"{setting}: {name}", fontsize=10)
        axis.set_xlabel(f"points against {CONTROL}")
    for axis, arm in zip(axes[1], gates, strict=False):
        axis.set_visible(True)
        found = trajectories(settings[0], arm, seeds, workdir)
        step = found.pop("step")
        shown = {name: values for name, values in found.items() if name.startswith("weight_")}
        for colour, (name, values) in zip(("tab:blue", "tab:orange", "tab:green"), shown.items(), strict=False):
            axis.plot(step, values.T, color=colour, alpha=0.35, linewidth=1)
            axis.plot(step, values.mean(0), color=colour, label=name.removeprefix("weight_"))
        axis.set_ylim(0, 1)
        axis.set_title(f"{settings[0]}: {arm} gate", fontsize=10)
        axis.set_xlabel("step")
        axis.set_ylabel("weight")
        axis.legend(frameon=False, fontsize=8)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--workdir", type=Path, default=Path("runs/gated_study"), help="folder of the cells")
    flags.add_argument("--arms", default=",".join(ARMS), help="a part of the arms")
    flags.add_argument("--settings", default=",".join(STUDY), help=f"some of {', '.join(SETTINGS)}")
    flags.add_argument("--seeds", type=int, default=5, help="seeds 0 to this")
    flags.add_argument("--jobs", type=int, default=2, help="cells at a time; one core each is best")
    flags.add_argument("--figure", type=Path, help="where the plot goes")
    flags.add_argument("--dry-run", action="store_true", help="print the cost and the commands")
    given = flags.parse_args()
    arms, settings, seeds = given.arms.split(","), given.settings.split(","), list(range(given.seeds))
    for name, known in ((arms, ARMS), (settings, SETTINGS)):
        wrong = [one for one in name if one not in known]
        if wrong:
            sys.exit(f"error: {wrong[0]!r} is not known: choose from {', '.join(known)}")
    # seeds outermost: a study that is cut short has every arm equally often
    cells = [cell(given.workdir, s, a, k) for k, s, a in itertools.product(seeds, settings, arms)]
    todo = missing(cells)
    print(f"{len(cells)} cells, {len(todo)} to run, {given.jobs} at a time: about {minutes(todo, given.jobs):.0f} min")
    if given.dry_run:
        for one in todo:
            print(" ".join((sys.executable, *one.command)))
        return
    run(cells, given.workdir / "compiled", given.jobs)
    for setting in settings:
        print(f"\n{setting}\n\n{table(setting, arms, seeds, given.workdir)}\n")
        for name in MEASURES[setting]:
            print(f"{contrasts(setting, name, arms, seeds, given.workdir)}\n")
        for arm in arms:
            if arm in ("frozen", "learned", "usefulness"):
                print(f"{arm}: {gate_ends(setting, arm, seeds, given.workdir)}")
    if given.figure:
        draw(settings, arms, seeds, given.workdir, given.figure)
        print(f"figure: {given.figure}")


if __name__ == "__main__":
    main()
