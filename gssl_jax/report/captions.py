"""Headings, captions and the sentences that stand in for what is missing: the fixed words of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from gssl_jax.data.sources import IGNORED
from gssl_jax.report.measures import ACCURACY, kind_of
from gssl_jax.report.pictures import MOST_HEADS, MOST_NEIGHBOURS, MOST_QUERIES, evenly
from gssl_jax.report.style import CLASS_COLOURS, CLASS_MARKERS, drawable
from gssl_jax.report.words import Row, columns_of

HEADINGS = {
    "verdict": "Verdict",
    "table": "Scores",
    "continuation": "When to stop",
    "run": "What was trained on what",
    "lowshot": "With few labels",
    "iterations": "The linear classifier in its course",
    "robustness": "Robustness",
    "classes": "Accuracy by class",
    "curves": "Curves",
    "health": "Health",
    "pictures": "Pictures",
    "protocol": "Protocol",
    "versions": "Versions",
    "config": "Configuration",
}
SMALL = "Only a small classifier is trained on the frozen features"
TUNED = ", and the whole network where a row says fine-tuned"
MEANT = {
    "started": "\u201cwhat it started from\u201d is the backbone before any of this training",
    "refreshed": "\u201crefreshed\u201d is that one with the batch statistics of the evaluation images, no more",
    "untrained": "\u201cuntrained\u201d is the same network with random weights",
}
BEFORE = "\u201cuntrained\u201d is the same backbone before any of this training"
"""Where nothing else says what the run started from."""

OWN_TABLE = (
    "Accuracy on test images in per cent, below it the 95 % interval: the method's own classifier, on clean images "
    "unless an attack is named."
)
OWN_CHOICE = "Validation images chose the first column; the last step stands beside it."
SAME_IMAGES = "The same test images, but only a small classifier is trained, on frozen features and the labelled images"
NO_TABLE = "There are no scores: the images came without labels, or the run has not been evaluated."
LOWSHOT = (
    "Mean over draws of the labelled images, with 95 % intervals.",
    "Each point answers: with so many labelled images of each class, how many test images does a linear classifier on "
    "the frozen features get right?",
    "Where the bars of two backbones overlap, this run does not tell them apart. More draws narrow the bars; more "
    "labelled images lift the points.",
)
LOWSHOT_LABELS = (
    LOWSHOT[0],
    "Each point answers: with so many labelled images of each label, how well does a linear classifier on the frozen "
    "features put the test images that have a label before the others?",
    LOWSHOT[2],
)
CLASSES = (
    "Accuracy of each class against its training images, the dashed line their mean. Shape and colour name the group.",
    "Accuracy of each class, the best recognised first, the dashed line their mean. All have about as many training "
    "images.",
)
CLASSES_NOTES = (
    "A slope down to the right is what the long tail costs. A class far below its neighbours is hard for another "
    "reason than its number of images: look at what it is confused with.",
    "A class far below the others is hard or badly labelled: look at what it is confused with.",
)
CLASSES_TABLE = "Every class in numbers"
ITERATIONS = (
    "Score on images kept back from the labelled ones, over the iterations of the linear classifier, one line a "
    "backbone.",
    "A line that rises at once belongs to features that need little training on top; where lines meet at the end, "
    "enough labels and iterations make up for a lesser start.",
)
CURVES = {
    "contrast": "How alike two views of an image are made. Near 1 is what to hope for, as long as others stay far (or "
    "the targets spread): where all are alike, features have collapsed.",
    "watch": "The score that decides whether training goes on. Below the level line, training has cost more than it "
    "brought.",
    "loss": "Loss by term, faint as logged and bold smoothed. Each should fall, then level out.",
    "evaluation": "Accuracy while training. Still rising at the end: train longer. Level lines are the controls.",
    "validation": "Accuracy while training. Training batches are transformed (and attacked, where the method does so), "
    "so they are harder than they look and can lie below. Rising at the end: train longer. Falling after the mark: "
    "overfitting.",
    "gate": "What the gate gives each pretext. A gate that learns from the losses it weighs tends to the easiest one.",
    "alignment": "Above zero a pretext pulls the features where the labels pull them, below it against them. Values "
    "near zero say that it does neither.",
    "pretexts": "Loss and accuracy of each pretext while training. Where a line stays flat at the level of guessing, "
    "nothing is learned from that pretext.",
    "entropy": "How decided the targets are: one target should be well below 1, the mean target near 1. A band has the "
    "colour of the line that must stay out of it.",
    "prototypes": "How many prototypes are somebody's first choice, and how often student and teacher choose alike.",
    "features": "Spread of the features. A fall of the first towards zero, a rank towards 1, or a uniformity that "
    "climbs to 0 is a collapse. Views of one image should come together while uniformity stays low.",
    "schedule": "What the schedule asked for, how steep the loss was, and how fast it went.",
}
HEALTH = "Read from the last steps of the training, without any label."
OWN_HEALTH = "Read from the last steps of the training."
VIT_EVIDENCE = (
    "The class token of a vision transformer leaves no trace in the last patch tokens, so the classifier was given "
    "their mean here: a prediction can differ from the one that is scored."
)
PICTURES = {
    "reconstruction": "Reconstruction",
    "clusters": "Patch clusters",
    "masks": "Masks by the linear head",
    "pca": "Patches in colour",
    "attention": "Attention",
    "gradcam": "Where the classifier looks",
    "neighbours": "Nearest neighbours",
    "tsne": "Map of the test images",
}
SHEETS = ("neighbours", "tsne")
"""What every method can show; the others only where they were drawn, or where the method has what they are of."""

PROTOCOL = (
    "The backbone stays frozen while it is measured: all that is trained is a small classifier on its features, and "
    "its settings are chosen on training images.",
    "Two backbones count as different here when their 95 % intervals do not overlap. Both are measured on the same "
    "images, so this is a cautious rule.",
)
TUNED_PROTOCOL = (
    "Where a row says fine-tuned, the backbone is no longer frozen: the whole network is trained on from there with so "
    "many labelled images."
)
OWN_PROTOCOL = (
    "The method's own classifier is judged as it was trained. Which state is judged was decided by validation images, "
    "where there were any, and never by test images.",
    "For k-NN and linear the backbone stays frozen: all that is trained is a small classifier on its features, and "
    "its settings are chosen on training images.",
    PROTOCOL[1],
)
ALT = {
    "contrast": "Accuracy of contrast and cosines of two views over training steps",
    "watch": "The watched score over training steps",
    "severity": "Accuracy of each backbone by the severity of the corruption",
    "iterations": "Score on validation images over the iterations of a linear classifier",
    "classes": "Accuracy of each class",
    "validation": "Accuracy on training batches and on validation images over training steps",
    "gate": "Weight of each pretext and their entropy over training steps",
    "alignment": "Cosine of each pretext's gradient with that of the labels over training steps",
    "pretexts": "Loss and accuracy of each pretext over training steps",
    "gradcam": "Test images beside the same images with the evidence for the predicted class laid over them",
    "lowshot": "Accuracy against labelled images per class for the trained features and what they are compared with",
    "loss": "Loss terms over training steps",
    "evaluation": "Accuracy on test images over training steps",
    "entropy": "Entropy of the targets over training steps",
    "prototypes": "Share of prototypes in use and agreement of teacher and student over training steps",
    "features": "Spread and effective rank of the features, alignment and uniformity over training steps",
    "schedule": "Learning rate, teacher momentum, gradient norm and speed over training steps",
    "reconstruction": "Input images, what the student saw, and what it rebuilt",
    "clusters": "Images beside their patches coloured by cluster",
    "masks": "Test images, each beside its true mask and the one that a linear head on frozen patches predicts",
    "pca": "Images beside their patches in the colours of their features",
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
    "masks": "No masks: the images have none, or the run kept no pictures of them.",
    "pca": "No colours of patches: this backbone has no patches, or the run kept no pictures.",
    "attention": "No attention maps: this backbone has no attention, or the run kept no pictures.",
    "classes": "results.json does not hold the accuracy of each class.",
    "gradcam": "No evidence maps: the run kept no pictures of them.",
    "neighbours": "No nearest neighbours: the run kept no pictures of them.",
    "tsne": "No map of the test images: the run kept none.",
    "protocol": "Nothing was measured with labels, so there is no protocol to state.",
    "versions": "results.json names no versions.",
    "config": "config.json could not be read, so the configuration is not shown.",
}


def on_features(rows: Sequence[Row], own: bool) -> str:
    """The caption of a table of scores on features; `own` where a method's own classifier has a table before it."""
    one, named = kind_of(rows[0].key), columns_of(rows)
    beside = own and one is ACCURACY
    start = "" if beside else f"{one.caption}, below each the 95 % interval. "
    words = (SAME_IMAGES if beside else SMALL) + (TUNED if any("tuned" in r.label for r in rows) else "")
    meanings = MEANT if "started" in named else {"untrained": BEFORE}
    meant = [said for name, said in meanings.items() if name in named]
    return f"{start}{'; '.join([words, *meant])}."


def caption(name: str, arrays: Mapping[str, np.ndarray], classes: tuple[str, ...]) -> str:
    """One sentence, sometimes two, on how to read a picture sheet, with the numbers of this one."""
    words = {
        "reconstruction": _reconstruction,
        "clusters": _clusters,
        "masks": _masks,
        "pca": _pca,
        "attention": _attention,
        "gradcam": _gradcam,
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


def _pca(arrays: Mapping[str, np.ndarray], classes: tuple[str, ...]) -> str:
    return (
        "Patches of like colour have like features, in all pictures: red, green and blue are the three directions in "
        "which the features of these patches differ most (principal components). Parts in a colour of their own, the "
        "same on every picture, are what to hope for; a wash from edge to edge shows places, not content."
    )


def _masks(arrays: Mapping[str, np.ndarray], classes: tuple[str, ...]) -> str:
    truth, found = np.asarray(arrays["truth"]), np.asarray(arrays["found"])
    known = truth != IGNORED
    share = 100 * float((truth == found)[known].mean()) if known.any() else 0.0
    return (
        "Left to right: a test image, its true mask, and the one that a linear head on the frozen patches makes of it; "
        f"a colour is one class in all masks. Of these pixels {share:.0f} % are right."
    )


def _attention(arrays: Mapping[str, np.ndarray], classes: tuple[str, ...]) -> str:
    heads = np.shape(arrays["maps"])[1]
    some = f"; the first {MOST_HEADS} of {heads} heads are shown" if heads > MOST_HEADS else ""
    words = f"Where the class token looks in the last block, dark to bright, each map on its own scale{some}."
    if "rollout" in arrays:
        words += " Roll-out: what reaches it from each patch through all blocks, skip connections counted half."
    return words


def _gradcam(arrays: Mapping[str, np.ndarray], classes: tuple[str, ...]) -> str:
    labels, predicted = np.asarray(arrays["labels"]), np.asarray(arrays["predicted"])
    rows = evenly(len(labels))
    labels, right = labels[rows], int((predicted[rows] == labels[rows]).sum())
    words = (
        "Grad-CAM: left a test image with its class; right, laid over it, what speaks for the class that was "
        "predicted, from dark (nothing) to bright yellow (most), each map on its own scale. "
    )
    if (labels >= 0).all():
        words += (
            "A solid blue frame is a right prediction, a dashed orange one with a cross a wrong one. Right here: "
            f"{right} of {len(labels)}. "
        )
    return words + "Brightness on the object, and not on its background, is what to hope for."


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
