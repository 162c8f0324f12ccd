"""From the configuration of a stage to its parts, with every check that needs no compute."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from gssl_jax.data import pipeline
from gssl_jax.data.sources import Source, open_source
from gssl_jax.errors import UserError, unknown
from gssl_jax.evals import suite
from gssl_jax.evals.linear import solver_bytes
from gssl_jax.methods import maskcluster
from gssl_jax.methods.base import Clock, Method
from gssl_jax.models.build import build_backbone
from gssl_jax.models.vit import ViT
from gssl_jax.runs.folder import flat as flattened
from gssl_jax.training.mesh import check_batch, make_mesh, memory_bytes
from gssl_jax.training.optimizer import build_optimiser

METHODS = {"maskcluster": maskcluster.build}
"""Every value `config.method.name` may have, and what builds it from (config, backbone, clock)."""

UNITS = ("step", "epoch")
WHICH = ("teacher", "student")
INTERPOLATIONS = ("bilinear", "bicubic")


class Parts(NamedTuple):
    """What a stage is made of. `crop` is where views are cut, `device` or `host`; `warnings` are lines to show."""

    config: ConfigDict
    source: Source
    train: Source
    test: Source
    crop: str
    clock: Clock
    backbone: ViT
    method: Method
    optimiser: optax.GradientTransformation
    mesh: Mesh
    warnings: tuple[str, ...]


def stage_config(config: ConfigDict, stage: str) -> ConfigDict:
    """The base groups with what `config.stage.<stage>` changes. Raises UserError for an unknown stage or key."""
    if stage not in config.stage:
        raise unknown("stage", stage, config.stage.keys())
    merged = ConfigDict({k: v for k, v in config.items() if k not in ("stages", "stage")}).copy_and_resolve_references()
    try:
        merged.update(config.stage[stage])
    except (KeyError, TypeError) as problem:
        raise UserError(f"config.stage.{stage}: {problem}") from problem
    return merged


def assemble(config: ConfigDict) -> Parts:
    """The parts of one stage; `config` comes from `stage_config`.

    Raises UserError, before any compute, for everything in the configuration and the data that cannot work.
    """
    if config.method.name not in METHODS:
        raise unknown("method.name", config.method.name, METHODS)
    check_values(config)
    backbone = build_backbone(config)
    check_features(config, backbone)
    mesh = make_mesh()
    check_batch(config.optim.batch_size, mesh)
    stream = config.data.streams.train
    source = open_source(stream, stream.split, config.data)
    if len(source) == 0:
        raise UserError(f"{source.name} holds no images to train on: check data.streams.train.path")
    if len(source) < config.optim.batch_size:
        raise UserError(
            f"{source.name} has {len(source)} images, fewer than optim.batch_size={config.optim.batch_size}: set "
            f"--config.optim.batch_size={2 ** int(math.log2(len(source)))}"
        )
    train, test = (open_source(config.evals.data, config.evals.data[s], config.data) for s in ("train", "test"))
    suite.check(labels_to_check(train, config.evals), config.evals, train.classes)
    check_linear_memory(train, config.evals.linear, memory_bytes(mesh))
    config = config.copy_and_resolve_references()
    config.data.crop = crop = pipeline.choose_crop(config.data, len(source))
    clock = make_clock(config.optim, len(source))
    method = METHODS[config.method.name](config, backbone, clock)
    optimiser = build_optimiser(config.optim, clock)
    return Parts(
        config, source, train, test, crop, clock, backbone, method, optimiser, mesh, warnings(config, backbone)
    )


POSITIVE = (
    "optim.batch_size", "method.views.globals", "method.prototypes.cls", "method.prototypes.patch", "evals.batch_size",
    "run.log_every", "run.health_every", "run.health_samples", "run.checkpoint_every", "run.keep_checkpoints",
    "run.steps_per_dispatch", "evals.picture_images", "evals.pixel_side", "evals.knn.k", "evals.bootstrap.resamples",
    "evals.linear.max_iterations", "data.canvas", "data.channels", "backbone.patch", "backbone.depth", "backbone.heads",
)  # fmt: skip
"""Whole numbers that have to be at least 1."""


def check_values(config: ConfigDict) -> None:
    """Raises UserError for a number or a word that means nothing."""
    flat = flattened(config.to_dict())
    for key in POSITIVE:
        if flat[key] < 1:
            raise UserError(f"{key}={flat[key]} must be at least 1: set --config.{key}=1 or more")
    if flat["run.steps_per_dispatch"] > 20:
        raise UserError(
            f"run.steps_per_dispatch={flat['run.steps_per_dispatch']}: signals wait that long, give 1 to 20"
        )
    for key, value in flat.items():
        if key.endswith(".interpolation") and value not in INTERPOLATIONS:
            raise unknown(key, value, INTERPOLATIONS)
    if flat["data.contrast_normalise"] and flat["data.channels"] != 1:
        raise UserError(
            f"data.contrast_normalise=True is for grey images and data.channels={flat['data.channels']}: set "
            "--config.data.contrast_normalise=False or --config.data.channels=1"
        )
    if config.evals.which not in WHICH:
        raise unknown("evals.which", config.evals.which, WHICH)


def check_features(config: ConfigDict, backbone: ViT) -> None:
    """Raises UserError where an evaluator asks for a feature that the backbone does not give."""
    images = jax.ShapeDtypeStruct((1, config.data.image_size, config.data.image_size, config.data.channels), np.float32)
    given = jax.eval_shape(lambda k, x: backbone.init_with_output(k, x)[0], jax.random.key(0), images)
    for name in ("knn", "linear", "lowshot"):
        vectors = sorted(feature for feature, value in given.items() if value.ndim == 2)
        if config.evals[name].feature not in vectors:
            raise unknown(f"evals.{name}.feature", config.evals[name].feature, vectors)


def check_linear_memory(train: Source, settings: ConfigDict, available: int) -> None:
    """Raises UserError where the linear classifier would not fit in `available` bytes, hours before it is fitted."""
    images = min(len(train), settings.train_images or len(train))
    needed = solver_bytes(images, len(train.classes))
    if needed > available:
        raise UserError(
            f"the linear classifier on {images} images and {len(train.classes)} classes needs {needed / 2**30:.1f} GiB "
            f"and the device has {available / 2**30:.1f}: set --config.evals.linear.train_images="
            f"{int(images * available / needed * 0.8)} to fit it on so many, equally of every class"
        )


def labels_to_check(source: Source, settings: ConfigDict) -> np.ndarray:
    """Labels of a source in a fixed random order, int32, until they are enough for every evaluator, or all of them.

    Reading a label may mean reading a record, so a set of a million images is not walked through to its end.
    """
    order = np.random.default_rng(0).permutation(len(source))
    shots, counts, found = max(settings.lowshot.shots, default=0), np.zeros(len(source.classes), int), []
    for index in order if source.classes else ():
        found.append(source.label(int(index)))
        if found[-1] >= 0:
            counts[found[-1]] += 1
            if counts.sum() >= settings.knn.k and counts[found[-1]] == shots and counts.min() >= shots:
                break
    return np.array(found, np.int32)


def make_clock(optim: ConfigDict, images: int) -> Clock:
    """Durations in steps. Raises UserError for a unit that is not known and a stage without a step."""
    if optim.unit not in UNITS:
        raise unknown("optim.unit", optim.unit, UNITS)
    unit = 1 if optim.unit == "step" else max(1, images // optim.batch_size)
    clock = Clock(total=round(optim.duration * unit), unit=unit)
    if clock.total < 1:
        raise UserError(f"optim.duration={optim.duration} {optim.unit}s is less than one step: make it longer")
    return clock


def warnings(config: ConfigDict, backbone: ViT) -> tuple[str, ...]:
    """What is allowed but unlikely to be meant: more prototypes than the rows of a batch can fill."""
    views = config.optim.batch_size * config.method.views.globals
    rows = {"cls": views, "patch": views * (config.data.image_size // backbone.patch) ** 2}
    found = []
    for level, available in rows.items():
        count = config.method.prototypes[level]
        if count > 16 * available:
            found.append(
                f"method.prototypes.{level}={count} is more than 16 times the {available} rows of a batch: most stay "
                f"unused; try --config.method.prototypes.{level}={2 ** int(math.log2(available))} or a larger batch"
            )
    return tuple(found)


def host_views(config: ConfigDict) -> dict[str, list[dict[str, Any]]]:
    """What the host cuts where `data.crop` is `host`: one entry for each global and local view."""

    def crop(name: str) -> dict[str, Any]:
        a = config.method.augment[name]
        return {"size": a.size, "scale": tuple(a.scale), "ratio": tuple(a.ratio), "interpolation": a.interpolation}

    views = config.method.views
    return {
        "global": [crop(f"global_{min(v, 1) + 1}") for v in range(views["globals"])],
        "local": [crop("local")] * views["locals"],
    }


def device_words() -> str:
    """The devices in words, for results and reports."""
    devices = jax.devices()
    return f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})"
