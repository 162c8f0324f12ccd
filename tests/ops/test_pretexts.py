"""Pretexts: the transforms by hand, who shares a draw, the Bayes limits by enumeration, and what is refused."""

from __future__ import annotations

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gssl_jax.errors import UserError
from gssl_jax.ops import pretexts
from gssl_jax.ops.pretexts import PRETEXTS, Box, unmoved

SETTINGS = {
    "flip_axis": "horizontal",
    "jigsaw_grid": 2,
    "jigsaw_permutations": 0,
    "relative_patch": 8,
    "relative_gap": 3,
    "relative_jitter": 1,
    "relative_size": 8,
}
COMPOSED = [name for name in PRETEXTS if name != "relative_position"]
QUADRANT = ["jigsaw", "flip", "lorot_e", "channels"]
ORDERS = list(itertools.permutations(range(3)))


def distinct(*shape):
    """An image, or images, in which no value occurs twice."""
    return np.random.default_rng(0).permutation(math.prod(shape)).reshape(shape).astype(np.float32)


def quarter(quadrant, side):
    """Rows and columns of a quadrant, from the specification's table."""
    half = side // 2
    rows, columns = {0: (0, 0), 1: (0, 1), 2: (1, 0), 3: (1, 1)}[quadrant]
    return slice(rows * half, rows * half + half), slice(columns * half, columns * half + half)


def tiles_by_loop(patch, grid, permutation):
    size, result = len(patch) // grid, patch.copy()
    for tile, shown in enumerate(permutation):
        (row, column), (from_row, from_column) = divmod(tile, grid), divmod(int(shown), grid)
        piece = patch[from_row * size : (from_row + 1) * size, from_column * size : (from_column + 1) * size]
        result[row * size : (row + 1) * size, column * size : (column + 1) * size] = piece
    return result


def by_hand(image, quadrant, labels, axis="horizontal", orders=None, grid=2):
    """The composition of the specification, written with NumPy, without LoRot-I."""
    image = np.rot90(image, labels.get("rotation", 0)).copy()
    if grid == 3 and "jigsaw" in labels:
        image = tiles_by_loop(image, 3, orders[labels["jigsaw"]])
    where = quarter(quadrant, len(image))
    patch = image[where]
    if grid == 2 and "jigsaw" in labels:
        patch = tiles_by_loop(patch, 2, orders[labels["jigsaw"]])
    if labels.get("flip"):
        patch = patch[:, ::-1] if axis == "horizontal" else patch[::-1]
    patch = np.rot90(patch, labels.get("lorot_e", 0) % 4)
    image[where] = patch[..., list(ORDERS[labels.get("channels", 0)])]
    return image


def transformed(names, batch, side, channels=3):
    """`transform` of images of distinct values under jit, as NumPy: (images, results, labels)."""
    images = distinct(batch, side, side, channels)
    draw = jax.jit(lambda key, index, x: pretexts.transform(key, index, x, names, SETTINGS))
    results, labels = draw(jax.random.key(0), jnp.arange(batch), jnp.asarray(images))
    return images, np.asarray(results), {name: np.asarray(label) for name, label in labels.items()}


# Every case of one image at once: the uniforms that choose class c of n are (c + 1/2) / n.


def every_draw(image, names, settings=SETTINGS):
    """All quadrants and draws with equal chances: (images [N, ...], {name: labels [N]}, quadrants [N])."""
    counts = [4] + [4 if name == "lorot_e" else PRETEXTS[name].classes(settings) for name in names]
    cases = np.array(list(itertools.product(*[range(count) for count in counts])))
    uniforms = ((cases + 0.5) / np.array(counts)).astype(np.float32)
    given = {name: jnp.asarray(uniforms[:, k + 1 : k + 2]) for k, name in enumerate(names)}
    draw = jax.jit(jax.vmap(lambda q, u: pretexts.apply(jnp.asarray(image), q, u, settings)))
    results, labels = draw(jnp.asarray(cases[:, 0], jnp.int32), given)
    return np.asarray(results), {name: np.asarray(label) for name, label in labels.items()}, cases[:, 0]


def bayes(results, labels, weights=None):
    """(cross-entropy, accuracy) of whoever knows the posterior of the label given the image exactly."""
    weights = np.full(len(results), 1 / len(results)) if weights is None else weights
    seen, joint = {}, {}
    for image, label, weight in zip(results, labels.tolist(), weights.tolist(), strict=True):
        picture = image.tobytes()
        seen[picture] = seen.get(picture, 0.0) + weight
        joint[picture, label] = joint.get((picture, label), 0.0) + weight
    entropy = -sum(p * math.log(p / seen[picture]) for (picture, _), p in joint.items())
    best = {}
    for (picture, _), p in joint.items():
        best[picture] = max(best.get(picture, 0.0), p)
    return entropy, sum(best.values())


def test_quarter_turns_by_hand():
    patch = jnp.array([[0, 1], [2, 3]])[:, :, None]
    turned = {1: [[1, 3], [0, 2]], 2: [[3, 2], [1, 0]], 3: [[2, 0], [3, 1]]}
    for turns, expected in turned.items():
        np.testing.assert_array_equal(patch[pretexts.rotate(unmoved(2, 1), Box(0, 0, 2), turns)][..., 0], expected)
    place = unmoved(2, 1)
    for _ in range(4):
        place = pretexts.rotate(place, Box(0, 0, 2), 1)
    np.testing.assert_array_equal(patch[place], patch)


@pytest.mark.parametrize("box", [(0, 0, 6), (3, 0, 3), (1, 2, 4), (4, 1, 2)])
def test_rotation_of_a_box_with_a_traced_side_leaves_the_rest(box):
    image = distinct(6, 6, 2)
    turn = jax.jit(lambda b, k: jnp.asarray(image)[pretexts.rotate(unmoved(6, 2), Box(*b), k)])
    top, left, side = box
    for turns in range(4):
        expected = image.copy()
        inside = expected[top : top + side, left : left + side]
        inside[...] = np.rot90(inside, turns).copy()
        np.testing.assert_array_equal(turn(jnp.array(box), turns), expected)


def test_quadrants_flips_and_channels_by_hand():
    image = distinct(4, 4, 3)
    for quadrant in range(4):
        rows, columns = quarter(quadrant, 4)
        box = pretexts.quadrant_box(quadrant, 4)
        assert (box.top, box.left, box.side) == (rows.start, columns.start, 2)
    box, plain = pretexts.quadrant_box(1, 4), unmoved(4, 3)
    across = np.asarray(jnp.asarray(image)[pretexts.flip(plain, box, 1, "horizontal")])
    np.testing.assert_array_equal(across[:2, 2:], image[:2, [3, 2]])
    down = np.asarray(jnp.asarray(image)[pretexts.flip(plain, box, 1, "vertical")])
    np.testing.assert_array_equal(down[:2, 2:], image[[1, 0], 2:])
    gbr = np.asarray(jnp.asarray(image)[pretexts.permute_channels(plain, box, jnp.array([1, 2, 0]))])
    np.testing.assert_array_equal(gbr[:2, 2:], np.stack([image[:2, 2:, c] for c in (1, 2, 0)], axis=-1))
    for changed in (across, down, gbr):
        np.testing.assert_array_equal(changed[2:], image[2:])
        np.testing.assert_array_equal(changed[:2, :2], image[:2, :2])
    np.testing.assert_array_equal(jnp.asarray(image)[pretexts.flip(plain, box, 0, "horizontal")], image)


def test_channel_classes_are_in_lexicographic_order_and_invert():
    assert pretexts.CHANNEL_ORDERS == ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
    image, box, inverse = jnp.asarray(distinct(2, 2, 3)), Box(0, 0, 2), {0: 0, 1: 1, 2: 2, 3: 4, 4: 3, 5: 5}
    places = [pretexts.permute_channels(unmoved(2, 3), box, jnp.array(order)) for order in ORDERS]
    for label, place in enumerate(places):
        np.testing.assert_array_equal(image[place][places[inverse[label]]], image)


def test_flip_and_rotation_give_the_eight_pictures_of_the_square():
    pictures, labels, quadrants = every_draw(distinct(4, 4, 1), ["flip", "lorot_e"])
    for quadrant in range(4):
        patches = {p[quarter(quadrant, 4)].tobytes() for p in pictures[quadrants == quadrant]}
        assert len(patches) == 8
    assert (labels["lorot_e"] // 4 == quadrants).all()


def test_the_vertical_flip_gives_the_same_pictures_with_other_labels():
    """vflip = rot180 after hflip, so (flip 1, k) of one axis is (flip 1, k + 2) of the other."""
    image = distinct(4, 4, 1)
    across, labels, _ = every_draw(image, ["flip", "lorot_e"])
    down, _, _ = every_draw(image, ["flip", "lorot_e"], SETTINGS | {"flip_axis": "vertical"})
    case = {(f, y): i for i, (f, y) in enumerate(zip(*(labels[n].tolist() for n in ("flip", "lorot_e")), strict=True))}
    for (flipped, label), place in case.items():
        turned = label // 4 * 4 + (label + 2 * flipped) % 4
        np.testing.assert_array_equal(down[place], across[case[flipped, turned]])


@pytest.mark.parametrize("axis", pretexts.AXES)
@pytest.mark.parametrize("names", [QUADRANT, ["rotation", *QUADRANT]])
def test_composition_is_the_one_written_by_hand(axis, names):
    orders = pretexts.tile_permutations(4, 5)
    settings = SETTINGS | {"flip_axis": axis, "jigsaw_permutations": 5}
    image = distinct(8, 8, 3)
    results, labels, quadrants = every_draw(image, names, settings)
    for case in np.random.default_rng(1).permutation(len(results))[:150]:
        drawn = {name: int(label[case]) for name, label in labels.items()}
        np.testing.assert_array_equal(results[case], by_hand(image, quadrants[case], drawn, axis, orders))


def test_inverse_order_restores_every_image():
    images, results, labels = transformed(("lorot_e", "flip", "channels"), 64, 8)
    for case, (image, result) in enumerate(zip(images, results, strict=True)):
        quadrant, turns = divmod(int(labels["lorot_e"][case]), 4)
        where, restored = quarter(quadrant, 8), result.copy()
        patch = np.empty((4, 4, 3), np.float32)
        patch[..., list(ORDERS[labels["channels"][case]])] = result[where]
        patch = np.rot90(patch, -turns)
        restored[where] = patch[:, ::-1] if labels["flip"][case] else patch
        np.testing.assert_array_equal(restored, image)


def test_whole_image_jigsaw_composes_with_the_quadrant():
    settings = SETTINGS | {"jigsaw_grid": 3, "jigsaw_permutations": 6}
    image, orders = distinct(12, 12, 3), pretexts.tile_permutations(9, 6)
    results, labels, quadrants = every_draw(image, ["rotation", "jigsaw", "lorot_e"], settings)
    for case in range(0, len(results), 7):
        drawn = {name: int(label[case]) for name, label in labels.items()}
        np.testing.assert_array_equal(results[case], by_hand(image, quadrants[case], drawn, orders=orders, grid=3))


def smallest_distance(permutations):
    return min((a != b).sum() for a, b in itertools.combinations(permutations, 2))


def test_tile_permutations_start_with_the_identity_and_are_far_apart():
    assert {tuple(p) for p in pretexts.tile_permutations(4, 24)} == set(itertools.permutations(range(4)))
    np.testing.assert_array_equal(pretexts.tile_permutations(4, 24)[0], range(4))
    # Four cyclic shifts differ everywhere and no fifth permutation can; twelve even ones differ in 3 tiles or more.
    distances = {count: smallest_distance(pretexts.tile_permutations(4, count)) for count in (4, 5, 12, 13)}
    assert distances == {4: 4, 5: 3, 12: 3, 13: 2}
    np.testing.assert_array_equal(pretexts.tile_permutations(4, 24)[:7], pretexts.tile_permutations(4, 7))
    nine = pretexts.tile_permutations(9, 30)
    assert smallest_distance(nine[:9]) == 9 and smallest_distance(nine) >= 7
    np.testing.assert_array_equal(np.sort(nine, axis=1), np.tile(np.arange(9), (30, 1)))


# Bayes limits, gated.md 1.9: p ln 4 and 1 - .75 p where p is the chance that nothing changed the quadrant.


@pytest.mark.parametrize(
    ("others", "entropy", "accuracy"),
    [
        ([], 0.3466, 0.8125),
        (["flip"], 0.1733, 0.90625),
        (["channels"], 0.0578, 0.96875),
        (["flip", "channels"], 0.0289, 0.984375),
        (["rotation"], 0.3466, 0.8125),  # the other three quadrants show how the image stands
        (["jigsaw"], math.log(4) / 96, 1 - 0.75 / 96),
        (["jigsaw", "flip", "channels"], math.log(4) / 1152, 1 - 0.75 / 1152),
        (["rotation", "jigsaw", "flip"], math.log(4) / 192, 1 - 0.75 / 192),
    ],
)
def test_bayes_limits_of_lorot_e(others, entropy, accuracy):
    results, labels, quadrants = every_draw(distinct(8, 8, 3), [*others, "lorot_e"])
    assert bayes(results, labels["lorot_e"]) == pytest.approx((entropy, accuracy), abs=5e-5)
    for name in others:  # everything else can be told always
        assert bayes(results, labels[name]) == pytest.approx((0, 1))
    # The quadrant is unknowable in the identity case and in no other.
    names = [name for name in labels if name not in ("rotation", "lorot_e")]
    nothing = np.all([labels[name] == 0 for name in names] + [labels["lorot_e"] % 4 == 0], axis=0)
    assert bayes(results[~nothing], labels["lorot_e"][~nothing]) == pytest.approx((0, 1))
    alike = {(picture.tobytes(), q) for picture, q in zip(results[nothing], quadrants[nothing], strict=True)}
    assert len(alike) == 4 * len({picture for picture, _ in alike})


def test_bayes_limits_with_the_whole_image_jigsaw():
    settings = SETTINGS | {"jigsaw_grid": 3, "jigsaw_permutations": 8}
    results, labels, _ = every_draw(distinct(12, 12, 3), ["rotation", "jigsaw", "flip", "lorot_e"], settings)
    assert bayes(results, labels["lorot_e"]) == pytest.approx((math.log(4) / 8, 1 - 0.75 / 8))
    assert bayes(results, labels["jigsaw"]) == pytest.approx((0, 1))
    assert bayes(results, labels["rotation"]) == pytest.approx((0, 1))


def every_box(side):
    """LoRot-I: uniforms [N, 4] that reach every turn, side and corner, and their chances."""
    cases = []
    for turn, size in itertools.product(range(4), range(2, side // 2 + 1)):
        sizes, free = side // 2 - 1, side - size + 1
        for top, left in itertools.product(range(free), repeat=2):
            uniforms = (turn + 0.5) / 4, (size - 1.5) / sizes, (top + 0.5) / free, (left + 0.5) / free
            cases.append((*uniforms, 1 / (4 * sizes * free**2)))
    table = np.array(cases)
    return table[:, :4].astype(np.float32), table[:, 4]


def test_lorot_i_can_always_be_told_alone():
    boxes, chances = every_box(8)
    assert chances.sum() == pytest.approx(1) and len(boxes) == 4 * (49 + 36 + 25)
    image = jnp.asarray(distinct(8, 8, 1))
    draw = jax.jit(jax.vmap(lambda u: pretexts.apply(image, jnp.int32(0), {"lorot_i": u}, SETTINGS)))
    results, labels = draw(jnp.asarray(boxes))
    assert bayes(np.asarray(results), np.asarray(labels["lorot_i"]), chances) == pytest.approx((0, 1))


def test_lorot_i_beside_lorot_e_is_ambiguous_where_its_box_is_a_quadrant():
    """A box is a given quadrant with the chance b = 1/3 (side 4 of 2, 3, 4) * 1/25. Lost, in units of b / 64:

    nothing turned in the end (E by -k, I by k, any quadrant): 3 * 4; one quadrant turned, though not by E alone
    (12 pictures: 3 of both, 3 of I alone): 12 * 6; two quadrants turned differently, which by I (6 pairs * 6): 36.
    """
    boxes, chances = every_box(8)
    pairs = np.array(list(itertools.product(range(4), range(4), range(len(boxes)))))
    turns = jnp.asarray((pairs[:, 1:2] + 0.5) / 4, jnp.float32)
    uniforms = {"lorot_e": turns, "lorot_i": jnp.asarray(boxes[pairs[:, 2]])}
    image = jnp.asarray(distinct(8, 8, 1))
    draw = jax.jit(jax.vmap(lambda q, u: pretexts.apply(image, q, u, SETTINGS)))
    results, labels = draw(jnp.asarray(pairs[:, 0], jnp.int32), uniforms)
    _, accuracy = bayes(np.asarray(results), np.asarray(labels["lorot_i"]), chances[pairs[:, 2]] / 16)
    assert accuracy == pytest.approx(1 - 120 / 64 / 75)


def test_lorot_i_turns_a_square_of_every_allowed_size_and_place():
    images, results, labels = transformed(("lorot_i",), 6000, 8, channels=1)
    sides, corners = [], []
    for image, result, turns in zip(images, results, labels["lorot_i"], strict=True):
        rows, columns = np.nonzero((image != result)[..., 0])
        assert (turns == 0) == (len(rows) == 0)
        if turns == 0:
            continue
        top, left, side = rows.min(), columns.min(), rows.max() - rows.min() + 1
        expected = image.copy()
        box = expected[top : top + side, left : left + side]
        box[...] = np.rot90(box, turns).copy()
        np.testing.assert_array_equal(result, expected)  # the rest bit for bit, and a square
        sides.append(side)
        corners.append((side, top, left))
    shares = np.bincount(sides, minlength=5)[2:] / len(sides)
    np.testing.assert_allclose(shares, 1 / 3, atol=0.03)
    assert set(corners) == {(s, t, c) for s in (2, 3, 4) for t in range(9 - s) for c in range(9 - s)}


def test_lorot_i_is_the_last_to_move_pixels_and_colours_keep_to_the_quadrant():
    image, rng, (boxes, _) = distinct(8, 8, 3), np.random.default_rng(0), every_box(8)
    names, count = ("rotation", "flip", "lorot_e", "channels"), 60
    quadrants, chosen = rng.integers(0, 4, count), boxes[rng.integers(0, len(boxes), count)]
    uniforms = {name: rng.random((count, 1), np.float32) for name in names}
    draw = jax.jit(jax.vmap(lambda q, u: pretexts.apply(jnp.asarray(image), q, u, SETTINGS)))
    results, labels = draw(jnp.asarray(quadrants, jnp.int32), uniforms | {"lorot_i": chosen})
    for case in range(count):
        drawn = {name: int(labels[name][case]) for name in names}
        expected = by_hand(image, quadrants[case], drawn | {"channels": 0})
        side = 2 + int(chosen[case, 1] * 3)
        top, left = (int(u * (9 - side)) for u in chosen[case, 2:])
        box = expected[top : top + side, left : left + side]
        box[...] = np.rot90(box, int(labels["lorot_i"][case])).copy()
        patch = expected[quarter(quadrants[case], 8)]
        patch[...] = patch[..., list(ORDERS[drawn["channels"]])].copy()
        np.testing.assert_array_equal(results[case], expected)


def test_labels_are_uniform():
    _, _, labels = transformed(tuple(COMPOSED), 4000, 8)
    assert set(labels) == set(COMPOSED)
    for name, label in labels.items():
        classes = PRETEXTS[name].classes(SETTINGS)
        assert label.dtype == np.int32 and label.min() >= 0
        error = math.sqrt(classes * (1 - 1 / classes) / len(label))  # relative standard deviation of a share
        np.testing.assert_allclose(np.bincount(label, minlength=classes) * classes / len(label), 1, atol=4.5 * error)
    for first, second in itertools.combinations(COMPOSED, 2):  # independent
        assert abs(np.corrcoef(labels[first], labels[second])[0, 1]) < 4.5 / math.sqrt(4000)


def test_pretexts_share_the_quadrant_and_leave_the_others():
    images, results, labels = transformed(tuple(QUADRANT), 300, 8)
    orders = pretexts.tile_permutations(4, 24)
    for case in range(300):
        drawn = {name: int(label[case]) for name, label in labels.items()}
        np.testing.assert_array_equal(results[case], by_hand(images[case], drawn["lorot_e"] // 4, drawn, orders=orders))


def test_a_draw_depends_on_neither_the_other_names_nor_their_order(getkey):
    key, index, images = getkey(), jnp.arange(40), jnp.asarray(distinct(40, 8, 8, 3))
    draw = jax.jit(lambda k, x, names: pretexts.transform(k, index, x, names, SETTINGS), static_argnums=2)
    together, labels = draw(key, images, tuple(COMPOSED))
    np.testing.assert_array_equal(draw(key, images, tuple(COMPOSED[::-1]))[0], together)
    label = jax.jit(lambda k, names: pretexts.transform(k, index, images, names, SETTINGS)[1], static_argnums=1)
    for names in (("lorot_e",), ("channels", "jigsaw"), ("flip", "rotation", "lorot_i")):
        alone = label(key, names)
        assert set(alone) == set(names)
        for name in names:
            np.testing.assert_array_equal(alone[name], labels[name])
    _, others = draw(getkey(), images, tuple(COMPOSED))
    assert all((others[name] != labels[name]).any() for name in COMPOSED)


def test_a_draw_follows_the_sample_and_not_its_place(getkey):
    key, images = getkey(), jnp.asarray(distinct(16, 8, 8, 3))
    index, order = jnp.arange(16) + 50, jnp.asarray(np.random.default_rng(0).permutation(16))
    draw = jax.jit(lambda i, x: pretexts.transform(key, i, x, COMPOSED, SETTINGS))
    results, labels = draw(index, images)
    again, labels_again = draw(index[order], images[order])
    np.testing.assert_array_equal(again, results[order])
    for name in COMPOSED:
        np.testing.assert_array_equal(labels_again[name], labels[name][order])


def test_no_names_and_any_number_of_channels(getkey):
    images = distinct(3, 7, 7, 5)
    results, labels = pretexts.transform(getkey(), jnp.arange(3), jnp.asarray(images), [], SETTINGS)
    np.testing.assert_array_equal(results, images)
    assert labels == {}
    images, results, labels = transformed(("rotation",), 12, 7, channels=5)
    for image, result, turns in zip(images, results, labels["rotation"], strict=True):
        np.testing.assert_array_equal(result, np.rot90(image, turns))


def test_classes_and_chance():
    expected = {"rotation": 4, "jigsaw": 24, "flip": 2, "lorot_e": 16, "lorot_i": 4, "channels": 6}
    assert {name: row.classes(SETTINGS) for name, row in PRETEXTS.items()} == expected | {"relative_position": 8}
    assert PRETEXTS["jigsaw"].classes({"jigsaw_grid": 3, "jigsaw_permutations": 100}) == 100
    assert math.log(PRETEXTS["lorot_e"].classes(SETTINGS)) == pytest.approx(2.7726, abs=1e-4)
    assert [name for name, row in PRETEXTS.items() if row.move is None] == ["relative_position"]


def pairs(batch, side, size=8):
    """`relative_position` of images whose two channels hold the row and the column."""
    rows, columns = np.mgrid[:side, :side].astype(np.float32) / side
    images = jnp.broadcast_to(jnp.asarray(np.stack([rows, columns], axis=-1)), (batch, side, side, 2))
    draw = jax.jit(lambda k, x: pretexts.relative_position(k, jnp.arange(batch), x, SETTINGS | {"relative_size": size}))
    patches, labels = draw(jax.random.key(0), images)
    return np.asarray(patches), np.asarray(labels)


def test_relative_position_cuts_the_centre_and_the_neighbour_of_the_label():
    """Patches of 8 px, gap 3, jitter 1: pitch 11, the grid takes 32 of 36 px, so its corner lies in 0..4."""
    patches, labels = pairs(2000, 36)
    assert patches.shape == (2000, 2, 8, 8, 2) and labels.dtype == np.int32
    corners = np.rint(patches[:, :, 0, 0] * 36).astype(int)
    rows, columns = np.mgrid[:8, :8]
    expected = (corners[:, :, None, None, :] + np.stack([rows, columns], axis=-1)) / 36
    np.testing.assert_allclose(patches, expected, atol=1e-6)  # whole patches of the image, nothing resampled
    neighbour = np.array([(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)])
    offset = corners[:, 1] - corners[:, 0] - 11 * neighbour[labels]
    assert set(offset.ravel()) == {-2, -1, 0, 1, 2}  # two jitters of -1, 0 or 1
    assert (set(corners[:, 0].ravel()), corners.min(), corners.max()) == (set(range(11, 18)), 0, 28)
    np.testing.assert_allclose(np.bincount(labels, minlength=8) / 2000, 1 / 8, atol=0.033)


def test_relative_position_resizes_each_patch_alone():
    """From 8 to 4 pixels by a triangle of 2 pixels: a ramp stays one, but for the ends, which see nothing beside."""
    small, labels = pairs(4, 36, size=4)
    large, same = pairs(4, 36)
    np.testing.assert_array_equal(labels, same)
    ramp = large[:, :, 0, 0] * 36
    # weights 1, 3, 3, 1 of 8 around a centre; at the border the outer 1 is missing: (3 * 0 + 3 * 1 + 1 * 2) / 7
    np.testing.assert_allclose(small[:, :, 0, 0] * 36, ramp + 5 / 7, atol=1e-4)
    np.testing.assert_allclose(small[:, :, 1, 1] * 36, ramp + 2.5, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "side", "channels", "changes", "message"),
    [
        ("chanels", 32, 3, {}, "unknown method.pretexts.names 'chanels'; did you mean 'channels'"),
        ("lorot_e", 33, 3, {}, "method.pretexts.names: 'lorot_e' needs an image side of 4, 6, 8, ... pixels, got 33"),
        ("flip", 33, 3, {}, "'flip' needs an image side"),
        ("channels", 33, 3, {}, "'channels' needs an image side"),
        ("lorot_i", 3, 3, {}, "'lorot_i' needs an image side of 4, 5, 6, ... pixels, got 3"),
        ("channels", 32, 1, {}, "method.pretexts.names: 'channels' permutes exactly 3 channels, the images have 1"),
        ("channels", 32, 4, {}, "exactly 3 channels, the images have 4"),
        ("flip", 32, 3, {"flip_axis": "diagonal"}, "method.pretexts.flip_axis='diagonal': give one of horizontal, ver"),
        ("jigsaw", 32, 3, {"jigsaw_grid": 4}, "method.pretexts.jigsaw_grid=4: give 2 "),
        ("jigsaw", 32, 3, {"jigsaw_permutations": 1}, "method.pretexts.jigsaw_permutations=1: with jigsaw_grid=2"),
        ("jigsaw", 32, 3, {"jigsaw_permutations": 25}, "give 2 to 24 or 0 (all)"),
        ("jigsaw", 36, 3, {"jigsaw_grid": 3}, "jigsaw_permutations=0: with jigsaw_grid=3 give 2 to 1000"),
        ("jigsaw", 36, 3, {"jigsaw_grid": 3, "jigsaw_permutations": 1001}, "give 2 to 1000"),
        ("jigsaw", 34, 3, {}, "jigsaw_grid=2)' needs an image side of 4, 8, 12, ... pixels, got 34"),
        ("jigsaw", 32, 3, {"jigsaw_grid": 3, "jigsaw_permutations": 9}, "side of 6, 9, 12, ... pixels, got 32"),
        ("relative_position", 31, 3, {}, "method.pretexts.relative_patch=8: 3 x 3 take 32 of 31 pixels"),
        ("relative_position", 36, 3, {"relative_jitter": 2}, "relative_jitter=2: patches could overlap, give 0 to 1"),
        ("relative_position", 36, 3, {"relative_size": 0}, "method.pretexts.relative_size=0: give 1 pixels or more"),
    ],
)
def test_what_is_impossible_is_refused_by_key_value_and_range(name, side, channels, changes, message):
    with pytest.raises(UserError) as caught:
        pretexts.check([name], SETTINGS | changes, side, channels)
    assert message in str(caught.value)


def test_what_is_possible_passes():
    pretexts.check([*COMPOSED, "relative_position"], SETTINGS, 32, 3)
    pretexts.check(["rotation", "lorot_i"], {}, 33, 1)  # settings of pretexts that are not chosen are not asked for


def test_transform_checks_and_needs_squares_and_pretexts_that_compose(getkey):
    def draw(names, *shape):
        return pretexts.transform(getkey(), jnp.arange(2), jnp.zeros(shape), names, SETTINGS)

    with pytest.raises(UserError, match="'flip' needs an image side"):
        draw(["flip"], 2, 9, 9, 3)
    with pytest.raises(ValueError, match="square images, got 8 x 6"):
        draw(["flip"], 2, 8, 6, 3)
    with pytest.raises(ValueError, match="'relative_position' makes separate views"):
        draw(["flip", "relative_position"], 2, 32, 32, 3)
    with pytest.raises(UserError, match="3 x 3 take 32 of 16 pixels"):
        pretexts.relative_position(getkey(), jnp.arange(2), jnp.zeros((2, 16, 16, 3)), SETTINGS)
