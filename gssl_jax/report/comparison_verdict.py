"""The verdict on runs that stand side by side: which is best on the test images, and whether that can be told."""

from __future__ import annotations

from collections.abc import Sequence

from gssl_jax.report.compared import Compared, Measure, same_groups, same_images, settings
from gssl_jax.report.measures import HEADLINES, OWN, RAREST, capital, guess, kind, place, unit, without_kind
from gssl_jax.report.style import shorten
from gssl_jax.report.verdict import Bar, Verdict, by_difference
from gssl_jax.report.words import Score, compare, interval_said, listing, per_cent

ACCURACY = f"{OWN}/top1"
MOST_SETTINGS = 4
"""Settings that the verdict names; of more it gives the number."""

CHAIN = "the chain of stages"

LONGEST_NAME = 40  # letters of a run's name beside its bar

ONE_SEED = (
    "Each run is one training with one seed: the intervals cover the choice of test images, not the luck of training."
)
REPEAT = (
    "What lies within the intervals is not to be told apart by these test images; repeat with more seeds "
    "(--config.seed=1, 2, ...) and compare the means."
)


def comparison_verdict(runs: Sequence[Compared], found: Sequence[Measure]) -> Verdict:
    """What the runs have shown against the first one, in one sentence and a few that qualify it.

    The measure is the accuracy of the methods' own classifiers where all have one, else the first in the order of the
    report's own headline that all runs have.
    """
    names = [run.name for run in runs]
    measure = _headline_measure(found)
    conditions = _conditions(runs)
    if measure is None:
        headline = "These runs share no measure, so no number says which of them is best."
        return Verdict("none", "Nothing to compare", headline, (*conditions, ONE_SEED), None)
    scores = [one for one in measure.scores if one is not None]
    best = max(range(len(scores)), key=lambda k: scores[k].value)
    against = [compare(one, scores[0]) for one in scores]
    tone, badge = _badge(best, [kind for _, kind in against])
    headline = _headline(measure, names, scores, best)
    sentences = [_numbers(measure, names, scores, best)]
    if len(runs) > 2:
        grouped = by_difference([(n, *difference) for n, difference in zip(names[1:], against[1:], strict=True)])
        sentences.append(f"In points against {names[0]}. {grouped}")
    level = [n for k, n in enumerate(names) if k not in (0, best) and compare(scores[best], scores[k])[1] == "unclear"]
    if best and level:
        sentences.append(f"These test images do not tell {names[best]} from {listing(level)} either.")
    sentences += _rarest(found, names)
    rival = best or max(range(1, len(scores)), key=lambda k: scores[k].value)
    sentences += _elsewhere([one for one in found if one is not measure], names, rival)
    if level or "unclear" in (kind for _, kind in against[1:]):
        sentences.append(REPEAT)
    if same_images(runs, "eval_test") is False:
        tone, badge = "bad", "Other test images"
        headline = "These runs were judged on different test images, so their numbers do not compare."
    bars = tuple(
        Bar(shorten(n, LONGEST_NAME), "trained" if k == best else "pixels", scores[k]) for k, n in enumerate(names)
    )
    what = f"{capital(kind(measure.key))} on test images"
    what += "" if measure.key == ACCURACY else f", {without_kind(measure.label)}"
    said = (*sentences, *conditions, ONE_SEED)
    chance = guess(measure.key, scores[0].protocol)
    return Verdict(tone, badge, headline, said, None, bars, what, chance, unit(measure.key))


def _headline_measure(found: Sequence[Measure]) -> Measure | None:
    """The measure of the headline: one that every run has."""
    complete = {measure.key: measure for measure in found if measure.complete}
    for key in (ACCURACY, *HEADLINES):
        if key in complete:
            return complete[key]
    return next(iter(complete.values()), None)


def _badge(best: int, against: Sequence[str]) -> tuple[str, str]:
    """Tone and badge, from the run that is best and how each compares with the first."""
    if "unknown" in against[1:]:
        return "unclear", "Differences without an interval"
    if best:
        return ("good", "Clear gain") if against[best] == "above" else ("unclear", "No clear difference")
    return ("unclear", "No clear difference") if "unclear" in against[1:] else ("none", "The first run is best")


def _headline(measure: Measure, names: Sequence[str], scores: Sequence[Score], best: int) -> str:
    value = f"{per_cent(scores[best].value)}{unit(measure.key)}"
    start = f"{names[best]} is right for {value} of the test images"
    if measure.key != ACCURACY:
        start = f"{place(measure.key)}, {names[best]} reaches {value}"
    if not best:
        return f"{start}, and no other run is above it."
    points, kind = compare(scores[best], scores[0])
    size = f"{points:.1f} points above {names[0]}" if points else f"level with {names[0]}"
    ends = {"unclear": ": within the intervals, so these test images do not tell them apart.",
            "unknown": ", without intervals to judge it by."}  # fmt: skip
    return f"{start}, {size}{ends.get(kind, '.')}"


def _numbers(measure: Measure, names: Sequence[str], scores: Sequence[Score], best: int) -> str:
    """The best score and the first run's, or the next best one's where the first is best, with their intervals."""
    others = [k for k in range(len(scores)) if k != best]
    other = 0 if best else max(others, key=lambda k: scores[k].value)
    said = [
        f"{names[k]} {per_cent(scores[k].value)}{unit(measure.key)} ({interval_said(scores[k])})" for k in (best, other)
    ]
    return f"{said[0]} against {said[1]}."


def _rarest(found: Sequence[Measure], names: Sequence[str]) -> list[str]:
    """The best run in the classes with the fewest training images, where that is one group in all runs."""
    tails = [one for one in found if one.complete and one.key.removeprefix(f"{OWN}/") in RAREST]
    if not tails or not same_groups(tails[:1]):
        return []
    scores = [one for one in tails[0].scores if one is not None]
    best = max(range(len(scores)), key=lambda k: scores[k].value)
    words = f"In the {tails[0].label} {names[best]} is best with {per_cent(scores[best].value)} %"
    if not best:
        return [f"{words}."]
    points, kind = compare(scores[best], scores[0])
    end = {"unclear": ", within the intervals", "unknown": ", without intervals to judge it by"}.get(kind, "")
    return [f"{words}, {points:.1f} points above {names[0]}{end}."]


def _elsewhere(found: Sequence[Measure], names: Sequence[str], rival: int) -> list[str]:
    """In which other measures a run clearly differs from the first one."""
    scores = [(one.label, one.scores[rival], one.scores[0]) for one in found]
    compared = [(label, *compare(one, first)) for label, one, first in scores if one and first]
    clear = [one for one in compared if one[2] in ("above", "below")]
    return [f"Other measures of {names[rival]} against {names[0]}. {by_difference(clear)}"] if clear else []


def _conditions(runs: Sequence[Compared]) -> list[str]:
    """What the runs do not share beside what was to be compared."""
    changed = [CHAIN if key == "stages" else key for key, _ in settings(runs)]
    said = "The runs have the same settings."
    if len(changed) == 1:
        said = f"The runs differ in one setting: {changed[0]}."
    elif changed:
        named = listing(changed) if len(changed) <= MOST_SETTINGS else "the table below names them"
        said = f"The runs differ in {len(changed)} settings, whose effects are not separated here: {named}."
    other = "They did not learn from the same labelled images, which alone can move accuracy."
    return [said] + ([other] if same_images(runs, "eval_train") is False else [])
