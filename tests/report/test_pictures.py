"""Picture sheets: valid PNGs of plausible size whose cells hold the pictures they were given."""

import numpy as np
import pytest
from PIL import Image

from gssl_jax.report import pictures
from gssl_jax.report.captions import caption
from gssl_jax.report.sheet import GAP, LINE, Sheet, cell_side, displayable


def opened(path):
    with Image.open(path) as image:
        image.load()
        return np.asarray(image)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_every_sheet_is_a_plausible_png(tmp_path, make_pictures, channels):
    given = make_pictures(channels, evidence=True)
    drawn = [
        pictures.draw_reconstruction(given["reconstruction"], tmp_path),
        pictures.draw_clusters(given["clusters"], tmp_path),
        pictures.draw_pca(given["pca"], tmp_path),
        pictures.draw_attention(given["attention"], tmp_path),
        pictures.draw_gradcam(given["gradcam"], ("<b>", "$^$", "\u732b"), tmp_path),
        pictures.draw_neighbours(given["neighbours"], ("<b>", "$^$", "\u732b"), tmp_path),
    ]
    for path in drawn:
        image = opened(path)
        assert image.ndim == 3 and image.shape[2] == 4
        assert 900 < image.shape[1] < 1400 and 200 < image.shape[0] < 1600
        assert 2_000 < path.stat().st_size < 600_000
        assert image[..., :3].std() > 20


def test_displayable_repeats_grey_and_takes_the_first_of_many_channels():
    grey = displayable(np.full((2, 4, 4, 1), 0.25))
    assert grey.shape == (2, 4, 4, 3) and np.all(grey == 0.25)
    many = np.stack([np.full((4, 4), v) for v in (0.1, 0.2, 0.3, 0.9, 0.9)], axis=-1)
    np.testing.assert_allclose(displayable(many)[0, 0], [0.1, 0.2, 0.3], rtol=1e-6)
    two = np.stack([np.full((4, 4), v) for v in (0.1, 0.9)], axis=-1)
    np.testing.assert_allclose(displayable(two)[0, 0], [0.1, 0.1, 0.1], rtol=1e-6)
    np.testing.assert_array_equal(displayable(np.array([[[np.nan], [2.0], [-1.0]]]))[0, :, 0], [0.0, 1.0, 0.0])


def test_cells_enlarge_small_pictures_by_whole_pixels():
    assert [cell_side(size) for size in (8, 28, 32, 96, 128, 160, 224)] == [192, 168, 192, 192, 128, 160, 160]


def test_a_sheet_shows_each_pixel_where_it_belongs(tmp_path):
    sheet = Sheet(2, 6, 96)
    picture = np.zeros((2, 2, 3))
    picture[0, 1] = [1.0, 0.0, 0.0]  # top right
    sheet.put(1, 2, picture)
    image = opened(sheet.save(tmp_path / "sheet.png"))
    assert image.shape == (sheet.height, sheet.width, 4)
    left, top = sheet.lefts[2], sheet.tops[1]
    np.testing.assert_array_equal(image[top + 24, left + 72], [255, 0, 0, 255])
    np.testing.assert_array_equal(image[top + 72, left + 72], [0, 0, 0, 255])
    assert image[top - 6, left + 48, 3] == 0  # the gap between rows is transparent


def test_frequent_clusters_have_the_clearest_colours_and_all_differ():
    maps = np.repeat(np.arange(30), np.arange(30, 0, -1))[None, None]
    colours = pictures.cluster_colours(maps)
    assert len(set(colours.values())) == 30
    assert colours[0] == pytest.approx((0, 0x72 / 255, 0xB2 / 255))  # Okabe and Ito's blue


def test_right_and_wrong_neighbours_differ_by_more_than_colour(tmp_path, make_pictures):
    """A wrong one has white in its frame: the share of white pixels on the edge tells it without hue."""
    given = make_pictures(number=1)["neighbours"] | {"query_labels": np.array([0]),
                                                     "neighbour_labels": np.array([[0, 1, 0, 0, 0]])}  # fmt: skip
    image = opened(pictures.draw_neighbours(given, ("a", "b", "c"), tmp_path))
    side = cell_side(16)
    line = round(0.27 * side) + 6 + 3  # below the heading and half a gap, inside the frame
    cells = [image[line, k * (side + 12) : k * (side + 12) + side, :3] for k in (1, 2)]
    white = [float((cell.min(axis=1) > 220).mean()) for cell in cells]
    assert white[0] == 0.0 and white[1] > 0.2


def test_rollout_has_a_column_of_its_own(tmp_path, make_pictures):
    """One bright patch of 4 x 4, the second of the first row: its quarter of the first column of maps is bright."""
    given = make_pictures()["attention"]
    bright = np.zeros((len(given["images"]), 4, 4))
    bright[:, 0, 1] = 1.0
    without = opened(pictures.draw_attention(given, tmp_path))
    drawn = opened(pictures.draw_attention(given | {"rollout": bright}, tmp_path))
    side = cell_side(given["images"].shape[1])
    left, top = side + GAP, GAP // 2 + round(LINE * side)
    patches = drawn[top : top + side, left : left + side, :3].reshape(4, side // 4, 4, side // 4, 3).mean((1, 3, 4))
    assert patches.argmax() == 1 and (np.sort(patches.ravel())[:-1] < 0.1 * patches.max()).all()
    later = drawn[top : top + side, left + side + GAP : left + 2 * side + GAP]
    np.testing.assert_array_equal(later, without[top : top + side, left : left + side])


def test_wrong_forms_are_refused_by_name(tmp_path, make_pictures):
    given = make_pictures()
    with pytest.raises(ValueError, match="cluster maps need the form"):
        pictures.draw_clusters(given["clusters"] | {"maps": np.zeros((4, 4))}, tmp_path)
    with pytest.raises(ValueError, match=r"colours of patches need the form \[4, h, w, 3\], got \(4, 4, 4, 2\)"):
        pictures.draw_pca(given["pca"] | {"maps": np.zeros((4, 4, 4, 2))}, tmp_path)
    with pytest.raises(ValueError, match="attention maps need the form"):
        pictures.draw_attention(given["attention"] | {"maps": np.zeros((2, 4, 4))}, tmp_path)
    with pytest.raises(ValueError, match=r"roll-out needs the form \[4, 4, 4\], got \(4, 5, 5\)"):
        pictures.draw_attention(given["attention"] | {"rollout": np.zeros((4, 5, 5))}, tmp_path)
    with pytest.raises(ValueError, match="differ in shape"):
        wrong = {"corrupted": np.zeros((4, 8, 8, 1))}
        pictures.draw_reconstruction(given["reconstruction"] | wrong, tmp_path)


def test_evidence_is_laid_over_the_image(tmp_path):
    """Where there is no evidence the image is darkened to seven tenths; where there is most it is brightest."""
    maps = np.zeros((1, 16, 16))
    maps[0, :8] = 1.0
    given = {"images": np.full((1, 16, 16, 3), 0.5), "maps": maps, "predicted": np.array([0]), "labels": np.array([-1])}
    image = opened(pictures.draw_gradcam(given, ("a",), tmp_path)).astype(int)
    side, gap, top = cell_side(16), 12, round(0.27 * cell_side(16)) + 6
    heated, plain = (image[top + y, side + gap + side // 2, :3] for y in (side // 4, side * 3 // 4))
    np.testing.assert_allclose(plain, 0.7 * 127.5, atol=2)
    assert heated.min() > 0.7 * 127.5 and heated[0] > 150
    assert abs(image[top + side // 2, side // 2, 0] - 127.5) < 2  # the image beside it is as it was


def test_evidence_of_the_wrong_form_is_refused(tmp_path, make_pictures):
    given = make_pictures(evidence=True)["gradcam"]
    with pytest.raises(ValueError, match=r"Grad-CAM maps need the form \[4, 16, 16\]"):
        pictures.draw_gradcam(given | {"maps": np.zeros((4, 4, 4))}, (), tmp_path)


def test_a_sheet_of_pairs_shows_the_first_the_last_and_some_between_and_counts_those():
    """Six of ten, 9/5 apart: 0, 1.8, 3.6, 5.4, 7.2, 9. Only the other four are right."""
    rows = pictures.evenly(10)
    assert rows.tolist() == [0, 2, 4, 5, 7, 9] and pictures.evenly(2).tolist() == [0, 1]
    labels = np.arange(10)
    predicted = np.where(np.isin(labels, rows), 99, labels)
    given = {"images": np.zeros((10, 4, 4, 3)), "maps": np.zeros((10, 4, 4)), "labels": labels, "predicted": predicted}
    assert "Right here: 0 of 6." in caption("gradcam", given, ())


def test_a_sheet_of_pairs_has_full_rows():
    assert [pictures.paired(number) for number in (1, 2, 3, 4, 7, 20)] == [1, 2, 3, 3, 6, 6]


def test_colours_of_patches_stand_beside_their_image(tmp_path):
    """One image of 2 x 2 patches, the last one red."""
    maps = np.zeros((1, 2, 2, 3))
    maps[0, 1, 1] = [1.0, 0.0, 0.0]
    given = {"images": np.full((1, 16, 16, 3), 0.5), "maps": maps}
    image = opened(pictures.draw_pca(given, tmp_path))
    side = cell_side(16)
    left, top = side + GAP, GAP // 2 + round(LINE * side)
    np.testing.assert_array_equal(image[top + side * 3 // 4, left + side * 3 // 4, :3], [255, 0, 0])
    np.testing.assert_array_equal(image[top + side // 4, left + side * 3 // 4, :3], [0, 0, 0])
    assert "principal components" in caption("pca", given, ())


def test_masks_have_one_colour_a_class_and_grey_for_none(tmp_path):
    truth = np.array([[[0, 0], [1, 255]]], np.uint8)
    given = {"images": np.zeros((1, 2, 2, 1)), "truth": truth, "found": np.array([[[0, 1], [1, 1]]], np.uint8)}
    with Image.open(pictures.draw_masks(given, tmp_path)) as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    side = pictures.cell_side(2)
    left = [c * (side + 12) for c in range(3)]
    top = pixels.shape[0] - side - 6

    def cell(column, row, place):
        return tuple(pixels[top + row * side // 2 + side // 4, left[column] + place * side // 2 + side // 4])

    assert cell(1, 0, 0) == cell(1, 0, 1) == cell(2, 0, 0) != cell(1, 1, 0) == cell(2, 0, 1) == cell(2, 1, 0)
    assert cell(1, 1, 1) == cell(2, 1, 1) == (128, 128, 128)
    assert "67 % are right" in caption("masks", given, ())
    with pytest.raises(ValueError, match="masks need the form"):
        pictures.draw_masks(given | {"found": truth[:, :1]}, tmp_path)
