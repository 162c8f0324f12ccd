"""Arrays for the pictures of the report: what the network was shown, what it rebuilt, and how it sees images."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gssl_jax.evals.gradcam import attention_rollout, enlarged, grad_cam
from gssl_jax.evals.preprocess import unit
from gssl_jax.evals.projection import pca_colours, t_sne
from gssl_jax.methods.base import Method
from gssl_jax.models.vit import ViT
from gssl_jax.ops.keys import named
from gssl_jax.runs import dense
from gssl_jax.runs.evaluation import Judge, floats, stratified
from gssl_jax.runs.parts import Parts
from gssl_jax.runs.stage import Images, Outcome
from gssl_jax.training.mesh import local_mesh, own, put_batch
from gssl_jax.training.state import TrainState
from gssl_jax.training.step import gather

SHOWN = 8
"""Images in a row of the report."""

EXPLAINED = 10
"""Images whose evidence is kept: as many as in the figures of G-SSL, one of each class of CIFAR-10."""

NEIGHBOURS = 6
"""Nearest neighbours shown for each query."""


def draw_pictures(parts: Parts, judge: Judge, outcome: Outcome) -> dict[str, Any]:
    """Everything the report can draw for this run: `reconstruction`, `clusters`, `pca`, `attention`, `gradcam`,
    `masks`, `neighbours`, `tsne`.

    What needs labels, masks, attention, a map of patches or a reconstruction head is left out where there is none.
    """
    state = outcome.selected
    train = judge.some("train", judge.settings.picture_images)
    test = judge.some("test", judge.settings.picture_images) if len(parts.test) else train
    train, test = ({**found, "label": leading(found["label"])} for found in (train, test))
    variables = parts.method.backbone(state.params, state.method_state, judge.settings.which)
    shown = stratified(test["label"], SHOWN)
    pictures: dict[str, Any] = {}
    pictures |= maps(parts, variables, floats(test["image"][shown]))
    if parts.method.classify is not None:
        rows = stratified(test["label"], EXPLAINED)
        pictures["gradcam"] = evidence(parts, variables, state, floats(test["image"][rows]), test["label"][rows])
    if parts.method.reconstruct is not None:
        pictures |= reconstruction(parts, outcome.images, state)
    if judge.segmented:
        pictures["masks"] = dense.shown_masks(judge, variables, stratified(test["label"], dense.SHOWN), test)
    known, asked = (judge.features(variables, images)[judge.settings.knn.feature] for images in (train, test))
    pictures["neighbours"] = neighbours(train, test, known, asked)
    rows, points = t_sne(asked, points=judge.settings.tsne_points, seed=0)
    if len(rows):
        pictures["tsne"] = {"points": points, "labels": test["label"][rows]}
    return pictures


def leading(labels: np.ndarray) -> np.ndarray:
    """One class an image, int [N], for colours and captions: of several labels [N, classes] the first that it has."""
    return labels if labels.ndim == 1 else np.where((labels == 1).any(1), (labels == 1).argmax(1), -1)


def maps(parts: Parts, variables: Any, images: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    """How a backbone sees the shown images [n, S, S, C], in one call: `clusters` of its patches, int [n, h, w], and
    their principal components as colours, `pca` [n, h, w, 3]; of a ViT also the `attention` of the class token in the
    last block, [n, heads, h, w], with the `rollout` of all blocks [n, h, w].

    A map of a single patch, and one with numbers that are not finite, has neither clusters nor colours."""
    transformer = isinstance(parts.backbone, ViT)
    names = tuple(f"attention_{block}" for block in range(parts.backbone.depth)) if transformer else ()

    def look(variables: Any, images: Array) -> tuple[Array, tuple[Array, ...]]:
        out = parts.backbone.apply(variables, images, capture=names)
        grid = out["map"]
        if not names:
            return grid, ()
        blocks, skipped = jnp.stack([out[name] for name in names]), 1 + parts.backbone.registers
        last = blocks[-1, :, :, 0, skipped:].reshape(*blocks.shape[1:3], *grid.shape[1:3])
        return grid, (last, attention_rollout(blocks, grid.shape[1:3], skip=skipped))

    seen, looks = jax.jit(look)(variables, images)
    grid, found = np.asarray(seen), {}
    if grid.shape[1] * grid.shape[2] > 1 and np.isfinite(grid).all():
        found["clusters"] = {"images": images, "maps": clusters(grid)}
        found["pca"] = {"images": images, "maps": pca_colours(grid)}
    if looks:
        found["attention"] = {"images": images, "maps": np.asarray(looks[0]), "rollout": np.asarray(looks[1])}
    return found


def evidence(
    parts: Parts, variables: Any, state: TrainState, images: np.ndarray, labels: np.ndarray
) -> dict[str, np.ndarray]:
    """Grad-CAM of the predicted class on the last map of the backbone, [n, S, S] in [0, 1], with the predictions.

    A class token has no gradient with respect to the patch tokens beside it: a ViT's map is judged by its mean.
    """
    classify = parts.method.classify
    assert classify is not None

    def explain(variables: Any, params: Any, method_state: Any, images: Array) -> tuple[Array, Array]:
        features = parts.backbone.apply(variables, images)["map"]

        def logits(grid: Array) -> Array:
            return classify(params, method_state, grid.mean((1, 2)))

        nobody = jnp.full(len(images), -1)  # the predicted class
        return enlarged(grad_cam(logits, features, nobody), (images.shape[1], images.shape[2])), logits(
            features
        ).argmax(-1)

    heat, predicted = jax.jit(explain)(variables, state.params, state.method_state, images)
    return {"images": images, "maps": np.asarray(heat), "predicted": np.asarray(predicted), "labels": labels}


def clusters(grid: np.ndarray, count: int = 8) -> np.ndarray:
    """k-means of patch tokens [n, h, w, D], int [n, h, w]: equal numbers, equal looks to the backbone."""
    from sklearn.cluster import KMeans

    flat = grid.reshape(-1, grid.shape[-1])
    count = min(count, len(np.unique(flat, axis=0)))  # of a collapsed backbone all may be alike
    found = KMeans(count, n_init=2, random_state=0).fit_predict(flat)
    return found.reshape(grid.shape[:3])


def neighbours(
    train: dict[str, np.ndarray], test: dict[str, np.ndarray], known: np.ndarray, asked: np.ndarray
) -> dict[str, Any]:
    """The nearest training images of some test images by cosine of their features, known [N, D] and asked [M, D]."""
    queries = stratified(test["label"], SHOWN)
    cosines = jax.jit(lambda a, b: unit(a) @ unit(b).T)(asked[queries], known)
    found = np.argsort(-np.asarray(cosines), axis=1, kind="stable")[:, :NEIGHBOURS]
    return {
        "queries": floats(test["image"][queries]),
        "neighbours": floats(train["image"][found]),
        "query_labels": test["label"][queries],
        "neighbour_labels": train["label"][found],
    }


def reconstruction(parts: Parts, images: Images, state: TrainState) -> dict[str, dict[str, np.ndarray]]:
    """`reconstruction`: clean, corrupted and rebuilt views of some training images, [n, S, S, C] in [0, 1]; nothing
    for a method whose views have no `clean` to compare with."""
    with images.batches(0) as batches:
        batch = gather(own(images.resident, parts.mesh), put_batch(next(batches), local_mesh(parts.mesh)))
    views, rebuilt = jax.jit(functools.partial(_rebuilt, parts.method))(
        batch, state.params, named(state.key, "pictures")
    )
    if "clean" not in views:
        return {}
    clean = np.asarray(views["clean"][:, 0])
    seen = np.asarray(views["student"][:, 0]) if "student" in views else clean
    mask = np.asarray(views["mask"][:, 0]) if "mask" in views else None
    pictures = {"input": clean, "corrupted": spoilt(clean, seen, mask), "reconstructed": np.asarray(rebuilt)[:, 0]}
    return {"reconstruction": pictures}


def spoilt(clean: np.ndarray, student: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """What the student saw, [n, S, S, C]: its view as it is or, where nothing in its pixels shows what is hidden since
    patches are (`mask` bool [n, S, S] or [n, patches] in rows), the same with grey in their place."""
    if mask is None or not np.array_equal(clean, student):
        return student
    side = student.shape[1]
    if mask.ndim == 2:
        cells = math.isqrt(mask.shape[1])
        mask = mask.reshape(-1, cells, cells).repeat(side // cells, axis=1).repeat(side // cells, axis=2)
    return np.where(mask[..., None], np.float32(0.5), student)


def _rebuilt(method: Method, batch: Any, params: Any, key: Array) -> tuple[dict[str, Array], Array]:
    """The views of the first `SHOWN` samples of a batch, and what the student makes of them."""
    views = method.views(batch, key, jnp.zeros((), jnp.int32))
    views = {name: value[:SHOWN] for name, value in views.items()}
    return views, method.reconstruct(params, views)  # type: ignore[misc]
