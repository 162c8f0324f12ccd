"""What the report says of robustness: accuracy by severity as a chart, and every corruption, attack and domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from gssl_jax.knobs import at, is_number
from gssl_jax.report import captions
from gssl_jax.report.measures import robust
from gssl_jax.report.page import embedded, paragraph
from gssl_jax.report.style import BACKBONES, INK, chart, legend, save, start_at_zero, title
from gssl_jax.report.tables import scores_table
from gssl_jax.report.words import CONTROLS, Row, Score, columns_of

CHART = (
    "Accuracy of the linear classifier by the severity of the corruption, the mean over the corruptions, one line a "
    "backbone.",
    "The classifier is fitted on clean training images. A line that falls less steeply belongs to features that a "
    "worse camera, weather or a small file disturb less; one that lies higher at the left only is better on clean "
    "images.",
)
TABLE = (
    "Accuracy in per cent, below it the 95 % interval, of a linear classifier fitted on clean training images: test "
    "images under corruptions (mean over their severities), under attack, and of other domains."
)


def rows_of(rows: Sequence[Row]) -> list[Row]:
    """The rows about corruptions, attacks and other domains."""
    return [row for row in rows if robust(row.key) is not None]


def section(rows: Sequence[Row], folder: Path) -> str:
    """Chart and table; nothing where nothing of it was measured."""
    own = rows_of(rows)
    if not own:
        return ""
    columns = columns_of(own)
    cells = [(row.label, (row.trained, *map(row.of, columns))) for row in own]
    shown = scores_table(TABLE, ("", "trained", *columns.values()), cells)
    path = draw_severity(own, folder)
    if path is None:
        return shown
    caption, note = CHART
    figure = embedded(path, "severity", caption, captions.ALT["severity"], "", "chart")
    return f'<div class="pair">{figure}<div>{paragraph(note)}</div></div>{shown}'


def draw_severity(rows: Sequence[Row], folder: Path) -> Path | None:
    """Mean accuracy over the corruptions by severity, 0 for clean images, for every backbone that has them."""
    lines = {name: line for name in BACKBONES if (line := severity_line(rows, name)) is not None}
    if not lines:
        return None
    figure, (axes,) = chart(1, 3.4)
    for name, (severities, values) in lines.items():
        look = BACKBONES[name]
        axes.plot(severities, 100 * values, color=look.colour, linestyle=look.dashes, marker=look.marker, ms=5.5,
                  linewidth=1.7, label=CONTROLS.get(name, name))  # fmt: skip
    shown = sorted({int(one) for severities, _ in lines.values() for one in severities})
    axes.set_xticks(shown, ["clean" if one == 0 else str(one) for one in shown])
    start_at_zero(axes)
    axes.set_xlabel("severity of the corruption", fontsize=9, color=INK)
    title(axes, "accuracy on test images, %")
    legend(axes, columns=1)
    return save(figure, folder / "severity.png")


def severity_line(rows: Sequence[Row], name: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Severities from 0 (clean) and mean accuracies of one backbone as fractions; None where it has none."""
    scores = [one for row in rows if (one := row.of(name)) is not None and _severities(one)]
    if not scores:
        return None
    found = [_severities(one) for one in scores]
    keys = [key for key in found[0] if all(key in one for one in found)]
    means = [float(np.mean([one[key] for one in found])) for key in keys]
    clean = at(scores[0].protocol, "clean")
    first = ([0], [float(clean)]) if is_number(clean) else ([], [])
    return np.asarray([*first[0], *map(int, keys)]), np.asarray([*first[1], *means])


def _severities(one: Score) -> dict[str, float]:
    """Accuracy by severity from a protocol; empty where it has none."""
    given = at(one.protocol, "severities")
    given = given if isinstance(given, Mapping) else {}
    return {key: float(value) for key, value in given.items() if str(key).isdigit() and is_number(value)}
