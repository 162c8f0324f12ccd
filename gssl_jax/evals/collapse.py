"""What counts as a collapse, in words, and the knob against it: for the alarm of a run and for its report alike.

The limits are those of the specification's section 2.4 (our reconstruction; the paper names none), and one of ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from gssl_jax.knobs import at, flag, scaled

WINDOW = 20
"""Steps over which a collapse has to last."""

ONE_TAKES_ALL, UNIFORM = 0.1, 0.99
"""Entropy of the mean target, below; mean entropy of the targets, above; both as shares of ln K."""

FEW_IN_USE = 0.1
"""Share of the prototypes that could be somebody's first choice in a batch (at most its rows) and are, below. Ours: a
reconstruction loss or batch norm can hold a collapse at a handful of prototypes, while the entropies look better."""

STD_LEFT, RANK_LEFT = 0.01, 2.0
"""Standard deviation of the features as a share of its start, and RankMe, below."""

SENTENCES = {
    "one": "Nearly all {things} go to one prototype (entropy of the mean target {percent:.0f} % of its maximum).",
    "uniform": "The {level} targets are nearly uniform (entropy {percent:.1f} % of its maximum) and teach the student "
    "nothing; a lower temperature sharpens them.",
    "few": "Only {percent:.0f} % of the {level} prototypes that a batch can reach are the first choice of any of "
    "its {things}.",
    "features": "All images look nearly the same to this backbone: {told}.",
}

THINGS = {"cls": "images", "patch": "patches"}


def assignment_signs(mean_target: float | None, target: float | None, in_use: float | None) -> list[str]:
    """Signs of collapse in the assignments of one level, the gravest first: "one", "uniform", "few".

    Args: entropy of the mean target and mean entropy of the targets as shares of ln K, and the share of the prototypes
    in use; None = not logged.
    """
    found = {
        "one": mean_target is not None and mean_target < ONE_TAKES_ALL,
        "uniform": target is not None and target > UNIFORM,
        "few": in_use is not None and in_use < FEW_IN_USE,
    }
    return [kind for kind, present in found.items() if present]


def features_collapsed(left: float | None, rank: float | None) -> bool:
    """Whether features have lost their spread (share of its start) or rank; NaN counts as lost, None as not logged."""
    return (left is not None and not left >= STD_LEFT) or (rank is not None and not rank >= RANK_LEFT)


def in_words(kind: str, level: str, **numbers: float) -> str:
    """The sentence for a sign; `numbers` holds `value`, for features `left` and `rank` as far as they were logged."""
    told = []
    if math.isfinite(numbers.get("left", math.nan)):
        told.append(f"the standard deviation of the features is {numbers['left']:.3g} times that at the start")
    if math.isfinite(numbers.get("rank", math.nan)):
        told.append(f"their effective rank (RankMe) is {numbers['rank']:.1f}")
    return SENTENCES[kind].format(
        level=level,
        things=THINGS.get(level, ""),
        percent=100 * numbers.get("value", math.nan),
        told=" and ".join(told) or "its features are not finite",
    )


def remedy(kind: str, level: str, config: Mapping[str, Any]) -> str:
    """The flag to try against a sign, by the control in use; empty where `config` has no such knob."""
    if kind == "features":
        return scaled(config, "optim.learning_rate", 0.5)
    control = str(at(config, f"method.collapse.{level}"))
    softer = {"sinkhorn": ("method.sinkhorn.eps", 2.0), "memax": ("method.memax.weight", 2.0)}
    sharper = {"sinkhorn": ("method.sinkhorn.eps", 0.5), "memax": ("method.memax.sharpen", 0.5)}
    fewer = {"sinkhorn": (f"method.prototypes.{level}", 0.25), "memax": ("method.memax.weight", 2.0)}
    if kind == "uniform":
        return scaled(config, *sharper.get(control, ("method.temperature.teacher_end", 0.5)))
    chosen = {"one": softer, "few": fewer}[kind]
    if control in chosen:
        return scaled(config, *chosen[control])
    return flag(config, f"method.collapse.{level}", "sinkhorn")
