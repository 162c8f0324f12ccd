"""The comparison in numbers and the verdict in words; the report and the console read the same rows.

Two scores count as different when their 95 % intervals do not overlap. That is stricter than a test at 5 %, and it
is what the eye reads off the table; anything closer is called "no clear difference".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rich.table import Table

from gssl_jax.knobs import at, is_number

CONTROLS = {"untrained": "untrained", "pixels": "raw pixels"}
ROWS = ("knn/top1", "linear/top1", "lowshot_1/top1", "lowshot_2/top1", "lowshot_5/top1")
# The question of a person with few labels comes first, and the least noisy of its answers.
HEADLINES = ("lowshot_5/top1", "lowshot_2/top1", "lowshot_1/top1", "linear/top1", "knn/top1")
TONES = {
    "above": ("good", "Clear gain"),
    "below": ("bad", "Worse than untrained"),
    "unclear": ("unclear", "No clear difference"),
    "unknown": ("unclear", "Difference without an interval"),
}
ONE_SEED = "One training run with one seed: the intervals cover the choice of images, not the luck of training."


class Score(NamedTuple):
    """One entry of results.json: fractions in [0, 1]; `low` and `high` are None where no interval was stored."""

    value: float
    low: float | None
    high: float | None
    n: int | None
    protocol: Any
    interval: str | None


class Row(NamedTuple):
    """One measure (`key`, and `label` in words) for the three backbones; None where it was not measured."""

    key: str
    label: str
    trained: Score | None
    untrained: Score | None
    pixels: Score | None


class Verdict(NamedTuple):
    """`tone` is good, unclear, bad or none; `row` is the measure of the headline (None without labels)."""

    tone: str
    badge: str
    headline: str
    sentences: tuple[str, ...]
    row: Row | None


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
    """The rows of the table: k-NN, linear and images per class first, then what else `eval` holds.

    Args:
      results: the content of results.json (schema 1). `eval` and `controls` may be null or absent.

    Returns:
      One `Row` for each measure that at least one of the three backbones has.
    """
    trained = results["eval"] if isinstance(at(results, "eval"), Mapping) else {}
    controls = [results["controls"][name] if at(results, f"controls.{name}") else {} for name in CONTROLS]
    others = [key for key in trained if key not in ROWS]
    rows = []
    for key in (*ROWS, *others):
        scores = [score(table[key]) if key in table else None for table in (trained, *controls)]
        if any(scores):
            rows.append(Row(key, label(key), *scores))
    return rows


def label(key: str) -> str:
    """The name of a measure in the table, for example "5 images per class"."""
    shots = re.fullmatch(r"lowshot_(\d+)/top1", key)
    if shots:
        return f"{shots[1]} image{'' if shots[1] == '1' else 's'} per class"
    return {"knn/top1": "k-NN", "linear/top1": "linear"}[key] if key in ROWS else key


def per_cent(value: float) -> str:
    """A fraction as per cent with one digit, without the sign: 0.4821 -> "48.2"."""
    return f"{100 * value:.1f}"


def interval_words(one: Score) -> str:
    """The interval in per cent, "46.9 to 49.5", or "no interval"."""
    return "no interval" if one.low is None or one.high is None else f"{per_cent(one.low)} to {per_cent(one.high)}"


def compare(one: Score, other: Score) -> tuple[float, str]:
    """Difference in points, taken between the printed numbers, and above, below, unclear or unknown (no intervals)."""
    points = round(float(per_cent(one.value)) - float(per_cent(other.value)), 1)
    if one.low is None or one.high is None or other.low is None or other.high is None:
        return points, "unknown"
    if one.low > other.high:
        return points, "above"
    return points, "below" if one.high < other.low else "unclear"


def console_table(results: Mapping[str, Any]) -> Table:
    """The same rows for the terminal: accuracy and 95 % interval in per cent for the three backbones."""
    table = Table(title="Accuracy on test images, per cent (95 % interval)")
    table.add_column("frozen features")
    for name in ("trained", *CONTROLS.values()):
        table.add_column(name, justify="right")
    for row in comparison_table(results):
        cells = (row.trained, row.untrained, row.pixels)
        table.add_row(row.label, *("-" if c is None else f"{per_cent(c.value)} ({interval_words(c)})" for c in cells))
    return table


def verdict(results: Mapping[str, Any], alarms: int = 0) -> Verdict:
    """What the run has shown, in one sentence and a few that qualify it.

    Args:
      results: the content of results.json.
      alarms: number of alarms raised or found, so that a good score does not hide one.
    """
    rows = {row.key: row for row in comparison_table(results) if row.trained is not None}
    named = "one alarm" if alarms == 1 else f"{alarms} alarms"
    warning = (f"The health section names {named}: read it before using this backbone.",) if alarms else ()
    if not rows:
        return _without_scores(results, warning)
    ordered = [rows[key] for key in HEADLINES if key in rows] or list(rows.values())
    row = next((r for r in ordered if r.untrained is not None), ordered[0])
    if row.trained is None or row.untrained is None:
        return _without_control(row, warning)
    kind = compare(row.trained, row.untrained)[1]
    tone, badge = TONES[kind]
    sentences = [_numbers(row.trained, row.untrained)]
    if row.pixels is not None:
        sentences.append(_pixels_sentence(row.trained, row.pixels))
        if kind == "above" and compare(row.trained, row.pixels)[1] != "above":
            tone, badge = "unclear", "Gain over untrained, not over raw pixels"
    sentences += _other_rows([other for other in ordered if other.key != row.key])
    return Verdict(tone, badge, _headline(row, row.trained, row.untrained), (*warning, *sentences, ONE_SEED), row)


def _without_control(row: Row, warning: tuple[str, ...]) -> Verdict:
    assert row.trained is not None
    headline = f"{_place(row)} this backbone reaches {per_cent(row.trained.value)} % ({_interval(row.trained)})."
    text = "The untrained backbone was not measured, so this run cannot say whether pretraining helped."
    return Verdict("unclear", "Nothing to compare with", headline, (*warning, text), row)


def _without_scores(results: Mapping[str, Any], warning: tuple[str, ...]) -> Verdict:
    if not results:
        headline = "This run has no results yet, so there is nothing to judge."
        text = "Run the same command again: it goes on where it stopped."
        return Verdict("none", "No results", headline, (*warning, text), None)
    problems = sorted(
        {str(at(entry, "protocol.problem")) for entry in _evaluated(results) if at(entry, "protocol.problem")}
    )
    if problems:
        headline = "The trained backbone could not be measured: training has broken it."
        text = f"The evaluation says: {'; '.join(problems)}. The health section names what to change."
        return Verdict("bad", "Could not be measured", headline, (*warning, text), None)
    headline = "The images came without labels, so this report cannot say how good the backbone is."
    text = (
        "It shows the health of the training and pictures of what was learned. A few labelled images per class "
        "(a train/ and a test/ folder with one folder per class) are enough for a verdict."
    )
    return Verdict("none", "No labels", headline, (*warning, text), None)


def _evaluated(results: Mapping[str, Any]) -> list[Any]:
    """The entries of the trained backbone that are there, whether they have a value or not."""
    entries = at(results, "eval")
    return [entry for entry in entries.values() if entry] if isinstance(entries, Mapping) else []


def _headline(row: Row, one: Score, other: Score) -> str:
    points, kind = compare(one, other)
    size = "level with" if points == 0 else f"{abs(points):.1f} points {'above' if points > 0 else 'below'}"
    end = {
        "above": ".",
        "below": ": pretraining made it worse.",
        "unclear": ", within the intervals: this run shows no difference.",
        "unknown": ", without intervals to judge it by.",
    }
    return f"{_place(row)} this backbone is {size} the untrained one{end[kind]}"


def _numbers(one: Score, other: Score) -> str:
    """The two scores behind the headline, with their intervals."""
    return f"{per_cent(one.value)} % ({_interval(one)}) against {per_cent(other.value)} % ({_interval(other)})."


def _pixels_sentence(one: Score, pixels: Score) -> str:
    points, kind = compare(one, pixels)
    if kind == "above":
        return f"It is {points:.1f} points above the same classifier on raw pixels ({per_cent(pixels.value)} %)."
    size = (
        f"{abs(points):.1f} points below" if kind == "below" else f"not clearly better than ({_signed(points)} points)"
    )
    return f"It is {size} the same classifier on raw pixels, {per_cent(pixels.value)} % ({_interval(pixels)})."


def _other_rows(rows: Sequence[Row]) -> list[str]:
    """The measures that are not the headline, grouped by how they compare with the untrained backbone."""
    groups: dict[str, list[str]] = {"above": [], "unclear": [], "below": [], "unknown": []}
    for row in rows:
        if row.trained is not None and row.untrained is not None:
            points, kind = compare(row.trained, row.untrained)
            groups[kind].append(f"{row.label} ({_signed(points)})")
    words = {
        "above": "Clearly above",
        "unclear": "Within the intervals",
        "below": "Clearly below",
        "unknown": "Measured without an interval",
    }
    parts = [f"{words[kind]}: {_listing(names)}." for kind, names in groups.items() if names]
    return [f"The other measures, in points against the untrained one. {' '.join(parts)}"] if parts else []


def _signed(points: float) -> str:
    """Points with their sign and a true minus: +1.2, \u22120.4."""
    return f"{points:+.1f}".replace("-", "\u2212")


def _place(row: Row) -> str:
    named = {"knn/top1": "By nearest neighbours (k-NN)", "linear/top1": "With a linear classifier on all labels"}
    if row.key in named:
        return named[row.key]
    return f"At {row.label}" if row.key.startswith("lowshot_") else f"By {row.label}"


def _interval(one: Score) -> str:
    return "no interval" if one.low is None else f"95 % interval {interval_words(one)}"


def _listing(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
