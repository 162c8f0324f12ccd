"""Image augmentation on the device: pure functions of one image, float32 [H, W, C] in [0, 1], made for jit and vmap.

Any number of channels works; saturation, hue and grey mean something for red, green and blue only and are left out,
when traced, for any other C. Semantics follow torchvision, the order of the colour operations is fixed and ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gssl_jax.ops.boxes import ATTEMPTS, crop_box, rounded
from gssl_jax.ops.keys import named, per_sample

LUMA = (0.299, 0.587, 0.114)  # Rec. 601
BLUR_RADII = 4.0  # the Gaussian ends at this many standard deviations, as in SciPy
_EXACT = jax.lax.Precision.HIGHEST  # accelerators would multiply pixels in bfloat16 or TF32 by default


def crop_and_resize(image: Array, box: Array, size: int, interpolation: str) -> Array:
    """Cuts out `box` and resizes it to `size` x `size`, antialiased as Pillow's `Image.resize(size, filter, box)`.

    As in Pillow the filter may look at pixels beside the box, not beside the image. Two dense matrix products, since
    gathers are slow on accelerators. Bicubic overshoot is clipped to [0, 1] at the end (Pillow clips images of 8 bits
    between the two passes too, which differs by a few grey levels at saturated edges).

    Args:
        image: [H, W, C].
        box: [4] (top, left, height, width) in pixels, real numbers.
        size: side of the result.
        interpolation: "bilinear" or "bicubic" (a = -0.5).

    Returns:
        [size, size, C].

    Raises:
        ValueError: unknown interpolation.
    """
    rows = resize_weights(box[0], box[2], image.shape[0], size, interpolation)
    columns = resize_weights(box[1], box[3], image.shape[1], size, interpolation)
    return jnp.clip(_separable(image, rows, columns), 0.0, 1.0)


def resize_weights(start: Array, extent: Array, length: int, size: int, interpolation: str) -> Array:
    """[size, length] weights: `extent` pixels from `start` on an axis of `length` pixels resampled; rows sum to 1."""
    if interpolation not in _FILTERS:
        raise ValueError(f"unknown interpolation {interpolation!r}, known: {', '.join(_FILTERS)}")
    scale = extent / size
    centre = start + (jnp.arange(size) + 0.5) * scale
    distance = (jnp.arange(length) + 0.5)[None, :] - centre[:, None]
    weights = _FILTERS[interpolation](jnp.abs(distance) / jnp.maximum(scale, 1.0))
    return weights / jnp.sum(weights, axis=1, keepdims=True)


def _triangle(x: Array) -> Array:
    return jnp.maximum(1.0 - x, 0.0)


def _cubic(x: Array) -> Array:
    """Keys' cubic convolution with a = -0.5 (Pillow); OpenCV and PyTorch tensors take -0.75."""
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return jnp.where(x < 1.0, near, jnp.where(x < 2.0, far, 0.0))


_FILTERS: dict[str, Callable[[Array], Array]] = {"bilinear": _triangle, "bicubic": _cubic}


def _separable(image: Array, rows: Array, columns: Array) -> Array:
    """rows [P, H] and columns [Q, W] applied to image [H, W, C] -> [P, Q, C]."""
    half = jnp.einsum("ph,hwc->pwc", rows, image, precision=_EXACT)
    return jnp.einsum("qw,pwc->pqc", columns, half, precision=_EXACT)


def flip(image: Array) -> Array:
    """Left and right exchanged."""
    return image[:, ::-1]


def luma(image: Array) -> Array:
    """Brightness [H, W, 1]: Rec. 601 for three channels, the mean of the channels otherwise."""
    if image.shape[-1] == 3:
        return jnp.sum(image * jnp.asarray(LUMA, image.dtype).reshape(1, 1, 3), axis=-1, keepdims=True)
    return jnp.mean(image, axis=-1, keepdims=True)


def brightness(image: Array, factor: Array) -> Array:
    """Multiplied by `factor` and clipped."""
    return jnp.clip(image * factor, 0.0, 1.0)


def contrast(image: Array, factor: Array) -> Array:
    """Distance from the mean luma of the image multiplied by `factor`, clipped."""
    mean = jnp.mean(luma(image))
    return jnp.clip(mean + factor * (image - mean), 0.0, 1.0)


def saturation(image: Array, factor: Array) -> Array:
    """Distance from the pixel's own luma multiplied by `factor`, clipped; C = 3."""
    own = luma(image)
    return jnp.clip(own + factor * (image - own), 0.0, 1.0)


def hue(image: Array, shift: Array) -> Array:
    """Hue turned by `shift` turns (in [-0.5, 0.5]) at the same saturation and value of HSV; C = 3."""
    top, bottom = jnp.max(image, axis=-1), jnp.min(image, axis=-1)
    spread = top - bottom
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    safe = jnp.where(spread > 0, spread, 1.0)
    not_red = jnp.where(top == green, 2.0 + (blue - red) / safe, 4.0 + (red - green) / safe)
    sector = jnp.where(top == red, (green - blue) / safe, not_red)
    turned = sector + 6.0 * shift
    # Smith 1978 in closed form: channel n (5, 3, 1) = V - VS * clip(min(k, 4 - k), 0, 1), k = (n + sector) mod 6.
    place = jnp.stack([jnp.mod(n + turned, 6.0) for n in (5.0, 3.0, 1.0)], axis=-1)
    return top[..., None] - spread[..., None] * jnp.clip(jnp.minimum(place, 4.0 - place), 0.0, 1.0)


def grey(image: Array) -> Array:
    """Every channel becomes the luma."""
    return jnp.broadcast_to(luma(image), image.shape)


def gaussian_blur(image: Array, sigma: Array) -> Array:
    """Gaussian blur with edges reflected about the border pixel (SciPy's mode "mirror"), cut at 4 sigma.

    sigma is in pixels; the reflection is taken once, exact while 4 sigma + 0.5 < the shorter side.
    """
    rows = blur_weights(sigma, image.shape[0])
    columns = rows if image.shape[0] == image.shape[1] else blur_weights(sigma, image.shape[1])
    return _separable(image, rows, columns)


def blur_weights(sigma: Array, length: int) -> Array:
    """[length, length] matrix of the blur along one axis; rows sum to 1."""
    place = jnp.arange(length)
    i, j = place[:, None], place[None, :]
    radius = jnp.floor(BLUR_RADII * sigma + 0.5)

    def weight(distance: Array) -> Array:
        return jnp.where(distance <= radius, jnp.exp(-0.5 * jnp.square(distance / sigma)), 0.0)

    # The border pixel itself has no mirror image: it is the mirror.
    weights = weight(jnp.abs(i - j))
    weights += jnp.where(j > 0, weight(i + j), 0.0) + jnp.where(j < length - 1, weight(2 * (length - 1) - i - j), 0.0)
    return weights / jnp.sum(weights, axis=1, keepdims=True)


def solarise(image: Array, threshold: float) -> Array:
    """Pixels from `threshold` up are inverted."""
    return jnp.where(image >= threshold, 1.0 - image, image)


def contrast_normalise(image: Array) -> Array:
    """Mean 128 and deviation about 50 grey levels over all pixels and channels of one image [H, W, C].

    clip((g - mean) / (std + 4) * 50 + 128, 0, 255) in grey levels g = 255 x; the 4 keeps flat images flat.
    """
    levels = image * 255.0
    spread = jnp.std(levels) + 4.0
    return jnp.clip((levels - jnp.mean(levels)) / spread * 50.0 + 128.0, 0.0, 255.0) / 255.0


def normalise(images: Array, mean: Any, std: Any) -> Array:
    """(images - mean) / std with mean and std of one or C numbers, images [..., C]; ValueError if they do not fit."""
    shape = (1,) * (images.ndim - 1) + (-1,)
    centre, spread = jnp.asarray(mean, images.dtype).reshape(shape), jnp.asarray(std, images.dtype).reshape(shape)
    for name, value in (("mean", centre), ("std", spread)):
        if value.shape[-1] not in (1, images.shape[-1]):
            raise ValueError(f"{name} has {value.shape[-1]} numbers for images of {images.shape[-1]} channels")
    return (images - centre) / spread


def as_pixels(images: Array, mean: Any, std: Any) -> Array:
    """The inverse of `normalise`, cut to [0, 1]."""
    shape = (1,) * (images.ndim - 1) + (-1,)
    return jnp.clip(images * jnp.asarray(std).reshape(shape) + jnp.asarray(mean).reshape(shape), 0.0, 1.0)


def to_float(images: Array) -> Array:
    """uint8 and uint16 become float32 in [0, 1]; floating images are taken to be in [0, 1] already."""
    if jnp.issubdtype(images.dtype, jnp.integer):
        return images.astype(jnp.float32) * (1.0 / jnp.iinfo(images.dtype).max)
    return images.astype(jnp.float32)


def augment(key: Array, image: Array, preset: Mapping[str, Any]) -> Array:
    """One random view of one image: crop, flip, contrast normalisation, jitter, grey, blur, solarisation in turn.

    Args:
        key: random key of the sample; each operation draws from `named(key, operation)`.
        image: float32 [H, W, C] in [0, 1].
        preset: all of `size`, `crop` (False: the image was cropped before, it is only resized if its size differs),
            `pad` (pixels of black that a window of the image's own size moves in), `scale`, `ratio`, `interpolation`,
            `flip` (probability), `contrast_normalise`, `jitter` {`probability`,
            `brightness`, `contrast`, `saturation`, `hue`}, `grey` (probability), `blur` {`probability`, `sigma` (low,
            high) in pixels}, `solarise` {`probability`, `threshold`}. What has probability 0 is not even traced.

    Returns:
        float32 [size, size, C] in [0, 1].
    """
    image = _place(key, image, preset)
    if preset["contrast_normalise"]:
        image = contrast_normalise(image)  # before the colour operations: after them it would undo what they do
    jitter = preset["jitter"]
    image = _sometimes(key, "jitter", jitter["probability"], image, lambda x, u: _jitter(x, u, jitter), draws=4)
    if image.shape[-1] == 3:
        image = _sometimes(key, "grey", preset["grey"], image, lambda x, u: grey(x))
    low, high = preset["blur"]["sigma"]

    def blur(x: Array, u: Array) -> Array:
        return gaussian_blur(x, low + (high - low) * u[0])

    image = _sometimes(key, "blur", preset["blur"]["probability"], image, blur, draws=1)
    threshold = preset["solarise"]["threshold"]
    return _sometimes(key, "solarise", preset["solarise"]["probability"], image, lambda x, u: solarise(x, threshold))


def augment_batch(key: Array, index: Array, images: Array, preset: Mapping[str, Any]) -> Array:
    """`augment` for a batch; each sample draws by its index, wherever it stands.

    Args:
        key: random key of the step and view.
        index: int32 [B], sample indices.
        images: [B, H, W, C] of uint8, uint16 or floats in [0, 1].
        preset: see `augment`.

    Returns:
        float32 [B, size, size, C] in [0, 1].
    """
    return jax.vmap(lambda k, image: augment(k, to_float(image), preset))(per_sample(key, index), images)


def _place(key: Array, image: Array, preset: Mapping[str, Any]) -> Array:
    """Shift, crop, resize and flip."""
    height, width, _ = image.shape
    size, pad = preset["size"], preset["pad"]
    if pad:
        offset = jax.random.randint(named(key, "pad"), (2,), 0, 2 * pad + 1)
        wide = jnp.pad(image, ((pad, pad), (pad, pad), (0, 0)))
        image = jax.lax.dynamic_slice(wide, (offset[0], offset[1], 0), image.shape)
    if preset["crop"]:
        uniforms = jax.random.uniform(named(key, "crop"), (ATTEMPTS, 4))
        box = crop_box(uniforms, height, width, tuple(preset["scale"]), tuple(preset["ratio"]))
        # Whole pixels, as on the host and in torchvision: a box of the view's own size is then copied, not smoothed.
        whole = rounded(box, height, width).astype(jnp.float32)
        image = crop_and_resize(image, whole, size, preset["interpolation"])
    elif (height, width) != (size, size):
        image = crop_and_resize(image, jnp.asarray([0.0, 0.0, height, width]), size, preset["interpolation"])
    return _sometimes(key, "flip", preset["flip"], image, lambda x, u: flip(x))


def _sometimes(
    key: Array, name: str, probability: float, image: Array, change: Callable[[Array, Array], Array], draws: int = 0
) -> Array:
    """`change(image, uniforms [draws])` with `probability`; one draw holds the coin and the numbers for `change`."""
    if probability <= 0:
        return image
    uniforms = jax.random.uniform(named(key, name), (1 + draws,))
    return jnp.where(uniforms[0] < probability, change(image, uniforms[1:]), image)


def _jitter(image: Array, uniforms: Array, strength: Mapping[str, Any]) -> Array:
    """Brightness, contrast, saturation, hue, in this order, which is ours: torchvision shuffles it."""
    factors: list[tuple[str, Callable[[Array, Array], Array]]] = [("brightness", brightness), ("contrast", contrast)]
    if image.shape[-1] == 3:
        factors.append(("saturation", saturation))
    for place, (name, change) in enumerate(factors):
        if strength[name] > 0:
            low, high = max(0.0, 1.0 - strength[name]), 1.0 + strength[name]
            image = change(image, low + (high - low) * uniforms[place])
    if image.shape[-1] == 3 and strength["hue"] > 0:
        image = hue(image, strength["hue"] * (2.0 * uniforms[3] - 1.0))
    return image
