"""Image files to arrays: decoding, channel count, and the square cuts that evaluation and resident sets use.

Everything is `uint8` or `uint16` `[height, width, channels]`, RGB order. OpenCV decodes (it releases the GIL, so
threads scale); Pillow takes what OpenCV cannot read and judges files whose end is missing, because some releases of
OpenCV fill the missing part of a JPEG with grey and say nothing. TIFF files of more than four channels go to tifffile.
"""

from __future__ import annotations

import io
import os
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from gssl_jax.errors import UserError

cv2.setNumThreads(0)  # the pipeline's own threads do the work; OpenCV's pool would compete with them
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # what it cannot read becomes a named BrokenImage

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # Rec. 601


class BrokenImage(UserError):
    """A file that cannot be used as an image; the message names it and says why."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"cannot use image {name}: {reason}; repair or remove it")
        self.name = name
        self.reason = reason


def decode(payload: bytes | str | os.PathLike[str], name: str = "") -> np.ndarray:
    """Image file (its bytes, or its path) -> uint8 or uint16 [h, w, C], RGB order, C as stored (2 and 4 hold alpha).

    EXIF orientation of JPEG files is applied. `name` is what an error calls the image when `payload` is bytes.
    Raises `BrokenImage` for files that are missing, truncated or not images.
    """
    if not isinstance(payload, bytes):
        name = name or str(payload)
        payload = read_file(payload)
    name = name or "<bytes>"
    if not payload:
        raise BrokenImage(name, "the file is empty")
    image = _by_opencv(payload) if _looks_complete(payload) else None
    if image is None and payload[:4] in (b"II*\0", b"MM\0*"):
        image = _by_tifffile(payload)
    if image is None:
        image = _by_pillow(payload, name)
    if image.ndim == 2:
        image = image[:, :, None]
    if image.dtype not in (np.uint8, np.uint16):
        raise BrokenImage(name, f"pixels are {image.dtype}, expected 8 or 16 bit unsigned integers")
    return image


def read_file(path: str | os.PathLike[str]) -> bytes:
    """The bytes of an image file; BrokenImage where it cannot be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise BrokenImage(str(path), error.strerror or "not readable") from None


def _looks_complete(payload: bytes) -> bool:
    """False when a JPEG or PNG lacks its end marker; entropy-coded JPEG data never holds a bare marker itself."""
    if payload[:2] == b"\xff\xd8":
        return payload.rfind(b"\xff\xd9") > payload.rfind(b"\xff\xda")
    if payload[:4] == b"\x89PNG":
        return b"IEND" in payload[-64:]
    return True


def _without_profile(payload: bytes) -> bytes:
    """A PNG without its colour profile, which is not applied anyway; libpng prints a warning for every odd one."""
    if payload[:4] != b"\x89PNG":
        return payload
    start = 8  # chunks follow the signature: length, type, data, CRC; the profile stands before the image data
    while start + 12 <= len(payload) and payload[start + 4 : start + 8] not in (b"IDAT", b"IEND"):
        stop = start + 12 + int.from_bytes(payload[start : start + 4], "big")
        if payload[start + 4 : start + 8] == b"iCCP":
            return payload[:start] + payload[stop:]
        start = stop
    return payload


def _by_opencv(payload: bytes) -> np.ndarray | None:
    # IMREAD_UNCHANGED keeps alpha but ignores EXIF orientation, which is common in JPEG files, and those have no alpha
    jpeg = payload[:2] == b"\xff\xd8"
    flags = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH if jpeg else cv2.IMREAD_UNCHANGED
    try:
        image = cv2.imdecode(np.frombuffer(_without_profile(payload), np.uint8), flags)
    except cv2.error:
        return None
    if image is None or image.ndim == 2 or image.dtype not in (np.uint8, np.uint16):
        return image  # what is neither 8 nor 16 bit is refused by name, and colours of such pixels cannot be swapped
    swap = {3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGBA}
    channels = image.shape[2]
    return cv2.cvtColor(image, swap[channels]) if channels in swap else image


def _by_tifffile(payload: bytes) -> np.ndarray | None:
    """The first page of a TIFF with five or more channels; None for the others and for what cannot be read."""
    import tifffile  # comes with scikit-image; only multispectral images need it

    try:
        with tifffile.TiffFile(io.BytesIO(payload)) as file:
            page = file.pages.first
            if page.samplesperpixel <= 4:
                return None
            pixels = page.asarray()
            return np.moveaxis(pixels, 0, -1) if page.axes == "SYX" else pixels
    except (tifffile.TiffFileError, ValueError, IndexError):
        return None


def _by_pillow(payload: bytes, name: str) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(payload)) as picture:
            picture.load()
            if picture.mode.startswith("I;16"):
                return np.array(picture, np.uint16)
            mode = picture.mode if picture.mode in ("L", "LA", "RGB", "RGBA") else "RGB"
            return np.array(picture.convert(mode))
    except Image.DecompressionBombError:
        raise BrokenImage(name, "it claims to have more pixels than an image should") from None
    except (OSError, SyntaxError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else "not an image"
        reason = "not an image that OpenCV or Pillow can read" if "cannot identify" in reason else reason
        raise BrokenImage(name, reason) from None


def luma(image: np.ndarray) -> np.ndarray:
    """RGB [h, w, 3] -> Rec. 601 luma, float32 [h, w, 1], unrounded; a grey [h, w, 1] passes as float32."""
    if image.shape[2] == 1:
        return image.astype(np.float32)
    return (image[:, :, :3].astype(np.float32) @ LUMA)[:, :, None]


def to_eight_bit(image: np.ndarray) -> np.ndarray:
    """uint16 -> uint8 over the full 16-bit range (65535 -> 255), rounded; uint8 passes."""
    if image.dtype == np.uint8:
        return image
    return ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)


def to_channels(image: np.ndarray, channels: int, *, keep_sixteen_bit: bool = False) -> np.ndarray:
    """[h, w, C] -> [h, w, channels]: grey to RGB by repetition, RGB to grey by luma, alpha dropped, 16 bit to 8.

    Raises `UserError` for a channel count that cannot be made from the image's own (5 -> 3, say).
    """
    if not keep_sixteen_bit:
        image = to_eight_bit(image)
    have = image.shape[2]
    if have == channels:
        return image
    if have in (2, 4) and channels in (1, 3):
        image, have = image[:, :, : have - 1], have - 1  # alpha is the last channel
    if have == channels:
        return np.ascontiguousarray(image)
    if have == 1 and channels == 3:
        return np.repeat(image, 3, axis=2)
    if have == 3 and channels == 1:
        return np.rint(luma(image)).astype(image.dtype)
    raise UserError(f"an image has {have} channels but data.channels is {channels}; set data.channels={have}")


def resized(image: np.ndarray, height: int, width: int, nearest: bool = False) -> np.ndarray:
    """[h, w, C] -> [height, width, C]: area averages when both sides shrink, bicubic otherwise; `nearest` takes the
    pixel at the middle of each new one, for masks, whose values must not be mixed."""
    if image.shape[:2] == (height, width):
        return image
    shrinks = height <= image.shape[0] and width <= image.shape[1]
    kernel = cv2.INTER_NEAREST_EXACT if nearest else cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return sized(image, height, width, kernel)


def sized(image: np.ndarray, height: int, width: int, kernel: int) -> np.ndarray:
    """[h, w, C] -> [height, width, C] by one of OpenCV's kernels, which averages at most four channels at once."""
    parts = [
        cv2.resize(image[:, :, first : first + 4], (width, height), interpolation=kernel).reshape(height, width, -1)
        for first in range(0, image.shape[2], 4)
    ]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)


def resize_shorter_and_centre_crop(image: np.ndarray, resize: int, size: int, nearest: bool = False) -> np.ndarray:
    """The evaluation cut: the shorter side becomes `resize` pixels, then the central [size, size, C]; `nearest` as for
    `resized`.

    Raises `UserError` when `size` is larger than `resize`.
    """
    if size > resize:
        raise UserError(f"the centre crop ({size} px) is larger than the resized shorter side ({resize} px)")
    height, width = image.shape[:2]
    shorter = min(height, width)
    if shorter != resize:
        height, width = (round(side * resize / shorter) for side in (height, width))
        image = resized(image, height, width, nearest)
    top, left = (height - size) // 2, (width - size) // 2
    return np.ascontiguousarray(image[top : top + size, left : left + size])


def square_canvas(image: np.ndarray, side: int) -> np.ndarray:
    """The stored square of a resident image: shorter side to `side`, central square; [h, w, C] -> [side, side, C]."""
    return resize_shorter_and_centre_crop(image, side, side)


def contrast_normalised(patch: np.ndarray) -> np.ndarray:
    """`clip((g - mean) / (std + 4) * 50 + 128, 0, 255)` over one grey patch on the 0..255 scale -> uint8, rounded."""
    values = patch.astype(np.float32)
    scaled = (values - values.mean()) / (values.std() + 4.0) * 50.0 + 128.0
    return np.rint(np.clip(scaled, 0.0, 255.0)).astype(np.uint8)
