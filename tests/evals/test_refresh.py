"""Refreshed batch statistics against the batch's own, and against means over pixels taken by NumPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gssl_jax.evals.refresh import refreshed
from gssl_jax.models.resnet import ResNet

NETWORK = ResNet(image_size=8, block="basic", depths=(1, 1), widths=(4, 8), stem_width=4, mean=(0.4,), std=(0.2,))


@pytest.fixture(scope="module")
def variables():
    return jax.jit(NETWORK.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))


def images(count, seed=0):
    return np.random.default_rng(seed).integers(0, 255, (count, 8, 8, 3)).astype(np.uint8)


def batch(pixels, valid=None):
    return {"image": pixels, "valid": np.ones(len(pixels), bool) if valid is None else valid}


def test_one_batch_is_seen_as_training_sees_it(variables):
    """On its own batch a network of refreshed statistics gives what batch statistics give."""
    pixels = images(6)
    found = refreshed(NETWORK, variables, [batch(pixels)])
    own = jnp.asarray(pixels / 255, jnp.float32)
    expected, _ = jax.jit(lambda x: NETWORK.apply(variables, x, use_running_average=False, mutable=["batch_stats"]))(
        own
    )
    np.testing.assert_allclose(jax.jit(NETWORK.apply)(found, own)["feat"], expected["feat"], rtol=1e-4, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, found["params"], variables["params"])


def test_batches_count_equally_and_a_padded_one_not_at_all(variables):
    """The first norm sees the stem's convolution: its mean is that over all pixels of both full batches."""
    first, second, rest = images(4), images(4, 1), images(4, 2)
    given = [batch(first), batch(second), batch(rest, np.array([True, False, False, False]))]
    found = refreshed(NETWORK, variables, given)["batch_stats"]["norm_stem"]
    kernel = np.asarray(variables["params"]["stem"]["kernel"])
    x = np.pad((np.concatenate([first, second]) / 255 - 0.4) / 0.2, ((0, 0), (1, 1), (1, 1), (0, 0)))
    y = sum(x[:, i : i + 8, j : j + 8] @ kernel[i, j] for i in range(3) for j in range(3))
    np.testing.assert_allclose(found["mean"], y.mean((0, 1, 2)), rtol=1e-4, atol=1e-5)
    spread = (y[:4].var((0, 1, 2)) + y[4:].var((0, 1, 2))) / 2
    np.testing.assert_allclose(found["var"], spread, rtol=1e-3)
    alone = refreshed(NETWORK, variables, given[2:])["batch_stats"]["norm_stem"]["mean"]
    np.testing.assert_allclose(
        alone, refreshed(NETWORK, variables, [batch(rest[:1])])["batch_stats"]["norm_stem"]["mean"]
    )
    with pytest.raises(ValueError, match="at least one image"):
        refreshed(NETWORK, variables, [])
