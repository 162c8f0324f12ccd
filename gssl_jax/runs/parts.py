"""From the configuration of a stage to its parts, with every check that needs no compute."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from gssl_jax.data import expectation, pipeline, subsets
from gssl_jax.data.expectation import open_source
from gssl_jax.data.sources import Source
from gssl_jax.data.sources.subset import Subset, Unlabelled
from gssl_jax.errors import UserError, unknown
from gssl_jax.evals import few_images, refresh, robustness, segmentation, suite, tuning
from gssl_jax.evals.linear import solver_bytes
from gssl_jax.knobs import flat as flattened
from gssl_jax.methods.base import Clock, Kind, Method
from gssl_jax.methods.known import METHODS
from gssl_jax.models.build import Backbone, build_backbone, with_remat
from gssl_jax.runs import handover
from gssl_jax.training.mesh import check_batch, make_mesh, memory_bytes
from gssl_jax.training.optimizer import build_optimiser, heads_warm_up
from gssl_jax.training.trainable import limited

UNITS = ("step", "epoch")
WHICH = ("teacher", "student")
INTERPOLATIONS = ("bilinear", "bicubic")


class Parts(NamedTuple):
    """What a stage is made of.

    `streams` are the training images by stream, the first of them gives the length of an epoch and, to a labelled
    method, its labels; `batch_sizes` are the images of each stream in a step; `train` and `test` are the evaluation
    sets, `validation` what a labelled method is chosen by (None = nothing to choose); `crop` is where views are cut,
    `device` or `host`; `counts` int [classes] the labelled training images; `warnings` lines to show.
    """

    config: ConfigDict
    kind: Kind
    streams: dict[str, Source]
    batch_sizes: dict[str, int]
    validation: Source | None
    train: Source
    test: Source
    counts: np.ndarray | None
    crop: str
    clock: Clock
    backbone: Backbone
    method: Method
    optimiser: optax.GradientTransformation
    mesh: Mesh
    warnings: tuple[str, ...]

    @property
    def predict(self) -> Callable[..., jax.Array] | None:
        """The classifier of a method of labels, see `Method`."""
        return self.method.predict

    def labelled(self, stream: str) -> bool:
        """Whether the batches of a stream carry labels."""
        return self.kind.labelled and stream == next(iter(self.streams))


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
    kind = METHODS[config.method.name]
    check_values(config, kind)
    handover.check(config.method.hand_over)
    backbone = with_remat(build_backbone(config), config.run.remat)
    check_features(config, backbone)
    refresh.check_statistics(config.evals, config.backbone.kind == "resnet")
    tuning.check_backbone(config.evals.finetune, backbone)
    mesh = make_mesh(fsdp=config.run.fsdp)
    check_batch(config.optim.batch_size, mesh)
    sizes = {name: config.optim.batch_size * stream.ratio for name, stream in config.data.streams.items()}
    streams, validation, counts = open_streams(config, kind, sizes)
    main = next(iter(streams.values()))
    train, test = (evaluation_source(config, s, streams) for s in ("train", "test"))
    suite.check(labels_to_check(train, config.evals), config.evals, train.classes)
    segmentation.check(config.evals.segmentation, train.parts, backbone, config.data)
    robustness.check(config.evals.robustness, train, config.data)
    if config.evals.lowshot.lists and train.classes:
        few_images.check_lists(config.evals.lowshot, [train.describe(i) for i in range(len(train))])
    check_linear_memory(train, config.evals.linear, memory_bytes(mesh))
    config = config.copy_and_resolve_references()
    config.optim.freeze_backbone = heads_warm_up(config.optim, bool(config.backbone.weights))
    config.data.crop = crop = pipeline.choose_crop(config.data, sum(len(source) for source in streams.values()))
    clock = make_clock(config.optim, len(main))
    method = kind.build(config, backbone, clock, counts)
    optimiser = build_optimiser(config.optim, clock)
    method, optimiser = limited(method, optimiser, config.optim.trains, config.optim.last_blocks)
    if set(method.streams) != set(streams):
        raise UserError(f"data.streams has {', '.join(streams)} and {config.method.name} learns from {method.streams}")
    unlike = expectation.all_differences(config, {} if kind.labelled else streams, train, test)
    lines = (*kind.warnings(config, backbone), *unlike)
    return Parts(
        config,
        kind,
        streams,
        sizes,
        validation,
        train,
        test,
        counts,
        crop,
        clock,
        backbone,
        method,
        optimiser,
        mesh,
        lines,
    )


def open_streams(
    config: ConfigDict, kind: Kind, sizes: Mapping[str, int]
) -> tuple[dict[str, Source], Source | None, np.ndarray | None]:
    """The training images of every stream, those for validation, and how many labelled ones each class has.

    The first stream of a labelled method is the labelled one; the others lose their labels, and those of the same
    source leave out the validation images. Raises UserError for a stream that is empty or cannot fill a batch, `sizes`
    by stream (the few labelled images beside unlabelled ones may repeat in a batch), and for a labelled method without
    labels or with several an image. Streams without a class an image never carry labels.
    """
    streams: dict[str, Source] = {}
    validation, counts, held_out = None, None, np.zeros(0, np.int64)
    first = next(iter(config.data.streams))
    for name, stream in config.data.streams.items():
        source = open_source(stream, stream.split, config.data)
        if len(source) == 0:
            raise UserError(f"{source.name} holds no images to train on: check data.streams.{name}.path")
        if source.multilabel and kind.labelled and name == first:
            raise UserError(
                f"method.name={config.method.name} learns one class an image and {source.name} has several labels an "
                "image: learn without labels (configs/hpt_moco.py, configs/maskcluster_vit.py)"
            )
        if kind.labelled and name == first:
            labels = all_labels(source)
            if not len(source.classes) or labels.max(initial=-1) < 0:
                raise UserError(f"method.name={config.method.name} learns from labels and {source.name} has none")
            kept, held_out = subsets.split(labels, stream.subset, config.data.validation, source.classes)
            validation = Subset(source, held_out) if len(held_out) else None
            counts = np.bincount(labels[kept][labels[kept] >= 0], minlength=len(source.classes))
            source = Subset(source, kept)
        elif kind.labelled:
            own = held_out if same_images(config, first, name) else np.zeros(0, np.int64)
            source = Unlabelled(source, np.setdiff1d(np.arange(len(source)), own))
        elif source.multilabel:
            source = Unlabelled(source, np.arange(len(source)))
        if len(sizes) == 1 or not kind.labelled or name != first:
            check_fills_batch(name, stream, source, sizes[name])
        streams[name] = source
    return streams, validation, counts


def check_fills_batch(name: str, stream: ConfigDict, source: Source, size: int) -> None:
    """Raises UserError where a stream has fewer images than a batch takes of it."""
    if len(source) < size:
        batch = "optim.batch_size" if stream.ratio == 1 else f"data.streams.{name}.ratio x optim.batch_size"
        fitting = 2 ** int(math.log2(max(1, len(source) // stream.ratio)))
        raise UserError(
            f"{source.name} has {len(source)} images, fewer than {batch}={size}: set "
            f"--config.optim.batch_size={fitting}"
        )


def same_images(config: ConfigDict, one: str, other: str) -> bool:
    """Whether two streams are the same images under the same numbers. Raises UserError where they are different parts
    of the same images: the images for validation could not be kept out of the other."""
    settings = [config.data.streams[name].copy_and_resolve_references() for name in (one, other)]
    sizes = [(stream.size, stream.share) for stream in settings]
    for stream in settings:
        stream.size, stream.share = 0, 1.0
    whole, again = (open_source(stream, stream.split, config.data).fingerprint() for stream in settings)
    if whole == again and sizes[0] != sizes[1]:
        raise UserError(
            f"data.streams.{other} has size and share {sizes[1]} and data.streams.{one} has {sizes[0]}: they are "
            f"different parts of the same images, so that those for validation cannot be left out: set "
            f"--config.data.streams.{other}.size={sizes[0][0]} and .share={sizes[0][1]}"
        )
    return whole == again


def fingerprint(streams: Mapping[str, Any]) -> str:
    """One hex digest for all streams; that of a single one as it is."""
    prints = [source.fingerprint() for source in streams.values()]
    return prints[0] if len(prints) == 1 else hashlib.sha256("".join(prints).encode()).hexdigest()


def all_labels(source: Source) -> np.ndarray:
    """int32 [N], -1 where there is none."""
    return np.array([source.label(i) for i in range(len(source))], np.int32)


def evaluation_source(config: ConfigDict, split: str, streams: dict[str, Source]) -> Source:
    """The `split` of the evaluation: that of `config.evals.data`, or with the name `stream` the first stream itself."""
    named = config.evals.data[split]
    return next(iter(streams.values())) if named == "stream" else open_source(config.evals.data, named, config.data)


POSITIVE = (
    "optim.batch_size", "evals.batch_size",
    "run.log_every", "run.health_every", "run.health_samples", "run.checkpoint_every", "run.keep_checkpoints",
    "run.steps_per_dispatch", "evals.picture_images", "evals.pixel_side", "evals.knn.k", "evals.bootstrap.resamples",
    "evals.linear.max_iterations", "data.canvas", "data.channels",
)  # fmt: skip
"""Whole numbers that have to be at least 1."""


def check_values(config: ConfigDict, kind: Kind) -> None:
    """Raises UserError for settings of another method, and for a number or a word that means nothing."""
    flat = flattened(config.to_dict())
    lacking = [key for key in (*kind.positive, *kind.needs) if key not in flat]
    if lacking:
        raise UserError(
            f"method.name={config.method.name} has no {lacking[0]} here, these are another method's settings: take a "
            f"recipe of its own, such as configs/objectives.py:photos,method={config.method.name}"
        )
    for key in (*POSITIVE, *kind.positive, *(f"data.streams.{name}.ratio" for name in config.data.streams)):
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


def check_features(config: ConfigDict, backbone: Backbone) -> None:
    """Raises UserError where an evaluator asks for a feature that the backbone does not give."""
    images = jax.ShapeDtypeStruct((1, config.data.image_size, config.data.image_size, config.data.channels), np.float32)
    given = jax.eval_shape(lambda k, x: backbone.init_with_output(k, x)[0], jax.random.key(0), images)
    for name in ("knn", "linear", "lowshot", "health"):
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
    """Labels of a source in a fixed random order, int32, until they are enough for every evaluator, or all of them;
    all of a source of several labels, float32 [N, classes].

    Reading a label may mean reading a record, so a set of a million images is not walked through to its end.
    """
    if source.multilabel:  # read from lists
        return np.array([source.label(i) for i in range(len(source))], np.float32).reshape(-1, len(source.classes))
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
    """Durations in steps. Raises UserError for a unit that is not known, and for a stage of less than one step that
    does not say 0: it only judges what it was handed."""
    if optim.unit not in UNITS:
        raise unknown("optim.unit", optim.unit, UNITS)
    unit = 1 if optim.unit == "step" else max(1, images // optim.batch_size)
    clock = Clock(total=round(optim.duration * unit), unit=unit)
    if clock.total < 1 and optim.duration != 0:
        raise UserError(f"optim.duration={optim.duration} {optim.unit}s is less than one step: make it longer, or 0.0")
    return clock


def device_words() -> str:
    """The devices in words, for results and reports."""
    devices = jax.devices()
    return f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})"
