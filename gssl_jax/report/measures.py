"""Names of measures as people say them: in tables, at the start of a sentence, and what guessing would get."""

from __future__ import annotations

import re

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
HEADLINES = (
    *("lowshot_5/top1", "lowshot_2/top1", "lowshot_1/top1"),
    *("linear/top1", "linear_sgd/top1", "knn/top1"),
    *("linear/auroc", "linear_sgd/auroc", "knn/auroc"),
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
SCORES = {"top1": "accuracy", "auroc": "mean AUROC", "miou": "mean IoU"}
"""What a measure is, by the end of its key."""

AUROC, AUROC_GUESS = "/auroc", 0.5
GUESSES = {"mean AUROC": AUROC_GUESS, "mean IoU": 0.0}
"""What guessing gets where it does not follow from the number of classes; 0 where nobody can say."""
AREA_SUFFIX = ", mean AUROC"
"""What the name of such a measure ends with, where no caption says it."""


def is_auroc(key: str) -> bool:
    """Whether a measure is the mean area under the ROC curve over the classes, and no accuracy: guessing gets 0.5."""
    return key.endswith(AUROC)


def kind(key: str) -> str:
    """What the numbers of a measure are: one of `SCORES`."""
    score = key.rpartition("/")[2]
    return SCORES[score] if score in SCORES else "accuracy"


def unit(key: str) -> str:
    """What follows a number of the measure, times 100: " %", or nothing where it is no accuracy."""
    return " %" if kind(key) == "accuracy" else ""


def guess(key: str) -> float | None:
    """What guessing gets, a fraction; None where it follows from the number of classes."""
    return GUESSES[kind(key)] if kind(key) in GUESSES else None


def without_kind(words: str) -> str:
    """The `label` of a measure where a caption says what it is: "k-NN" of "k-NN, mean AUROC"."""
    for name in SCORES.values():
        words = words.removesuffix(f", {name}")
    return words


def fine_tuned(key: str) -> str | None:
    """Of a measure for which the network was trained on, with how many labels: "1,000", "all" or "1 % of the"; None for
    others."""
    found = re.fullmatch(r"finetune_(?:(\d+)|(all)|([\d.]+)pct)/(?:top1|auroc)", key)
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
    if score not in SCORES:
        return key
    shots, labels = re.fullmatch(r"lowshot_(\d+)", name), fine_tuned(key)
    few = re.fullmatch(r"(segment)_(\d+)_(\w+)", name)
    words = robust(key) or NAMES.get(name, key)
    if shots:
        words = f"{shots[1]} image{'' if shots[1] == '1' else 's'} per class"
    elif labels:
        words = f"fine-tuned with {labels} labels"
    elif few and f"{few[1]}_{few[3]}" in NAMES:
        words = f"{NAMES[f'{few[1]}_{few[3]}']}, {few[2]} image{'' if few[2] == '1' else 's'} per class"
    return words if score == "top1" or words == key else f"{words}, {kind(key)}"


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
    opening = f"At {words}" if name.startswith("lowshot_") else f"By {words}"
    if name in OPENINGS:
        opening = OPENINGS[name]
    elif fine_tuned(key):
        opening = words[0].upper() + words[1:]
    elif name.startswith("segment_"):
        opening = f"With {words}"
    return opening if kind(key) == "accuracy" else f"In {kind(key)} {opening[0].lower()}{opening[1:]}"
