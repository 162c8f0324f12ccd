"""Feature extraction: padding is dropped, pixels arrive in [0, 1], programs are reused."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gssl_jax.errors import UserError
from gssl_jax.evals.features import extract, pixels, to_unit_range

IMAGES = np.random.default_rng(0).integers(0, 256, (10, 4, 4, 3)).astype(np.uint8)
LABELS = np.arange(10, dtype=np.int32)


def encode(images):
    rows = images.reshape(len(images), -1)
    return {"feat": rows[:, :5] * 2, "sum": rows.sum(1, keepdims=True)}


def batches(size: int, images=IMAGES):
    for start in range(0, len(images), size):
        part = images[start : start + size]
        room = size - len(part)
        yield {
            "image": np.pad(part, [(0, room)] + [(0, 0)] * (part.ndim - 1), constant_values=7),
            "valid": np.arange(size) < len(part),
            "label": np.pad(LABELS[start : start + size], (0, room), constant_values=-1),
        }


def test_padded_last_batch_does_not_change_features():
    exact, padded = extract(encode, batches(5), ("feat", "sum")), extract(encode, batches(4), ("feat", "sum"))
    rows = IMAGES.reshape(10, -1) / 255
    np.testing.assert_allclose(exact["feat"], 2 * rows[:, :5], rtol=1e-6)
    np.testing.assert_allclose(exact["sum"][:, 0], rows.sum(1), rtol=1e-5)
    for name in ("feat", "sum", "label"):
        np.testing.assert_array_equal(padded[name], exact[name])
    np.testing.assert_array_equal(exact["label"], LABELS)


def test_invalid_rows_in_the_middle_are_dropped():
    broken = [{**batch, "valid": np.array([True, False, True, True, True])} for batch in batches(5)]
    result = extract(encode, broken, ("feat",), np.float16)
    assert result["feat"].dtype == np.float16
    np.testing.assert_array_equal(result["label"], [0, 2, 3, 4, 5, 7, 8, 9])
    np.testing.assert_allclose(result["feat"][1], IMAGES[2].ravel()[:5] / 255 * 2, rtol=1e-3)


def test_pixels_and_ranges():
    result = extract(pixels, batches(4, IMAGES[:, None]), ("pixels",))  # [B, 1, S, S, C]
    np.testing.assert_allclose(result["pixels"], IMAGES.reshape(10, -1) / 255, rtol=1e-6)
    np.testing.assert_allclose(to_unit_range(jnp.array([0, 65535], jnp.uint16)), [0, 1])
    np.testing.assert_allclose(to_unit_range(jnp.array([0.25])), [0.25])


def test_other_variables_do_not_compile_again():
    traces = []

    def scaled(variables, images):
        traces.append(1)
        return {"feat": images.mean((1, 2)) * variables["scale"]}

    results = [extract(scaled, batches(4), ("feat",), variables={"scale": jnp.float32(s)}) for s in (1.0, 3.0)]
    assert len(traces) == 1
    np.testing.assert_allclose(results[1]["feat"], 3 * results[0]["feat"], rtol=1e-6)


def test_over_several_devices():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:4])
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    spread = extract(encode, batches(4), ("feat",), sharding=sharding)
    np.testing.assert_allclose(spread["feat"], extract(encode, batches(4), ("feat",))["feat"], rtol=1e-6)


def test_unknown_feature_names_the_nearest():
    with pytest.raises(UserError, match="unknown feature 'feet'; did you mean 'feat'"):
        extract(encode, batches(5), ("feet",))


def test_no_image():
    with pytest.raises(UserError, match="evaluation set is empty"):
        extract(encode, [], ("feat",))
