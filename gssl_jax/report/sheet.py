"""A sheet of square pictures, one PNG pixel to one sheet pixel, with headings in a grey that reads on any page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from gssl_jax.report.style import DPI, WORDS, save

CELL, LARGE, GAP, GROUP_GAP = 192, 160, 12, 42  # pixels
COLUMNS = 6  # a narrower sheet is filled up to them, so that all sheets of a report have pictures of one size
LETTERS, LINE = 0.165, 0.27  # height of letters and of a line, as shares of a cell's side


def displayable(images: np.ndarray) -> np.ndarray:
    """Images [..., S, S, C] as RGB in [0, 1] [..., S, S, 3]: grey is repeated, of many channels the first three are
    shown as red, green and blue, of two the first."""
    images = np.nan_to_num(np.asarray(images, np.float32))
    if images.ndim < 3 or images.shape[-1] < 1:
        raise ValueError(f"pictures need the form [..., S, S, C], got {images.shape}")
    shown = images[..., :3] if images.shape[-1] >= 3 else np.repeat(images[..., :1], 3, axis=-1)
    return np.clip(shown, 0.0, 1.0)


def cell_side(size: int) -> int:
    """Side in pixels of the cell for pictures of `size`: a whole multiple of small ones; large ones are shrunk to 160,
    for a sheet of noisy photographs grows to megabytes."""
    return size * max(1, CELL // size) if size <= LARGE else LARGE


class Sheet:
    """A grid of cells of `side` pixels; columns in groups of `group` stand a little apart, `top` lines of words
    stand above the sheet and `below` lines under each row; it is as wide as `least` columns."""

    def __init__(
        self, rows: int, columns: int, side: int, group: int = 0, top: int = 0, below: int = 0, least: int = COLUMNS
    ):
        self.side, self.line = side, round(LINE * side)
        self.lefts = [c * (side + GAP) + (c // group * (GROUP_GAP - GAP) if group else 0) for c in range(columns)]
        height = side + GAP + self.line * below
        self.tops = [GAP // 2 + self.line * top + r * height for r in range(rows)]
        self.width = max(self.lefts[-1] + side, least * (side + GAP) - GAP)
        self.height = self.tops[-1] + side + self.line * below + GAP // 2
        self.canvas = np.zeros((self.height, self.width, 4), np.uint8)
        self.figure = Figure(figsize=(self.width / DPI, self.height / DPI), dpi=DPI)
        self.axes = self.figure.add_axes((0.0, 0.0, 1.0, 1.0))
        self.axes.set_axis_off()

    def put(self, row: int, column: int, picture: np.ndarray) -> None:
        """Puts an RGB picture [h, w, 3] in [0, 1] into a cell, enlarged by whole pixels or shrunk by area."""
        eight = np.asarray(np.round(picture * 255), np.uint8)
        if eight.shape[:2] != (self.side, self.side):
            how = Image.Resampling.NEAREST if max(eight.shape[:2]) <= self.side else Image.Resampling.BOX
            eight = np.asarray(Image.fromarray(eight).resize((self.side, self.side), how))
        y, x = self.tops[row], self.lefts[column]
        self.canvas[y : y + self.side, x : x + self.side, :3] = eight
        self.canvas[y : y + self.side, x : x + self.side, 3] = 255

    def heading(self, column: int, words: str) -> None:
        """Words above a column, in the first line of the sheet."""
        self._write(self.lefts[column] + self.side / 2, GAP / 2 + self.line / 2, words)

    def below(self, row: int, column: int, words: str) -> None:
        """Words below a cell."""
        self._write(self.lefts[column] + self.side / 2, self.tops[row] + self.side + self.line / 2, words)

    def frame(self, row: int, column: int, colour: str, dashed: bool = False) -> None:
        """A frame on the edge of a cell; a dashed one has white gaps, so that it reads without colour."""
        wide = 0.035 * self.side
        corner = (self.lefts[column] + wide / 2, self.tops[row] + wide / 2)
        inside, points = self.side - wide, 72 / DPI * wide
        if dashed:
            self.axes.add_patch(Rectangle(corner, inside, inside, fill=False, edgecolor="white", linewidth=points))
        box = Rectangle(corner, inside, inside, fill=False, edgecolor=colour, linewidth=points)
        box.set_linestyle((0, (2.2, 1.4)) if dashed else "-")
        self.axes.add_patch(box)

    def save(self, path: Path) -> Path:
        """Draws the sheet to a transparent PNG."""
        self.axes.imshow(self.canvas, extent=(0, self.width, self.height, 0), interpolation="none")
        self.axes.set_xlim(0, self.width)
        self.axes.set_ylim(self.height, 0)
        return save(self.figure, path, transparent=True)

    def _write(self, x: float, y: float, words: str) -> None:
        size = 72 / DPI * LETTERS * self.side
        self.axes.text(x, y, words, ha="center", va="center", fontsize=size, color=WORDS, parse_math=False)
