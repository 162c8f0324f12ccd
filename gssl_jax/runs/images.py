"""The images of a stage: what it holds on the device, and the batches of its streams."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax import Array

from gssl_jax.data.arrays import load_canvases
from gssl_jax.data.pipeline import open_stream
from gssl_jax.data.substitution import Substituted, as_readable
from gssl_jax.models.build import least_side
from gssl_jax.runs.parts import Parts, all_labels, fingerprint
from gssl_jax.training.mesh import placed, replicated


@dataclass
class Images:
    """The images of the training streams: read once, and on the device where they fit."""

    parts: Parts
    sources: dict[str, Substituted]
    fingerprint: str
    resident: dict[str, dict[str, Array]]

    @staticmethod
    def load(parts: Parts) -> Images:
        """Reads what is to be resident."""
        data, resident, sources = parts.config.data, {}, {}
        for name, stream in parts.streams.items():
            sources[name] = as_readable(stream, data.max_broken, least_side(parts.backbone))
            if parts.crop == "device":
                held = {"image": load_canvases(sources[name], data)}
                if parts.labelled(name):
                    held["label"] = all_labels(stream)
                resident[name] = placed(held, replicated(parts.mesh))
        return Images(parts, sources, fingerprint(sources), resident)

    @property
    def broken(self) -> tuple[str, ...]:
        """Unreadable images met so far, with their reasons."""
        return tuple(name for source in self.sources.values() for name in source.broken)

    @contextmanager
    def batches(self, start: int) -> Iterator[Iterator[dict[str, Any]]]:
        """The endless stream of batches, by stream, from batch `start` on; its reading threads end with the context."""
        config = self.parts.config
        wanted = {
            name: ("index", "draw", "image", "local", *(("label",) if self.parts.labelled(name) else ()))
            for name in self.sources
        }
        with ExitStack() as stack:
            streams = {}
            for place, (name, source) in enumerate(self.sources.items()):
                streams[name] = open_stream(
                    source,
                    config.data,
                    batch_size=self.parts.batch_sizes[name],
                    seed=config.seed + place,  # streams of one length would otherwise run in step
                    start_batch=start,
                    process_index=jax.process_index(),
                    process_count=jax.process_count(),
                    views=None if self.parts.crop == "device" else self.parts.kind.host_views(config),
                )
                stack.callback(streams[name].close)

            def together() -> Iterator[dict[str, Any]]:
                for batch in zip(*streams.values(), strict=True):
                    yield {
                        stream: {name: values[name] for name in wanted[stream] if name in values}
                        for stream, values in zip(streams, batch, strict=True)
                    }

            yield together()


def shape_batch(parts: Parts) -> dict[str, dict[str, np.ndarray]]:
    """A batch of zeros with the shapes of the streams, for the initialisation; it takes nothing from them."""
    return {name: _shapes(parts, name) for name in parts.streams}


def _shapes(parts: Parts, stream: str) -> dict[str, np.ndarray]:
    """The part of this process in a batch of a stream."""
    n, c = parts.batch_sizes[stream] // jax.process_count(), parts.config.data.channels
    batch = {"index": np.zeros(n, np.int32), "draw": np.zeros(n, np.int32)}
    if parts.crop == "host":
        cuts = parts.kind.host_views(parts.config)
        for name, crops in (("image", cuts["global"]), ("local", cuts["local"])):
            if crops:
                batch[name] = np.zeros((n, len(crops), crops[0]["size"], crops[0]["size"], c), np.uint8)
        if parts.labelled(stream):
            batch["label"] = np.zeros(n, np.int32)
    return batch
