"""Files written by OpenCV and Pillow come back as the pixels they were made from, and broken ones are named."""

import io

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from gssl_jax.data import decode
from gssl_jax.errors import UserError


@pytest.fixture
def picture():
    """A smooth colour picture, uint8 [48, 40, 3], the three channels different."""
    y, x = np.mgrid[:48, :40]
    return np.stack([y * 5, x * 6, (x + y) * 2], axis=2).astype(np.uint8)


def _bytes(image, kind, **options):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_lossless_rgb_files_keep_pixels_and_channel_order(picture, kind):
    np.testing.assert_array_equal(decode.decode(_bytes(picture, kind)), picture)


def test_a_jpeg_is_close_to_what_pillow_decodes(picture, tmp_path):
    path = tmp_path / "a.jpg"
    cv2.imwrite(str(path), picture[:, :, ::-1])
    image = decode.decode(path)
    assert image.shape == (48, 40, 3) and image.dtype == np.uint8
    assert np.abs(image.astype(int) - np.asarray(Image.open(path)).astype(int)).max() <= 3


def test_jpeg_orientation_is_applied(picture):
    exif = Image.Exif()
    exif[0x112] = 6  # stored turned; to be shown turned by 90 degrees clockwise
    turned = decode.decode(_bytes(picture, "JPEG", exif=exif, quality=95))
    assert turned.shape == (40, 48, 3)
    assert np.abs(turned.astype(int) - np.rot90(picture, -1).astype(int)).mean() < 4


def test_grey_sixteen_bit_alpha_and_many_channels_keep_their_depth(picture, tmp_path):
    grey = picture[:, :, 0]
    np.testing.assert_array_equal(decode.decode(_bytes(grey, "PNG")), grey[:, :, None])
    deep = grey.astype(np.uint16) * 256 + 7
    cv2.imwrite(str(tmp_path / "deep.png"), deep)
    assert decode.decode(tmp_path / "deep.png").dtype == np.uint16
    np.testing.assert_array_equal(decode.decode(tmp_path / "deep.png"), deep[:, :, None])
    rgba = np.dstack([picture, grey // 2])
    np.testing.assert_array_equal(decode.decode(_bytes(rgba, "PNG")), rgba)
    bands = np.dstack([picture, picture[:, :, :2]])
    for layout, stored in (("contig", bands), ("separate", np.moveaxis(bands, 2, 0))):
        tifffile.imwrite(tmp_path / "bands.tif", stored, photometric="minisblack", planarconfig=layout)
        np.testing.assert_array_equal(decode.decode(tmp_path / "bands.tif"), bands)


def test_a_png_with_a_colour_profile_decodes_without_it(picture, capfd):
    stored = _bytes(picture, "PNG", icc_profile=b"not a profile" * 20)
    np.testing.assert_array_equal(decode.decode(stored), picture)
    assert "libpng" not in capfd.readouterr().err


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF", "WEBP"])
def test_a_truncated_file_is_broken_and_named(kind):
    # noise, so that the cut lies in the pixel data and not in the header
    whole = _bytes(np.random.default_rng(0).integers(0, 255, (80, 80, 3), dtype=np.uint8), kind)
    with pytest.raises(decode.BrokenImage, match="half.*image") as caught:
        decode.decode(whole[: len(whole) // 2], "half.image")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_missing_end_is_seen_without_the_help_of_opencv(kind, monkeypatch):
    """OpenCV 4 fills what is missing with grey instead of refusing."""
    monkeypatch.setattr(cv2, "imdecode", lambda *_: np.full((48, 40, 3), 128, np.uint8))
    noise = np.random.default_rng(0).integers(0, 255, (80, 80, 3), dtype=np.uint8)
    with pytest.raises(decode.BrokenImage, match="truncated"):
        decode.decode(_bytes(noise, kind)[:-200])


def test_a_jpeg_with_trailing_bytes_is_whole(picture):
    assert decode.decode(_bytes(picture, "JPEG") + b"\0" * 9 + b"\xff\xda").shape == (48, 40, 3)


def test_what_is_no_image_is_broken_and_named(tmp_path):
    (tmp_path / "note.png").write_text("hello")
    (tmp_path / "empty.png").touch()
    for name, reason in (("note.png", "not an image"), ("empty.png", "empty"), ("absent.png", "No such file")):
        with pytest.raises(UserError, match=f"{name}.*{reason}"):
            decode.decode(tmp_path / name)
    with pytest.raises(decode.BrokenImage, match="float32"):
        decode.decode(_bytes(np.ones((4, 4), np.float32), "TIFF"))


def test_grey_is_rec_601_luma():
    colours = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [10, 20, 30]]], np.uint8)
    # 76.245, 149.685, 29.07, 2.99 + 11.74 + 3.42 = 18.15
    np.testing.assert_allclose(decode.luma(colours)[0, :, 0], [76.245, 149.685, 29.07, 18.15], rtol=1e-5)
    assert decode.to_channels(colours, 1)[0, :, 0].tolist() == [76, 150, 29, 18]


def test_channel_counts():
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3, 1)
    assert (decode.to_channels(grey, 3) == grey).all() and decode.to_channels(grey, 3).shape == (2, 3, 3)
    rgba = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    np.testing.assert_array_equal(decode.to_channels(rgba, 3), rgba[:, :, :3])
    np.testing.assert_array_equal(decode.to_channels(rgba, 1), decode.to_channels(rgba[:, :, :3], 1))
    np.testing.assert_array_equal(decode.to_channels(rgba, 4), rgba)
    np.testing.assert_array_equal(decode.to_channels(rgba[:, :, 2:], 1), rgba[:, :, 2:3])
    five = np.zeros((2, 2, 5), np.uint8)
    assert decode.to_channels(five, 5).shape == (2, 2, 5)
    with pytest.raises(UserError, match="5 channels.*data.channels is 3"):
        decode.to_channels(five, 3)


def test_sixteen_bit_becomes_eight_over_the_full_range():
    deep = np.array([0, 128, 129, 257, 32768, 65407, 65535], np.uint16).reshape(1, -1, 1)
    # divided by 257 and rounded: .498 -> 0, .502 -> 1, 1, 127.502 -> 128, 254.502 -> 255
    assert decode.to_channels(deep, 1).ravel().tolist() == [0, 0, 1, 1, 128, 255, 255]
    kept = decode.to_channels(deep, 1, keep_sixteen_bit=True)
    assert kept.dtype == np.uint16
    np.testing.assert_array_equal(kept, deep)


def test_shorter_side_and_centre_crop():
    wide = np.zeros((20, 60, 1), np.uint8)
    wide[:, 20:40] = 200  # the central third is the central square
    assert (decode.resize_shorter_and_centre_crop(wide, 20, 20) == 200).all()
    assert (decode.square_canvas(wide, 10) == 200).all()
    big = decode.square_canvas(wide, 40)
    assert big.shape == (40, 40, 1) and (big[:, 5:35] == 200).all()
    # an area average of 3 x 3 blocks, by hand: 27 / 9 and 90 / 9
    blocks = np.array([[9, 0, 0, 30, 0, 0], [0, 0, 9, 0, 0, 30], [0, 9, 0, 0, 30, 0]], np.uint8)[:, :, None]
    assert decode.resized(blocks, 1, 2).ravel().tolist() == [3, 10]
    with pytest.raises(UserError, match="larger than the resized"):
        decode.resize_shorter_and_centre_crop(wide, 20, 24)


@pytest.mark.parametrize(("height", "width", "resize"), [(37, 101, 24), (101, 37, 24), (33, 32, 24), (9, 500, 24)])
def test_odd_sizes_give_exactly_the_crop(height, width, resize):
    image = np.full((height, width, 3), 9, np.uint8)
    assert decode.resize_shorter_and_centre_crop(image, resize, 24).shape == (24, 24, 3)


def test_contrast_normalisation_by_hand():
    # mean 100, std 6: (94 - 100) / (6 + 4) * 50 + 128 = 98 and 158
    patch = np.array([[94, 106], [106, 94]], np.float32)[:, :, None]
    assert decode.contrast_normalised(patch)[:, :, 0].tolist() == [[98, 158], [158, 98]]
    assert (decode.contrast_normalised(np.full((4, 4, 1), 7, np.uint8)) == 128).all()
