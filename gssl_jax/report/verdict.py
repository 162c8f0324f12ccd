"""The verdict of a report: one headline, and a few sentences that qualify it.

A backbone learned without labels is judged by small classifiers against the one that it started from, or against the
untrained one where it started from nothing. A labelled method is judged by its own accuracy; beside it stands the best
that either does with the same labelled images, where that was measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gssl_jax.knobs import at, is_number
from gssl_jax.report import gains
from gssl_jax.report.measures import HEADLINES, capital, detail, guess, kind, place, unit, without_kind
from gssl_jax.report.words import (
    Row,
    Score,
    class_scores,
    columns_of,
    compare,
    comparison_table,
    frozen_rows,
    interval_said,
    listing,
    own_rows,
    per_cent,
    rarest,
    signed,
)

OWN_TONES = {
    "above": ("good", "Better than {} features"),
    "below": ("bad", "Worse than {} features"),
    "unclear": ("unclear", "Level with {} features"),
    "unknown": ("unclear", "Difference without an interval"),
}
FEATURES = {"started": "the start's", "untrained": "untrained"}
CLASSIFIERS = {"linear/top1": "a linear classifier", "knn/top1": "k-NN"}
ONE_SEED = "One training run with one seed: the intervals cover the choice of images, not the luck of training."


class Bar(NamedTuple):
    """A bar below the headline: `who` in words, `kind` is trained or the name of a control."""

    who: str
    kind: str
    score: Score


class Verdict(NamedTuple):
    """`tone` is good, unclear, bad or none; `row` is the measure of the headline (None without labels), `bars` are
    its scores and what they are compared with, `measure` says what the bars are of; `guess` is what guessing gets, a
    fraction, where it does not follow from the number of classes; `unit` follows a number times 100."""

    tone: str
    badge: str
    headline: str
    sentences: tuple[str, ...]
    row: Row | None
    bars: tuple[Bar, ...] = ()
    measure: str = ""
    guess: float | None = None
    unit: str = " %"


def verdict(results: Mapping[str, Any], alarms: int = 0, validated: bool = False) -> Verdict:
    """What the run has shown, in one sentence and a few that qualify it.

    Args:
      results: the content of results.json.
      alarms: number of alarms raised or found, so that a good score does not hide one.
      validated: whether validation images were there to choose the state of a labelled method.
    """
    rows = [row for row in comparison_table(results) if row.trained is not None and not detail(row.key)]
    named = "one alarm" if alarms == 1 else f"{alarms} alarms"
    warning = (f"The health section names {named}: read it before using this backbone.",) if alarms else ()
    if not rows:
        return _without_scores(results, warning)
    if own_rows(rows):
        return _own(results, rows, warning, validated)
    known = {row.key: row for row in rows}
    ordered = [known[key] for key in HEADLINES if key in known] or rows
    name = gains.reference(ordered)
    if name is None:
        return _without_control(ordered[0], warning)
    row = next(row for row in ordered if row.of(name) is not None)
    tone, badge, headline = gains.judged(row, name)
    others = [other for other in (*ordered, *(r for r in rows if r not in ordered)) if other.key != row.key]
    sentences = [*gains.sentences(row, name, results), *_other_rows(others, name)]
    return Verdict(tone, badge, headline, (*warning, *sentences, ONE_SEED), row, *_shown(row))


def _measure(row: Row) -> str:
    """What the bars show: "Accuracy, 5 images per class"."""
    return capital(f"{kind(row.key)}, {without_kind(row.label)}")


def _shown(row: Row) -> tuple[tuple[Bar, ...], str, float | None, str]:
    """Bars, what they are of, what guessing gets where the number of classes does not say it, and the unit."""
    return _bars(row), _measure(row), guess(row.key, row.trained.protocol if row.trained else None), unit(row.key)


def _bars(row: Row) -> tuple[Bar, ...]:
    """The scores of a measure for every backbone."""
    names = {"trained": "trained", **columns_of([row])}
    return tuple(Bar(who, name, one) for name, who in names.items() if (one := row.of(name)) is not None)


def _own(results: Mapping[str, Any], rows: Sequence[Row], warning: tuple[str, ...], validated: bool) -> Verdict:
    """The verdict on a labelled method."""
    own = own_rows(rows)
    row, tail = own[0], rarest(own)
    assert row.trained is not None
    headline = f"This classifier is right for {per_cent(row.trained.value)} % of the test images"
    bars = [Bar("test images", "trained", row.trained)]
    if tail is not None and tail.trained is not None:
        headline += f", and for {per_cent(tail.trained.value)} % in the {tail.label}"
        bars.append(Bar(tail.label, "trained", tail.trained))
    sentences = [_chosen(results, row, tail, validated), *_attacked(own)]
    name, reference = _reference(row.trained, rows)
    tone, badge = "unclear", "Nothing to compare with"
    other = reference.of(name) if reference is not None else None
    if reference is None or other is None:
        sentences.append(
            "The untrained backbone was not measured on the same labelled images, so this report does not say what "
            "training the backbone has brought."
        )
    else:
        tone, badge = OWN_TONES[compare(row.trained, other)[1]]
        badge = badge.format(FEATURES[name])
        sentences.append(_reference_sentence(row.trained, other, reference.key, name))
        bars.append(Bar(f"{columns_of([reference])[name]}, {reference.label}", name, other))
    guess = _chance(results)
    if guess is not None and row.trained.low is not None and row.trained.low <= guess:
        tone, badge = "bad", "No better than guessing"
    whose = {"started": "what it started from", "untrained": "the untrained backbone"}[name]
    sentences += _other_rows(frozen_rows(rows), name, f"On frozen features, in points against {whose}.")
    return Verdict(tone, badge, headline + ".", (*warning, *sentences, ONE_SEED), row, tuple(bars),
                   "Accuracy on test images")  # fmt: skip


def _chosen(results: Mapping[str, Any], row: Row, tail: Row | None, validated: bool) -> str:
    """Which state this is, who chose it, and what the last step had."""
    chosen, steps = at(results, "run.selected_step"), at(results, "run.steps")
    if not validated or not is_number(chosen) or not is_number(steps):
        return "This is the state of the last step: there were no validation images to choose another."
    if chosen == steps:
        return f"Validation images chose the last step, {steps:,}; no test image chose anything."
    words = f"Validation images chose the state at step {chosen:,} of {steps:,}; no test image chose anything."
    if row.last is None:
        return words
    words += f" The last step has {per_cent(row.last.value)} %"
    if tail is not None and tail.last is not None:
        words += f", and {per_cent(tail.last.value)} % in the {tail.label}"
    return f"{words}."


def _attacked(own: Sequence[Row]) -> list[str]:
    """What is left under attack."""
    parts = [
        f"{per_cent(row.trained.value)} % ({interval_said(row.trained)}) {row.label.removeprefix('accuracy ')}"
        for row in own
        if row.trained is not None and row.key.endswith("/top1") and row is not own[0]
    ]
    return [f"When the images are attacked it is right for {listing(parts)}."] if parts else []


def _reference(one: Score, rows: Sequence[Row]) -> tuple[str, Row | None]:
    """Which control a labelled method is compared with, and its best measure that used as many labelled images as the
    method itself, or None."""
    counts = at(one.protocol, "train_images")
    images = sum(counts) if isinstance(counts, list) else None
    for name in gains.REFERENCES:
        found = [(other.value, place, row) for place, row in enumerate(rows)
                 if row.key in CLASSIFIERS and images is not None and (other := row.of(name)) is not None
                 and at(other.protocol, "train_images") == images]  # fmt: skip
        if found:
            return name, max(found)[2]
    return "untrained", None


def _reference_sentence(one: Score, other: Score, key: str, name: str) -> str:
    points, kind = compare(one, other)
    size = {
        "above": f"{abs(points):.1f} points less",
        "below": f"{abs(points):.1f} points more: training the backbone has not paid yet",
        "unclear": "no clear difference: the intervals overlap",
        "unknown": f"a difference of {abs(points):.1f} points without intervals to judge it by",
    }[kind]
    whose = {"started": "backbone it started from", "untrained": "untrained backbone"}[name]
    return (
        f"With the same labelled images, {CLASSIFIERS[key]} on the features of the {whose} has "
        f"{per_cent(other.value)} % ({interval_said(other)}), {size}."
    )


def _chance(results: Mapping[str, Any]) -> float | None:
    """What guessing gets among the classes, a fraction."""
    classes = class_scores(results)
    return 1.0 / len(classes.names) if classes is not None else None


def _without_control(row: Row, warning: tuple[str, ...]) -> Verdict:
    assert row.trained is not None
    score = f"{per_cent(row.trained.value)}{unit(row.key)} ({interval_said(row.trained)})"
    headline = f"{place(row.key)} this backbone reaches {score}."
    text = "The untrained backbone was not measured, so this run cannot say whether pretraining helped."
    said = (*warning, text)
    return Verdict("unclear", "Nothing to compare with", headline, said, row, *_shown(row))


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


def _other_rows(rows: Sequence[Row], name: str, start: str = "") -> list[str]:
    """The measures that are not the headline, grouped by how they compare with the control `name`."""
    start = start or f"The other measures, in points against {gains.REFERENCES[name]}."
    found = [
        (row.label, *compare(row.trained, other)) for row in rows if row.trained and (other := row.of(name)) is not None
    ]
    return [f"{start} {by_difference(found)}"] if found else []


def by_difference(found: Sequence[tuple[str, float, str]]) -> str:
    """Names, points and how they compare, grouped by the last: "Clearly above: a (+3.1). Clearly below: b (-2.0)."."""
    words = {
        "above": "Clearly above",
        "unclear": "Within the intervals",
        "below": "Clearly below",
        "unknown": "Measured without an interval",
    }
    groups = {kind: [f"{name} ({signed(points)})" for name, points, this in found if this == kind] for kind in words}
    return " ".join(f"{words[kind]}: {listing(names)}." for kind, names in groups.items() if names)
