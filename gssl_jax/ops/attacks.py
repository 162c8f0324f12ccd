"""Adversarial images: small changes, bounded in every pixel, that raise a loss."""

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
) -> Array:
    """Images within `epsilon` of `images` with a higher loss, by projected gradient ascent in the maximum norm.

    Each step adds step_size * sign(gradient) and projects onto the box around the *clean* images and onto [0, 1]
    (Madry et al., 2018, arXiv 1706.06083, section 2.1). `steps` 1 with `step_size` epsilon and no keys is FGSM
    (arXiv 1412.6572). The clean batch is left as it is.

    No gradient flows through the attack, neither to `images` nor to what `loss` closes over: it can stand inside a
    loss that is being differentiated with respect to parameters, and then costs one gradient with respect to the
    images for each step and no second derivatives.

    Args:
        loss: float images [B, S, S, C] in [0, 1] -> scalar, the sum over samples. It fixes everything else:
            parameters, labels, batch statistics (those of evaluation, or samples attack each other's).
        images: float [B, S, S, C] in [0, 1].
        epsilon: the largest change of a pixel value, such as 8 / 255.
        step_size: the change of a pixel value in one step.
        steps: how many; may be traced, so that one program serves several numbers.
        keys: random keys [B], one for each sample, for a start uniform in the box; None starts at `images`.

    Returns:
        float32 [B, S, S, C], in [0, 1], within epsilon of `images` up to the rounding of float32.

    Raises:
        ValueError: the images are integers, whose range is not [0, 1].
    """
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"an attack needs float images in [0, 1], not {images.dtype}")
    clean = jax.lax.stop_gradient(jnp.asarray(images, jnp.float32))
    low, high = jnp.maximum(clean - epsilon, 0.0), jnp.minimum(clean + epsilon, 1.0)
    # The parameters under `loss` may be those of an outer gradient. Handed in explicitly, they can be cut off from it.
    hoisted_loss, hoisted = jax.closure_convert(loss, clean)
    hoisted = jax.lax.stop_gradient(hoisted)

    def ascend(_: Array, attacked: Array) -> Array:
        uphill = jnp.sign(jax.grad(hoisted_loss)(attacked, *hoisted))
        return jnp.clip(attacked + step_size * uphill, low, high)

    start = clean
    if keys is not None:
        noise = jax.vmap(lambda key: jax.random.uniform(key, clean.shape[1:], minval=-1.0, maxval=1.0))(keys)
        start = jnp.clip(clean + epsilon * noise, low, high)
    return jax.lax.fori_loop(0, steps, ascend, start)
