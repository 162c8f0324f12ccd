"""The picture sheets of the report: reconstructions, patches by cluster and by colour, attention, Grad-CAM, nearest
neighbours."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_rgb

from gssl_jax.data.sources import IGNORED
from gssl_jax.evals.gradcam import overlay
from gssl_jax.report.sheet import Sheet, cell_side, displayable
from gssl_jax.report.style import BLUE, CLASS_COLOURS, VERMILLION, class_names, shorten

MOST_PICTURES = 8
NOTHING = "#808080"  # of a pixel without a class
PAIRS = 3  # in a row
MOST_ATTENDED = 4
MOST_QUERIES = 6
MOST_NEIGHBOURS = 5
MOST_HEADS = 4
PICTURE_SHARE = 0.7  # of the image in a Grad-CAM overlay, as in the figures of LoRot and G-SSL
GOLDEN_ANGLE = 0.381966
LONGEST_NAME = 11  # letters that fit below or above a cell


def draw_reconstruction(pictures: Mapping[str, np.ndarray], folder: Path) -> Path:
    """Input, corrupted and reconstructed [n, S, S, C] beside each other, two samples a row."""
    kinds = ("input", "corrupted", "reconstructed")
    sets = [displayable(pictures[kind])[:MOST_PICTURES] for kind in kinds]
    if len({images.shape for images in sets}) != 1:
        raise ValueError(f"{', '.join(kinds)} differ in shape: {', '.join(str(x.shape) for x in sets)}")
    number = len(sets[0])
    sheet = Sheet(-(-number // 2), 3 * min(2, number), cell_side(sets[0].shape[1]), group=3, top=1)
    for place in range(number):
        for k, images in enumerate(sets):
            sheet.put(place // 2, place % 2 * 3 + k, images[place])
    for column in range(3 * min(2, number)):
        sheet.heading(column, ("input", "corrupted", "rebuilt")[column % 3])
    return sheet.save(folder / "reconstruction.png")


def cluster_colours(maps: np.ndarray) -> dict[int, tuple[float, float, float]]:
    """A colour for each cluster in `maps`: the eight most frequent get the colours that stay apart best, the rest
    hues at the golden angle in three degrees of lightness."""
    found, counts = np.unique(maps, return_counts=True)
    order = found[np.argsort(-counts, kind="stable")]
    colours = {}
    for rank, cluster in enumerate(order):
        if rank < len(CLASS_COLOURS):
            colours[int(cluster)] = to_rgb(CLASS_COLOURS[rank])
        else:
            hue = rank * GOLDEN_ANGLE % 1.0
            colours[int(cluster)] = colorsys.hls_to_rgb(hue, (0.35, 0.55, 0.75)[rank % 3], 0.45)
    return colours


def paired(number: int) -> int:
    """How many of `number` pictures a sheet of pairs shows: full rows only, once there is one."""
    shown = min(number, MOST_PICTURES)
    return shown if shown < PAIRS else shown // PAIRS * PAIRS


def evenly(number: int) -> np.ndarray:
    """Which of `number` pictures a sheet of pairs shows where not all have room, the first and the last among them."""
    return np.linspace(0, number - 1, paired(number)).round().astype(int)


def draw_clusters(pictures: Mapping[str, np.ndarray], folder: Path) -> Path:
    """Pictures [n, S, S, C] and beside each its patches [h, w] in the colour of their cluster, three pairs a row."""
    images = displayable(pictures["images"])[:MOST_PICTURES]
    maps = np.asarray(pictures["maps"])[:MOST_PICTURES]
    if maps.ndim != 3 or len(maps) != len(images):
        raise ValueError(f"cluster maps need the form [{len(images)}, h, w], got {maps.shape}")
    colours = cluster_colours(maps)
    painted = np.asarray([[[colours[int(p)] for p in line] for line in one] for one in maps])
    return _pairs(images, painted, "clusters", folder / "clusters.png")


def draw_masks(pictures: Mapping[str, np.ndarray], folder: Path) -> Path:
    """Pictures [n, S, S, C] and beside each its true mask and the predicted one, uint8 [n, S, S], two samples a row;
    pixels without a class are grey in both."""
    images, truth, found = (np.asarray(pictures[name])[:MOST_PICTURES] for name in ("images", "truth", "found"))
    images = displayable(images)
    if truth.shape != found.shape or truth.shape != images.shape[:3]:
        raise ValueError(f"masks need the form {list(images.shape[:3])}, got {truth.shape} and {found.shape}")
    known = truth != IGNORED
    colours = cluster_colours(np.concatenate([truth[known], found[known]])) | {IGNORED: to_rgb(NOTHING)}
    painted = [
        np.asarray([[[colours[int(p)] for p in line] for line in one] for one in np.where(known, masks, IGNORED)])
        for masks in (truth, found)
    ]
    columns = 3 * min(2, len(images))
    sheet = Sheet(-(-len(images) // 2), columns, cell_side(images.shape[1]), group=3, top=1)
    for place in range(len(images)):
        for k, shown in enumerate((images, *painted)):
            sheet.put(place // 2, place % 2 * 3 + k, shown[place])
    for column in range(columns):
        sheet.heading(column, ("image", "truth", "predicted")[column % 3])
    return sheet.save(folder / "masks.png")


def draw_pca(pictures: Mapping[str, np.ndarray], folder: Path) -> Path:
    """Pictures [n, S, S, C] and beside each its patches in colours [n, h, w, 3] in [0, 1], three pairs a row."""
    images, painted = coloured(pictures)
    return _pairs(images[:MOST_PICTURES], painted[:MOST_PICTURES], "features", folder / "pca.png")


def coloured(pictures: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The images of `pca` as RGB [n, S, S, 3], and the colours of their patches [n, h, w, 3], all in [0, 1]."""
    images = displayable(pictures["images"])
    maps = np.nan_to_num(np.asarray(pictures["maps"], np.float32))
    if maps.ndim != 4 or maps.shape[-1] != 3 or len(maps) != len(images):
        raise ValueError(f"colours of patches need the form [{len(images)}, h, w, 3], got {maps.shape}")
    return images, np.clip(maps, 0.0, 1.0)


def _pairs(images: np.ndarray, painted: np.ndarray, words: str, path: Path) -> Path:
    """Images [n, S, S, 3], each with its painted patches [n, h, w, 3] to its right, three pairs a row."""
    pairs, whole = min(PAIRS, len(images)), paired(len(images))
    sheet = Sheet(-(-whole // pairs), 2 * pairs, cell_side(images.shape[1]), group=2, top=1)
    for place in range(whole):
        row, column = place // pairs, place % pairs * 2
        sheet.put(row, column, images[place])
        sheet.put(row, column + 1, painted[place])
    for column in range(2 * pairs):
        sheet.heading(column, ("image", words)[column % 2])
    return sheet.save(path)


def draw_attention(pictures: Mapping[str, np.ndarray], folder: Path) -> Path:
    """Pictures [n, S, S, C], the mean attention of their class token and single heads; maps [n, heads, h, w] >= 0,
    and before them the attention through all blocks where it is given, `rollout` [n, h, w]."""
    images = displayable(pictures["images"])[:MOST_ATTENDED]
    maps = np.asarray(pictures["maps"], np.float64)[:MOST_ATTENDED]
    if maps.ndim != 4 or len(maps) != len(images):
        raise ValueError(f"attention maps need the form [{len(images)}, heads, h, w], got {maps.shape}")
    through = np.asarray(pictures["rollout"], np.float64)[: len(images), None] if "rollout" in pictures else maps[:, :0]
    if through.shape[2:] != maps.shape[2:] or len(through) != len(images):
        raise ValueError(f"roll-out needs the form {[len(images), *maps.shape[2:]]}, got {through[:, 0].shape}")
    heads = min(MOST_HEADS, maps.shape[1])
    shown = np.concatenate([through, maps.mean(1, keepdims=True), maps[:, :heads]], axis=1)
    sheet = Sheet(len(images), 1 + shown.shape[1], cell_side(images.shape[1]), top=1)
    for row, (image, columns) in enumerate(zip(images, shown, strict=True)):
        sheet.put(row, 0, image)
        for column, one in enumerate(columns):
            sheet.put(row, 1 + column, heat(one))
    first = ("roll-out",) if through.shape[1] else ()
    for column, words in enumerate(("image", *first, "mean", *(f"head {h + 1}" for h in range(heads)))):
        sheet.heading(column, words)
    return sheet.save(folder / "attention.png")


def heat(attention: np.ndarray) -> np.ndarray:
    """A map [h, w] stretched from its least to its largest value, in a perceptually even scale from dark to bright."""
    attention = np.nan_to_num(attention)
    spread = attention.max() - attention.min()
    return colormaps["magma"]((attention - attention.min()) / (spread if spread > 0 else 1.0))[..., :3]


def draw_gradcam(pictures: Mapping[str, np.ndarray], classes: tuple[str, ...], folder: Path) -> Path:
    """Pictures [n, S, S, C] with their class, and beside each its evidence map [n, S, S] in [0, 1] laid over it, with
    the `predicted` class int [n]; three pairs a row, evenly spaced ones where not all have room.

    A right prediction has a solid blue frame; a wrong one a dashed orange frame and a cross; without `labels` (-1)
    there is no frame.
    """
    rows = evenly(len(pictures["images"]))
    images, laid = laid_over(pictures)
    predicted, labels = (np.asarray(pictures[key], int) for key in ("predicted", "labels"))
    names = class_names(sorted({*predicted[rows], *labels[rows]}), classes, longest=LONGEST_NAME)
    pairs = min(PAIRS, len(rows))
    sheet = Sheet(len(rows) // pairs, 2 * pairs, cell_side(images.shape[1]), group=2, top=1, below=1)
    for place, shown in enumerate(rows):
        row, column = place // pairs, place % pairs * 2
        sheet.put(row, column, images[shown])
        if labels[shown] >= 0:
            sheet.below(row, column, names[labels[shown]])
        put_evidence(sheet, row, column + 1, laid[shown], predicted[shown], labels[shown], names)
    for column in range(2 * pairs):
        sheet.heading(column, ("image", "evidence")[column % 2])
    return sheet.save(folder / "gradcam.png")


def laid_over(pictures: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The images of Grad-CAM as RGB, and the same with their maps laid over them, both [n, S, S, 3] in [0, 1]."""
    images = displayable(pictures["images"])
    maps = np.nan_to_num(np.asarray(pictures["maps"], np.float32))
    if maps.shape != images.shape[:3]:
        raise ValueError(f"Grad-CAM maps need the form {list(images.shape[:3])}, got {maps.shape}")
    return images, overlay(images, np.clip(maps, 0.0, 1.0), PICTURE_SHARE) / 255


def put_evidence(
    sheet: Sheet, row: int, column: int, laid: np.ndarray, predicted: int, label: int, names: Mapping[int, str]
) -> None:
    """One overlay [S, S, 3], its predicted class below; framed and marked where the `label` is known (not -1)."""
    sheet.put(row, column, laid)
    name, right = names[predicted], predicted == label
    if label >= 0:
        sheet.frame(row, column, BLUE if right else VERMILLION, dashed=not right)
        name = name if right else f"\u2717 {shorten(name, LONGEST_NAME - 2)}"
    sheet.below(row, column, name)


def draw_neighbours(pictures: Mapping[str, np.ndarray], classes: tuple[str, ...], folder: Path) -> Path:
    """Queries [n, S, S, C] with their nearest training images [n, k, S, S, C], the nearest first.

    A neighbour of the query's class has a solid blue frame; one of another class a dashed orange frame and its name.
    Labels `query_labels` [n] and `neighbour_labels` [n, k] are -1 where unknown: then there is no frame.
    """
    queries = displayable(pictures["queries"])[:MOST_QUERIES]
    neighbours = displayable(pictures["neighbours"])[:MOST_QUERIES, :MOST_NEIGHBOURS]
    if neighbours.ndim != 5 or len(neighbours) != len(queries):
        raise ValueError(f"neighbours need the form [{len(queries)}, k, S, S, C], got {neighbours.shape}")
    k = neighbours.shape[1]
    unknown = "query_labels" not in pictures or "neighbour_labels" not in pictures
    asked = np.full(len(queries), -1) if unknown else np.asarray(pictures["query_labels"])[: len(queries)]
    given = np.full((len(queries), k), -1) if unknown else np.asarray(pictures["neighbour_labels"])[: len(queries), :k]
    names = class_names(sorted({int(x) for x in (*asked, *given.ravel())}), classes, longest=9)
    labelled = bool((asked >= 0).any())
    sheet = Sheet(len(queries), 1 + k, cell_side(queries.shape[1]), top=1, below=int(labelled))
    sheet.heading(0, "query")
    sheet.heading(1, "nearest")
    for row, query in enumerate(queries):
        sheet.put(row, 0, query)
        if asked[row] >= 0:
            sheet.below(row, 0, names[int(asked[row])])
        for place in range(k):
            sheet.put(row, 1 + place, neighbours[row, place])
            if asked[row] < 0 or given[row, place] < 0:
                continue
            right = asked[row] == given[row, place]
            sheet.frame(row, 1 + place, BLUE if right else VERMILLION, dashed=not right)
            if not right:
                sheet.below(row, 1 + place, f"\u2717 {shorten(names[int(given[row, place])], 7)}")
    return sheet.save(folder / "neighbours.png")
