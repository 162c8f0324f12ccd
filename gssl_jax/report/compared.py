"""Finished runs to lay side by side: what each left in its folder, the scores of all by measure, and what differs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gssl_jax.errors import UserError
from gssl_jax.knobs import at, flat, is_number
from gssl_jax.report.facts import duration, text_of
from gssl_jax.report.measures import OWN
from gssl_jax.report.reading import RunFiles, read_run
from gssl_jax.report.words import Row, Score, comparison_table
from gssl_jax.runs.archive import Kept, read_pictures
from gssl_jax.runs.folder import ABSENT, RunFolder, differing

MOST_RUNS = 8
"""Columns that can be told apart, by the eye and by the looks of the charts."""


class Compared(NamedTuple):
    """A finished run under the name that the page gives it; `kept` is None where there are no pictures, and
    `problem` then says why."""

    name: str
    path: Path
    files: RunFiles
    rows: tuple[Row, ...]
    kept: Kept | None
    problem: str

    def pictures(self, kind: str) -> dict[str, Any] | None:
        """The arrays of one kind of picture, or None."""
        return self.kept.pictures.get(kind) if self.kept else None


class Measure(NamedTuple):
    """One measure with the score of every run, None where a run was not measured so."""

    key: str
    label: str
    scores: tuple[Score | None, ...]

    @property
    def own(self) -> bool:
        """Whether this is a measure of the methods' own classifiers."""
        return self.key.startswith(OWN)

    @property
    def complete(self) -> bool:
        """Whether every run has it."""
        return None not in self.scores


def read_compared(name: str, path: Path) -> Compared:
    """Reads a run folder. Raises UserError where it is none, or where the run is not finished; pictures may lack."""
    folder = RunFolder(path)
    if not path.is_dir():
        raise UserError(f"{path}: there is no such folder; give the folders of finished runs")
    if not folder.config.is_file():
        raise UserError(f"{path} is not a run folder: it has no {folder.config.name}")
    if not folder.results.is_file():
        raise UserError(
            f"{path} is not finished: it has no {folder.results.name}; the command that began the run goes on there"
        )
    files = read_run(path)
    for said in files.problems:
        if said.startswith((folder.config.name, folder.results.name)):
            raise UserError(f"{path}: {said.rstrip('.')}")
    kept, problem = None, ""
    try:
        kept = read_pictures(folder.pictures)
    except FileNotFoundError:
        problem = f"{name} has no {folder.pictures.name}: it was made before runs kept one."
    except ValueError:
        problem = f"The {folder.pictures.name} of {name} could not be read."
    return Compared(name, path, files, tuple(comparison_table(files.results)), kept, problem)


def measures(runs: Sequence[Compared]) -> list[Measure]:
    """Every measure that at least one run has, in the order of the first run's table."""
    return _by_measure(runs, lambda run, row: row.trained)


def last_measures(runs: Sequence[Compared]) -> list[Measure]:
    """The own classifiers at the last step; empty where validation chose another step in no run."""
    if not any(row.last for run in runs for row in run.rows):
        return []
    return _by_measure(runs, _last)


def _last(run: Compared, row: Row) -> Score | None:
    """The score of the last step, also where that was the one chosen."""
    chosen, steps = (at(run.files.results, f"run.{name}") for name in ("selected_step", "steps"))
    return row.last or (row.trained if row.own and chosen == steps else None)


def _by_measure(runs: Sequence[Compared], pick: Callable[[Compared, Row], Score | None]) -> list[Measure]:
    tables = [{row.key: (row.label, pick(run, row)) for row in run.rows} for run in runs]
    labels = {key: label for table in reversed(tables) for key, (label, _) in table.items()}
    order = dict.fromkeys(key for table in tables for key in table)
    found = [Measure(key, labels[key], tuple(table.get(key, ("", None))[1] for table in tables)) for key in order]
    return [measure for measure in found if any(measure.scores)]


def settings(runs: Sequence[Compared]) -> list[tuple[str, tuple[str, ...]]]:
    """Knobs that may change results and that the runs do not share, with their values in words; the chain first.

    What only one chain's stages have is no difference of its own: the chain names those stages. A stage that several
    runs have is compared by the values in force there."""
    own = {key for run in runs for key in flat(_stages(run.files.config))}
    found = differing(*(_in_force(run.files.config, own) for run in runs))
    kept = {key: values for key, values in found.items() if not key.startswith("stage.") or _unlike(values)}
    order = sorted(kept, key=lambda key: key != "stages")
    return [(key, _in_words(kept[key])) for key in order]


def _stages(config: Mapping[str, Any]) -> dict[str, Any]:
    """What each stage of the chain changes, by its name; stages that the chain does not have are left out."""
    groups, chain = config.get("stage"), config.get("stages")
    if not isinstance(groups, Mapping) or not isinstance(chain, list):
        return {}
    return {name: groups[name] for name in chain if name in groups}


def _in_force(config: Mapping[str, Any], keys: set[str]) -> dict[str, Any]:
    """A configuration with the value of each key, `<stage>.<knob>`, that holds in a stage of its chain."""
    base = {name: group for name, group in config.items() if name != "stage"}
    plain, changed, chain = flat(base), flat(_stages(config)), _stages(config)
    values = {}
    for key in keys:
        stage, _, knob = key.partition(".")
        if stage in chain:
            values[f"stage.{key}"] = changed.get(key, plain.get(knob, ABSENT))
    return base | values


def _unlike(values: Sequence[Any]) -> bool:
    """Whether a knob has two values or more among the runs that have it."""
    return len({json.dumps(value) for value in values if value != ABSENT}) > 1


def _in_words(values: Sequence[Any]) -> tuple[str, ...]:
    """Values as somebody would write them; as JSON where that makes different ones look alike."""
    words = tuple("\u2013" if value == ABSENT else text_of(value) or "none" for value in values)
    return words if len(set(words)) > 1 else tuple(json.dumps(value) for value in values)


def circumstances(runs: Sequence[Compared]) -> list[tuple[str, tuple[str, ...]]]:
    """What the runs cost, and the device and versions where they differ."""

    def of(path: str) -> tuple[Any, ...]:
        return tuple(at(run.files.results, f"run.{path}") for run in runs)

    lines: list[tuple[str, tuple[Any, ...]]] = [
        (
            "training",
            tuple(
                duration(seconds).replace(" ", "\u00a0") if is_number(seconds) else None for seconds in of("seconds")
            ),
        ),
        ("parameters of the backbone", tuple(f"{n:,}" if is_number(n) else None for n in of("parameters"))),
    ]
    names = dict.fromkeys(name for table in of("versions") if isinstance(table, dict) for name in table)
    lines += [(name, of(path)) for name, path in [("device", "device"), *((n, f"versions.{n}") for n in names)]
              if len(set(of(path))) > 1]  # fmt: skip
    return [(name, tuple("\u2013" if one is None else str(one) for one in values)) for name, values in lines]


def same_images(runs: Sequence[Compared], kind: str) -> bool | None:
    """Whether all runs had one set of images of this `kind`, `eval_test` for judging or `eval_train` for learning with
    labels, by its fingerprint; None where a run names none."""
    prints = [at(run.files.results, f"run.data.{kind}.fingerprint") for run in runs]
    return None if None in prints else len(set(prints)) == 1


def same_groups(found: Sequence[Measure]) -> bool:
    """Whether a group of classes is made of the same classes in all runs that have it."""
    return all(
        len({tuple(at(one.protocol, "classes") or ()) for one in measure.scores if one is not None}) <= 1
        for measure in found
    )
