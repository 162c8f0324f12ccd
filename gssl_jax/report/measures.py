"""Names of measures as people say them: in tables, at the start of a sentence, and what guessing would get."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from gssl_jax.knobs import at, is_number

OWN, LAST = "accuracy", "last/"
"""How the keys of a method's own classifier begin, and of its last step where validation chose another."""

GROUPS = {
    "many": "classes with many images",
    "medium": "classes with some images",
    "few": "classes with few images",
    "head": "richest third of classes",
    "middle": "middle third of classes",
    "tail": "rarest third of classes",
}
ROBUST = {
    "clean": "clean images",
    "mean": "mean over corruptions",
    "kept": "share of the clean accuracy kept",
    "jpeg_compression": "JPEG",
    "elastic_transform": "elastic",
}
RAREST = ("few", "tail")

# The question of a person with few labels comes first, and the least noisy of its answers.
SHOTS = ("lowshot_5", "lowshot_2", "lowshot_1")
FULL = ("linear", "linear_sgd", "knn")
HEADLINES = (
    *(f"{name}/top1" for name in SHOTS + FULL),
    *(f"{name}/map" for name in SHOTS + FULL),
    *(f"{name}/auroc" for name in FULL),
    *("segment_5_linear/miou", "segment_linear/miou", "segment_knn/miou"),
)
NAMES = {
    "knn": "k-NN",
    "linear": "linear",
    "linear_sgd": "linear, SGD schedule of HPT",
    "segment_knn": "masks, k-NN of patches",
    "segment_linear": "masks, linear head",
    "segment_decoder": "masks, UperNet decoder alone",
    "segment_upernet": "masks, UperNet fine-tuned",
}
OPENINGS = {
    "knn": "By nearest neighbours (k-NN)",
    "linear": "With a linear classifier on all labels",
    "linear_sgd": "With a linear classifier on all labels (SGD schedule of HPT)",
    "segment_knn": "With masks by nearest patches (k-NN)",
    "segment_linear": "With masks by a linear head on the patches",
    "segment_decoder": "With masks by a UperNet decoder on the frozen backbone",
    "segment_upernet": "With masks by a UperNet, decoder and backbone trained",
}


class Kind(NamedTuple):
    """What the numbers of a measure are: `name` in a sentence, what follows a number times 100 (`unit`), what guessing
    gets (None where the classes or the protocol say it), and a caption for a table of them."""

    name: str
    unit: str
    guess: float | None
    caption: str


KINDS = {
    "top1": Kind("accuracy", " %", None, "Accuracy on test images in per cent"),
    "map": Kind(
        "mAP",
        " %",
        None,
        "Mean average precision (mAP) over the labels on test images, in per cent; guessing gets the share of images "
        "that have a label",
    ),
    "auroc": Kind(
        "mean AUROC",
        "",
        0.5,
        "Mean AUROC over the classes on test images, times 100: 50 is guessing, 100 is without a fault, and this is no "
        "accuracy",
    ),
    "f1_macro": Kind("macro F1", " %", None, "Mean F1 over the labels on test images, in per cent"),
    "f1_micro": Kind("micro F1", " %", None, "F1 over all pairs of a test image and a label, in per cent"),
    "miou": Kind(
        "mean IoU",
        "",
        0.0,  # nobody can say
        "Mean over the classes of pixels of the intersection over union (IoU) of predicted and true masks, in test "
        "images, times 100: 100 is without a fault. This is no accuracy: a class of few pixels counts as much as any "
        "other",
    ),
}
"""By the last part of a measure's name, in the order of the tables."""

ACCURACY = KINDS["top1"]


def kind_of(key: str) -> Kind:
    """The kind of a measure; accuracy for names that are not known."""
    return KINDS.get(key.rpartition("/")[2], ACCURACY)


def kind(key: str) -> str:
    """What the numbers of a measure are: "accuracy", "mAP", "mean AUROC"."""
    return kind_of(key).name


def unit(key: str) -> str:
    """What follows a number of the measure, times 100: " %", or nothing for an area."""
    return kind_of(key).unit


def guess(key: str, protocol: Any = None) -> float | None:
    """What guessing gets, a fraction, where it does not follow from the number of classes."""
    found: Any = at(protocol, "guess")
    return float(found) if is_number(found) else kind_of(key).guess


def without_kind(words: str) -> str:
    """The `label` of a measure where a caption says what it is: "k-NN" of "k-NN, mean AUROC"."""
    for one in KINDS.values():
        words = words.removesuffix(f", {one.name}")
    return words


def capital(words: str) -> str:
    """`words` as a sentence begins; mAP stays as it is written."""
    return words if words.startswith("mAP") else words[:1].upper() + words[1:]


def fine_tuned(key: str) -> str | None:
    """Of a measure for which the network was trained on, with how many labels: "1,000", "all" or "1 % of the"; None for
    others."""
    found = re.fullmatch(rf"finetune_(?:(\d+)|(all)|([\d.]+)pct)/(?:{'|'.join(KINDS)})", key)
    if not found:
        return None
    return f"{int(found[1]):,}" if found[1] else found[2] or f"{found[3]} % of the"


def robust(key: str) -> str | None:
    """The name of a measure of robustness: "gaussian noise", "PGD, linf 4/255", "on shaded"; None for others."""
    found = re.fullmatch(r"(robust|shift)_(.+)/top1", key)
    if not found:
        return None
    attack = re.fullmatch(r"pgd_(linf|l2)_(.+)", found[2])
    if found[1] == "shift":
        return f"on {found[2]}"
    if attack:
        return f"PGD, {attack[1]} {attack[2]}{'/255' if attack[1] == 'linf' else ''}"
    return ROBUST.get(found[2], found[2].replace("_", " "))


def detail(key: str) -> bool:
    """Whether a measure of robustness is for its own section alone: of one corruption, of clean images, or a share."""
    return key.startswith("robust_") and not key.startswith(("robust_mean/", "robust_pgd_"))


def group(key: str) -> str:
    """The group of classes that a key of the own classifier is about; empty for all classes."""
    name = key.removeprefix(f"{OWN}/")
    return name if name in GROUPS else ""


def label(key: str) -> str:
    """The name of a measure in the table, for example "5 images per class" or "k-NN, mean AUROC"."""
    if key.startswith(f"{OWN}/") or key.startswith(f"{OWN}_"):
        return _own_label(key)
    name, _, score = key.partition("/")
    if score not in KINDS:
        return key
    few, labels = name.removeprefix("lowshot_"), fine_tuned(key)
    masks = re.fullmatch(r"(segment)_(\d+)_(\w+)", name)
    words = robust(key) or NAMES.get(name, key)
    if few != name:
        words = _few(few)
    elif labels:
        words = f"fine-tuned with {labels} labels"
    elif masks and f"{masks[1]}_{masks[3]}" in NAMES:
        words = f"{NAMES[f'{masks[1]}_{masks[3]}']}, {_few(masks[2])}"
    return words if words == key or kind_of(key) is ACCURACY else f"{words}, {kind(key)}"


def _few(name: str) -> str:
    """Shots, a share of the labels, or a list of the user's own, in words."""
    if name.isdigit():
        return f"{name} image{'' if name == '1' else 's'} per class"
    share = re.fullmatch(r"([\d.]+)pct", name)
    return f"{share[1]} % of the labels" if share else f"the images of {name}"


def _own_label(key: str) -> str:
    """The name of a measure of the method's own classifier."""
    attacked = re.fullmatch(rf"{OWN}_(.+)/top1", key)
    if attacked:
        return f"accuracy under {re.sub(r'^pgd_?(?=[0-9])', 'PGD-', attacked[1])}"
    if group(key):
        return GROUPS[group(key)]
    return {f"{OWN}/top1": "accuracy", f"{OWN}/balanced": "mean over classes"}.get(key, key)


def place(key: str) -> str:
    """How a sentence about a measure begins: "At 5 images per class"."""
    name = key.partition("/")[0]
    words = without_kind(label(key))
    opening = f"By {words}"
    if name.startswith("lowshot_"):
        opening = f"{'From' if words.startswith('the images') else 'At'} {words}"
    if name in OPENINGS:
        opening = OPENINGS[name]
    elif fine_tuned(key):
        opening = capital(words)
    elif name.startswith("segment_"):
        opening = f"With {words}"
    return opening if kind_of(key) is ACCURACY else f"In {kind(key)} {opening[0].lower()}{opening[1:]}"
