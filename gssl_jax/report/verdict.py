"""The verdict of a report: one headline, and a few sentences that qualify it.

A backbone learned without labels is judged against the untrained one by the same small classifiers. A labelled method
is judged by its own accuracy; beside it stands the best that the untrained backbone does with the same labelled
images, where that was measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gssl_jax.knobs import at, is_number
from gssl_jax.report.words import (
    CONTROLS,
    Row,
    Score,
    class_scores,
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

# The question of a person with few labels comes first, and the least noisy of its answers.
HEADLINES = ("lowshot_5/top1", "lowshot_2/top1", "lowshot_1/top1", "linear/top1", "knn/top1")
TONES = {
    "above": ("good", "Clear gain"),
    "below": ("bad", "Worse than untrained"),
    "unclear": ("unclear", "No clear difference"),
    "unknown": ("unclear", "Difference without an interval"),
}
OWN_TONES = {
    "above": ("good", "Better than untrained features"),
    "below": ("bad", "Worse than untrained features"),
    "unclear": ("unclear", "Level with untrained features"),
    "unknown": ("unclear", "Difference without an interval"),
}
CLASSIFIERS = {"linear/top1": "a linear classifier", "knn/top1": "k-NN"}
ONE_SEED = "One training run with one seed: the intervals cover the choice of images, not the luck of training."


class Bar(NamedTuple):
    """A bar below the headline: `who` in words, `kind` is trained, untrained or pixels."""

    who: str
    kind: str
    score: Score


class Verdict(NamedTuple):
    """`tone` is good, unclear, bad or none; `row` is the measure of the headline (None without labels), `bars` are
    its scores and what they are compared with, `measure` says what the bars are of."""

    tone: str
    badge: str
    headline: str
    sentences: tuple[str, ...]
    row: Row | None
    bars: tuple[Bar, ...] = ()
    measure: str = ""


def verdict(results: Mapping[str, Any], alarms: int = 0, validated: bool = False) -> Verdict:
    """What the run has shown, in one sentence and a few that qualify it.

    Args:
      results: the content of results.json.
      alarms: number of alarms raised or found, so that a good score does not hide one.
      validated: whether validation images were there to choose the state of a labelled method.
    """
    rows = [row for row in comparison_table(results) if row.trained is not None]
    named = "one alarm" if alarms == 1 else f"{alarms} alarms"
    warning = (f"The health section names {named}: read it before using this backbone.",) if alarms else ()
    if not rows:
        return _without_scores(results, warning)
    if own_rows(rows):
        return _own(results, rows, warning, validated)
    known = {row.key: row for row in rows}
    ordered = [known[key] for key in HEADLINES if key in known] or rows
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
    headline = _headline(row, row.trained, row.untrained)
    return Verdict(tone, badge, headline, (*warning, *sentences, ONE_SEED), row, _bars(row), f"Accuracy, {row.label}")


def _bars(row: Row) -> tuple[Bar, ...]:
    """The scores of a measure for the three backbones."""
    scores = zip(("trained", *CONTROLS), ("trained", *CONTROLS.values()), (row.trained, row.untrained, row.pixels),
                 strict=True)  # fmt: skip
    return tuple(Bar(who, kind, one) for kind, who, one in scores if one is not None)


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
    reference = _reference(row.trained, rows)
    tone, badge = "unclear", "Nothing to compare with"
    if reference is None or reference.untrained is None:
        sentences.append(
            "The untrained backbone was not measured on the same labelled images, so this report does not say what "
            "training the backbone has brought."
        )
    else:
        tone, badge = OWN_TONES[compare(row.trained, reference.untrained)[1]]
        sentences.append(_reference_sentence(row.trained, reference.untrained, reference.key))
        bars.append(Bar(f"untrained, {reference.label}", "untrained", reference.untrained))
    guess = _guess(results)
    if guess is not None and row.trained.low is not None and row.trained.low <= guess:
        tone, badge = "bad", "No better than guessing"
    sentences += _other_rows(frozen_rows(rows), "On frozen features, in points against the untrained backbone.")
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


def _reference(one: Score, rows: Sequence[Row]) -> Row | None:
    """The best measure of the untrained backbone that used as many labelled images as the method itself, or None."""
    counts = at(one.protocol, "train_images")
    images = sum(counts) if isinstance(counts, list) else None
    same = [
        row
        for row in rows
        if row.key in CLASSIFIERS
        and row.untrained is not None
        and images is not None
        and at(row.untrained.protocol, "train_images") == images
    ]
    return max(same, key=lambda row: row.untrained.value if row.untrained else 0.0, default=None)


def _reference_sentence(one: Score, other: Score, key: str) -> str:
    points, kind = compare(one, other)
    size = {
        "above": f"{abs(points):.1f} points less",
        "below": f"{abs(points):.1f} points more: training the backbone has not paid yet",
        "unclear": "no clear difference: the intervals overlap",
        "unknown": f"a difference of {abs(points):.1f} points without intervals to judge it by",
    }[kind]
    return (
        f"With the same labelled images, {CLASSIFIERS[key]} on the features of the untrained backbone has "
        f"{per_cent(other.value)} % ({interval_said(other)}), {size}."
    )


def _guess(results: Mapping[str, Any]) -> float | None:
    """What guessing gets, a fraction."""
    classes = class_scores(results)
    return 1.0 / len(classes.names) if classes is not None else None


def _without_control(row: Row, warning: tuple[str, ...]) -> Verdict:
    assert row.trained is not None
    score = f"{per_cent(row.trained.value)} % ({interval_said(row.trained)})"
    headline = f"{place(row.key, row.label)} this backbone reaches {score}."
    text = "The untrained backbone was not measured, so this run cannot say whether pretraining helped."
    return Verdict(
        "unclear", "Nothing to compare with", headline, (*warning, text), row, _bars(row), f"Accuracy, {row.label}"
    )


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
    return f"{place(row.key, row.label)} this backbone is {size} the untrained one{end[kind]}"


def _numbers(one: Score, other: Score) -> str:
    """The two scores behind the headline, with their intervals."""
    return f"{per_cent(one.value)} % ({interval_said(one)}) against {per_cent(other.value)} % ({interval_said(other)})."


def _pixels_sentence(one: Score, pixels: Score) -> str:
    points, kind = compare(one, pixels)
    if kind == "above":
        return f"It is {points:.1f} points above the same classifier on raw pixels ({per_cent(pixels.value)} %)."
    size = (
        f"{abs(points):.1f} points below" if kind == "below" else f"not clearly better than ({signed(points)} points)"
    )
    return f"It is {size} the same classifier on raw pixels, {per_cent(pixels.value)} % ({interval_said(pixels)})."


def _other_rows(
    rows: Sequence[Row], start: str = "The other measures, in points against the untrained one."
) -> list[str]:
    """The measures that are not the headline, grouped by how they compare with the untrained backbone."""
    found = [(row.label, *compare(row.trained, row.untrained)) for row in rows if row.trained and row.untrained]
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


def place(key: str, label: str) -> str:
    """How a sentence about a measure begins: "At 5 images per class"."""
    named = {"knn/top1": "By nearest neighbours (k-NN)", "linear/top1": "With a linear classifier on all labels"}
    return named.get(key) or (f"At {label}" if key.startswith("lowshot_") else f"By {label}")
