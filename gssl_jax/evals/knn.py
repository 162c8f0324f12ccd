"""Weighted k-nearest-neighbour classification by cosine similarity, exact and tiled."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gssl_jax.errors import UserError

TEST_TILE = 1024
TRAIN_TILE = 16384
BLOCK = 32  # neighbours are sought in blocks of so many training images
SPARSE = 4  # blocks pay where the k of them that are looked into are at most this part of a tile


def knn_scores(
    train: ArrayLike,
    train_labels: ArrayLike,
    test: ArrayLike,
    *,
    k: int,
    temperature: float,
    classes: int,
    test_tile: int = TEST_TILE,
    train_tile: int = TRAIN_TILE,
) -> Array:
    """Share of the neighbours' vote that each class gets, float32 [M, classes]; with one class an image rows sum to 1.

    A neighbour with cosine similarity s votes with weight exp(s / temperature) (Wu et al., 2018, arXiv
    1805.01978; DINO uses k = 20 and temperature .07). Similarities are float32 whatever the device's default,
    and only one tile [test_tile, train_tile] of them exists at a time: 1.28 million x 50,000 fits on one
    accelerator. The tiles do not change the result; of equally near neighbours those of lower index are taken.

    Args:
        train: float [N, D]; need not be normalised.
        train_labels: int [N], each in [0, classes), or float [N, classes] of 0, 1, shares between them, and NaN
            (unknown): then the vote on a class is that of the neighbours that know it, and its mean over all training
            labels where none does.
        test: float [M, D].
    Raises:
        UserError: k is not in [1, N].
    """
    train, test = jnp.asarray(train), jnp.asarray(test)
    count = train.shape[0]
    if not 1 <= k <= count:
        raise UserError(
            f"evals.knn.k is {k} but there are {count} training images: expected 1 to {count}; lower evals.knn.k"
        )
    tiles = max(1, -(-count // train_tile)), max(1, -(-test.shape[0] // test_tile))
    rows = max(k, -(-count // tiles[0]))
    sizes = rows + (-rows % BLOCK if rows > BLOCK else 0), max(1, -(-test.shape[0] // tiles[1]))
    labels = jnp.asarray(train_labels)
    return _scores(train, labels, test, temperature, k, classes, tiles, sizes)


@partial(jax.jit, static_argnames=("k", "classes", "tiles", "sizes"))
@jax.default_matmul_precision("highest")
def _scores(
    train: Array,
    labels: Array,
    test: Array,
    temperature: float,
    k: int,
    classes: int,
    tiles: tuple[int, int],
    sizes: tuple[int, int],
) -> Array:
    count, wanted = train.shape[0], test.shape[0]
    keys_TxRxD = _tiled(_unit(train), tiles[0], sizes[0])
    real_TxR = (jnp.arange(tiles[0] * sizes[0]) < count).reshape(tiles[0], sizes[0])
    places_TxR = jnp.arange(tiles[0] * sizes[0]).reshape(tiles[0], sizes[0])

    def nearest(query_QxD: Array) -> Array:
        def merge(best: tuple[Array, Array], tile: tuple[Array, Array, Array]) -> tuple[tuple[Array, Array], None]:
            key_RxD, place_R, real_R = tile
            similarity = jnp.where(real_R[None], query_QxD @ key_RxD.T, -jnp.inf)
            similarity, place = largest(similarity, k)
            # The best so far stand first, so that ties go to the lower index as in one untiled search.
            both = jnp.concatenate([best[0], similarity], 1), jnp.concatenate([best[1], place_R[place]], 1)
            top, place = jax.lax.top_k(both[0], k)
            return (top, jnp.take_along_axis(both[1], place, 1)), None

        start = jnp.full((sizes[1], k), -jnp.inf), jnp.zeros((sizes[1], k), jnp.int32)
        (similarity_QxK, place_QxK), _ = jax.lax.scan(merge, start, (keys_TxRxD, places_TxR, real_TxR))
        # softmax = exp(s / T) over its sum: the same ranking of classes, and no overflow at small temperatures.
        vote_QxK = jax.nn.softmax(similarity_QxK / temperature, axis=1)
        if labels.ndim == 1:
            voted_QxKxC = labels[place_QxK][:, :, None] == jnp.arange(classes)[None, None]
            return jnp.where(voted_QxKxC, vote_QxK[:, :, None], 0.0).sum(1)  # one pass: no [Q, K, C] in memory
        label_QxKxC = labels[place_QxK]
        known_QxKxC = ~jnp.isnan(label_QxKxC)
        usual_C = jnp.nan_to_num(jnp.nanmean(labels, axis=0))
        heard_QxC = jnp.einsum("qk,qkc->qc", vote_QxK, known_QxKxC.astype(jnp.float32))
        for_QxC = jnp.einsum("qk,qkc->qc", vote_QxK, jnp.where(known_QxKxC, label_QxKxC, 0.0))
        return jnp.where(heard_QxC > 0, for_QxC / jnp.where(heard_QxC > 0, heard_QxC, 1.0), usual_C[None])

    scores = jax.lax.map(nearest, _tiled(_unit(test), tiles[1], sizes[1]))
    return scores.reshape(-1, classes)[:wanted]


def largest(values: Array, k: int) -> tuple[Array, Array]:
    """The k largest of every row [Q, R] and their places, of equals the lower first, as `jax.lax.top_k` gives them.

    They lie in the k blocks of largest maximum, which one pass over the row finds; only those are searched. Of blocks
    with equal maxima the first are taken, and each of them holds a value that comes before all of a later block.
    """
    rows, columns = values.shape
    if columns % BLOCK or columns < SPARSE * k * BLOCK:
        return jax.lax.top_k(values, k)
    blocks_QxNxB = values.reshape(rows, -1, BLOCK)
    # In ascending order, so that places among the candidates are in the order of the row.
    chosen_QxK = jnp.sort(jax.lax.top_k(blocks_QxNxB.max(-1), k)[1], axis=1)
    candidates_QxKxB = jnp.take_along_axis(blocks_QxNxB, chosen_QxK[:, :, None], 1)
    top_QxK, place_QxK = jax.lax.top_k(candidates_QxKxB.reshape(rows, -1), k)
    return top_QxK, jnp.take_along_axis(chosen_QxK, place_QxK // BLOCK, 1) * BLOCK + place_QxK % BLOCK


def _unit(features: Array) -> Array:
    features = features.astype(jnp.float32)
    return features / jnp.maximum(jnp.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def _tiled(rows: Array, tiles: int, size: int) -> Array:
    """[N, ...] -> [tiles, size, ...], zeros after the last row."""
    padding = [(0, tiles * size - rows.shape[0])] + [(0, 0)] * (rows.ndim - 1)
    return jnp.pad(rows, padding).reshape(tiles, size, *rows.shape[1:])
