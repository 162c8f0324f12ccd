"""A trained backbone against the controls, in sentences: what it started from, batch statistics alone, raw pixels.

A stage that starts from weights or from a stage before is judged against those. With batch norm some of the gain can
come without training: statistics of other images are enough (Reed et al., "Self-Supervised Pretraining Improves
Self-Supervised Pretraining", WACV 2022, uses them as a baseline of their own), so that part is named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gssl_jax.knobs import at
from gssl_jax.report.measures import place, unit
from gssl_jax.report.words import Row, Score, compare, interval_said, per_cent, signed

REFERENCES = {"started": "the one you started from", "untrained": "the untrained one"}
"""What a backbone may be judged against, the most telling first, as a sentence has it."""

TONES = {
    "above": ("good", "Clear gain"),
    "below": ("bad", "Worse than {}"),
    "unclear": ("unclear", "No clear difference"),
    "unknown": ("unclear", "Difference without an interval"),
}
BADGES = {"started": "what you started from", "untrained": "untrained"}
WORSE = {"started": "training made it worse", "untrained": "pretraining made it worse"}
MOST = 0.5
"""Share of the gain over the start from which on refreshed batch statistics are said to bring most of it."""


def reference(rows: Sequence[Row]) -> str | None:
    """The control that a run is judged against: the first of `REFERENCES` that stands beside a trained score."""
    return next((name for name in REFERENCES if any(row.trained and row.of(name) for row in rows)), None)


def origin(results: Mapping[str, Any]) -> str:
    """What the run began with, in words; empty where it began from scratch or nothing says it."""
    words = at(results, "run.started_from")
    return words if isinstance(words, str) and words != "scratch" else ""


def difference(one: Score, other: Score) -> tuple[str, str]:
    """ "2.7 points above", "level with", and how sure that is (see `compare`)."""
    points, kind = compare(one, other)
    return "level with" if points == 0 else f"{abs(points):.1f} points {'above' if points > 0 else 'below'}", kind


def judged(row: Row, name: str) -> tuple[str, str, str]:
    """Tone, badge and headline of one measure against the control `name`; both must be there."""
    one, other = row.trained, row.of(name)
    assert one is not None and other is not None
    size, kind = difference(one, other)
    tone, badge = TONES[kind]
    badge = badge.format(BADGES[name])
    end = {
        "above": ".",
        "below": f": {WORSE[name]}.",
        "unclear": ", within the intervals: this run shows no difference.",
        "unknown": ", without intervals to judge it by.",
    }[kind]
    share = _without_training(row) if name == "started" and kind == "above" else None
    if share is not None:
        points, left = share
        gain = compare(one, other)[0]
        if left != "above":
            tone, badge = "unclear", "Gain from batch statistics, not from training"
            end = f", but refreshed batch statistics alone bring {min(points, gain):.1f} of them."
            end = end if points < gain else ", but refreshed batch statistics alone bring as much."
        elif points > MOST * gain:
            badge = "Clear gain, most of it from batch statistics"
            end = f", {points:.1f} of them from refreshed batch statistics alone."
    pixels = row.of("pixels")
    if kind == "above" and tone == "good" and pixels is not None and compare(one, pixels)[1] != "above":
        over = "the start" if name == "started" else "untrained"
        tone, badge = "unclear", f"Gain over {over}, not over raw pixels"
    return tone, badge, f"{place(row.key)} this backbone is {size} {REFERENCES[name]}{end}"


def _without_training(row: Row) -> tuple[float, str] | None:
    """Points that refreshed batch statistics alone bring over the start, and how the trained backbone compares with
    that; None where it was not measured."""
    one, start, refreshed = row.trained, row.of("started"), row.of("refreshed")
    if one is None or start is None or refreshed is None:
        return None
    return compare(refreshed, start)[0], compare(one, refreshed)[1]


def sentences(row: Row, name: str, results: Mapping[str, Any]) -> list[str]:
    """The scores behind the headline, then every other control of the measure, each in a sentence."""
    one, other = row.trained, row.of(name)
    assert one is not None and other is not None
    percent, whose = unit(row.key), ""
    if name == "started":
        whose = " of what it started from" + (f", {origin(results)}" if origin(results) else "")
    said = [f"{_score(one, percent)} against {_score(other, percent)}{whose}."]
    if name != "started" and origin(results):
        said.append(f"What it started from, {origin(results)}, was not measured: this compares with an untrained one.")
    if name == "started":
        said += _refreshed(row, percent)
    untrained, pixels = row.of("untrained"), row.of("pixels")
    if untrained is not None and name != "untrained":
        said.append(_beside(one, untrained, REFERENCES["untrained"], percent))
    if pixels is not None:
        said.append(_beside(one, pixels, "the same classifier on raw pixels", percent))
    return said


def _score(one: Score, percent: str) -> str:
    return f"{per_cent(one.value)}{percent} ({interval_said(one)})"


def _refreshed(row: Row, percent: str) -> list[str]:
    """What refreshed batch statistics do without training, and what the training adds to that."""
    one, start, refreshed = row.trained, row.of("started"), row.of("refreshed")
    if one is None or start is None or refreshed is None:
        return []
    moved = signed(compare(refreshed, start)[0])
    size, kind = difference(one, refreshed)
    end = {
        "above": "",
        "below": ": refreshing them would have done better than this training",
        "unclear": ", within the intervals: training itself shows no gain",
        "unknown": ", without intervals to judge it by",
    }[kind]
    return [
        f"Batch statistics of the evaluation images alone, without any training, bring the start to "
        f"{_score(refreshed, percent)}, {moved} points; this backbone is {size} that{end}."
    ]


def _beside(one: Score, other: Score, what: str, percent: str) -> str:
    """How the trained backbone compares with a control that is not the headline's."""
    points, kind = compare(one, other)
    if kind == "above":
        return f"It is {points:.1f} points above {what} ({per_cent(other.value)}{percent})."
    size = (
        f"{abs(points):.1f} points below" if kind == "below" else f"not clearly better than ({signed(points)} points)"
    )
    return f"It is {size} {what}, {_score(other, percent)}."
