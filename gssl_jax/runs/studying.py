"""Running the cells of a study: what they will cost, then one after the other, each end written down."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import NamedTuple

from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table

from gssl_jax.errors import UserError
from gssl_jax.runs import costs
from gssl_jax.runs.cells import Ended, Work, pinned, side_by_side
from gssl_jax.runs.folder import RunFolder
from gssl_jax.runs.study import Cell, Folder, commands, durations, waiting


class Plan(NamedTuple):
    """What is to be run: the `wanted` cells and those `todo`, how long every method trains (in its optim.unit, None
    where that cannot be said), what a step costs by method, and the prices that the estimate is made with."""

    wanted: list[Cell]
    todo: list[Cell]
    durations: dict[str, float | None]
    costs: Mapping[str, costs.Cost]
    prices: costs.Prices
    jobs: int

    def steps(self, method: str) -> int:
        """Of a cell of a method."""
        return round((self.durations[method] or 0.0) * self.costs[method].unit)

    def flops(self, method: str) -> float:
        """Of all steps of a cell."""
        return self.costs[method].flops * self.steps(method)

    def seconds(self, cell: Cell) -> float:
        """What a cell is expected to take."""
        return self.prices.seconds(cell.method, self.flops(cell.method))

    @property
    def minutes(self) -> float:
        """What is to be run, `jobs` at a time."""
        return sum(map(self.seconds, self.todo)) / min(self.jobs, max(1, len(self.todo))) / 60


def plan(
    config: ConfigDict,
    recipes: Mapping[str, ConfigDict],
    wanted: Sequence[Cell],
    folder: Folder,
    jobs: int,
    retry: bool,
) -> Plan:
    """What running the `wanted` cells will cost; `recipes` are those of every method among them and of the reference,
    as the recipe itself has them. Programs may be compiled for it, which the cells then find."""
    todo = waiting(folder, wanted, list(config.judged), retry)
    reference = config.budget.reference
    if not todo:
        found, step = costs.look(recipes, None, folder.costs, folder.compiled, [])
        lengths = durations(config, found, recipes[reference])
        free = costs.Prices(1.0, 0.0, dict.fromkeys(recipes, 0.0), "nothing is left to run")
        return Plan(list(wanted), [], lengths, found, free, jobs)
    found, _ = costs.look(recipes, None, folder.costs, folder.compiled, [])
    lengths = durations(config, found, recipes[reference])
    whole = Plan(list(wanted), todo, lengths, found, costs.Prices(1.0, 0.0, {}, ""), jobs)
    past = spent(whole, folder)
    timed = step = None
    if not past:
        timed = next((name for name in (reference, *recipes) if found[name].flops), None)
        if timed is not None:
            step = costs.look(recipes, timed, folder.costs, folder.compiled, pinned(0, jobs))[1]
    flops = found[timed].flops if timed else 0.0
    return whole._replace(prices=costs.prices(past, step, flops, config.overhead))


def spent(whole: Plan, folder: Folder) -> list[costs.Spent]:
    """What the finished cells among those wanted took."""
    found = []
    for cell in whole.wanted:
        entry, results = folder.entry(cell), RunFolder(folder.run(cell)).read_results()
        if results is not None and entry is not None and entry["state"] == "finished":
            training = float(results["run"]["seconds"])
            found.append(costs.Spent(cell.method, entry["seconds"], training, whole.flops(cell.method)))
    return found


def tell(config: ConfigDict, whole: Plan, console: Console) -> None:
    """The estimate: every method, then all of it, and how it was found."""
    table = Table(title="what it will cost", title_justify="left")
    for name in ("method", "cells", "to run", "steps", "Tflop a cell", "min a cell"):
        table.add_column(name, justify="left" if name == "method" else "right")
    for method in dict.fromkeys(cell.method for cell in whole.wanted):
        every = [cell for cell in whole.wanted if cell.method == method]
        todo = [cell for cell in whole.todo if cell.method == method]
        cost = whole.costs[method]
        minutes = f"{whole.seconds(todo[0]) / 60:.1f}" if todo and cost.flops else "-"
        numbers = (f"{whole.steps(method):,}", f"{whole.flops(method) / 1e12:.3g}") if cost.flops else ("?", "?")
        table.add_row(method, f"{len(every)}", f"{len(todo)}", *numbers, minutes)
    console.print(table)
    for method, cost in whole.costs.items():
        if cost.problem:
            console.print(f"{method} could not be counted: {cost.problem}", style="yellow", highlight=False)
    budget = f"as many operations as {config.budget.reference}" if config.budget.kind == "flops" else "the same steps"
    console.print(
        f"{len(whole.wanted)} cells, {len(whole.todo)} to run, {whole.jobs} at a time, every method {budget}: about "
        f"{whole.minutes:.0f} min ({whole.prices.how})",
        highlight=False, soft_wrap=True,
    )  # fmt: skip


def check_limit(config: ConfigDict, whole: Plan) -> None:
    """Raises UserError where the estimate passes `limit`."""
    if config.limit and whole.minutes > config.limit:
        raise UserError(
            f"this would take about {whole.minutes:.0f} min, more than limit={config.limit:g}: give it longer "
            f"(--config.limit={whole.minutes * 1.2:.0f}.0; 0.0 = as long as it takes), fewer seeds, or a part "
            "(--cells=PATTERN)"
        )


class Outcome(NamedTuple):
    """How running ended: the signal that stopped it (0 = none), and by name the cells that failed and those not begun,
    since the time was over or another process is at them."""

    signal: int
    failed: list[str]
    left: list[str]


def run(config: ConfigDict, whole: Plan, folder: Folder, console: Console) -> Outcome:
    """Runs what is to be run; a cell that fails is written down and the others go on."""
    begun = time.perf_counter()
    every = {cell.name: cell for cell in whole.todo}
    failed, left, ended = list[str](), list[str](), list[str]()
    took: dict[str, float] = {}

    with ExitStack() as stack:

        def may_begin(work: Work) -> bool:
            cell, elapsed = every[work.name], (time.perf_counter() - begun) / 60
            late = config.limit and elapsed + whole.seconds(cell) / 60 > config.limit
            if late or not stack.enter_context(folder.held(cell)):
                left.append(work.name)
                return False
            return True

        def note(work: Work, how: Ended) -> bool:
            stopped = how.code in (-2, 128 + 2)
            entry = folder.note(every[work.name], how.code, how.seconds, how.said, stopped)
            ended.append(work.name)
            if entry["state"] == "finished":
                took[work.name] = how.seconds
            if entry["state"] == "failed":
                failed.append(work.name)
            rest = remaining(whole, ended, left, took)
            told = {"finished": "", "failed": f" failed: {entry['reason']}", "interrupted": " stopped and saved"}
            line = f"{len(ended)}/{len(every)} {work.name}: {how.seconds:.0f} s{told[entry['state']]}"
            style = {"failed": "red", "interrupted": "yellow"}.get(entry["state"], "")
            console.print(f"{line}; about {rest:.0f} min left", style=style, highlight=False, soft_wrap=True)
            return True

        works = [
            Work(cell.name, commands(config, cell, whole.durations[cell.method], folder), folder.log(cell))
            for cell in whole.todo
        ]
        signal = side_by_side(works, whole.jobs, folder.compiled, note, may_begin)
    left += [name for name in every if name not in ended and name not in left]
    return Outcome(signal, failed, left)


def remaining(whole: Plan, ended: Sequence[str], left: Sequence[str], took: Mapping[str, float]) -> float:
    """Minutes that the cells which are neither ended nor left out will take, corrected by how those that finished
    compare with what was expected of them."""
    expected = {cell.name: whole.seconds(cell) for cell in whole.todo}
    done = sum(expected[name] for name in took)
    factor = sum(took.values()) / done if done else 1.0
    rest = sum(value for name, value in expected.items() if name not in ended and name not in left)
    return factor * rest / whole.jobs / 60
