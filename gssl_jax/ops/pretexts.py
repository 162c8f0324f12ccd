"""Pretext tasks: transforms of one image whose draw is the label that a small head has to recognise.

LoRot (Moon et al., ECCV 2022, arXiv 2207.10023) turns a part of the image; G-SSL (arXiv 2301.05865, 2307.14897) adds a
flip and a channel permutation of the same quadrant. Nothing here computes with pixel values: a pretext says from where
each value of its result is taken (a `Place`). All pretexts of an image so compose into one map, the image is read once,
what lies outside a box stays equal bit for bit, and no variant is computed to be thrown away.

Settings (`config.method.pretexts`), each read by its own pretext only:
    flip_axis: "horizontal" (left and right exchanged) or "vertical" (G-SSL's script for long-tailed sets).
    jigsaw_grid: 2 = the quadrant in 2 x 2 tiles, 3 = the whole image in 3 x 3 tiles.
    jigsaw_permutations: number of classes, 2..24 for a 2 x 2 grid (0 = all 24), 2..1000 for a 3 x 3 grid.
    relative_patch, relative_gap, relative_jitter: pixels of a patch's side, between two patches, and by which a patch
        is moved at most (Doersch et al.: 96, 48, 7); relative_size: side in pixels to which a patch is resized.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gssl_jax.errors import UserError, unknown
from gssl_jax.ops.augment import crop_and_resize
from gssl_jax.ops.keys import named, per_sample

AXES = ("horizontal", "vertical")
CHANNEL_ORDERS = tuple(itertools.permutations(range(3)))  # lexicographic: rgb, rbg, grb, gbr, brg, bgr
MOST_PERMUTATIONS = {2: 24, 3: 1000}  # by grid; Noroozi & Favaro take at most 1000 of the 362,880 of nine tiles
Settings = Mapping[str, Any]


class Place(NamedTuple):
    """From where each value of a result is taken, int32 [S or 1, S or 1, C or 1] each: `image[place]` is the result."""

    row: Array
    column: Array
    channel: Array


class Box(NamedTuple):
    """A square, in pixels; each number may be traced."""

    top: Array | int
    left: Array | int
    side: Array | int


def unmoved(side: int, channels: int) -> Place:
    """Each value of an image [side, side, channels] at its own place."""
    pixels = jnp.arange(side)
    return Place(pixels[:, None, None], pixels[None, :, None], jnp.arange(channels)[None, None, :])


def quadrant_box(quadrant: Array | int, side: int) -> Box:
    """Quadrant 0 is the top left, 1 the top right, 2 the bottom left and 3 the bottom right of an even `side`."""
    half = side // 2
    return Box(quadrant // 2 * half, quadrant % 2 * half, half)


def rotate(place: Place, box: Box, turns: Array | int) -> Place:
    """The content of `box` turned counter-clockwise by `turns` (0..3) quarters, as `np.rot90` turns it."""
    i, j, hit = _within(place, box)
    last, odd = box.side - 1, turns % 2 == 1
    row, column = jnp.where(odd, j, i), jnp.where(odd, i, j)
    row = jnp.where(turns >= 2, last - row, row)
    return _take(place, box, hit, row, jnp.where((turns == 1) | (turns == 2), last - column, column))


def flip(place: Place, box: Box, flipped: Array | int, axis: str) -> Place:
    """The content of `box` mirrored where `flipped` is 1, left and right or top and bottom exchanged (see `AXES`)."""
    i, j, hit = _within(place, box)
    if axis == "horizontal":
        return _take(place, box, hit, i, jnp.where(flipped == 1, box.side - 1 - j, j))
    return _take(place, box, hit, jnp.where(flipped == 1, box.side - 1 - i, i), j)


def shuffle_tiles(place: Place, box: Box, grid: int, permutation: Array) -> Place:
    """The `grid` x `grid` tiles of `box` reordered: tile t, counted row by row, shows tile permutation[t]."""
    i, j, hit = _within(place, box)
    tile = box.side // grid
    shown = permutation[i // tile * grid + j // tile]
    return _take(place, box, hit, shown // grid * tile + i % tile, shown % grid * tile + j % tile)


def permute_channels(place: Place, box: Box, permutation: Array) -> Place:
    """Channel c of the content of `box` shows channel permutation[c]."""
    _, _, hit = _within(place, box)
    return place._replace(channel=jnp.where(hit, permutation[place.channel], place.channel))


def _within(place: Place, box: Box) -> tuple[Array, Array, Array]:
    """Row and column counted from the corner of `box`, and True where they lie inside it."""
    i, j = place.row - box.top, place.column - box.left
    return i, j, (i >= 0) & (i < box.side) & (j >= 0) & (j < box.side)


def _take(place: Place, box: Box, hit: Array, row: Array, column: Array) -> Place:
    """`row` and `column`, counted from the corner of `box`, where `hit`; the rest stays."""
    row, column = jnp.where(hit, row + box.top, place.row), jnp.where(hit, column + box.left, place.column)
    return place._replace(row=row, column=column)


@functools.cache
def tile_permutations(tiles: int, count: int) -> np.ndarray:
    """Permutations that differ in many tiles: int8 [count, tiles], the identity first.

    Greedy: the next one is that whose smallest Hamming distance to those before is largest, the first in lexicographic
    order of several; a smaller set is thus the beginning of a larger one. (Noroozi & Favaro, arXiv 1603.09246,
    algorithm 1, maximise the mean distance from a random start instead.)
    """
    every = np.array(list(itertools.permutations(range(tiles))), np.int8).T
    nearest = np.full(every.shape[1], tiles + 1, np.int8)
    chosen = [0]
    while len(chosen) < count:
        nearest = np.minimum(nearest, (every != every[:, chosen[-1:]]).sum(axis=0, dtype=np.int8))
        chosen.append(int(np.argmax(nearest)))
    return every[:, chosen].T


class Draw(NamedTuple):
    """What a pretext decides by: its own `uniforms` [draws] in [0, 1) and what all of them share."""

    uniforms: Array
    quadrant: Array
    box: Box  # of the quadrant
    side: int  # of the image, in pixels


class Pretext(NamedTuple):
    """A row of `PRETEXTS`: what a method has to know about a pretext."""

    classes: Callable[[Settings], int]  # a head that knows nothing has the cross-entropy ln(classes)
    draws: int  # uniform numbers for one image
    move: Callable[[Place, Draw, Settings], tuple[Place, Array]] | None  # and the label; None: separate views
    requires: Callable[[str, Settings, int, int], None]  # of name, settings, side, channels; raises UserError


def _choice(uniform: Array, count: Array | int) -> Array:
    """A number in [0, 1) made a whole one in 0..count-1, int32."""
    return jnp.floor(uniform * count).astype(jnp.int32)


def _rotation(place: Place, draw: Draw, settings: Settings) -> tuple[Place, Array]:
    """The whole image turned by k quarters. It comes first, so k says how the result stands."""
    turns = _choice(draw.uniforms[0], 4)
    return rotate(place, Box(0, 0, draw.side), turns), turns


def _permutations(settings: Settings) -> int:
    return settings["jigsaw_permutations"] or (24 if settings["jigsaw_grid"] == 2 else 0)


def _jigsaw(place: Place, draw: Draw, settings: Settings) -> tuple[Place, Array]:
    grid, count = settings["jigsaw_grid"], _permutations(settings)
    label = _choice(draw.uniforms[0], count)
    box = draw.box if grid == 2 else Box(0, 0, draw.side)
    return shuffle_tiles(place, box, grid, jnp.asarray(tile_permutations(grid**2, count), jnp.int32)[label]), label


def _flip(place: Place, draw: Draw, settings: Settings) -> tuple[Place, Array]:
    flipped = _choice(draw.uniforms[0], 2)
    return flip(place, draw.box, flipped, settings["flip_axis"]), flipped


def _lorot_e(place: Place, draw: Draw, settings: Settings) -> tuple[Place, Array]:
    """LoRot-E: quadrant * 4 + k. Where no pretext changed the quadrant nobody can tell which it was.

    With p the chance of that, the cross-entropy is at least p ln 4 and the accuracy at most 1 - .75 p; p is 1/4 alone,
    1/8 with flip, 1/24 with channels, 1/48 with both. A training accuracy above the limit is a leak of labels.
    """
    turns = _choice(draw.uniforms[0], 4)
    return rotate(place, draw.box, turns), draw.quadrant * 4 + turns


def _lorot_i(place: Place, draw: Draw, settings: Settings) -> tuple[Place, Array]:
    """LoRot-I: a square of side 2..S/2 anywhere (the authors' draw of the corner leaves the last place out).

    It is the last to move pixels, so that nothing turns, cuts or mirrors its box any more and k says how the box stands
    in the result. Beside LoRot-E a box that happens to be a quadrant is ambiguous (1 in 1084 at 32 pixels).
    """
    turn, size, top, left = draw.uniforms
    turns, side = _choice(turn, 4), 2 + _choice(size, draw.side // 2 - 1)
    free = draw.side - side + 1
    return rotate(place, Box(_choice(top, free), _choice(left, free), side), turns), turns


def _channels(place: Place, draw: Draw, settings: Settings) -> tuple[Place, Array]:
    label = _choice(draw.uniforms[0], len(CHANNEL_ORDERS))
    return permute_channels(place, draw.box, jnp.asarray(CHANNEL_ORDERS)[label]), label


def _must(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(f"method.pretexts.{message}")


def _needs_side(name: str, settings: Settings, side: int, channels: int, multiple: int = 2) -> None:
    least = -(-4 // multiple) * multiple
    sides = f"{least}, {least + multiple}, {least + 2 * multiple}, ..."
    _must(side >= least and side % multiple == 0, f"names: {name!r} needs an image side of {sides} pixels, got {side}")


def _needs_axis(name: str, settings: Settings, side: int, channels: int) -> None:
    _needs_side(name, settings, side, channels)
    _must(settings["flip_axis"] in AXES, f"flip_axis={settings['flip_axis']!r}: give one of {', '.join(AXES)}")


def _needs_three_channels(name: str, settings: Settings, side: int, channels: int) -> None:
    _needs_side(name, settings, side, channels)
    _must(channels == 3, f"names: {name!r} permutes exactly 3 channels, the images have {channels}")


def _needs_tiles(name: str, settings: Settings, side: int, channels: int) -> None:
    grid, count = settings["jigsaw_grid"], settings["jigsaw_permutations"]
    _must(grid in MOST_PERMUTATIONS, f"jigsaw_grid={grid}: give 2 (tiles of the quadrant) or 3 (of the whole image)")
    most, allowed = MOST_PERMUTATIONS[grid], f"2 to {MOST_PERMUTATIONS[grid]}" + " or 0 (all)" * (grid == 2)
    _must(2 <= _permutations(settings) <= most, f"jigsaw_permutations={count}: with jigsaw_grid={grid} give {allowed}")
    _needs_side(f"jigsaw (jigsaw_grid={grid})", settings, side, channels, multiple=4 if grid == 2 else 3)


def _grid_side(settings: Settings) -> int:
    """Pixels along a side of 3 x 3 patches with their gaps and the jitter at both ends."""
    return 3 * settings["relative_patch"] + 2 * (settings["relative_gap"] + settings["relative_jitter"])


def _needs_patches(name: str, settings: Settings, side: int, channels: int) -> None:
    for knob, least in (("patch", 1), ("gap", 0), ("jitter", 0), ("size", 1)):
        value = settings[f"relative_{knob}"]
        _must(value >= least, f"relative_{knob}={value}: give {least} pixels or more")
    patch, gap, jitter = (settings[f"relative_{knob}"] for knob in ("patch", "gap", "jitter"))
    _must(2 * jitter <= gap, f"relative_jitter={jitter}: patches could overlap, give 0 to {gap // 2} (half the gap)")
    _must(_grid_side(settings) <= side, f"relative_patch={patch}: 3 x 3 take {_grid_side(settings)} of {side} pixels")


# In the order of composition. A new pretext is one function and one row.
PRETEXTS: dict[str, Pretext] = {
    "rotation": Pretext(lambda settings: 4, 1, _rotation, functools.partial(_needs_side, multiple=1)),
    "jigsaw": Pretext(_permutations, 1, _jigsaw, _needs_tiles),
    "flip": Pretext(lambda settings: 2, 1, _flip, _needs_axis),
    "lorot_e": Pretext(lambda settings: 16, 1, _lorot_e, _needs_side),
    "lorot_i": Pretext(lambda settings: 4, 4, _lorot_i, functools.partial(_needs_side, multiple=1)),
    "channels": Pretext(lambda settings: len(CHANNEL_ORDERS), 1, _channels, _needs_three_channels),
    "relative_position": Pretext(lambda settings: 8, 0, None, _needs_patches),
}


def check(names: Iterable[str], settings: Settings, side: int, channels: int) -> None:
    """Raises UserError, naming the key, for what is unknown or impossible with images [side, side, channels]."""
    for name in names:
        if name not in PRETEXTS:
            raise unknown("method.pretexts.names", name, PRETEXTS)
        PRETEXTS[name].requires(name, settings, side, channels)


def apply(image: Array, quadrant: Array, uniforms: Mapping[str, Array], settings: Settings) -> tuple[Array, dict]:
    """The pretexts named in `uniforms` applied to one image, in the order of `PRETEXTS`.

    `image` is [S, S, C], `quadrant` 0..3, `uniforms` holds for each name its `draws` numbers in [0, 1). Returns the
    image and {name: label}, int32. Raises ValueError for a pretext that makes separate views.
    """
    side, _, channels = image.shape
    place, box, labels = unmoved(side, channels), quadrant_box(quadrant, side), {}
    # From the result back to the image: the last pretext says where it reads in the result of the one before it.
    for name in [name for name in reversed(PRETEXTS) if name in uniforms]:
        move = PRETEXTS[name].move
        if move is None:
            raise ValueError(f"{name!r} makes separate views and does not compose with other pretexts")
        place, labels[name] = move(place, Draw(uniforms[name], quadrant, box, side), settings)
    return image[place], labels


def transform(key: Array, index: Array, images: Array, names: Sequence[str], settings: Settings) -> tuple[Array, dict]:
    """All pretexts of `names` applied to each image of a batch.

    A draw depends neither on the sample's place in the batch, nor on the other names, nor on their order. `key` belongs
    to the step (and view), `index` int32 [B] holds the sample indices, `images` is [B, S, S, C]. Returns the images and
    {name: labels int32 [B]}. Raises UserError as `check`, ValueError as `apply` and for images that are not square.
    """
    _, side, width, channels = images.shape
    if side != width:
        raise ValueError(f"pretexts need square images, got {side} x {width} pixels")
    check(names, settings, side, channels)

    def one(sample: Array, image: Array) -> tuple[Array, dict]:
        quadrant = _choice(jax.random.uniform(named(sample, "quadrant")), 4)
        uniforms = {name: jax.random.uniform(named(sample, name), (PRETEXTS[name].draws,)) for name in names}
        return apply(image, quadrant, uniforms, settings)

    return jax.vmap(one)(per_sample(key, index), images)


def relative_position(key: Array, index: Array, images: Array, settings: Settings) -> tuple[Array, Array]:
    """The centre of a 3 x 3 grid of patches and one of its 8 neighbours (Doersch et al. 2015, arXiv 1505.05192).

    The grid lies anywhere in the image and each patch is jittered. Remedies against chromatic aberration are not here.
    Arguments and errors as in `transform`. Returns the patches [B, 2, size, size, C], the centre first, and the label
    of the neighbour, int32 [B] in 0..7, counted row by row.
    """
    _, side, _, channels = images.shape
    check(["relative_position"], settings, side, channels)
    patch, gap, jitter, size = (settings[f"relative_{knob}"] for knob in ("patch", "gap", "jitter", "size"))

    def one(sample: Array, image: Array) -> tuple[Array, Array]:
        u = jax.random.uniform(named(sample, "relative_position"), (7,))
        label = _choice(u[0], 8)
        corner = _choice(u[1:3], side - _grid_side(settings) + 1)  # of the grid and its jitter
        cells = jnp.stack(jnp.divmod(jnp.stack([jnp.int32(4), label + (label >= 4)]), 3), axis=1)
        starts = corner[None, :] + cells * (patch + gap) + _choice(u[3:].reshape(2, 2), 2 * jitter + 1)
        # Cut before they are resized: the filter of a crop in place would see a little of the neighbours.
        pieces = jax.vmap(lambda start: jax.lax.dynamic_slice(image, (*start, 0), (patch, patch, channels)))(starts)
        whole = jnp.asarray([0.0, 0.0, patch, patch])
        return jax.vmap(lambda piece: crop_and_resize(piece, whole, size, "bilinear"))(pieces), label

    return jax.vmap(one)(per_sample(key, index), images)
