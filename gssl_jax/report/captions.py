"""Headings, captions and the sentences that stand in for what is missing: the fixed words of the report."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gssl_jax.report.pictures import MOST_HEADS, MOST_NEIGHBOURS, MOST_QUERIES
from gssl_jax.report.style import CLASS_COLOURS, CLASS_MARKERS, drawable

HEADINGS = {
    "verdict": "Verdict",
    "table": "Scores",
    "run": "What was trained on what",
    "lowshot": "Accuracy with few labels",
    "curves": "Curves",
    "health": "Health",
    "pictures": "Pictures",
    "protocol": "Protocol",
    "versions": "Versions",
    "config": "Configuration",
}
TABLE = (
    "Accuracy on test images in per cent, below it the 95 % interval. Only a small classifier is trained on the frozen "
    "features; \u201cuntrained\u201d is the same backbone before pretraining."
)
NO_TABLE = "There are no scores: the images came without labels, or the run has not been evaluated."
LOWSHOT = (
    "Mean over draws of the labelled images, with 95 % intervals.",
    "Each point answers: with so many labelled images of each class, how many test images does a linear classifier on "
    "the frozen features get right?",
    "Where the bars of two backbones overlap, this run does not tell them apart. More draws narrow the bars; more "
    "labelled images lift the points.",
)
CURVES = {
    "loss": "Loss by term, faint as logged and bold smoothed. Each should fall, then level out.",
    "evaluation": "Accuracy while training. Still rising at the end: train longer. Level lines are the controls.",
    "entropy": "How decided the targets are: one target should be well below 1, the mean target near 1. A band has the "
    "colour of the line that must stay out of it.",
    "prototypes": "How many prototypes are somebody's first choice, and how often student and teacher choose alike.",
    "features": "Spread of the features. A fall towards zero, or a rank towards 1, is a collapse.",
    "schedule": "What the schedule asked for, how steep the loss was, and how fast it went.",
}
HEALTH = "Read from the last steps of the training, without any label."
PICTURES = {
    "reconstruction": "Reconstruction",
    "clusters": "Patch clusters",
    "attention": "Attention",
    "neighbours": "Nearest neighbours",
    "tsne": "Map of the test images",
}
PROTOCOL = (
    "The backbone stays frozen while it is measured: all that is trained is a small classifier on its features, and "
    "its settings are chosen on training images.",
    "Two backbones count as different here when their 95 % intervals do not overlap. Both are measured on the same "
    "images, so this is a cautious rule.",
)
ALT = {
    "lowshot": "Accuracy against labelled images per class for the trained, the untrained and the pixel features",
    "loss": "Loss terms over training steps",
    "evaluation": "Accuracy on test images over training steps",
    "entropy": "Entropy of the targets over training steps",
    "prototypes": "Share of prototypes in use and agreement of teacher and student over training steps",
    "features": "Standard deviation and effective rank of the features over training steps",
    "schedule": "Learning rate, teacher momentum, gradient norm and speed over training steps",
    "reconstruction": "Input images, what the student saw, and what it rebuilt",
    "clusters": "Images beside their patches coloured by cluster",
    "attention": "Images beside attention maps of the class token",
    "neighbours": "Test images with their nearest training images",
    "tsne": "Test images as points in two dimensions, coloured by class",
}
MISSING = {
    "lowshot": "There are no scores for few images per class, so there is nothing to plot.",
    "curves": "metrics.jsonl holds no numbers to plot.",
    "health": "No health was logged, so nothing can be said about it.",
    "reconstruction": "No reconstructions: this run has no reconstruction loss, or kept no pictures.",
    "clusters": "No patch clusters: this backbone has no patches, or the run kept no pictures.",
    "attention": "No attention maps: this backbone has no attention, or the run kept no pictures.",
    "neighbours": "No nearest neighbours: the run kept no pictures of them.",
    "tsne": "No map of the test images: the run kept none.",
    "protocol": "Nothing was measured with labels, so there is no protocol to state.",
    "versions": "results.json names no versions.",
    "config": "config.json could not be read, so the configuration is not shown.",
}


def caption(name: str, arrays: Mapping[str, np.ndarray], classes: tuple[str, ...]) -> str:
    """One sentence, sometimes two, on how to read a picture sheet, with the numbers of this one."""
    words = {
        "reconstruction": _reconstruction,
        "clusters": _clusters,
        "attention": _attention,
        "neighbours": _neighbours,
        "tsne": _tsne,
    }[name](arrays, classes)
    return words + _channels(arrays)


def _reconstruction(arrays: Mapping[str, np.ndarray], classes: tuple[str, ...]) -> str:
    return (
        "Left to right: the view, what the student saw of it, what it rebuilt. Judge the hidden places: sensible "
        "structure there means the backbone uses context; blur is normal."
    )


def _clusters(arrays: Mapping[str, np.ndarray], classes: tuple[str, ...]) -> str:
    number = len(np.unique(arrays["maps"]))
    return (
        f"Each patch has the colour of its cluster, the same in all pictures ({number} clusters"
        + ("; with so many, some colours look alike" if number > len(CLASS_COLOURS) else "")
        + "). Regions that follow the content mean that patches were learned; salt and pepper that they were not."
    )


def _attention(arrays: Mapping[str, np.ndarray], classes: tuple[str, ...]) -> str:
    heads = np.shape(arrays["maps"])[1]
    some = f"; the first {MOST_HEADS} of {heads} heads are shown" if heads > MOST_HEADS else ""
    return f"Where the class token looks in the last block, dark to bright, each map on its own scale{some}."


def _neighbours(arrays: Mapping[str, np.ndarray], classes: tuple[str, ...]) -> str:
    if not _labelled(arrays):
        return "Left a test image, then the training images whose features are most similar, the nearest first."
    right, all_ = _right(arrays)
    return (
        "Left a test image, then its nearest training images. A solid blue frame is the right class, a dashed orange "
        f"one with a cross a wrong one. Right here: {right} of {all_}."
    )


def _labelled(arrays: Mapping[str, np.ndarray]) -> bool:
    both = "query_labels" in arrays and "neighbour_labels" in arrays
    return both and bool((np.asarray(arrays["query_labels"]) >= 0).any())


def _right(arrays: Mapping[str, np.ndarray]) -> tuple[int, int]:
    given = np.asarray(arrays["neighbour_labels"])[:MOST_QUERIES, :MOST_NEIGHBOURS]
    right = given == np.asarray(arrays["query_labels"])[:MOST_QUERIES, None]
    return int(right.sum()), int(right.size)


def _tsne(arrays: Mapping[str, np.ndarray], classes: tuple[str, ...]) -> str:
    present = sorted({int(label) for label in np.asarray(arrays["labels"])})
    hidden = [f"class {n} is {classes[n]}" for n in present if 0 <= n < len(classes) and not drawable(classes[n])]
    many = len(present) > len(CLASS_COLOURS) * len(CLASS_MARKERS)
    return (
        f"t-SNE of {len(arrays['points']):,} test images: near means similar features. Clumps of one colour and shape "
        "are classes that few labels can separate; distances between clumps mean little."
        + (" There are too many classes for a legend, so colours repeat." if many else "")
        + (f" In the legend, {'; '.join(hidden)}." if hidden else "")
    )


def _channels(arrays: Mapping[str, np.ndarray]) -> str:
    """Says what is shown of images that are neither grey nor in colour."""
    for key in ("images", "input", "queries"):
        channels = np.shape(arrays[key])[-1] if key in arrays else 1
        if channels == 2:
            return " Of the two channels the first is shown."
        if channels > 3:
            return f" Of {channels} channels the first three are shown as red, green and blue."
    return ""
