"""What a study has shown, in words: does the method beat each family alone, which control wins, what collapsed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from gssl_jax.evals.paired import Factors, Paired, corrected, paired, two_way
from gssl_jax.report.measures import kind
from gssl_jax.report.study_cells import SCORED, Setting, Study, measure_words
from gssl_jax.report.words import listing, signed

LEVELS = ("class", "patch")
SURE = 0.05


class Contrast(NamedTuple):
    """The method of the question against the best setting of a family at one measure, paired over seeds; `p` after
    Holm's correction over the families at this measure."""

    measure: str
    family: str
    rival: Setting
    found: Paired
    p: float | None


class Effects(NamedTuple):
    """The controls of a method at one measure, whole layout: means by level of the class and of the patch control."""

    method: str
    measure: str
    factors: Factors


class StudyVerdict(NamedTuple):
    """`tone` is good, unclear, bad or none."""

    tone: str
    badge: str
    headline: str
    sentences: tuple[str, ...]


def champion(study: Study) -> Setting:
    """The method of the question with its first controls: chosen before anything was measured."""
    return next(one for one in study.settings if one.method == study.config.report.method)


def best(study: Study, among: Sequence[Setting], measure: str) -> Setting | None:
    """The setting with the highest mean over its seeds; None where none has a score."""
    means = {one: np.mean([*scores.values()]) for one in among if (scores := study.scores(one, measure))}
    return max(means, key=lambda one: means[one]) if means else None


def contrasts(study: Study, measure: str) -> list[Contrast]:
    """The method of the question against the best of every family that it is asked to beat.

    The rival is the best on these very images, the method itself is not: what is left of a difference is no choice."""
    own = champion(study)
    found = []
    for family in study.config.report.against:
        rival = best(study, [one for one in study.settings if one.family == family], measure)
        if rival is not None:
            found.append((family, rival, paired(study.scores(own, measure), study.scores(rival, measure))))
    ps = corrected([one for _, _, one in found])
    return [Contrast(measure, family, rival, one, p) for (family, rival, one), p in zip(found, ps, strict=True)]


def effects(study: Study, method: str, measure: str) -> Effects | None:
    """The means by control of a method that has every pair of two controls or more, else None; pairs beside the full
    layout, such as none/none alone, are left out."""
    table: dict[tuple[str, str], Mapping[int, float]] = {}
    for one in study.settings:
        first, both, second = one.controls.partition("/")
        if one.method == method and both and (scores := study.scores(one, measure)):
            table[first, second] = scores
    crossed = [{name for name in {p[k] for p in table} if sum(p[k] == name for p in table) > 1} for k in (0, 1)]
    whole = {(a, b): scores for (a, b), scores in table.items() if a in crossed[0] and b in crossed[1]}
    factors = two_way(whole)
    return None if factors is None else Effects(method, measure, factors)


def winner(means: Mapping[str, Mapping[int, float]]) -> tuple[str, str, Paired, float | None]:
    """The best level of a factor, the one after it, their difference, and the least sure p of the best against all
    others after Holm's correction over these comparisons."""
    order = sorted(means, key=lambda name: -float(np.mean([*means[name].values()])))
    against = [paired(means[order[0]], means[other]) for other in order[1:]]
    ps = [p for p in corrected(against) if p is not None]
    return order[0], order[1], against[0], max(ps, default=None)


def points(one: Paired) -> str:
    """A difference of fractions in points with half its 95 % interval: "+3.1 ± 1.2"."""
    if np.isnan(one.mean):
        return "\u2013"
    return signed(100 * one.mean) + ("" if one.half is None else f" \u00b1 {100 * one.half:.1f}")


def chance(p: float) -> str:
    """A p-value in words."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def study_verdict(study: Study) -> StudyVerdict:
    """The answer to the question of the study, and what qualifies it."""
    sentences = [*_unfinished(study), *_collapsed(study)]
    measure = study.headline
    if not measure:
        return StudyVerdict("none", "No scores", "No cell has a score yet.", tuple(sentences))
    own = champion(study)
    found = contrasts(study, measure) if study.scores(own, measure) else []
    found = [one for one in found if one.found.n]
    if not found:
        top = best(study, study.settings, measure)
        assert top is not None
        scores = [*study.scores(top, measure).values()]
        headline = (
            f"{top.words} has the highest mean {at_measure(study, measure)}, {100 * float(np.mean(scores)):.1f} over "
            f"{seeds_words(len(scores))}."
        )
        rest = (*sentences, *_controls(study), "No family that it is asked to beat was measured on the same seeds.")
        return StudyVerdict("none", "Nothing to compare", headline, rest)
    hardest = min(found, key=lambda one: one.found.mean)
    tone, badge, headline = _answer(study, own, hardest, found)
    return StudyVerdict(tone, badge, headline, (*_families(study, found), *_elsewhere(study), *_controls(study),
                                                *sentences, _how(study)))  # fmt: skip


def _answer(study: Study, own: Setting, hardest: Contrast, found: Sequence[Contrast]) -> tuple[str, str, str]:
    """Tone, badge and headline: the method against the family that comes closest to it or above it."""
    one, where = hardest.found, at_measure(study, hardest.measure)
    above = "above" if one.mean >= 0 else "below"
    size = f"{abs(100 * one.mean):.1f}" + ("" if one.half is None else f" \u00b1 {100 * one.half:.1f}")
    each = "the best single family" if len(found) > 1 else f"the family {hardest.family}"
    said = f"{own.words} is {size} points {above} {hardest.rival.words}, {each}, {where}, paired over "
    said += seeds_words(one.n)
    if one.p is None or hardest.p is None:
        return "unclear", "One seed, no interval", f"{said}: one seed has no interval, so this may be luck."
    if not one.clear:
        return "unclear", "Not told apart", f"{said}: the interval holds zero, so they are not told apart."
    sure = all(c.p is not None and c.p < SURE for c in found) if one.mean > 0 else hardest.p < SURE
    told = "" if sure else f", but not after correction for the {len(found)} families ({chance(hardest.p)})"
    if one.mean < 0:
        return "bad", "A single family is ahead", f"{said}{told}."
    return (
        ("good", "Above every single family", f"{said}.")
        if sure
        else ("unclear", "Above, not surely", said + told + ".")
    )


def _families(study: Study, found: Sequence[Contrast]) -> list[str]:
    """Every family of the headline's measure with its difference."""
    if len(found) < 2:
        return []
    parts = [
        f"{one.family} ({one.rival.words}) {points(one.found)}" + ("" if one.p is None else f", {chance(one.p)}")
        for one in found
    ]
    where = at_measure(study, found[0].measure)
    return [f"In points against the best of each family {where}, p after Holm's correction: {'; '.join(parts)}."]


def _elsewhere(study: Study) -> list[str]:
    """At which other measures the method is above, below or level with the best single family."""
    groups: dict[str, list[str]] = {"above": [], "below": [], "not told apart": []}
    for measure in study.measures:
        found = [one for one in contrasts(study, measure) if one.found.n]
        if measure == study.headline or not found:
            continue
        hardest = min(found, key=lambda one: one.found.mean)
        sure = hardest.found.clear and hardest.p is not None and hardest.p < SURE
        end = "not told apart" if not sure else "above" if hardest.found.mean > 0 else "below"
        groups[end].append(f"{measure_words(measure, list(study.config.judged))} ({points(hardest.found)})")
    parts = [f"{name}: {', '.join(members)}" for name, members in groups.items() if members]
    return [f"Against the best single family by the other measures, {'; '.join(parts)}."] if parts else []


def _controls(study: Study) -> list[str]:
    """Which control wins at class and at patch level."""
    found = effects(study, study.config.report.method, study.headline)
    if found is None:
        return []
    said = []
    for level, means in zip(LEVELS, found.factors[:2], strict=True):
        first, second, difference, p = winner(means)
        sure = p is not None and p < SURE
        end = f"{chance(p)} against all others" if p is not None else "one seed has no interval"
        verb = "wins" if sure else "has the highest mean, not surely"
        said.append(f"at {level} level {first} {verb} ({points(difference)} points against {second}, {end})")
    where = at_measure(study, study.headline)
    return [f"Collapse control {where}, each averaged over the other level: {'; '.join(said)}."]


def _collapsed(study: Study) -> list[str]:
    """Cells that collapsed, diverged or failed, by setting."""
    said = []
    for status in ("collapsed", "diverged", "failed"):
        of = {one: sum(cell.status == status for cell in study.of(one)) for one in study.settings}
        names = [f"{one.words} ({n} of {len(study.of(one))})" for one, n in of.items() if n]
        total = sum(of.values())
        if total:
            cells = f"{total} cell{'' if total == 1 else 's'}"
            how = {"collapsed": "collapsed", "diverged": "met numbers that are not finite", "failed": "failed"}[status]
            end = "left no score" if status == "failed" else "counted with the scores that came of it"
            said.append(f"{cells} {how}, {end}: {listing(names)}.")
    return said


def _unfinished(study: Study) -> list[str]:
    missing = sum(one.status not in (*SCORED, "failed") for one in study.seen)
    if not missing:
        return []
    return [f"{missing} of {len(study.seen)} cells are not run to their end: the same command goes on there."]


def _how(study: Study) -> str:
    budget = study.config.budget
    same = "as many floating-point operations" if budget.kind == "flops" else "as many steps"
    return (
        f"Every cell had the same network, augmentation and data, and {same} as {budget.reference}; intervals are "
        "Student's 95 % of differences by seed. The rivals are chosen as the best on these test images, the method "
        "with its own control was fixed before."
    )


def at_measure(study: Study, key: str) -> str:
    """ "at 5 images per class", "by k-NN"."""
    words = measure_words(key, list(study.config.judged))
    return f"at {words}" if "lowshot" in key else f"by {words}" + ("" if kind(key) in words else f" {kind(key)}")


def seeds_words(number: int) -> str:
    """ "3 seeds"."""
    return "one seed" if number == 1 else f"{number} seeds"
