"""Colours, sizes and the few helpers that every figure of the report shares.

Matplotlib is used through `Figure` objects alone: no pyplot, no global state. Colours are those of Okabe and Ito
(jfly.uni-koeln.de/color), which stay apart for colour-blind readers; a line also differs by its dashes or marker.
Charts are opaque white (the page inverts them in dark mode), pictures are transparent with grey words.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.lines import Line2D

BLUE, VERMILLION, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"
SKY, PURPLE, GREY, YELLOW = "#56B4E9", "#CC79A7", "#8A8F98", "#D9C400"
INK, FAINT, WORDS = "#2A2E35", "#D9DCE1", "#80858E"  # WORDS reads on white and on black

DPI = 150
WIDTH = 4.7  # inches of a chart: two beside each other on a desktop, one on a phone, words legible on both
FONT = FontProperties(family="DejaVu Sans")


class Line(NamedTuple):
    """How one series is drawn everywhere."""

    colour: str
    dashes: str | tuple[int, tuple[float, ...]]
    marker: str


BACKBONES = {
    "trained": Line(BLUE, "-", "o"),
    "started": Line(GREEN, (0, (4, 1)), "D"),
    "refreshed": Line(ORANGE, "-.", "v"),
    "untrained": Line(VERMILLION, "--", "s"),
    "pixels": Line(GREY, ":", "^"),
}
"""By the name of the control in results.json."""
TERMS = (
    Line(BLUE, "-", "o"),
    Line(VERMILLION, "--", "s"),
    Line(GREEN, "-.", "^"),
    Line(PURPLE, ":", "D"),
    Line(ORANGE, (0, (4, 1)), "v"),
)

# Classes: a colour and a shape each, so that about 24 stay apart.
CLASS_COLOURS = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, INK, YELLOW)
CLASS_MARKERS = ("o", "^", "s")


def chart(rows: int = 1, height: float = 3.1) -> tuple[Figure, list[Axes]]:
    """A white figure of `height` inches with `rows` panels above each other on one x axis."""
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor="white", layout="constrained")
    grid = figure.subplots(rows, 1, sharex=True, squeeze=False)
    axes = [row[0] for row in grid]
    for one in axes:
        quiet(one)
    return figure, axes


def quiet(axes: Axes) -> None:
    """Takes away what does not carry data: box, ticks, heavy grid."""
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.tick_params(length=0, labelsize=9, labelcolor=INK, pad=4)
    axes.grid(axis="y", color=FAINT, linewidth=0.7)
    axes.set_axisbelow(True)


def title(axes: Axes, words: str) -> None:
    """A heading at the left above a panel."""
    axes.set_title(words, loc="left", fontsize=9.5, color=INK, fontweight="bold", pad=5, parse_math=False)


def start_at_zero(axes: Axes) -> None:
    """Lets the y axis begin at zero, with room above the highest value, or end there where all values lie below it;
    call it after the data is drawn."""
    low, high = axes.dataLim.y0, axes.dataLim.y1
    below = low < 0 and high <= 0
    axes.set_ylim(1.08 * low if below else 0.0, 0.0 if below else 1.08 * high if high > 0 else 1.0)


def legend(axes: Axes, columns: int = 2) -> None:
    """A frameless legend that matplotlib puts where it hides least."""
    axes.legend(frameon=False, fontsize=8.5, labelcolor=INK, ncols=columns, handlelength=2.2, borderaxespad=0.2)


def legend_below(figure: Figure, handles: Sequence[Line2D], names: Sequence[str], columns: int) -> None:
    """A frameless legend below a whole figure; names are written as they are."""
    look = {"frameon": False, "fontsize": 8.5, "labelcolor": INK, "handletextpad": 0.2, "columnspacing": 1.0}
    box = figure.legend(handles, names, loc="outside lower center", ncols=columns, **look)
    for words in box.get_texts():
        words.set_parse_math(False)


def save(figure: Figure, path: Path, transparent: bool = False) -> Path:
    """Writes a PNG without a software tag. Words in a script the font lacks become boxes, not warnings."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(path, dpi=DPI, transparent=transparent, metadata={"Software": None})
    return path


@cache
def drawable(words: str) -> bool:
    """True where the font of the figures has every character of `words`."""
    font = get_font(findfont(FONT))
    return all(font.get_char_index(ord(letter)) for letter in words if not letter.isspace())


def class_names(labels: list[int], classes: tuple[str, ...], longest: int = 18) -> dict[int, str]:
    """Short names for labels in figures: "class 7" where there is no name or the font cannot write it."""
    names = {}
    for label in labels:
        known = 0 <= label < len(classes) and classes[label].strip() and drawable(classes[label])
        name = classes[label] if known else ("unlabelled" if label < 0 else f"class {label}")
        names[label] = shorten(name, longest)
    return names


def shorten(words: str, longest: int) -> str:
    """At most `longest` characters, the last one an ellipsis where something was cut."""
    return words if len(words) <= longest else f"{words[: longest - 1].rstrip(' _-')}\u2026"
