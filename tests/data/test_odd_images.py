"""Images that are not the usual ones: each is decoded as it should be, or refused by name."""

import io
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from gssl_jax.data.decode import BrokenImage, decode, to_channels

RED, GREEN, BLUE = (250, 10, 20), (5, 240, 30), (15, 25, 230)


def picture(size=(40, 24)):
    """Red above, green below on the left, blue below on the right; PIL's (width, height)."""
    image = Image.new("RGB", size, RED)
    width, height = size
    image.paste(GREEN, (0, height // 2, width // 2, height))
    image.paste(BLUE, (width // 2, height // 2, width, height))
    return image


def saved(image, kind, **options):
    held = io.BytesIO()
    image.save(held, kind, **options)
    return held.getvalue()


def corners(image):
    """The colours a little inside the four corners: top left, top right, bottom left, bottom right."""
    rgb = to_channels(image, 3).astype(int)
    return [rgb[3, 3], rgb[3, -4], rgb[-4, 3], rgb[-4, -4]]


USUAL = [RED, RED, GREEN, BLUE]


def looks(image, expected, tolerance):
    for found, wanted in zip(corners(image), expected, strict=True):
        assert np.abs(found - wanted).max() <= tolerance, (found, wanted)


def animated(kind):
    return saved(picture(), kind, save_all=True, append_images=[Image.new("RGB", (40, 24), BLUE)], duration=50)


# name: the file, its channels, how far colours may be off
KINDS = {
    "CMYK JPEG": (lambda: saved(picture().convert("CMYK"), "JPEG", quality=95), 3, 8),
    "progressive JPEG": (lambda: saved(picture(), "JPEG", quality=95, progressive=True), 3, 8),
    "JPEG without subsampling": (lambda: saved(picture(), "JPEG", quality=95, subsampling=0), 3, 8),
    "palette PNG": (lambda: saved(picture().convert("P", palette=Image.Palette.ADAPTIVE), "PNG"), 3, 2),
    "palette PNG with a transparent colour": (
        lambda: saved(picture().convert("P", palette=Image.Palette.ADAPTIVE), "PNG", transparency=0), 4, 2,
    ),
    "RGBA PNG": (lambda: saved(picture().convert("RGBA"), "PNG"), 4, 0),
    "BMP": (lambda: saved(picture(), "BMP"), 3, 0),
    "lossless WebP": (lambda: saved(picture(), "WEBP", lossless=True), 3, 2),
    "animated WebP, its first frame": (lambda: animated("WEBP"), 4, 24),
    "animated PNG, its first frame": (lambda: animated("PNG"), 3, 0),
    "TIFF of several pages, its first": (lambda: animated("TIFF"), 3, 0),
    "LZW TIFF": (lambda: saved(picture(), "TIFF", compression="tiff_lzw"), 3, 0),
    "animated GIF, its first frame": (lambda: animated("GIF"), 4, 4),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_files(kind):
    make, channels, tolerance = KINDS[kind]
    image = decode(make(), kind)
    assert image.shape == (24, 40, channels) and image.dtype == np.uint8
    looks(image, USUAL, tolerance)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_applied(orientation):
    """What Pillow's own transpose makes of the file."""
    image = picture()
    exif = Image.Exif()
    exif[0x0112] = orientation
    held = saved(image, "JPEG", quality=95, exif=exif)
    with Image.open(io.BytesIO(held)) as stored:
        from PIL import ImageOps

        expected = np.array(ImageOps.exif_transpose(stored))
    found = decode(held)
    assert found.shape == expected.shape and (found.shape[0] > found.shape[1]) == (orientation >= 5)
    assert np.abs(found.astype(int) - expected).max() <= 8


@pytest.mark.parametrize("quality", [30, 75, 95])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_the_fast_decoder_is_within_a_level_of_pillow_on_most_pixels(mode, quality):
    """Both use the same transform; what differs is how colours of halved resolution are brought back."""
    draw = np.random.default_rng(0)
    smooth = np.kron(draw.integers(0, 256, (6, 8, 3)), np.ones((16, 16, 1))).astype(np.uint8)
    image = Image.fromarray(smooth).convert(mode)
    held = saved(image, "JPEG", quality=quality, subsampling=0)
    with Image.open(io.BytesIO(held)) as stored:
        expected = np.array(stored).reshape(96, 128, -1)
    assert np.abs(decode(held).astype(int) - expected).max() <= 1


def test_one_bit_one_pixel_and_grey_with_alpha():
    assert decode(saved(Image.new("1", (9, 5), 1), "PNG")).shape == (5, 9, 1)
    assert decode(saved(Image.new("1", (9, 5), 1), "PNG")).max() == 255
    assert decode(saved(Image.new("RGB", (1, 1), RED), "PNG")).tolist() == [[list(RED)]]
    both = decode(saved(Image.new("LA", (9, 5), (70, 128)), "PNG"))
    assert to_channels(both, 1).ravel().tolist() == [70] * 45
    deep = decode(saved(Image.fromarray(np.full((5, 9), 40000, np.uint16)), "PNG"))
    assert deep.dtype == np.uint16 and (deep == 40000).all()


def test_a_wrong_ending_does_not_matter(tmp_path):
    file = tmp_path / "image.jpg"
    file.write_bytes(saved(picture(), "PNG"))
    looks(decode(file), USUAL, 0)


def bomb():
    """A PNG of a few bytes that claims 60,000 x 60,000 pixels."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


def tiff(pixels):
    held = io.BytesIO()
    tifffile.imwrite(held, pixels, photometric="rgb" if pixels.ndim == 3 else "minisblack")
    return held.getvalue()


@pytest.mark.parametrize(
    ("held", "said"),
    [
        (lambda: b"", "the file is empty"),
        (lambda: b"hello", "not an image"),
        (lambda: saved(picture(), "JPEG")[:300], "x.img"),
        (lambda: saved(picture((400, 240)), "PNG")[:200], "x.img"),
        (bomb, "more pixels than an image should"),
        (lambda: tiff(np.zeros((5, 9), np.float32)), "pixels are float32, expected 8 or 16 bit"),
        (lambda: tiff(np.zeros((5, 9, 3), np.float64)), "pixels are float64, expected 8 or 16 bit"),
    ],
)
def test_what_cannot_be_used_is_named(held, said, capfd):
    with pytest.raises(BrokenImage, match=said) as refused:
        decode(held(), "x.img")
    assert refused.value.name == "x.img" and "repair or remove it" in str(refused.value)
    assert capfd.readouterr().err == ""
