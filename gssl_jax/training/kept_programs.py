"""Compiled programs kept on disk, so that the next start of the same step does not compile it again.

JAX's persistent compilation cache in a folder that is private to the user: who can write there can run code in every
later start. Another kind of processor or another version of jax has a folder of its own, since programs for a CPU hold
instructions of the machine they were compiled on.
"""

from __future__ import annotations

import hashlib
import os
import platform
import stat
from collections.abc import Mapping
from pathlib import Path

import jax

from gssl_jax.errors import UserError

LEAST_SECONDS = 1.0
"""Programs that compile faster than this are not worth a file."""

MOST_BYTES = 4 * 2**30
"""Above this the programs that were read longest ago go first."""


def keep_programs(setting: str, environment: Mapping[str, str] = os.environ) -> Path | None:
    """Makes jax keep its programs and returns where; None where it does not.

    Args:
      setting: `run.programs`: `auto`, the user's cache folder; `off`; or a folder.
      environment: JAX_COMPILATION_CACHE_DIR, where it is set, is left to say it all.
    Raises:
      UserError: a folder named by `setting` is not private: another user owns it or may write to it.
    """
    if setting == "off" or environment.get("JAX_COMPILATION_CACHE_DIR"):
        return None
    base = Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gssl_jax"
    folder = base if setting == "auto" else Path(setting).expanduser()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
    except OSError as problem:
        if setting == "auto":  # a home that cannot be written costs time and no run
            return None
        raise UserError(f"run.programs={setting}: {problem.strerror}; give a folder of yours, auto or off") from problem
    if found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        if setting == "auto":
            return None
        raise UserError(
            f"run.programs={setting}: others can write there, and with it run code here; chmod 700 it, or give another"
        )
    own = folder / machine()
    own.mkdir(mode=0o700, exist_ok=True)
    prune(own, MOST_BYTES)
    jax.config.update("jax_compilation_cache_dir", str(own))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", LEAST_SECONDS)
    return own


def machine() -> str:
    """A name for what programs depend on beside themselves: jax's version and the processor with its instructions."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        kind = sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))})
    except OSError:
        kind = [platform.processor()]
    digest = hashlib.sha256("\n".join([platform.machine(), *kind]).encode()).hexdigest()
    return f"jax-{jax.__version__}-{platform.machine()}-{digest[:12]}"


def prune(folder: Path, most: int) -> None:
    """Removes the files that were read longest ago until `most` bytes are left; one that is gone already is fine."""
    files = []
    for path in folder.iterdir():
        try:
            files.append((path.stat(), path))
        except FileNotFoundError:
            continue
    left = sum(found.st_size for found, _ in files)
    for found, path in sorted(files, key=lambda file: max(file[0].st_atime, file[0].st_mtime)):
        if left <= most:
            return
        path.unlink(missing_ok=True)
        left -= found.st_size
