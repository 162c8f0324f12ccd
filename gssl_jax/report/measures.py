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
RAREST = ("few", "tail")

# The question of a person with few labels comes first, and the least noisy of its answers.
HEADLINES = (
    *("lowshot_5/top1", "lowshot_2/top1", "lowshot_1/top1"),
    *("linear/top1", "linear_sgd/top1", "knn/top1"),
    *("linear/auroc", "linear_sgd/auroc", "knn/auroc"),
)
NAMES = {"knn": "k-NN", "linear": "linear", "linear_sgd": "linear, SGD schedule of HPT"}
OPENINGS = {
    "knn": "By nearest neighbours (k-NN)",
    "linear": "With a linear classifier on all labels",
    "linear_sgd": "With a linear classifier on all labels (SGD schedule of HPT)",
}
AUROC, AUROC_GUESS = "/auroc", 0.5
AREA_SUFFIX = ", mean AUROC"
"""What the name of such a measure ends with, where no caption says it."""


def is_auroc(key: str) -> bool:
    """Whether a measure is the mean area under the ROC curve over the classes, and no accuracy: guessing gets 0.5."""
    return key.endswith(AUROC)


def kind(key: str) -> str:
    """What the numbers of a measure are: "accuracy" or "mean AUROC"."""
    return "mean AUROC" if is_auroc(key) else "accuracy"


def unit(key: str) -> str:
    """What follows a number of the measure, times 100: " %", or nothing for an area."""
    return "" if is_auroc(key) else " %"


def fine_tuned(key: str) -> str | None:
    """The number of labels, "1,000", of a measure for which the whole network was trained on; None for others."""
    found = re.fullmatch(r"finetune_(\d+)/(?:top1|auroc)", key)
    return f"{int(found[1]):,}" if found else None


def group(key: str) -> str:
    """The group of classes that a key of the own classifier is about; empty for all classes."""
    name = key.removeprefix(f"{OWN}/")
    return name if name in GROUPS else ""


def label(key: str) -> str:
    """The name of a measure in the table, for example "5 images per class" or "k-NN, mean AUROC"."""
    if key.startswith(f"{OWN}/") or key.startswith(f"{OWN}_"):
        return _own_label(key)
    name, _, score = key.partition("/")
    if score not in ("top1", "auroc"):
        return key
    shots, labels = re.fullmatch(r"lowshot_(\d+)", name), fine_tuned(key)
    words = NAMES.get(name, key)
    if shots:
        words = f"{shots[1]} image{'' if shots[1] == '1' else 's'} per class"
    elif labels:
        words = f"fine-tuned with {labels} labels"
    return f"{words}{AREA_SUFFIX}" if is_auroc(key) and words != key else words


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
    words = label(key).removesuffix(AREA_SUFFIX)
    opening = f"At {words}" if name.startswith("lowshot_") else f"By {words}"
    if name in OPENINGS:
        opening = OPENINGS[name]
    elif fine_tuned(key):
        opening = words[0].upper() + words[1:]
    return f"In mean AUROC {opening[0].lower()}{opening[1:]}" if is_auroc(key) else opening
