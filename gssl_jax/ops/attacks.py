"""Adversarial images: small changes, bounded in every pixel or as a whole, that raise a loss."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike


def pgd(
    loss: Callable[[Array], Array],
    images: Array,
    *,
    epsilon: ArrayLike,
    step_size: ArrayLike,
    steps: ArrayLike,
    keys: Array | None = None,
    norm: str = "linf",
) -> Array:
    """Images within `epsilon` of `images` with a higher loss, by projected gradient ascent.

    In the maximum norm each step adds step_size * sign(gradient), in the Euclidean norm of a whole image step_size *
    gradient / |gradient|, and projects onto the ball around the *clean* images and onto [0, 1] (Madry et al., 2018,
    arXiv 1706.06083, section 2.1). `steps` 1 with `step_size` epsilon and no keys is FGSM (arXiv 1412.6572). The clean
    batch is left as it is.

    No gradient flows through the attack, neither to `images` nor to what `loss` closes over: it can stand inside a
    loss that is being differentiated with respect to parameters, and then costs one gradient with respect to the
    images for each step and no second derivatives.

    Args:
        loss: float images [B, S, S, C] in [0, 1] -> scalar, the sum over samples. It fixes everything else:
            parameters, labels, batch statistics (those of evaluation, or samples attack each other's).
        images: float [B, S, S, C] in [0, 1].
        epsilon: the largest change of a pixel value, such as 8 / 255, or (`l2`) of an image as a vector, such as 0.5.
        step_size: the change of a pixel value, or (`l2`) of an image, in one step.
        steps: how many; may be traced, so that one program serves several numbers.
        keys: random keys [B], one for each sample, for a start uniform in the ball; None starts at `images`.
        norm: one of `NORMS`.

    Returns:
        float32 [B, S, S, C], in [0, 1], within epsilon of `images` up to the rounding of float32.

    Raises:
        ValueError: the images are integers, whose range is not [0, 1]; or the norm is not known.
    """
    if norm not in NORMS:
        raise ValueError(f"unknown norm {norm!r}; known: {', '.join(NORMS)}")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"an attack needs float images in [0, 1], not {images.dtype}")
    clean = jax.lax.stop_gradient(jnp.asarray(images, jnp.float32))
    uphill, projected, start = NORMS[norm]
    # The parameters under `loss` may be those of an outer gradient. Handed in explicitly, they can be cut off from it.
    hoisted_loss, hoisted = jax.closure_convert(loss, clean)
    hoisted = jax.lax.stop_gradient(hoisted)

    def into(changed: Array) -> Array:
        # The cut at 0 and 1 comes last: the clean pixel lies between them, so that it only shortens the change.
        return jnp.clip(clean + projected(changed - clean, epsilon), 0.0, 1.0)

    def ascend(_: Array, attacked: Array) -> Array:
        return into(attacked + step_size * uphill(jax.grad(hoisted_loss)(attacked, *hoisted)))

    begin = clean
    if keys is not None:
        begin = into(clean + epsilon * jax.vmap(lambda key: start(key, clean.shape[1:]))(keys))
    return jax.lax.fori_loop(0, steps, ascend, begin)


def _length(change: Array) -> Array:
    """Euclidean norm of every sample, [B, 1, 1, 1]."""
    return jnp.sqrt(jnp.sum(jnp.square(change), axis=(1, 2, 3), keepdims=True))


def _unit(gradient: Array) -> Array:
    """Every sample scaled to length 1; scaled by its largest value first, since squares of small gradients vanish."""
    largest = jnp.max(jnp.abs(gradient), axis=(1, 2, 3), keepdims=True)
    scaled = gradient / jnp.where(largest > 0, largest, 1.0)
    return scaled / jnp.maximum(_length(scaled), 1e-12)


def _onto_sphere(change: Array, epsilon: ArrayLike) -> Array:
    return change * jnp.minimum(1.0, epsilon / jnp.maximum(_length(change), 1e-12))


def _in_ball(key: Array, shape: tuple[int, ...]) -> Array:
    """Uniform in the unit ball: a random direction, and the radius u^(1 / d)."""
    of_direction, of_radius = jax.random.split(key)
    direction = jax.random.normal(of_direction, shape)
    radius = jax.random.uniform(of_radius) ** (1.0 / direction.size)
    return radius * direction / jnp.sqrt(jnp.sum(jnp.square(direction)))


def _in_box(key: Array, shape: tuple[int, ...]) -> Array:
    return jax.random.uniform(key, shape, minval=-1.0, maxval=1.0)


NORMS: dict[str, tuple[Callable[..., Array], ...]] = {
    "linf": (jnp.sign, lambda change, epsilon: jnp.clip(change, -epsilon, epsilon), _in_box),
    "l2": (_unit, _onto_sphere, _in_ball),
}
"""Norm -> the step uphill of a gradient, the projection of a change, and a random start (key, shape) in the unit ball.
"""
