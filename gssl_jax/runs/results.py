"""results.json: what a finished run found, by a schema that later versions extend and do not break."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import Any

from clu import parameter_overview

from gssl_jax import __version__
from gssl_jax.runs.evaluation import Entries
from gssl_jax.runs.folder import plain
from gssl_jax.runs.parts import Parts, device_words

SCHEMA = 1
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def versions() -> dict[str, str]:
    """Versions of everything that decides numbers."""
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"gssl_jax": __version__, "python": platform.python_version(), **found}


def with_absent(entries: Entries, names: list[str]) -> dict[str, Any]:
    """Every name, null where there is no such entry."""
    return {name: entries.get(name) for name in names}


def build_results(
    parts: Parts, config: Any, trained: Entries, controls: dict[str, Entries], run: dict[str, Any], variables: Any
) -> dict[str, Any]:
    """The content of results.json; `run` holds seed, steps trained, and what was measured: `seconds` are those of all
    training starts, compilation, health probe and evaluations in between included, and `images_per_second` follows
    from them. `started_from` and `continuation` are those of the last stage, see `continuation.Watch.report`.

    Controls are `untrained`, `pixels`, and, where there is one, `started` and `refreshed` (`runs/continuation.py`)."""
    shots = sorted({1, 2, 5, *parts.config.evals.lowshot.shots})
    names = ["knn/top1", "linear/top1", *(f"lowshot_{k}/top1" for k in shots)]
    names += [name for name in trained if name not in names]
    return {
        "schema": SCHEMA,
        "eval": with_absent(trained, names),
        "controls": {control: with_absent(entries, names) for control, entries in controls.items()},
        "run": {
            "config": plain(config),
            **run,
            "parameters": int(parameter_overview.count_parameters(variables["params"])),
            "device": device_words(),
            "versions": versions(),
            "data": {
                **{stream: describe_source(source) for stream, source in parts.streams.items()},
                "eval_train": describe_source(parts.train),
                "eval_test": describe_source(parts.test),
            },
        },
    }


def describe_source(source: Any) -> dict[str, Any]:
    """Name, size, classes and identity of a source."""
    return {
        "name": source.name,
        "images": len(source),
        "classes": len(source.classes),
        "fingerprint": source.fingerprint(),
    }
