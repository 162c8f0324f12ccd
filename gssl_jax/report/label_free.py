"""The label-free scores of a run as a table: the trained backbone beside the untrained one, and what each row means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gssl_jax.knobs import at, is_number
from gssl_jax.report.tables import table, text

ROWS = {
    "rankme": ("effective rank (RankMe)", "directions that the features use; more is better", 1),
    "lidar": ("LiDAR-like rank", "directions that tell images apart from their own views; more is better", 1),
    "alignment": ("alignment", "squared distance of two views of an image; less is better", 2),
    "distance": ("distance of images", "the same of two images: alignment should lie well below it", 2),
    "uniformity": ("uniformity", "0 = all images are one point, about \u22124 = evenly spread", 2),
    "alpha_req": ("spectrum (\u03b1-ReQ)", "how steeply the variances fall; near 1 is usual for good features", 2),
    "feature_std": ("feature std", "spread of a dimension, all features of length 1", 3),
}
"""Key -> name, what it says, decimals."""

CAPTION = (
    "Scores without labels, on {images:,} training images of the evaluation and {views} augmented views of each, drawn "
    "alike for every method. They compare backbones of one kind and width; which of them goes with accuracy depends on "
    "the images, so where there are labels trust those."
)


def label_free_table(results: Mapping[str, Any], names: Sequence[str] = ("trained", "untrained")) -> str:
    """The table, a column for each of `names`, or nothing where no such scores were kept, as by older versions."""
    health = at(results, "health") or {}
    columns, protocol = {name: health.get(name) for name in names}, health.get("protocol")
    lines = []
    for key, (name, meaning, decimals) in ROWS.items():
        values = [at(scores, key) for scores in columns.values()]
        if not any(is_number(value) for value in values):
            continue
        cells = "".join(f"<td>{_number(value, decimals)}</td>" for value in values)
        lines.append(f'<tr><th scope="row">{text(name)}<small class="soft">{text(meaning)}</small></th>{cells}</tr>')
    if not lines or not isinstance(protocol, Mapping):
        return ""
    said = CAPTION.format(images=protocol["images"], views=protocol["views"])
    return table(said, ("label-free", *columns), lines)


def label_free_lines(results: Mapping[str, Any], names: Sequence[str]) -> list[tuple[str, ...]]:
    """The rows of the table in plain words, for a console; empty without such scores."""
    health = at(results, "health") or {}
    rows = [(name, [at(health.get(one), key) for one in names], decimals) for key, (name, _, decimals) in ROWS.items()]
    return [(name, *(_number(v, decimals) for v in values)) for name, values, decimals in rows if any(values)]


def _number(value: Any, decimals: int) -> str:
    return f"{value:.{decimals}f}".replace("-", "\u2212") if is_number(value) else "\u2013"
