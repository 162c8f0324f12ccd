"""What does a chain of stages buy? The claims of HPT (arXiv 2103.12718) on packaged images, three seeds.

    python benchmarks/hpt_study.py --workdir=runs/hpt_study [--parts=...] [--seeds=3] [--jobs=2]
                                   [--figure=FILE.png] [--dry-run | --tables]

configs/hpt_moco.py:earth, MoCo-v2 on a small ResNet: the base is trained on photographs, the source on satellite
images, the target is a shaded relief of the same places, judged by a converged logistic regression on 1,485 labelled
tiles of 12 regions (448 to test on). Parts:

    convergence   Target (from scratch), HPT and HPT-BN (norms alone) after 25 to 400 steps on the target, each length a
                  run with a cosine of its own; and the base, as it is and with the target's batch statistics
    sequential    base and source, and base, source and target, against HPT of the same length
    augmentation  HPT and Target with the five sets of augmentations, against themselves with all of them
    data          HPT, HPT-BN and Target on 10 and 25 % of the target's images

Stages are shared: every seed trains one base and one source. Seeds change the initial network and every draw, the base
included, so that the spread holds what the paper's leaves out, where one pretraining was judged three times. Speed-up
is the number of steps at which Target is best over that at which HPT first reaches Target's final accuracy; its
interval is a bootstrap over seeds.

Each cell is a process on a core of its own; a cell that has its report is not run again, so that the study goes on
where it stopped. The most it may cost is printed before anything runs, and it stops where that will not hold.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from cells import Cell, by_seed, finished, minutes, missing, run, spread

from gssl_jax.evals.intervals import t_interval

LENGTHS = (25, 50, 100, 200, 400)  # steps on the target
MIDDLE = 200  # steps of every comparison at one length, where the cost of five sets of augmentations is bearable
SHORT = 100  # of HPT in the study of augmentations: the paper has 5,000 against Target's 100,000
SHARES = (10, 25)  # per cent of the target's images
TRIALS = ("no_grey", "no_colour", "crop_blur", "crop")
CURVES = ("target", "hpt", "hpt_bn")
MEASURE = "linear/top1"
PARTS = ("convergence", "sequential", "augmentation", "data")
FLAGS = {  # the paper has no watch that stops a stage; the rest saves time
    "continuation.watch": "off",
    "evals.lowshot.shots": "(5,)",
    "evals.lowshot.draws": "10",
    "evals.tsne_points": "50",
}
STARTUP, STEP = 45.0, 0.45  # at most, seconds of a cell and of a step of 64 images on one core
BEFORE = 400  # steps of the base, and of the source


class Setting(NamedTuple):
    """One cell without its seed; `steps` on the target, 0 for an arm that is not trained there."""

    arm: str
    steps: int
    augment: str = "baseline"
    percent: int = 100


def settings(parts: Sequence[str]) -> list[Setting]:
    """The cells of some parts, each once; what others share with first."""
    found = [Setting("base", 0), Setting("base_source", 0)]
    if "convergence" in parts:
        found += [Setting("base_refreshed", 0), *(Setting(a, n) for n, a in itertools.product(LENGTHS, CURVES))]
    if "sequential" in parts:
        found += [Setting("hpt", MIDDLE), Setting("base_source_target", MIDDLE)]
    if "augmentation" in parts:
        found += [Setting(a, n, t) for t in ("baseline", *TRIALS) for a, n in (("hpt", SHORT), ("target", MIDDLE))]
    if "data" in parts:
        found += [Setting(a, MIDDLE, percent=p) for p in (*SHARES, 100) for a in CURVES]
    return list(dict.fromkeys(found))


def folder(workdir: Path, one: Setting, seed: int) -> Path:
    """The run folder of a cell."""
    return workdir / "cells" / f"{one.arm}-{one.steps}-{one.augment}-{one.percent}-{seed}" / one.arm


def cell(workdir: Path, one: Setting, seed: int) -> Cell:
    """The run of one setting and seed."""
    own = folder(workdir, one, seed)
    recipe = f"configs/hpt_moco.py:earth,steps={one.steps or MIDDLE},augment={one.augment},percent={one.percent}"
    flags = [f"--config.{key}={value}" for key, value in (FLAGS | {"seed": str(seed)}).items()]
    command = ("-m", "gssl_jax.arms", f"--config={recipe}", f"--arms={one.arm}", f"--workdir={own.parent}")
    trained = one.steps + (BEFORE if one.steps == 0 and one.arm in ("base", "base_source") else 0)
    return Cell((*command, f"--shared={workdir / 'stages'}", *flags), own, STARTUP + STEP * trained)


def scores(workdir: Path, one: Setting, seeds: Sequence[int], name: str = MEASURE) -> dict[int, float]:
    """One measure of a setting by seed, of the cells that are there."""
    return by_seed({s: folder(workdir, one, s) for s in seeds}, lambda results: results["eval"][name]["value"])


def paired(workdir: Path, one: Setting, other: Setting, seeds: Sequence[int], name: str = MEASURE) -> list[float]:
    """`one - other` by seed, of the seeds that both have."""
    here, there = (scores(workdir, each, seeds, name) for each in (one, other))
    return [here[s] - there[s] for s in seeds if s in here and s in there]


def judged(values: Sequence[float]) -> str:
    """Whether a difference that should be above 0 is: in words, by its 95 % interval."""
    if len(values) < 2:
        return "too few seeds"
    _, low, high = t_interval(np.asarray(values))
    return "reproduced" if low > 0 else "the opposite" if high < 0 else "not to be told apart"


def first_reached(curve: np.ndarray, goal: float) -> float:
    """The least of `LENGTHS` at which a curve is at `goal` or above it; infinity where it never is."""
    reached = np.flatnonzero(curve >= goal)
    return float(LENGTHS[reached[0]]) if len(reached) else float("inf")


def speed_up(target: np.ndarray, other: np.ndarray, resamples: int = 2000) -> tuple[float, float, float]:
    """Steps at which Target is best over those at which the other first reaches Target's last accuracy.

    Curves by seed [seeds, lengths]; the mean curves decide. (value, low, high), 0 where it is not reached; the interval
    is the middle 95 % of a bootstrap over seeds, drawn separately for both.
    """
    rng = np.random.default_rng(0)

    def ratio(own: np.ndarray, its: np.ndarray) -> float:
        mean = own.mean(0)
        return LENGTHS[int(mean.argmax())] / first_reached(its.mean(0), mean[-1])

    n, m = len(target), len(other)
    drawn = [ratio(target[rng.integers(0, n, n)], other[rng.integers(0, m, m)]) for _ in range(resamples)]
    return ratio(target, other), *(float(q) for q in np.quantile(drawn, (0.025, 0.975), method="nearest"))


def curve(workdir: Path, arm: str, seeds: Sequence[int]) -> np.ndarray:
    """[seeds, lengths] of the seeds that have every length."""
    found = [scores(workdir, Setting(arm, n), seeds) for n in LENGTHS]
    return np.array([[one[s] for one in found] for s in seeds if all(s in one for one in found)])


def rows(title: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(line)} |" for line in (title, ["---"] * len(title), *lines)) + "\n"


def convergence(workdir: Path, seeds: Sequence[int]) -> None:
    """The curves, the base without training on the target, and the speed-ups."""
    lines = [[arm, *(spread([*scores(workdir, Setting(arm, n), seeds).values()]) for n in LENGTHS)] for arm in CURVES]
    for arm in ("hpt", "hpt_bn"):
        ahead = [paired(workdir, Setting(arm, n), Setting("target", n), seeds) for n in LENGTHS]
        lines.append([f"{arm} - target", *map(spread, ahead)])
    print(rows(["steps on the target", *map(str, LENGTHS)], lines))
    for arm in ("base", "base_refreshed"):
        print(f"{arm}: {spread([*scores(workdir, Setting(arm, 0), seeds).values()])}")
    bases = {arm: Setting(arm, 0) for arm in ("base", "base_refreshed")}
    last = Setting("hpt", LENGTHS[-1])
    for words, other in (("base", bases["base"]), ("base with refreshed statistics", bases["base_refreshed"]),
                         ("Target", Setting("target", LENGTHS[-1]))):  # fmt: skip
        values = paired(workdir, last, other, seeds)
        print(f"HPT after {LENGTHS[-1]} steps above {words}: {spread(values)} points: {judged(values)}")
    target = curve(workdir, "target", seeds)
    for arm in ("hpt", "hpt_bn"):
        own = curve(workdir, arm, seeds)
        if len(target) and len(own):
            value, low, high = speed_up(target, own)
            print(f"speed-up of {arm}: {value:g} ({low:g} to {high:g}; 0 = Target's last accuracy is not reached)")


def sequential(workdir: Path, seeds: Sequence[int]) -> None:
    """Each chain at one length, and whether the longest is best."""
    chains = [Setting("base", 0), Setting("base_source", 0), Setting("target", MIDDLE), Setting("hpt", MIDDLE),
              Setting("base_source_target", MIDDLE)]  # fmt: skip
    lines = [[one.arm, spread([*scores(workdir, one, seeds).values()])] for one in chains]
    print(rows(["chain", MEASURE], lines))
    for other in chains[:-1]:
        values = paired(workdir, chains[-1], other, seeds)
        print(f"base_source_target above {other.arm}: {spread(values)} points: {judged(values)}")


def augmentation(workdir: Path, seeds: Sequence[int]) -> None:
    """What leaving out augmentations costs HPT and Target, each against itself."""
    arms = {"hpt": SHORT, "target": MIDDLE}
    lines = []
    for trial in TRIALS:
        lost = {a: paired(workdir, Setting(a, n, trial), Setting(a, n), seeds) for a, n in arms.items()}
        more = [own - other for own, other in zip(lost["hpt"], lost["target"], strict=False)]
        lines.append([trial, *(spread(values) for values in lost.values()), spread(more), judged(more)])
    print(rows(["set", "HPT, points", "Target, points", "HPT loses less by", ""], lines))


def data(workdir: Path, seeds: Sequence[int]) -> None:
    """Every share of the target's images, and whether HPT-BN is best at the least of them."""
    shares = (*SHARES, 100)
    lines = [
        [a, *(spread([*scores(workdir, Setting(a, MIDDLE, percent=p), seeds).values()]) for p in shares)]
        for a in CURVES
    ]
    print(rows(["images of the target", *(f"{p} %" for p in shares)], lines))
    least = {a: Setting(a, MIDDLE, percent=SHARES[0]) for a in CURVES}
    for one, other in (("hpt", "target"), ("hpt_bn", "target"), ("hpt_bn", "hpt")):
        values = paired(workdir, least[one], least[other], seeds)
        print(f"{one} above {other} at {SHARES[0]} %: {spread(values)} points: {judged(values)}")


def draw(workdir: Path, seeds: Sequence[int], file: Path) -> None:
    """The curves of convergence, and accuracy by the share of the target's images where that was studied."""
    from matplotlib.figure import Figure

    both = any(scores(workdir, Setting(arm, MIDDLE, percent=SHARES[0]), seeds) for arm in CURVES)
    figure = Figure(figsize=(9.6 if both else 5.6, 3.8), layout="constrained")
    left, *others = figure.subplots(1, 1 + both, sharey=True, squeeze=False)[0]
    looks = {
        "target": ("Target", "tab:grey", "s"),
        "hpt": ("HPT", "tab:blue", "o"),
        "hpt_bn": ("HPT-BN", "tab:orange", "^"),
    }

    def line(axis, arm: str, places: Sequence[int], found: Sequence[dict[int, float]]) -> None:
        words, colour, mark = looks[arm]
        shown = [(p, *t_interval(np.array([*f.values()]))) for p, f in zip(places, found, strict=True) if len(f) > 1]
        if shown:
            at, mean, low, high = (np.array(column) for column in zip(*shown, strict=True))
            axis.plot(at, 100 * mean, marker=mark, color=colour, label=words)
            axis.fill_between(at, 100 * low, 100 * high, color=colour, alpha=0.15, linewidth=0)

    for arm in CURVES:
        line(left, arm, LENGTHS, [scores(workdir, Setting(arm, n), seeds) for n in LENGTHS])
        for right in others:
            shares = (*SHARES, 100)
            line(right, arm, shares, [scores(workdir, Setting(arm, MIDDLE, percent=p), seeds) for p in shares])
    for arm, style, words in (("base", "--", "base"), ("base_refreshed", ":", "base, statistics refreshed")):
        found = [*scores(workdir, Setting(arm, 0), seeds).values()]
        if found:
            left.axhline(100 * float(np.mean(found)), color="black", linestyle=style, linewidth=1, label=words)
    left.set_xscale("log")
    left.set_xticks(LENGTHS, [str(n) for n in LENGTHS])
    left.minorticks_off()
    left.set_xlabel("steps on the target")
    left.set_ylabel("linear accuracy, per cent")
    for right in others:
        right.set_xscale("log")
        right.set_xticks((*SHARES, 100), [str(p) for p in (*SHARES, 100)])
        right.minorticks_off()
        right.set_xlabel(f"per cent of the target's images, {MIDDLE} steps")
    left.legend(frameon=False, fontsize=8)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--workdir", type=Path, default=Path("runs/hpt_study"), help="folder of the cells")
    flags.add_argument("--parts", default=",".join(PARTS), help="some of them")
    flags.add_argument("--seeds", type=int, default=3, help="seeds 0 to this")
    flags.add_argument("--jobs", type=int, default=2, help="cells at a time; one core each is best")
    flags.add_argument("--figure", type=Path, help="where the plot goes")
    flags.add_argument("--dry-run", action="store_true", help="print the cost and the commands")
    flags.add_argument("--tables", action="store_true", help="print the tables of what is there and run nothing")
    given = flags.parse_args()
    parts, seeds = given.parts.split(","), list(range(given.seeds))
    wrong = [part for part in parts if part not in PARTS]
    if wrong:
        sys.exit(f"error: {wrong[0]!r} is not known: choose from {', '.join(PARTS)}")
    # seeds outermost: a study that is cut short has every setting equally often; the shared stages first
    every = [cell(given.workdir, one, seed) for seed in seeds for one in settings(parts)]
    shared = [one for one in every if finished(one.folder) is None and one.folder.name in ("base", "base_source")]
    todo = missing(every)
    print(f"{len(every)} cells, {len(todo)} to run, {given.jobs} at a time: about {minutes(todo, given.jobs):.0f} min")
    if given.dry_run:
        for one in todo:
            print(" ".join((sys.executable, *one.command)))
        return
    spent = 0.0
    for name in (
        () if given.tables else ("base", "base_source", None)
    ):  # an arm shares the stages that one of an earlier round has trained
        batch = todo if name is None else [one for one in shared if one.folder.name == name]
        spent = run(batch, given.workdir / "compiled", given.jobs, spent)
    for part in parts:
        print(f"\n## {part}\n")
        {"convergence": convergence, "sequential": sequential, "augmentation": augmentation, "data": data}[part](
            given.workdir, seeds
        )
    if given.figure:
        draw(given.workdir, seeds, given.figure)
        print(f"figure: {given.figure}")


if __name__ == "__main__":
    main()
