"""What was judged before: entries with the samples of their intervals, by a digest of everything that decides them."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gssl_jax.evals.intervals import Entry
from gssl_jax.runs.evaluation import Entries
from gssl_jax.runs.folder import write_atomically


class Done:
    """Entries, with the samples of their intervals, and pictures by what decides them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, key: Mapping[str, Any]) -> Path:
        """Where what is decided by `key` is kept; without a suffix."""
        return self._folder / hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]

    def read(self, key: Mapping[str, Any]) -> Entries | None:
        """The entries, or None where they were not computed yet."""
        place = self.path(key)
        if not place.with_suffix(".json").is_file():
            return None
        held = json.loads(place.with_suffix(".json").read_text(encoding="utf-8"))["entries"]
        with np.load(place.with_suffix(".npz"), allow_pickle=False) as samples:
            entries = {name: Entry(value) for name, value in held.items()}
            for name in samples.files:
                entries[name].samples = samples[name]
        return dict(entries)

    def write(self, key: Mapping[str, Any], entries: Entries) -> None:
        """Keeps entries; the JSON, which `read` looks for, is written last."""
        place = self.path(key)
        self._folder.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()
        kept: dict[str, Any] = {n: one.samples for n, one in entries.items() if isinstance(one, Entry)}
        np.savez_compressed(content, **{name: one for name, one in kept.items() if one is not None})
        write_atomically(place.with_suffix(".npz"), content.getvalue())
        write_atomically(place.with_suffix(".json"), json.dumps({"key": key, "entries": entries}, indent=1) + "\n")
