"""Heads: unit outputs, cosines that ignore the length of a prototype, batch statistics, pixels in their places."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gssl_jax.models.heads import BatchStandardise, Perceptron, Projector, Prototypes, ReconstructionHead
from gssl_jax.models.layers import l2_normalise
from gssl_jax.ops.patches import unpatchify
from gssl_jax.training.mesh import make_mesh, on_data


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def test_prototypes_give_cosines():
    z = l2_normalise(normal(6, 8))
    variables = Prototypes(5).init(jax.random.key(0), z)
    directions = variables["params"]["directions"]
    cosines = Prototypes(5).apply(variables, z)
    expected = [[np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b) for b in directions.T] for a in np.asarray(z)]
    np.testing.assert_allclose(cosines, expected, atol=1e-5)
    # The gain is 1 for good: longer prototypes score no higher, and each meets itself at 1.
    longer = {"params": {"directions": directions * jnp.asarray([[0.1, 1.0, 3.0, 50.0, 1e3]])}}
    np.testing.assert_allclose(Prototypes(5).apply(longer, z), cosines, atol=1e-5)
    np.testing.assert_allclose(jnp.diag(Prototypes(5).apply(longer, l2_normalise(directions.T))), 1.0, atol=1e-5)
    assert len(variables["params"]) == 1


def test_prototypes_stay_float32_under_half_precision_features():
    z = l2_normalise(normal(6, 8))
    variables = Prototypes(5).init(jax.random.key(0), z)
    assert Prototypes(5).apply(variables, z.astype(jnp.bfloat16)).dtype == jnp.float32


@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize("layers", [1, 3])
def test_projector_ends_on_the_sphere(layers, norm):
    head = Projector(hidden=12, layers=layers, output=6, norm=norm)
    x = normal(4, 3, 8)
    variables = head.init(jax.random.key(0), x)
    z = head.apply(variables, x)
    assert z.shape == (4, 3, 6)
    np.testing.assert_allclose(np.linalg.norm(z, axis=-1), 1.0, atol=1e-5)
    found = [name.split("_")[0] for name in variables["params"]]
    assert found.count("Dense") == layers
    assert found.count("BatchStandardise") == (layers if norm == "batch" else 0)


def test_batch_standardise_over_all_rows():
    x = normal(4, 3, 5) * jnp.asarray([[[1.0, 10, 100, 0, 1]]]) + jnp.asarray([[[0.0, 5, -3, 7, 0]]])
    variables = BatchStandardise().init(jax.random.key(0), x)
    y = np.asarray(BatchStandardise().apply(variables, x))
    rows = np.asarray(x, np.float64).reshape(-1, 5)
    expected = (rows - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-5)
    np.testing.assert_allclose(y.reshape(-1, 5), expected, atol=1e-4)
    assert np.abs(y[..., 3]).max() == 0.0  # a feature that never varies stays at zero
    learned = {"params": {"scale": jnp.full(5, 2.0), "bias": jnp.full(5, 3.0)}}
    np.testing.assert_allclose(BatchStandardise().apply(learned, x), 2 * y + 3, atol=1e-5)


def test_batch_standardise_over_eight_devices_is_global():
    x, mesh = normal(16, 5) + jnp.arange(16.0)[:, None], make_mesh()
    variables = BatchStandardise().init(jax.random.key(0), x)
    apply = jax.jit(BatchStandardise().apply)
    np.testing.assert_allclose(apply(variables, jax.device_put(x, on_data(mesh))), apply(variables, x), atol=1e-5)


@pytest.mark.parametrize("layers", [0, 2])
def test_reconstruction_puts_each_patch_in_its_place(layers):
    """A token that differs changes its own patch and no other."""
    head, tokens = ReconstructionHead(patch=2, channels=3, layers=layers), normal(1, 9, 8)
    variables = head.init(jax.random.key(0), tokens)
    pixels = head.apply(variables, tokens)
    assert pixels.shape == (1, 6, 6, 3) and pixels.dtype == jnp.float32
    changed = head.apply(variables, tokens.at[0, 5].add(1.0)) != pixels
    np.testing.assert_array_equal(np.nonzero(np.asarray(changed).any(axis=(0, 2, 3)))[0], [2, 3])
    np.testing.assert_array_equal(np.nonzero(np.asarray(changed).any(axis=(0, 1, 3)))[0], [4, 5])
    if layers == 0:
        kernel, bias = variables["params"]["Dense_0"]["kernel"], variables["params"]["Dense_0"]["bias"]
        np.testing.assert_allclose(pixels, unpatchify(tokens @ kernel + bias.reshape(1, 1, -1), 2, 3), atol=1e-5)


def test_a_last_norm_has_no_scale_and_no_bias():
    head = Perceptron(hidden=6, layers=2, output=3, norm="batch", last_norm=True)
    x = normal(8, 5)
    variables = head.init(jax.random.key(0), x)
    assert set(variables["params"]) == {"Dense_0", "BatchStandardise_0", "Dense_1"}
    found = np.asarray(head.apply(variables, x))
    np.testing.assert_allclose(found.mean(0), 0.0, atol=1e-5)
    plain = np.asarray(Perceptron(hidden=6, layers=2, output=3, norm="batch").apply(variables, x), np.float64)
    np.testing.assert_allclose(found, (plain - plain.mean(0)) / np.sqrt(plain.var(0) + 1e-5), atol=1e-4)
