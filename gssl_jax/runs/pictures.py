"""Arrays for the pictures of the report: what the network was shown, what it rebuilt, and how it sees images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gssl_jax.evals.preprocess import unit
from gssl_jax.evals.projection import t_sne
from gssl_jax.ops.keys import named
from gssl_jax.runs.evaluation import Judge
from gssl_jax.runs.parts import Parts
from gssl_jax.runs.stage import Images, Outcome
from gssl_jax.training.mesh import put_batch
from gssl_jax.training.state import TrainState
from gssl_jax.training.step import gather

SHOWN = 8
"""Images in a row of the report."""

NEIGHBOURS = 6
"""Nearest neighbours shown for each query."""


def draw_pictures(parts: Parts, judge: Judge, outcome: Outcome) -> dict[str, Any]:
    """Everything the report can draw for this run: `reconstruction`, `clusters`, `attention`, `neighbours`, `tsne`.

    What needs labels or a reconstruction head is left out where there is none.
    """
    state = outcome.state
    train = one_batch(judge, "train")
    test = one_batch(judge, "test") if len(parts.test) else train
    variables = parts.method.backbone(state.params, state.method_state, judge.settings.which)
    shown = spread(test["image"], SHOWN)
    pictures: dict[str, Any] = {
        "attention": attention(parts, variables, shown),
        "clusters": clusters(parts, variables, shown),
    }
    if parts.method.reconstruct is not None:
        pictures["reconstruction"] = reconstruction(parts, outcome.images, state)
    pictures["neighbours"] = neighbours(judge, variables, train, test)
    features = encoded(judge, variables, test["image"])
    rows, points = t_sne(features, points=judge.settings.tsne_points, seed=0)
    if len(rows):
        pictures["tsne"] = {"points": points, "labels": test["label"][rows]}
    return pictures


def one_batch(judge: Judge, split: str) -> dict[str, np.ndarray]:
    """Some of a split as float images in [0, 1] with labels: at most `evals.picture_images` of it, evenly spaced, or
    its first batch where it is not held in memory."""
    held: Any = judge.sets[split]
    if not isinstance(held, Mapping):
        batch = next(iter(judge.batches(split)))
        held = {name: batch[name][batch["valid"]] for name in ("image", "label")}
    chosen = spread(np.arange(len(held["image"])), judge.settings.picture_images)
    held = {name: held[name][chosen] for name in ("image", "label")}
    image = held["image"]
    return {"image": image.astype(np.float32) / np.iinfo(image.dtype).max, "label": held["label"]}


def spread(rows: np.ndarray, count: int) -> np.ndarray:
    """`count` rows, evenly spaced."""
    return rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)]


def encoded(judge: Judge, variables: Any, images: np.ndarray) -> np.ndarray:
    """Class tokens [n, D], computed in batches of `evals.batch_size`."""
    size = judge.settings.batch_size
    parts = [judge.encode(variables, images[i : i + size])["feat"] for i in range(0, len(images), size)]
    return np.concatenate([np.asarray(part) for part in parts])


def attention(parts: Parts, variables: Any, images: np.ndarray) -> dict[str, np.ndarray]:
    """Attention of the class token in the last block, [n, heads, h, w]."""
    name = f"attention_{parts.backbone.depth - 1}"
    weights = parts.backbone.apply(variables, jnp.asarray(images), capture=(name,))[name]
    side = images.shape[1] // parts.backbone.patch
    maps = weights[:, :, 0, 1 + parts.backbone.registers :].reshape(len(images), -1, side, side)
    return {"images": images, "maps": np.asarray(maps)}


def clusters(parts: Parts, variables: Any, images: np.ndarray, count: int = 8) -> dict[str, np.ndarray]:
    """k-means of the patch tokens of the shown images, int [n, h, w]: equal numbers, equal looks to the backbone."""
    from sklearn.cluster import KMeans

    grid = np.asarray(parts.backbone.apply(variables, jnp.asarray(images))["map"])
    flat = grid.reshape(-1, grid.shape[-1])
    found = KMeans(min(count, len(flat)), n_init=2, random_state=0).fit_predict(flat)
    return {"images": images, "maps": found.reshape(grid.shape[:3])}


def neighbours(
    judge: Judge, variables: Any, train: dict[str, np.ndarray], test: dict[str, np.ndarray]
) -> dict[str, Any]:
    """The nearest training images of some test images by cosine of the features."""
    queries = np.linspace(0, len(test["image"]) - 1, min(SHOWN, len(test["image"]))).astype(int)
    known = encoded(judge, variables, train["image"])
    asked = encoded(judge, variables, test["image"][queries])
    cosines = np.asarray(unit(jnp.asarray(asked)) @ unit(jnp.asarray(known)).T)
    found = np.argsort(-cosines, axis=1, kind="stable")[:, :NEIGHBOURS]
    return {
        "queries": test["image"][queries],
        "neighbours": train["image"][found],
        "query_labels": test["label"][queries],
        "neighbour_labels": train["label"][found],
    }


def reconstruction(parts: Parts, images: Images, state: TrainState) -> dict[str, np.ndarray]:
    """Clean, corrupted and rebuilt views of some training images, [n, S, S, C] in [0, 1]."""
    with images.batches(0) as batches:
        batch = gather(images.resident, put_batch(next(batches), parts.mesh))
    views = jax.jit(parts.method.views)(batch, named(state.key, "pictures"), jnp.zeros((), jnp.int32))
    views = {name: value[:SHOWN] for name, value in views.items()}
    rebuilt = np.asarray(parts.method.reconstruct(state.params, views))[:, 0]  # type: ignore[misc]
    corrupted = np.array(views["student"][:, 0])
    if parts.config.method.corruption.kind in ("token", "drop"):
        corrupted[np.asarray(views["mask"][:, 0])] = 0.5
    return {"input": np.asarray(views["clean"][:, 0]), "corrupted": corrupted, "reconstructed": rebuilt}
