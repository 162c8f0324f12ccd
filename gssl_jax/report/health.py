"""The health of a training in words: what the logged numbers mean and which knob to turn when one is wrong.

The alarms are those of the run itself (an entry "alarm" in metrics.jsonl) and the same rules (`evals/collapse.py`)
applied to the end of the last stage. The hints below them are softer: limits that are ours, chosen to be worth a look
and not to be a failure.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gssl_jax.evals.collapse import THINGS, WINDOW, assignment_signs, features_collapsed, in_words, remedy
from gssl_jax.knobs import at, flag, is_number, scaled
from gssl_jax.report.measures import capital, kind
from gssl_jax.report.reading import Metrics, RunFiles
from gssl_jax.report.words import CONTROLS, listing, pretext_words

GATE_CLOSED = 0.2
"""Entropy of the mean weights as a share of ln T, below; a hint. Of two pretexts one then has 97 % of the weight, of
three 95 %: the others train next to nothing, and their heads fall behind what the backbone could tell them."""

SHRUNKEN_FEATURES = 0.2  # feature std as a share of its start; a hint
ALIKE = -0.1  # uniformity, above: pairs of images have a cosine of about .97 or more; a hint
SCATTERED = 0.95  # distance of two views of an image as a share of that of two images, above; a hint
STILL_RISING = 0.02  # accuracy gained in the last third where no interval says what is noise; a hint

LEVELS = {"cls": "Class assignments", "patch": "Patch assignments"}
SIGNS = {"one": "have collapsed", "uniform": "say nothing", "few": "hardly use their prototypes"}


class Finding(NamedTuple):
    """One observation. `level` is alarm, hint or good; `knob` is a flag to try, empty where there is nothing to do."""

    level: str
    title: str
    text: str
    knob: str = ""


def findings(run: RunFiles) -> list[Finding]:
    """What the metrics of a run say, the gravest first; empty where no health was logged.

    Alarms look at the mean over the last 20 logged steps.
    """
    found = [*_logged_alarms(run), *_finite(run)]
    for level in LEVELS:
        found += _assignments(run, level)
    found += [*_gate(run), *_features(run), *_geometry(run), *_trend(run), *_converged(run)]
    order = {"alarm": 0, "hint": 1, "good": 2}
    return sorted(found, key=lambda finding: order[finding.level])


def last_stage(metrics: Metrics) -> str | None:
    """Name of the stage that ran last, or None before the first line."""
    return list(metrics.stages)[-1] if metrics.rows else None


def recent(metrics: Metrics, key: str) -> float | None:
    """Mean of `key` over the last 20 steps of the last stage that hold it, or None where it was never logged."""
    steps, values = metrics.series(key, last_stage(metrics))
    return float(values[steps > steps[-1] - WINDOW].mean()) if len(values) else None


def _logged_alarms(run: RunFiles) -> list[Finding]:
    """Alarms that the run itself wrote; one entry for each wording, with the first step and how often."""
    groups: dict[tuple[str, str], list[int]] = {}
    for row in run.metrics.alarms():
        groups.setdefault((row["stage"], row["alarm"]), []).append(row["step"])
    return [
        Finding("alarm", f"Raised during the run at step {steps[0]:,} of stage {stage}" + _times(len(steps)), words)
        for (stage, words), steps in groups.items()
    ]


def _times(number: int) -> str:
    return "" if number == 1 else f", and {number - 1} more time{'s' if number > 2 else ''}"


def _finite(run: RunFiles) -> list[Finding]:
    skipped, lines = at(run.results, "run.skipped_steps"), run.metrics.not_finite("train/")
    if is_number(skipped) and skipped:
        found = "One step was" if skipped == 1 else f"{skipped:,} steps were"
    elif lines:
        found = "A loss on one logged line was" if lines == 1 else f"Losses on {lines:,} logged lines were"
    else:
        return []
    text = f"{found} not finite. Such a step changes nothing, but it points to steps that are too large."
    return [Finding("alarm", "Numbers that are not finite", text, scaled(run.config, "optim.learning_rate", 0.5))]


def _assignments(run: RunFiles, level: str) -> list[Finding]:
    """Entropy and use of the prototypes at class or patch level."""
    title, things = LEVELS[level], THINGS[level]
    names = ("mean_target_entropy", "target_entropy", "prototypes_in_use")
    mean, each, used = (recent(run.metrics, f"health/{name}_{level}") for name in names)
    if each is None and mean is None and used is None:
        return []
    signs = assignment_signs(mean, each, used)
    if signs:
        sign = signs[0]
        text = in_words(sign, level, value=_or_nan({"one": mean, "uniform": each, "few": used}[sign]))
        return [Finding("alarm", f"{title} {SIGNS[sign]}", text, remedy(sign, level, run.config))]
    prototypes = at(run.config, f"method.prototypes.{level}")
    many = "of the prototypes that a batch can reach" + (f" ({prototypes:,} in all)" if is_number(prototypes) else "")
    agreement = recent(run.metrics, f"health/agreement_{level}")
    parts = [
        None if each is None else f"Entropy of one target: {_per_cent(each)} of its maximum (low = decided).",
        None if mean is None else f"Entropy of the mean target: {_per_cent(mean)} (high = prototypes are shared out).",
        None if used is None else f"In use: {_per_cent(used)} {many}.",
        None if agreement is None else f"Teacher and student agree for {_per_cent(agreement)} of the {things}.",
    ]
    return [Finding("good", title, " ".join(part for part in parts if part))]


def _gate(run: RunFiles) -> list[Finding]:
    """How the weights are shared among two pretexts or more; nothing where none has any."""
    metrics, openness = run.metrics, recent(run.metrics, "gate/entropy")
    prefix = "gate/weight_"
    weights = {key.removeprefix(prefix): recent(metrics, key) or 0.0 for key in metrics.keys(prefix)}
    if openness is None or len(weights) < 2 or not any(weights.values()):
        return []
    largest = max(weights, key=lambda name: weights[name])
    if openness >= GATE_CLOSED:
        shares = ", ".join(f"{pretext_words(name)} {weight:.2f}" for name, weight in weights.items())
        text = f"Weights at the end: {shares}. Their entropy is {_per_cent(openness)} of its maximum."
        return [Finding("good", "Gate", text)]
    share = weights[largest] / sum(weights.values())
    text = (
        f"It has {_per_cent(share)} of the weight (entropy {_per_cent(openness)} of its maximum), so the other "
        f"pretexts teach the backbone nothing."
    )
    mode = at(run.config, "method.gate.mode")
    if mode == "learned":
        text += " A gate that learns from the losses it weighs goes to the smallest one, the easiest pretext"
        text += "; besides the knob below, method.gate.load_balance_weight=1.0 keeps it open."
    wider = scaled(run.config, "method.gate.temperature", 2.0)
    knob = wider if mode == "usefulness" else flag(run.config, "method.gate.mode", "usefulness")
    return [Finding("hint", f"The gate has closed on {pretext_words(largest)}", text, knob)]


def _features(run: RunFiles) -> list[Finding]:
    metrics = run.metrics
    spread = metrics.series("health/feature_std", last_stage(metrics)).values
    rank = recent(metrics, "health/rankme")
    if not len(spread) and rank is None:
        return []
    share = recent(metrics, "health/feature_std_of_start")
    if share is None and len(spread) and spread[0] > 0:
        share = float(spread[-1] / spread[0])
    if features_collapsed(share, rank):
        text = in_words("features", "", left=_or_nan(share), rank=_or_nan(rank))
        return [Finding("alarm", "Features have collapsed", text, remedy("features", "", run.config))]
    numbers = [] if share is None else [f"their standard deviation is {share:#.3g} times that at the start"]
    numbers += [] if rank is None else [f"their effective rank (RankMe) is {rank:.1f}"]
    text = capital(f"{'; '.join(numbers)}.")
    if share is not None and share < SHRUNKEN_FEATURES:
        return [Finding("hint", "Features have shrunk", text + " Not a failure, but worth a look at the curve.")]
    return [Finding("good", "Features", text)] if numbers else []


def _geometry(run: RunFiles) -> list[Finding]:
    """Whether images lie apart and their own views together, at the end; nothing where it was not measured."""
    trained, untrained = (at(run.results, f"health.{name}") for name in ("trained", "untrained"))
    names = ("alignment", "distance", "uniformity")
    if isinstance(trained, dict) and at(trained, "rankme") is None:
        text = "No label-free score can be told: its features are not finite, or all zero."
        knob = scaled(run.config, "optim.learning_rate", 0.5)
        return [Finding("alarm", "The features of the trained backbone are no numbers", text, knob)]
    together, apart, even = (at(trained, name) for name in names)
    if not (is_number(together) and is_number(apart) and is_number(even)):
        return []
    before = [at(untrained, name) for name in names]
    beside = ""
    if all(is_number(one) for one in before):
        beside = f" Untrained: {before[0]:.2f}, {before[1]:.2f} and {_signed(before[2])}."
    numbers = f"Two views of an image lie {together:.2f} apart, two images {apart:.2f} (squared distance, 4 at most)"
    if even > ALIKE:
        text = (
            f"Uniformity is {_signed(even)}, where 0 means that all images are one point and \u22124 that they are "
            f"spread evenly. {numbers}; that views lie together says nothing then.{beside}"
        )
        control = at(run.config, "method.collapse.cls")
        knob = remedy("features", "", run.config)
        if control is not None and control != "sinkhorn":
            knob = flag(run.config, "method.collapse.cls", "sinkhorn")
        return [Finding("hint", "Images look much alike", text, knob)]
    text = f"{numbers}; uniformity {_signed(even)}.{beside}"
    if together > SCATTERED * apart:
        text += (
            " So a crop, a flip or a change of colour moves an image as far as another image is. That is no fault "
            "where the task hangs on just these; else longer training helps, or views as different as these."
        )
        title = "Views of an image lie no closer than other images"
        return [Finding("hint", title, text, scaled(run.config, "optim.duration", 2.0))]
    return [Finding("good", "Views of an image lie together, images apart", text)]


def _signed(value: float) -> str:
    return f"{value:.2f}".replace("-", "\u2212")


def _per_cent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value


def _trend(run: RunFiles) -> list[Finding]:
    """Is k-NN still rising at the end? Then longer training is the first thing to try."""
    key = _knn(run)
    steps, values = run.metrics.series(f"eval/{key}", last_stage(run.metrics))
    if len(values) < 3:
        return []
    earlier = float(np.interp(steps[0] + (steps[-1] - steps[0]) * 2 / 3, steps, values))
    gain, noise, name = float(values[-1]) - earlier, _noise(run, key), f"k-NN {kind(key)}"
    if gain > noise:
        text = f"{name} gained {100 * gain:.1f} points in the last third of the training: a longer run probably helps."
        return [Finding("hint", "Still learning at the end", text, scaled(run.config, "optim.duration", 2.0))]
    if gain < -noise:
        text = (
            f"{name} lost {-100 * gain:.1f} points in the last third of the training. "
            "A lower learning rate or a shorter run may keep it."
        )
        return [Finding("hint", "The score fell towards the end", text, scaled(run.config, "optim.learning_rate", 0.5))]
    return [Finding("good", "Training has settled", f"{name} hardly changed in the last third of the training.")]


def _converged(run: RunFiles) -> list[Finding]:
    """Linear classifiers, of the trained backbone or a control, that ran out of iterations."""
    tables = {"trained": at(run.results, "eval"), **(at(run.results, "controls") or {})}
    keys = ("linear/top1", "linear/map")
    short = [n for n, table in tables.items() if any(at(table, f"{k}.protocol.converged") is False for k in keys)]
    if not short:
        return []
    names = listing([CONTROLS.get(name, name) for name in short])
    text = f"The linear classifier stopped before it had converged on the features of: {names}."
    return [Finding("hint", "More iterations needed", text, scaled(run.config, "evals.linear.max_iterations", 4.0))]


def _knn(run: RunFiles) -> str:
    """The measure of k-NN that was logged: its accuracy, or with several labels an image its mAP."""
    return next((key for key in ("knn/top1", "knn/map", "knn/auroc") if run.metrics.keys(f"eval/{key}")), "knn/top1")


def _noise(run: RunFiles, key: str) -> float:
    """Half the width of the interval of a measure, or a fixed step where there is none."""
    entries = at(run.results, "eval")
    entry = entries.get(key) if isinstance(entries, dict) else None
    low, high = at(entry, "low"), at(entry, "high")
    return (high - low) / 2 if is_number(low) and is_number(high) else STILL_RISING
