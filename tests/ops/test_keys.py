"""Keys belong to names and to samples."""

from __future__ import annotations

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np

from gssl_jax.ops.keys import named, per_sample


def data(key):
    return np.asarray(jax.random.key_data(key))


def test_named_is_fold_in_of_a_number_that_never_changes(getkey):
    key = getkey()
    # 0xCBF43926 is the check value of CRC-32: every correct implementation gives it for "123456789".
    np.testing.assert_array_equal(data(named(key, "123456789")), data(jax.random.fold_in(key, 0xCBF43926)))


def test_named_is_the_same_in_another_process(getkey):
    """Python's own hash of a word differs between processes."""
    program = ("import jax; from gssl_jax.ops.keys import named;"
               "print(*jax.random.key_data(named(jax.random.key(7), 'views')).tolist())")  # fmt: skip
    surroundings = {"PYTHONHASHSEED": "1", "JAX_PLATFORMS": "cpu", "PYTHONPATH": ":".join(sys.path)}
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=surroundings
    )
    assert found.stdout.split() == [str(x) for x in data(named(jax.random.key(7), "views"))]


def test_different_names_and_keys_differ(getkey):
    first, second = getkey(), getkey()
    keys = [named(first, "views"), named(first, "loss"), named(second, "views"), named(named(first, "views"), "loss")]
    assert len({tuple(data(k)) for k in keys}) == 4


def test_per_sample_follows_the_index(getkey):
    key, index, order = getkey(), jnp.asarray([40, 7, 19, 3]), jnp.asarray([2, 0, 3, 1])
    keys = data(per_sample(key, index))
    assert len({tuple(k) for k in keys}) == 4
    np.testing.assert_array_equal(data(per_sample(key, index[order])), keys[np.asarray(order)])
    np.testing.assert_array_equal(keys[0], data(jax.random.fold_in(key, 40)))
