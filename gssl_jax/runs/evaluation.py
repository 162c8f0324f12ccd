"""Judging backbones: the trained one, the untrained one and raw pixels, by the same protocols."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import cv2
import jax
import numpy as np
from ml_collections import ConfigDict

from gssl_jax.data import subsets
from gssl_jax.data.arrays import evaluation_batches, evaluation_set
from gssl_jax.data.sources import Source
from gssl_jax.data.sources.subset import Subset
from gssl_jax.data.substitution import Substituted, as_readable
from gssl_jax.evals import classification, sgd, suite
from gssl_jax.evals.features import extract, pixels
from gssl_jax.evals.finetune import finetune
from gssl_jax.evals.per_class import balanced_accuracy, per_class_accuracy
from gssl_jax.evals.refresh import refreshed
from gssl_jax.evals.sgd_linear import sgd_linear
from gssl_jax.models.build import least_side
from gssl_jax.models.resnet import ResNet
from gssl_jax.runs import dense
from gssl_jax.runs.judged import Frozen, Judged
from gssl_jax.training.mesh import local_mesh, on_data, own, replicated

Entries = dict[str, dict[str, Any]]


class Judge:
    """The evaluation sets of a stage, read once, and the encoder that every backbone goes through."""

    def __init__(self, parts: Judged, seed: int) -> None:
        self._parts, self._seed = parts, seed
        self.settings = parts.config.evals
        self.labelled = bool(parts.train.classes)
        self.segmented = bool(parts.train.parts) and parts.train.parts == parts.test.parts and len(parts.test) > 0
        self._readable: list[Substituted] = []
        self.sets = {"train": self._held(parts.train), "test": self._held(parts.test)}
        if parts.validation is not None:
            self.sets["validation"] = self._held(parts.validation)
        if isinstance(self.sets["train"], dict):  # unreadable images may have left a class too small
            suite.check(self.sets["train"]["label"], self.settings, parts.train.classes)
        self._sharding = self._placed(self.settings.batch_size)
        self._apply = parts.backbone.apply
        self.encode = jax.jit(self._apply)
        """(variables, images float32 [B, S, S, C] in [0, 1]) -> features by name."""
        predict = parts.predict
        self._predict = None if predict is None else lambda held, images: predict(*held, images)
        self._draws = self._labelled_draws() if self.labelled else {}

    def _held(self, source: Source) -> Any:
        """The set as arrays where it fits in memory, else the source itself, read again at every evaluation."""
        data = self._parts.config.data
        if not len(source):
            shape = (0, data.image_size, data.image_size, data.channels)
            return {"image": np.zeros(shape, np.uint8), "label": np.zeros(0, np.int32)}
        readable = as_readable(source, data.max_broken, least_side(self._parts.backbone))
        self._readable.append(readable)
        if len(source) * data.image_size**2 * data.channels > data.resident_mib * 2**20:
            return readable
        return evaluation_set(readable, data, self.settings.data.resize)

    def some(self, split: str, count: int) -> dict[str, np.ndarray]:
        """At most `count` images of a split, evenly spaced over it: uint8 [n, S, S, C], with `label` int32 [n]."""
        held = self.sets[split]
        rows = spread(np.arange(len(held["image"] if isinstance(held, Mapping) else held)), count)
        if isinstance(held, Mapping):
            return {name: values[rows] for name, values in held.items()}
        data = self._parts.config.data
        return evaluation_set(as_readable(Subset(held, rows), data.max_broken), data, self.settings.data.resize)

    @property
    def broken(self) -> tuple[str, ...]:
        """Unreadable images met so far, with their reasons."""
        return tuple(name for readable in self._readable for name in readable.broken)

    def batches(self, images: Any) -> Iterator[Mapping[str, np.ndarray]]:
        """Padded batches of a set of this judge, or of arrays {"image": uint8 [N, S, S, C], "label": [N]}."""
        return evaluation_batches(images, self.settings.batch_size, self._parts.config.data, self.settings.data.resize)

    def settled(self, variables: Any) -> Any:
        """The network as it is judged: with `evals.statistics=refreshed` a ResNet has the batch statistics of the
        evaluation's training images in place of its own."""
        backbone = self._parts.backbone
        if self.settings.statistics == "own" or not isinstance(backbone, ResNet):
            return variables
        return refreshed(backbone, variables, self.batches(self.sets["train"]))

    def features(self, variables: Any, images: Any) -> dict[str, np.ndarray]:
        """The features [N, D] that the evaluators ask for, by name, and `label`; `images` as for `batches`."""
        return self._features(self.settled(variables), images)

    def _features(self, settled: Any, images: Any) -> dict[str, np.ndarray]:
        return extract(self._apply, self.batches(images), self.names(), variables=settled, sharding=self._sharding)

    def encoded(self, settled: Any, images: np.ndarray, name: str) -> np.ndarray:
        """One feature [n, D] of images uint8 [n, S, S, C], by a network as `settled` returns it."""
        held = {"image": images, "label": np.full(len(images), -1, np.int32)}
        return extract(self._apply, self.batches(held), (name,), variables=settled, sharding=self._sharding)[name]

    def names(self) -> tuple[str, ...]:
        """The features that the evaluators of the configuration ask for."""
        e = self.settings
        return tuple(sorted({e.knn.feature, e.linear.feature, e.lowshot.feature}))

    def _train_names(self) -> list[str]:
        """Names of the evaluation's training images in the order of their features, where lists ask for them."""
        if not self.settings.lowshot.lists or not len(self._parts.train):
            return []
        readable = self._readable[0]  # the training images are opened first
        return [readable.describe(index) for index in readable.usable]

    def judge(self, variables: Any) -> Entries:
        """Every evaluator of frozen features on a backbone; empty where there are no labels and no masks."""
        found = self.score(self.frozen(variables)) if self.labelled else {}
        return found | dense.judge(self, variables)

    def frozen(self, variables: Any) -> Frozen:
        """The features of the training and of the test images that `score` judges."""
        variables = self.settled(variables)
        train, test = (self._features(variables, self.sets[split]) for split in ("train", "test"))
        return Frozen(train, test, None)

    def frozen_pixels(self) -> Frozen:
        """As `frozen`, of the control: raw pixels, shrunk to at most `evals.pixel_side`."""
        return Frozen(self._pixels("train"), self._pixels("test"), "pixels")

    def score(self, frozen: Frozen, only: Collection[str] = suite.EVALUATORS) -> Entries:
        """The evaluators `only` of frozen features."""
        train, test, feature = frozen
        classes = self._parts.train.classes
        names = self._train_names()
        found = suite.evaluate(train, test, self.settings, self._seed, classes, feature, only, names)
        return found if feature else self._told(found)

    def under(self, settings: ConfigDict) -> Judge:
        """This judge, of the same images, by other settings of its evaluators."""
        other = copy.copy(self)
        other.settings = settings
        other._draws = other._labelled_draws() if other.labelled else {}
        return other

    def teach(self, variables: Any) -> Entries:
        """The protocols that train by SGD, on a frozen backbone and the whole network; empty where both are off.

        They take minutes to hours and are for the end of a run. What is drawn and held out is the same for every
        backbone.
        """
        e = self.settings
        entries = dense.teach(self, variables)
        if not self.labelled or not (e.sgd_linear.steps or self._draws):
            return entries
        variables = self.settled(variables)
        common: dict[str, Any] = {"feature": e.linear.feature, "classes": self._parts.train.classes}
        common |= {"seed": self._seed, "resamples": e.bootstrap.resamples}
        if e.sgd_linear.steps:
            rows, held = sgd.divided(self._train_labels(), e.sgd_linear.validation, self._seed)
            options = common | {"settings": e.sgd_linear, "sharding": self._placed(e.sgd_linear.batch_size)}
            entries |= sgd_linear(
                self._apply, variables, self._pool(rows), self._opened("train", held), self._opened("test"), **options
            )
        options = common | {"settings": e.finetune, "sharding": self._placed(e.finetune.batch_size)}
        options |= {"regression": suite.solver_options(e)}
        for name, (draws, held) in self._draws.items():
            pools = [self._pool(rows) for rows in draws]
            opened = self._opened("train", held), self._opened("test")
            entries |= finetune(self._parts.backbone, self._apply, variables, pools, *opened, name=name, **options)
        return self._told(entries)

    def _told(self, entries: Entries) -> Entries:
        """`entries` whose protocols say so where the statistics are not the backbone's own."""
        if self.settings.statistics != "own":
            for found in entries.values():
                found["protocol"]["statistics"] = "batch norm's of the training images"
        return entries

    def _labelled_draws(self) -> dict[str, tuple[list[np.ndarray], np.ndarray]]:
        """For each number of `evals.finetune.labels` (0 = all) and each share of every class of `.shares`, by name: the
        rows of every draw, and those to choose by."""
        settings, found = self.settings.finetune, {}
        if not settings.labels and not settings.shares:
            return {}
        labels, names = self._train_labels(), self._parts.train.classes
        rows, held = sgd.divided(labels, settings.validation, self._seed)
        seeds = range(self._seed, self._seed + settings.draws)
        for count in settings.labels:
            draws = [rows[subsets.at_least_one(labels[rows], count or len(rows), seed, names)] for seed in seeds]
            found[str(count or "all")] = (draws, held)
        for share in settings.shares:
            draws = [rows[subsets.fraction(labels[rows], share, seed)] for seed in seeds]
            found[f"{100 * share:g}pct"] = (draws, held)
        return found

    def _train_labels(self) -> np.ndarray:
        """Labels of the evaluation's training images, without decoding."""
        held = self.sets["train"]
        if isinstance(held, Mapping):
            return held["label"]
        return np.stack([np.asarray(held.label(i)) for i in range(len(held))])

    def _pool(self, rows: np.ndarray) -> sgd.Pool:
        """Training images by row, from memory where they fit, else decoded as they are picked."""
        held, data, resize = self.sets["train"], self._parts.config.data, self.settings.data.resize
        side = data.image_size
        said = f"crops of the evaluation's images, {side} x {side} pixels"
        if not isinstance(held, Mapping):
            part = as_readable(Subset(held, rows), data.max_broken)
            if len(rows) * side**2 * data.channels > data.resident_mib * 2**20:
                labels = self._train_labels()[rows]

                def read(asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
                    batch = next(evaluation_batches(Subset(part, asked), len(asked), data, resize))
                    return batch["image"], batch["label"]

                return sgd.Pool(labels, read, said)
            held = evaluation_set(part, data, resize)
            rows = np.arange(len(held["label"]))
        images, labels = held["image"], held["label"]
        return sgd.Pool(labels[rows], lambda asked: (images[rows[asked]], labels[rows[asked]]), said)

    def _opened(self, split: str, rows: np.ndarray | None = None) -> sgd.Batches:
        """Opens the batches of a split, or of some rows of it."""
        held = self.sets[split]
        if rows is not None:
            whole = isinstance(held, Mapping)
            held = {name: values[rows] for name, values in held.items()} if whole else Subset(held, rows)
        return lambda: self.batches(held)

    def _placed(self, batch_size: int) -> jax.sharding.Sharding:
        mesh = local_mesh(self._parts.mesh)
        return on_data(mesh) if batch_size % mesh.size == 0 else replicated(mesh)

    def validate(self, params: Any, method_state: Any) -> float:
        """Mean over classes of the accuracy on the validation images, by the method's own classifier."""
        found, wanted = self._guesses("validation", params, method_state)
        return balanced_accuracy(per_class_accuracy(found, wanted, len(self._parts.train.classes)))

    def classify(self, params: Any, method_state: Any) -> Entries:
        """The method's own classifier on the test images, clean and under every attack of `evals.attacks`; empty for
        a method that has none."""
        if self._predict is None:
            return {}
        options: dict[str, Any] = {"counts": self._parts.counts, "classes": self._parts.train.classes}
        options |= {"seed": self._seed, "resamples": self.settings.bootstrap.resamples}
        entries = classification.entries(*self._guesses("test", params, method_state), **options)
        for name, attack in self.settings.attacks.items():
            guesses = self._guesses("test", params, method_state, attack.to_dict() | {"seed": self._seed})
            robust = classification.entries(*guesses, prefix=f"accuracy_{name}", **options)
            top1 = robust[f"accuracy_{name}/top1"]
            top1["protocol"] |= {"attack": "PGD, random start", **attack.to_dict()}
            entries |= {f"accuracy_{name}/top1": top1}
        return entries

    def _guesses(self, split: str, params: Any, method_state: Any, attack: Any = None) -> tuple[np.ndarray, np.ndarray]:
        assert self._predict is not None
        held = own((params, method_state), self._parts.mesh)
        return classification.predictions(self._predict, held, self.batches(self.sets[split]), attack)

    def judge_pixels(self) -> Entries:
        """The same evaluators on raw pixels, shrunk to at most `evals.pixel_side`."""
        found = self.score(self.frozen_pixels()) if self.labelled else {}
        return found | dense.judge_pixels(self)

    def _pixels(self, split: str) -> dict[str, np.ndarray]:
        side = self.settings.pixel_side
        small = ({**batch, "image": shrunk(batch["image"], side)} for batch in self.batches(self.sets[split]))
        return extract(pixels, small, ("pixels",))


def spread(rows: np.ndarray, count: int) -> np.ndarray:
    """`count` rows, evenly spaced."""
    return rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)]


def stratified(labels: np.ndarray, count: int) -> np.ndarray:
    """At most `count` rows of labelled images, of as many classes as can be, by class; from labels int [N] alone.

    First one image of every class (of classes evenly spaced where there are more than `count`), then a second one, and
    so on. Without labels (-1) rows are evenly spaced.
    """
    known = np.flatnonzero(labels >= 0)
    if not len(known):
        return spread(np.arange(len(labels)), count)
    by_class = known[np.argsort(labels[known], kind="stable")]
    sizes = np.unique(labels[by_class], return_counts=True)[1]
    turn = np.concatenate([np.arange(size) for size in sizes])  # of each image among those of its class
    places = np.empty(0, int)
    for k in range(sizes.max()):
        places = np.append(places, spread(np.flatnonzero(turn == k), count - len(places)))
    return by_class[np.sort(places)]


def floats(images: np.ndarray) -> np.ndarray:
    """uint8 pixels as float32 in [0, 1]."""
    return images.astype(np.float32) / 255


def shrunk(images: np.ndarray, side: int) -> np.ndarray:
    """[N, S, S, C] averaged down to at most `side` pixels a side; smaller ones stay as they are."""
    if images.shape[1] <= side:
        return images
    small = [cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA) for image in images]
    return np.stack(small).reshape(len(images), side, side, images.shape[-1])


def log_row(entries: Entries) -> dict[str, float]:
    """Values of entries as a row of metrics.jsonl: `eval/<name>`."""
    return {f"eval/{name}": entry["value"] for name, entry in entries.items() if entry["value"] is not None}
