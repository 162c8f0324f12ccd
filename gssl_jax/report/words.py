"""The scores of a run as rows: names of measures, differences, and the tables of the console.

A labelled method has rows of two kinds. Its own classifier (`own_rows`) is judged as it was trained, at the state that
validation images chose and at the last step; its features (`frozen_rows`) are judged like those of any other backbone.

Two scores count as different when their 95 % intervals do not overlap. That is stricter than a test at 5 %, and it
is what the eye reads off the table; anything closer is called "no clear difference".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rich.console import Group, RenderableType
from rich.table import Table

from gssl_jax.knobs import at, is_number
from gssl_jax.report.measures import KINDS, LAST, OWN, RAREST, group, kind, kind_of, label, robust, without_kind

CONTROLS = {
    "started": "what it started from",
    "refreshed": "the same, batch statistics refreshed",
    "untrained": "untrained",
    "pixels": "raw pixels",
}
"""Backbones that the trained one is compared with, in the order of the columns, by the name in results.json."""

ROWS = ("knn/top1", "linear/top1", "linear_sgd/top1", "lowshot_1/top1", "lowshot_2/top1", "lowshot_5/top1")
UNEVEN = 2.0
"""Training images of the richest class over those of the rarest, from which on groups of classes are told apart: in a
balanced set thirds by rank are thirds by the order of the classes, and say nothing."""

PRETEXTS = {"lorot_e": "LoRot-E", "lorot_i": "LoRot-I", "relative_position": "relative position"}


class Score(NamedTuple):
    """One entry of results.json: fractions in [0, 1]; `low` and `high` are None where no interval was stored."""

    value: float
    low: float | None
    high: float | None
    n: int | None
    protocol: Any
    interval: str | None


class Row(NamedTuple):
    """One measure (`key`, and `label` in words) for the trained backbone and for every control that has it, and of a
    method's own classifier at the last step too; None where it was not measured."""

    key: str
    label: str
    trained: Score | None
    controls: Mapping[str, Score]
    last: Score | None = None

    @property
    def own(self) -> bool:
        """Whether this is a measure of the method's own classifier."""
        return self.key.startswith(OWN)

    def of(self, name: str) -> Score | None:
        """The score of the backbone `name`: "trained" or a control."""
        return self.trained if name == "trained" else self.controls.get(name)


class ClassScores(NamedTuple):
    """Accuracy of each class, a fraction or None without test images, and its training images; all by class."""

    names: tuple[str, ...]
    accuracies: tuple[float | None, ...]
    images: tuple[int, ...]

    @property
    def uneven(self) -> bool:
        """Whether some classes have clearly more training images than others."""
        return max(self.images) >= UNEVEN * max(1, min(self.images))


def score(entry: Any) -> Score | None:
    """The score of one results.json entry, or None where it is null, absent or has no finite value."""
    if not isinstance(entry, Mapping) or not is_number(at(entry, "value")):
        return None
    low, high = at(entry, "low"), at(entry, "high")
    whole = is_number(low) and is_number(high)
    n = at(entry, "n")
    return Score(
        float(entry["value"]),
        float(low) if whole else None,
        float(high) if whole else None,
        int(n) if is_number(n) else None,
        at(entry, "protocol"),
        at(entry, "interval"),
    )


def comparison_table(results: Mapping[str, Any]) -> list[Row]:
    """The rows of the table: the method's own accuracy, k-NN, linear and images per class first, then what else
    `eval` holds.

    Args:
      results: the content of results.json (schema 1). `eval` and `controls` may be null or absent.

    Returns:
      One `Row` for each measure that at least one of the three backbones has.
    """
    trained = results["eval"] if isinstance(at(results, "eval"), Mapping) else {}
    classes = class_scores(results)
    balanced = classes is not None and not classes.uneven
    own = [key for key in trained if key.startswith(OWN) and not (balanced and group(key))]
    others = [key for key in trained if key not in ROWS and not key.startswith((OWN, LAST))]
    tables = _controls(results)
    rows = []
    for key in (*own, *ROWS, *others):
        scores = {name: one for name, table in tables.items() if (one := score(table.get(key)))}
        at_end = last_of(trained)
        row = Row(key, label(key), score(trained.get(key)), scores, score(at_end.get(key)))
        if row.trained or row.controls or row.last:
            rows.append(row)
    return rows


def _controls(results: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The entries of every control that has any, in the order of the columns."""
    given = at(results, "controls")
    given = given if isinstance(given, Mapping) else {}
    names = [*(name for name in CONTROLS if name in given), *(name for name in given if name not in CONTROLS)]
    return {name: given[name] for name in names if isinstance(given[name], Mapping)}


def columns_of(rows: Sequence[Row]) -> dict[str, str]:
    """The controls that have a score in these rows, with their titles, in the order of the columns."""
    found = dict.fromkeys(name for row in rows for name in row.controls)
    order = [*(name for name in CONTROLS if name in found), *(name for name in found if name not in CONTROLS)]
    return {name: CONTROLS.get(name, name.replace("_", " ")) for name in order}


def last_of(entries: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of the last step, by the names of those they stand beside."""
    return {key.removeprefix(LAST): entry for key, entry in entries.items() if key.startswith(LAST)}


def own_rows(rows: Sequence[Row]) -> list[Row]:
    """Measures of the method's own classifier."""
    return [row for row in rows if row.own]


def frozen_rows(rows: Sequence[Row]) -> list[Row]:
    """Measures of small classifiers on frozen features."""
    return [row for row in rows if not row.own]


def labelled(results: Mapping[str, Any]) -> bool:
    """Whether the method has a classifier of its own."""
    entries = at(results, "eval")
    return isinstance(entries, Mapping) and any(key.startswith(OWN) for key in entries)


def class_scores(results: Mapping[str, Any]) -> ClassScores | None:
    """Accuracy by class of the method's own classifier on clean images, or None where it was not stored."""
    entries = at(results, "eval")
    entry = entries.get(f"{OWN}/top1") if isinstance(entries, Mapping) else None
    each, images = at(entry, "protocol.per_class"), at(entry, "protocol.train_images")
    if not isinstance(each, Mapping) or not isinstance(images, list) or len(each) != len(images) or not images:
        return None
    accuracies = tuple(float(one) if is_number(one) else None for one in each.values())
    return ClassScores(tuple(map(str, each)), accuracies, tuple(int(n) for n in images))


def rarest(rows: Sequence[Row]) -> Row | None:
    """The row of the classes with the fewest training images."""
    return next((row for row in rows if row.own and group(row.key) in RAREST), None)


def pretext_words(name: str) -> str:
    """The name of a pretext as its paper writes it: "LoRot-E", "relative position"."""
    return PRETEXTS.get(name, name.replace("_", " "))


def per_cent(value: float) -> str:
    """A fraction as per cent with one digit, without the sign: 0.4821 -> "48.2"."""
    return f"{100 * value:.1f}"


def interval_words(one: Score) -> str:
    """The interval in per cent, "46.9 to 49.5", or "no interval"."""
    return "no interval" if one.low is None or one.high is None else f"{per_cent(one.low)} to {per_cent(one.high)}"


def interval_said(one: Score) -> str:
    """The interval as part of a sentence: "95 % interval 46.9 to 49.5"."""
    return "no interval" if one.low is None else f"95 % interval {interval_words(one)}"


def signed(points: float) -> str:
    """Points with their sign and a true minus: +1.2, \u22120.4."""
    return f"{points:+.1f}".replace("-", "\u2212")


def listing(names: Sequence[str]) -> str:
    """Names as a sentence has them: "a", "a and b", "a, b and c"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def compare(one: Score, other: Score) -> tuple[float, str]:
    """Difference in points, taken between the printed numbers, and above, below, unclear or unknown (no intervals)."""
    points = round(float(per_cent(one.value)) - float(per_cent(other.value)), 1)
    if one.low is None or one.high is None or other.low is None or other.high is None:
        return points, "unknown"
    if one.low > other.high:
        return points, "above"
    return points, "below" if one.high < other.low else "unclear"


def own_columns(results: Mapping[str, Any]) -> tuple[str, ...]:
    """The columns of the own classifier's table: the state that is judged, and the last one where it is another."""
    chosen, steps = at(results, "run.selected_step"), at(results, "run.steps")
    if not last_of(at(results, "eval") or {}):
        return (f"at step {steps:,}",) if is_number(steps) else ("trained",)
    return (
        f"chosen, step {chosen:,}" if is_number(chosen) else "chosen",
        f"last, step {steps:,}" if is_number(steps) else "last",
    )


def tables_of(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows on features in tables of one kind each: accuracies first, then the kinds of several labels an image and of
    masks, those of robustness last."""
    others = [row for row in rows if robust(row.key) is None]
    tables = [[row for row in others if kind_of(row.key) is one] for one in KINDS.values()]
    tables.append([row for row in rows if robust(row.key) is not None])
    return [table for table in tables if table]


def console_table(results: Mapping[str, Any]) -> RenderableType:
    """The same rows for the terminal: score and 95 % interval times 100; a labelled method's own come first."""
    rows = comparison_table(results)
    own, frozen = own_rows(rows), frozen_rows(rows)
    tables = []
    if own:
        columns = own_columns(results)
        cells = [(row.label, (row.trained, row.last)[: len(columns)]) for row in own]
        tables.append(_table(CONSOLE["accuracy"], ("own classifier", *columns), cells))
    for part in tables_of(frozen) or ([] if own else [[]]):
        named = columns_of(part) or {name: CONTROLS[name] for name in ("untrained", "pixels")}
        scores = [(without_kind(row.label), (row.trained, *map(row.of, named))) for row in part]
        name = kind(part[0].key) if part else "accuracy"
        caption = CONSOLE.get(name, f"{name} on test images, per cent (95 % interval)")
        caption = "" if own and name == "accuracy" else caption
        caption = CONSOLE["robustness"] if part and robust(part[0].key) else caption
        tables.append(_table(caption, ("frozen features", "trained", *named.values()), scores))
    return Group(*tables)


CONSOLE = {
    "accuracy": "Accuracy on test images, per cent (95 % interval)",
    "mean AUROC": "Mean AUROC on test images, times 100 (95 % interval)",
    "mean IoU": "Mean IoU of masks on test images, times 100 (95 % interval)",
    "robustness": "Linear classifier of clean images elsewhere, per cent (95 % interval)",
}
WIDE = 3
"""Columns of scores that fit into 80 characters with the interval beside the score; of more it stands below."""


def _table(
    caption: str, headings: Sequence[str], rows: Sequence[tuple[str, tuple[Score | None, ...]]]
) -> RenderableType:
    table = Table(title=caption or None, show_lines=len(headings) > 1 + WIDE)
    form = "{} ({})" if len(headings) <= 1 + WIDE else "{}\n{}"
    for place, name in enumerate(headings):
        table.add_column(name, justify="right" if place else "left")
    for words, scores in rows:
        cells = ("-" if one is None else form.format(per_cent(one.value), _short(one)) for one in scores)
        table.add_row(words, *cells)
    return table


def _short(one: Score) -> str:
    """The interval with a dash: three columns of them fit into 80 characters."""
    return interval_words(one).replace(" to ", "\u2013")
