"""What is hidden from the student: GMML block masks, random masks, and the corruption of pixels under a mask.

A mask is True where content is hidden. Shapes are static: boxes are added in a loop of fixed length, in which a sample
stops once its share is covered; the loop has no data-dependent end, so that devices that hold parts of the batch need
not agree on one. Group masking follows GMML / MC-SSL (Atito et al. 2021, 2022); the static form is our reconstruction.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gssl_jax.ops.keys import named, per_sample

KINDS = ("noise", "zeros", "foreign")
_WORD = 32  # cells of a mask row held in one unsigned integer


def block_mask(key: Array, grid: int, ratio: float, max_side: int, boxes: int | None = None) -> Array:
    """Random rectangles until at least `ratio` of the cells is covered; overlap counts once.

    Sides are uniform in 1..max_side cells, the upper left corner is uniform over the cells, the border cuts boxes.
    The covered fraction ends in [ratio, ratio + (max_side / grid)^2].

    Args:
        key: random key of one sample.
        grid: cells along a side.
        ratio: fraction to cover, in [0, 1).
        max_side: longest side of a box in cells, in 1..grid.
        boxes: length of the loop; None computes one that makes missing `ratio` negligible (see `loop_length`).

    Returns:
        bool [grid, grid].

    Raises:
        ValueError: ratio or max_side out of range.
    """
    need = _cells_to_cover(grid, ratio, max_side)
    count = loop_length(grid, ratio, max_side) if boxes is None else boxes
    return _add_boxes(jax.random.uniform(key, (count, 4)), grid, need, max_side)


def _cells_to_cover(grid: int, ratio: float, max_side: int) -> int:
    if not 0 <= ratio < 1:
        raise ValueError(f"mask ratio must be in [0, 1), got {ratio}")
    if not 1 <= max_side <= grid:
        raise ValueError(f"max_side must be in 1..{grid} cells, got {max_side}")
    return math.ceil(ratio * grid * grid - 1e-6)


def _add_boxes(uniforms: Array, grid: int, need: int | Array, max_side: int) -> Array:
    """Boxes from uniforms [count, 4] (row, column, height, width) in turn until `need` cells are covered."""
    count = uniforms.shape[0]
    corner = (uniforms[:, :2] * grid).astype(jnp.int32)
    end = corner + 1 + (uniforms[:, 2:] * max_side).astype(jnp.int32)
    # A row of cells is held as bits: the loop then moves 32 times less memory than with one byte a cell.
    words = -(-grid // _WORD)
    column = jnp.arange(words * _WORD).reshape(1, words, _WORD)
    inside = (column >= corner[:, 1, None, None]) & (column < jnp.minimum(end[:, 1], grid)[:, None, None])
    bit = jnp.arange(_WORD, dtype=jnp.uint32)
    row_bits = jnp.sum(inside.astype(jnp.uint32) << bit[None, None, :], axis=-1, dtype=jnp.uint32)  # [count, words]
    row = jnp.arange(grid)

    def add(k: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        mask, covered = carry
        hit = (row >= corner[k, 0]) & (row < end[k, 0]) & (covered < need)
        mask = mask | jnp.where(hit[:, None], row_bits[k][None, :], jnp.uint32(0))
        return mask, jnp.sum(jax.lax.population_count(mask), dtype=jnp.int32)

    mask, _ = jax.lax.fori_loop(0, count, add, (jnp.zeros((grid, words), jnp.uint32), jnp.int32(0)))
    cells = (mask[:, :, None] >> bit[None, None, :]) & 1
    return cells.reshape(grid, words * _WORD)[:, :grid].astype(bool)


def block_masks(key: Array, index: Array, grid: int, ratio: float, max_side: int) -> Array:
    """One `block_mask` for each sample of `index` int32 [B], drawn by its index -> bool [B, grid, grid]."""
    return jax.vmap(lambda k: block_mask(k, grid, ratio, max_side))(per_sample(key, index))


def varied_block_masks(
    key: Array, index: Array, grid: int, ratios: tuple[float, float], share: float, max_side: int
) -> Array:
    """As `block_masks`, but a sample is masked with probability `share` only, and then a fraction of it that is uniform
    between two `ratios` (iBOT, arXiv 2111.07832, section 4.1) -> bool [B, grid, grid]."""
    low, high = ratios
    _cells_to_cover(grid, high, max_side)  # complains about what is out of range
    count = loop_length(grid, high, max_side)

    def draw(sample_key: Array) -> Array:
        uniforms = jax.random.uniform(sample_key, (4 * count + 2,))
        cells = jnp.ceil((low + uniforms[0] * (high - low)) * grid * grid - 1e-6).astype(jnp.int32)
        need = jnp.where(uniforms[1] < share, cells, 0)
        return _add_boxes(uniforms[2:].reshape(count, 4), grid, need, max_side)

    return jax.vmap(draw)(per_sample(key, index))


def loop_length(grid: int, ratio: float, max_side: int) -> int:
    """Boxes to offer so that fewer than `ratio` covered cells are practically impossible.

    The expected uncovered fraction after n boxes is the mean over cells of (1 - p)^n, p = probability that one box
    covers the cell. Three times the n that reaches `ratio` in expectation, and 16 more: missed in none of 10^5 draws
    for ratios up to .95 on 8 x 8 cells and more. (Few boxes reach the upper left cells, hence the wide margin.)
    """
    cell = np.arange(grid)
    # A cell c is covered along one axis if the corner lies in c-side+1..c, that is by min(side, c+1) corners of `grid`.
    sides = np.arange(1, max_side + 1)
    axis = np.minimum(sides[None, :], cell[:, None] + 1).mean(axis=1) / grid
    miss = 1.0 - np.outer(axis, axis)
    length = 1
    while np.mean(miss**length) > 1 - ratio:
        length += 1
    return 3 * length + 16


def random_mask(key: Array, cells: int, count: int) -> Array:
    """Exactly `count` of `cells` hidden, all choices equally likely -> bool [cells]; ValueError if impossible."""
    if not 0 <= count <= cells:
        raise ValueError(f"cannot hide {count} of {cells} cells")
    return jax.random.permutation(key, cells) < count


def expand(mask: Array, cell: int) -> Array:
    """Each entry becomes a square of `cell` x `cell` pixels: [..., g, g] -> [..., g * cell, g * cell]."""
    *lead, height, width = mask.shape
    blocks = jnp.broadcast_to(mask[..., :, None, :, None], (*lead, height, cell, width, cell))
    return blocks.reshape(*lead, height * cell, width * cell)


def token_mask(pixel_mask: Array, patch: int) -> Array:
    """True for a token whose whole patch is hidden: bool [B, S, S] -> bool [B, N], tokens row by row."""
    return jnp.all(_patches(pixel_mask, patch), axis=-1)


def _patches(pixel_mask: Array, patch: int) -> Array:
    batch, height, width = pixel_mask.shape
    if height % patch or width % patch:
        raise ValueError(f"patch {patch} does not divide a mask of {height} x {width} pixels")
    cells = pixel_mask.reshape(batch, height // patch, patch, width // patch, patch)
    return cells.transpose(0, 1, 3, 2, 4).reshape(batch, -1, patch * patch)


def donors(key: Array, index: Array) -> Array:
    """For each place in the batch the place of another sample, int32 [B]: a random cycle, so nobody gives to itself.

    The cycle is drawn from the sample indices [B]: the same samples have the same pairs in whatever order they stand.

    Raises:
        ValueError: fewer than 2 samples.
    """
    size = index.shape[0]
    if size < 2:
        raise ValueError(f"content of another image needs at least 2 images in the batch, got {size}")
    order = jnp.argsort(jax.vmap(jax.random.bits)(per_sample(key, index)))
    return jnp.zeros((size,), jnp.int32).at[order].set(jnp.roll(order, -1).astype(jnp.int32))


def corrupt(key: Array, index: Array, images: Array, mask: Array, kind: str, fill: Array) -> Array:
    """Replaces the hidden pixels; all others stay equal bit for bit.

    Args:
        key: random key of the step.
        index: int32 [B], sample indices.
        images: [B, S, S, C] in [0, 1].
        mask: bool [B, S, S].
        kind: "noise" (uniform in [0, 1]), "zeros" (`fill`, which is zero in normalised space) or "foreign" (the same
            place in another image of the batch).
        fill: [C], the mean of the data set.

    Returns:
        [B, S, S, C].

    Raises:
        ValueError: unknown kind; "foreign" with fewer than 2 images.
    """
    return jnp.where(mask[..., None], _content(key, index, images, kind, fill), images)


def _content(key: Array, index: Array, images: Array, kind: str, fill: Array) -> Array:
    if kind == "noise":
        draw = jax.vmap(lambda k: jax.random.uniform(k, images.shape[1:], images.dtype))
        return draw(per_sample(named(key, "noise"), index))
    if kind == "zeros":
        return jnp.broadcast_to(jnp.asarray(fill, images.dtype).reshape(1, 1, 1, -1), images.shape)
    if kind == "foreign":
        return images[donors(named(key, "donor"), index)]
    raise ValueError(f"unknown corruption {kind!r}, known: {', '.join(KINDS)}")


def gmml_corrupt(
    key: Array,
    index: Array,
    images: Array,
    *,
    kind: str,
    ratio: float,
    max_side: float,
    align: int,
    foreign_probability: float,
    foreign_ratio: float,
    fill: Array,
) -> tuple[Array, Array]:
    """Group-masked corruption of a batch (GMML / MC-SSL): blocks of `kind`, or, by chance, blocks of another image.

    Args:
        key: random key of the step (and view).
        index: int32 [B], sample indices.
        images: [B, S, S, C] in [0, 1].
        kind: content of the blocks, see `corrupt`.
        ratio: fraction of the image to cover.
        max_side: longest side of a block as a fraction of the image side (MC-SSL: .3).
        align: side of a cell in pixels; 1 masks single pixels, the patch size masks whole tokens.
        foreign_probability: chance per sample that a fresh mask filled from another image replaces the corruption.
        foreign_ratio: fraction to cover in that case.
        fill: [C], see `corrupt`.

    Returns:
        (corrupted images [B, S, S, C], mask bool [B, S, S]); pixels outside the mask are equal bit for bit.

    Raises:
        ValueError: images that are not square or not divisible by `align`, and as in `corrupt` and `block_mask`.
    """
    side = images.shape[1]
    if images.shape[2] != side or align < 1 or side % align:
        raise ValueError(f"align {align} must divide a square image, got {side} x {images.shape[2]} pixels")
    grid = side // align
    longest = max(1, int(max_side * grid + 1e-6))
    if foreign_probability <= 0:
        mask = expand(block_masks(named(key, "mask"), index, grid, ratio, longest), align)
        return corrupt(key, index, images, mask, kind, fill), mask
    # One loop serves both cases: a sample that is swapped only has another number of cells to cover.
    need, foreign_need = (_cells_to_cover(grid, r, longest) for r in (ratio, foreign_ratio))
    count = loop_length(grid, max(ratio, foreign_ratio), longest)

    def draw(sample_key: Array) -> tuple[Array, Array]:
        uniforms = jax.random.uniform(sample_key, (4 * count + 1,))
        swap = uniforms[0] < foreign_probability
        target = jnp.where(swap, foreign_need, need)
        return _add_boxes(uniforms[1:].reshape(count, 4), grid, target, longest), swap

    mask, swap = jax.vmap(draw)(per_sample(named(key, "mask"), index))
    mask = expand(mask, align)
    content = _content(key, index, images, kind, fill)
    foreign = _content(key, index, images, "foreign", fill)
    content = jnp.where(swap[:, None, None, None], foreign, content)
    return jnp.where(mask[..., None], content, images), mask
