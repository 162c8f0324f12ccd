"""Where a stage comes from: the digests of its settings, of its images and of the weights that it began with.

`lineage.json` of the run lists the chain; that of each stage, beside its checkpoints, is written when the stage begins:
of any checkpoint it can be said what led to it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gssl_jax.runs.folder import write_atomically
from gssl_jax.runs.handover import Handed
from gssl_jax.runs.parts import Parts, fingerprint
from gssl_jax.runs.results import versions
from gssl_jax.runs.staleness import effective


def settings_digest(config: Mapping[str, Any], stage: str) -> str:
    """SHA-256 of what decides a stage's result, from the configuration as in JSON: equal settings, equal digests."""
    return hashlib.sha256(json.dumps(effective(config, stage), sort_keys=True).encode()).hexdigest()


def arrays_digest(tree: Any) -> str:
    """SHA-256 of paths, dtypes, shapes and bytes of the arrays of a tree, whatever the order of its keys."""
    total = hashlib.sha256()
    leaves = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(tree)}
    for path, leaf in sorted(leaves.items()):
        total.update(f"{path} {leaf.dtype} {leaf.shape}\n".encode())
        total.update(np.ascontiguousarray(leaf).tobytes())
    return total.hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def of_stage(config: Mapping[str, Any], name: str, parts: Parts, handed: Handed | None) -> dict[str, Any]:
    """The lineage of one stage; `config` as in JSON.

    `parent` names the stage before and the digest of the backbone that it handed over; a stage that starts from a file
    has its name and digest; one from scratch has neither."""
    weights = parts.config.backbone.weights
    parent: dict[str, Any] | None = None
    if handed is not None:
        parent = {"stage": handed.stage, "parts": list(parts.config.method.hand_over)}
        parent["backbone"] = arrays_digest(handed.variables)
    elif weights:
        parent = {"file": weights, "sha256": file_digest(Path(weights)) if Path(weights).is_file() else None}
    return {
        "stage": name,
        "settings": settings_digest(config, name),
        "data": " and ".join(source.name for source in parts.streams.values()),
        "fingerprint": fingerprint(parts.streams),
        "crop": parts.crop,
        "steps": parts.clock.total,
        "parent": parent,
        "versions": versions(),
        "platform": jax.default_backend(),
    }


def write(path: Path, lineage: Mapping[str, Any]) -> None:
    """As JSON, whole or not at all; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(lineage, indent=1) + "\n")
