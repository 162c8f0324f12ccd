"""Values of a configuration by dotted path, and the command-line flags that change them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def is_number(value: Any) -> bool:
    """True for a finite int or float; False for None, text, NaN and bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def at(tree: Any, path: str) -> Any:
    """The value under a dotted path of nested mappings, or None where the path ends early."""
    for name in path.split("."):
        if not isinstance(tree, Mapping) or name not in tree:
            return None
        tree = tree[name]
    return tree


def flag(config: Mapping[str, Any], path: str, value: str) -> str:
    """The flag that sets a knob, "--config.a.b=value"; empty where this configuration has no such knob."""
    return f"--config.{path}={value}" if at(config, path) is not None else ""


def scaled(config: Mapping[str, Any], path: str, factor: float) -> str:
    """The flag that multiplies a number of the configuration; empty where there is none or it is zero.

    Whole numbers stay whole and at least 2, others get three digits.
    """
    now = at(config, path)
    if not is_number(now) or now == 0:
        return ""
    value = factor * now
    return f"--config.{path}={max(2, round(value)) if isinstance(now, int) else format(value, '.3g')}"


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dicts as `a.b.c` -> value."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    found: dict[str, Any] = {}
    for name, value in tree.items():
        found |= flat(value, f"{prefix}.{name}" if prefix else name)
    return found


def gib(size: float) -> str:
    """Bytes in GiB, in MiB below one."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"
