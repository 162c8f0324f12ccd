"""Freed memory stays with the process on CPU machines, so that a step does not fetch it page by page again."""

from __future__ import annotations

import ctypes
import importlib.util
import platform

# Parameters of mallopt(3), from glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8

ACCELERATORS = ("jax_cuda12_plugin", "jax_cuda13_plugin", "jax_rocm7_plugin", "libtpu")
"""Packages that bring a backend other than the CPU."""


def keep_freed_memory() -> bool:
    """Asks the C library to keep what is freed; True where it did.

    XLA's CPU backend takes the temporary buffers of a program from malloc and frees them after every call. glibc maps
    blocks of that size afresh each time, and the kernel clears them page by page: 630,000 page faults, an eighth of the
    time, in a step of ViT-Ti/4 with 64 images. With one arena, no mappings and no trimming the next call finds its
    memory where it was. The price: the process keeps its peak, and threads wait for each other at small blocks, so
    that compiling takes longer and steps under a second gain nothing or lose (docs/results/step.md).

    Call it before the first array; memory that threads took before stays as it was. Does nothing where an accelerator's
    backend is installed (the temporaries live there) or where the C library is not glibc.
    """
    if platform.libc_ver()[0] != "glibc" or any(importlib.util.find_spec(name) for name in ACCELERATORS):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(mallopt(name, value) for name, value in ((M_ARENA_MAX, 1), (M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1)))
