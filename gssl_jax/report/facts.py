"""What was trained on what, and how it was measured, as plain words taken from config.json and results.json."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from gssl_jax.knobs import at, is_number
from gssl_jax.report.measures import capital
from gssl_jax.report.method_words import METHODS, SHORT_METHODS, WITH_LABELS
from gssl_jax.report.reading import RunFiles, flatten
from gssl_jax.report.words import Row, class_scores, pretext_words

INTERVALS = {
    "t-draws": "Student's t over the draws of the labelled images",
    "bootstrap-test": "bootstrap over the test images",
}
LOSSES = {"ce": "cross-entropy", "ldam": "LDAM", "focal": "focal loss"}
REWEIGHTING = {
    "drw": "classes reweighted by their effective number from {drw_start} {unit}s on",
    "class_balanced": "classes reweighted by their effective number",
}
GATES = {
    "learned": "a linear gate that learns from the losses it weighs",
    "frozen": "a linear gate without a gradient, as in the authors' code",
    "uniform": "none: every pretext weighs the same and their weights sum to 1",
    "sum": "none: every pretext weighs 1",
    "none": "none: images are transformed, but nothing is learned from that",
    "usefulness": "weights by how well each pretext's gradient agrees with that of the labels",
}
SPLITS = {"train": "labelled images", "test": "test images"}
MOST_CLASSES = 12  # named in a line
FEATURES = {
    "feat": "the class token after the last norm (or the average of the map)",
    "cls_prenorm": "the class token of the last block before the final norm",
    "patch_mean": "the mean of the patch tokens",
    "last4_cls": "the class tokens of the last four blocks, or of all where there are fewer, joined",
    "pixels": "the pixels themselves, joined to one vector",
}


def text_of(value: Any) -> str:
    """A value of a configuration as somebody would write it: lists by comma, numbers short, None as a dash."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return format(value, ".6g")
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, list | tuple) and len(value) > 6 and all(map(is_number, value)):
        return f"{len(value)} values from {text_of(min(value))} to {text_of(max(value))}"
    if isinstance(value, list | tuple):
        return ", ".join(text_of(one) for one in value)
    return value if isinstance(value, str) else json.dumps(value)


def leaves_of(tree: Any) -> str:
    """The leaves of a group that are not empty in one line: "depth 4 · heads 3 · patch 4"."""
    leaves = flatten(tree) if isinstance(tree, Mapping) else {}
    told = {name: value for name, value in leaves.items() if value not in ("", [], ())}
    return " \u00b7 ".join(f"{name.replace('_', ' ')} {text_of(value)}" for name, value in told.items())


def duration(seconds: float) -> str:
    """Seconds in words: 222 -> "3 min 42 s"."""
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def summary(run: RunFiles) -> str:
    """One sentence: what was trained, on what, for how long, where."""
    method, source = at(run.config, "method.name"), _source(run.config)
    name = SHORT_METHODS.get(str(method), method)
    parts = [f"{name} {'training' if method in WITH_LABELS else 'pretraining'}" if method else "Pretraining"]
    if source and ", " in source and ";" not in source:
        source = source.replace(", ", " (", 1) + ")"
    parts += [f"on {source}"] if source else []
    steps, seconds, rate = (at(run.results, f"run.{name}") for name in ("steps", "seconds", "images_per_second"))
    parts += [f"for {steps:,} steps"] if is_number(steps) else []
    parts += [f"in {duration(seconds)}"] if is_number(seconds) else []
    device = at(run.results, "run.device")
    parts += [f"on {device}"] if device else []
    sentence = " ".join(parts) + (f" ({rate:,.0f} images a second)" if is_number(rate) else "") + "."
    return capital(sentence)


def facts(run: RunFiles) -> list[tuple[str, str]]:
    """Pairs of term and description for what was trained on what; what the files do not say is left out."""
    c, recipe = run.config, at(run.results, "run.config")
    parameters, seed = at(run.results, "run.parameters"), at(run.results, "run.seed")
    size, channels = at(c, "data.image_size"), at(c, "data.channels")
    views = at(c, "method.views")
    pairs = [
        ("Recipe", recipe if isinstance(recipe, str) else None),
        ("Training images", _source(c)),
        ("Evaluation images", _evaluation(run)),
        ("Unreadable images", _unreadable(run)),
        ("Started from", _origin(run)),
        ("Image size", f"{size} x {size} pixels, {_channels(channels)}" if size and channels else None),
        ("Backbone", leaves_of(at(c, "backbone"))),
        ("Parameters", f"{parameters:,}" if is_number(parameters) else None),
        ("Method", METHODS.get(str(at(c, "method.name")), at(c, "method.name"))),
        ("Training subset", _subsets(run)),
        ("Validation", _validation(c)),
        ("Loss", _loss(c)),
        ("Pretexts", _pretexts(c)),
        ("Gate", _gate(c)),
        ("Attack", _attack(at(c, "method.attack"))),
        ("Views", ", ".join(f"{n} {kind}" for kind, n in views.items()) if isinstance(views, Mapping) else None),
        ("Collapse control", leaves_of(at(c, "method.collapse"))),
        ("Prototypes", leaves_of(at(c, "method.prototypes"))),
        ("Corruption", leaves_of(at(c, "method.corruption"))),
        ("Stages", text_of(at(c, "stages")) if at(c, "stages") else None),
        ("Batch size", text_of(at(c, "optim.batch_size")) if at(c, "optim.batch_size") else None),
        ("Seed", text_of(seed) if seed is not None else None),
    ]
    return [(term, str(words)) for term, words in pairs if words]


def _origin(run: RunFiles) -> str:
    """What the run began with; empty where nothing says it."""
    words = at(run.results, "run.started_from")
    return {"scratch": "random weights"}.get(words, words) if isinstance(words, str) else ""


def _source(config: Mapping[str, Any]) -> str:
    """Every training stream in words: "photos, split pretrain, 4,096 images"."""
    streams = at(config, "data.streams")
    named = []
    for name, stream in streams.items() if isinstance(streams, Mapping) else ():
        words = [text_of(at(stream, "source")), text_of(at(stream, "path") or None), f"split {at(stream, 'split')}"]
        size = at(stream, "size")
        words += [f"{size:,} images"] if is_number(size) and size else []
        line = ", ".join(word for word in words if word not in ("-", "split None"))
        named.append(line if len(streams) == 1 else f"{name}: {line}")
    return "; ".join(named)


def _subsets(run: RunFiles) -> str:
    """Which of the labelled images of each stream are learned from, and how many of a class."""
    streams = at(run.config, "data.streams")
    named = []
    for name, stream in streams.items() if isinstance(streams, Mapping) else ():
        subset = at(stream, "subset")
        words = _subset(subset) if isinstance(subset, Mapping) else ""
        if words:
            words += _images(run, name)
            named.append(words if len(streams) == 1 else f"{name}: {words}")
    scores = class_scores(run.results)
    if named and scores is not None and scores.uneven:
        named.append(f"{max(scores.images):,} to {min(scores.images):,} of a class")
    return "; ".join(named)


def _subset(subset: Mapping[str, Any]) -> str:
    """A subset in words; empty for all images."""
    value = {name: text_of(subset.get(name)) for name in ("profile", "factor", "count", "share")}
    return {
        "long_tail": f"long tail, {value['profile']}, factor {value['factor']}"
        + (f", {value['count']} of the first class" if subset.get("count") else "")
        + (", classes in random order" if subset.get("shuffle_classes") else ""),
        "labels": f"{value['count']} labels",
        "shots": f"{value['count']} of each class",
        "share": f"a share of {value['share']} of every class",
    }.get(str(subset.get("kind")), "")


def _validation(config: Mapping[str, Any]) -> str:
    """Which labelled images are kept back to choose the state."""
    validation, streams = at(config, "data.validation"), at(config, "data.streams")
    if not isinstance(validation, Mapping) or not isinstance(streams, Mapping):
        return ""
    if any(at(stream, "subset.kind") == "long_tail" for stream in streams.values()):
        count = validation.get("per_class")
        return f"up to {count} images per class of those the tail leaves out" if count else "none"
    share = validation.get("share")
    return f"a share of {text_of(share)} of every class" if share else "none"


def _loss(config: Mapping[str, Any]) -> str:
    """The supervised loss with the numbers that belong to it."""
    loss = at(config, "method.loss")
    kind = at(loss, "kind")
    if kind not in LOSSES:
        return ""
    numbers = {"ldam": ("margin", "scale"), "focal": ("gamma",)}.get(kind, ())
    words = [LOSSES[kind], *(f"{name} {text_of(loss[name])}" for name in numbers if name in loss)]
    again = REWEIGHTING.get(str(loss.get("reweighting")), "")
    words += [again.format(drw_start=text_of(loss.get("drw_start")), unit=at(config, "optim.unit"))] if again else []
    return ", ".join(words)


def _pretexts(config: Mapping[str, Any]) -> str:
    """Names and weight of the pretexts."""
    names = at(config, "method.pretexts.names")
    if not isinstance(names, list | tuple):
        return ""
    listed = ", ".join(pretext_words(str(name)) for name in names)
    return (
        f"{listed}; their weight beside the labels {text_of(at(config, 'method.pretexts.weight'))}" if names else "none"
    )


def _gate(config: Mapping[str, Any]) -> str:
    """What weighs the pretexts, with the knobs that this mode reads."""
    gate = at(config, "method.gate")
    mode = at(gate, "mode")
    if mode not in GATES or not at(config, "method.pretexts.names"):
        return ""
    read = {
        "learned": ("formula", "entropy_weight", "load_balance_weight"),
        "frozen": ("formula",),
        "usefulness": ("momentum", "temperature"),
    }.get(mode, ())
    knobs = {name: gate[name] for name in read if gate.get(name)}  # a penalty of 0 is none
    words = [GATES[mode], *(f"{name.replace('_', ' ')} {text_of(v)}".replace("_", " ") for name, v in knobs.items())]
    return ", ".join(words + (["losses divided by that of guessing"] if gate.get("chance_normalised") else []))


def _attack(attack: Any) -> str:
    """An attack by projected gradients; empty for none."""
    if not isinstance(attack, Mapping) or not attack.get("steps"):
        return ""
    sizes = [f"{words} {_of_255(attack.get(key))}" for key, words in (("epsilon", "within"), ("step_size", "step"))]
    return f"{attack['steps']} steps of PGD, {', '.join(sizes)}"


def _of_255(value: Any) -> str:
    """A change of pixels as a fraction of 255, the way papers write it."""
    return f"{format(255 * value, '.3g')}/255" if is_number(value) else text_of(value)


def _evaluation(run: RunFiles) -> str:
    """Where the labelled images and the test images came from; empty where nothing was scored."""
    data, entries = at(run.config, "evals.data"), at(run.results, "eval")
    if not isinstance(data, Mapping) or not isinstance(entries, Mapping) or not any(entries.values()):
        return ""
    place = ", ".join(str(data[key]) for key in ("source", "path") if at(data, key))
    classes = at(run.results, "run.data.eval_test.classes")
    splits = [
        f"{role} from {data[split]}{_images(run, f'eval_{split}')}" for split, role in SPLITS.items() if split in data
    ]
    return ", ".join(filter(None, (place, *splits, f"{classes:,} classes" if is_number(classes) else "")))


def _unreadable(run: RunFiles) -> str:
    """How many images could not be used; empty where all could."""
    counts = at(run.results, "run.unreadable_images") or {}
    fates = {"train": "replaced in training", "eval": "left out of the evaluation"}
    return ", ".join(
        f"{counts[part]:,} {fate}" for part, fate in fates.items() if is_number(at(counts, part)) and counts[part]
    )


def _images(run: RunFiles, part: str) -> str:
    """ " (1,140 images)" where results.json counts them."""
    number = at(run.results, f"run.data.{part}.images")
    return f" ({number:,} images)" if is_number(number) else ""


def _channels(number: Any) -> str:
    return {1: "grey", 3: "colour"}.get(number, f"{number} channels")


def protocol_of(row: Row) -> str:
    """Protocol, interval and n of one row, in words (of the trained backbone where it was measured)."""
    one = next(filter(None, (row.trained, *row.controls.values(), row.last)))  # a row has a score
    protocol = one.protocol
    if row.own and isinstance(protocol, Mapping):
        protocol = _own_protocol(row.key, protocol)
    elif isinstance(protocol, Mapping):
        told = {name: value for name, value in protocol.items() if name != "curve"}  # drawn, not told
        protocol = ", ".join(f"{name.replace('_', ' ')} {_short(text_of(value))}" for name, value in told.items())
    interval = INTERVALS[one.interval] if one.interval in INTERVALS else str(one.interval or "not stored")
    n = "" if one.n is None else f", n = {one.n:,}"
    return f"{protocol or 'protocol not stored'}. 95 % interval: {interval}{n}."


def _own_protocol(key: str, protocol: Mapping[str, Any]) -> str:
    """How the method's own classifier was judged; classes in numbers have a section of their own."""
    attack = _attack(protocol)
    words = ["the method's own classifier", f"{attack}, on the loss of the labels, random start" if attack else ""]
    if at(protocol, "mean over"):
        words.append(f"mean over {protocol['mean over']}")
    names = at(protocol, "classes")
    if isinstance(names, list):
        more = len(names) - MOST_CLASSES
        words.append(f"{', '.join(map(str, names[:MOST_CLASSES]))}{f' and {more} more' if more > 0 else ''}")
    return ", ".join(filter(None, words))


def _short(words: str) -> str:
    """A digest by its first twelve digits; results.json has it whole."""
    return words[:12] if re.fullmatch(r"[0-9a-f]{16,}", words) else words


def feature_notes(rows: list[Row]) -> list[tuple[str, str]]:
    """Name and meaning of every known feature that the protocols of `rows` mention."""
    said = " ".join(protocol_of(row) for row in rows)
    return [(name, words) for name, words in FEATURES.items() if name in re.findall(r"\w+", said)]
