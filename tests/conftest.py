"""Eight fake CPU devices for every test, strict JAX, and fresh keys."""

import jax

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

import itertools  # noqa: E402

import pytest  # noqa: E402


@pytest.fixture
def getkey():
    """A function that returns a new random key at every call, the same sequence in every test."""
    counter = itertools.count()
    return lambda: jax.random.key(next(counter))
