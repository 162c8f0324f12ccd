"""What is judged: the backbone, the images and the settings that a `Judge` has to know, and frozen features."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from gssl_jax.data.sources import Source
from gssl_jax.evals.suite import Features
from gssl_jax.models.build import Backbone


class Frozen(NamedTuple):
    """Features by name of the training and of the test images, with "label"; `feature` replaces the names that the
    evaluators ask for, as the pixels need."""

    train: Features
    test: Features
    feature: str | None


class Judged(Protocol):
    """What a `Judge` has to know, as `Parts` of a stage have it and `judging.Bench` without one: `predict` as of a
    `Method`, `counts` int [classes] the labelled images that a method of labels learned from."""

    @property
    def config(self) -> ConfigDict: ...
    @property
    def train(self) -> Source: ...
    @property
    def test(self) -> Source: ...
    @property
    def validation(self) -> Source | None: ...
    @property
    def backbone(self) -> Backbone: ...
    @property
    def predict(self) -> Callable[..., jax.Array] | None: ...
    @property
    def counts(self) -> np.ndarray | None: ...
    @property
    def mesh(self) -> Mesh: ...


class Bench(NamedTuple):
    """What a `Judge` has to know, without a method: as a `Judged`."""

    config: ConfigDict
    train: Source
    test: Source
    backbone: Backbone
    mesh: Mesh
    validation: Source | None = None
    predict: Callable[..., jax.Array] | None = None
    counts: np.ndarray | None = None
