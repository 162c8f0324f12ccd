"""Eight fake CPU devices for every test, strict JAX, compiled programs kept, and fresh keys."""

import os
from pathlib import Path

# Most of a test is compilation, and many tests compile the same programs. They are kept beside what pytest itself
# keeps, for all workers, for the commands under test and for the next time; `pytest --cache-clear` forgets them.
# JAX reads these names when it is imported.
KEPT = Path(__file__).resolve().parents[1] / ".pytest_cache" / "compiled"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(KEPT))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

import jax  # noqa: E402

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
