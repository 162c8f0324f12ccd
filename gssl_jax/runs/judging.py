"""Any evaluators on any backbones, side by side; what was judged before is not judged again.

Every evaluator's entries are kept in `<folder>/done/`, under a digest of the weights, the images and the settings that
decide them: a call that was interrupted, or that asks for one more evaluator or backbone, computes what is missing.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict
from rich.console import Console

from gssl_jax import __version__
from gssl_jax.data.sources import Source
from gssl_jax.errors import UserError, unknown
from gssl_jax.evals import few_images, refresh, segmentation, suite, tuning
from gssl_jax.evals import robustness as robust
from gssl_jax.evals.intervals import entry
from gssl_jax.evals.projection import t_sne
from gssl_jax.knobs import flat
from gssl_jax.models.resnet import ResNet
from gssl_jax.runs import archive, dense, robustness
from gssl_jax.runs.candidates import Candidate
from gssl_jax.runs.done import Done
from gssl_jax.runs.evaluation import Entries, Judge
from gssl_jax.runs.folder import plain, write_atomically
from gssl_jax.runs.health import label_free_scores
from gssl_jax.runs.judged import Bench, Frozen
from gssl_jax.runs.parts import METHODS, evaluation_source, labels_to_check, open_streams
from gssl_jax.runs.pictures import leading, neighbours
from gssl_jax.runs.side_by_side import HEALTH, collected
from gssl_jax.training.mesh import make_mesh, replicated


class Evaluator(NamedTuple):
    """One value of `--evals`, which is the group of `config.evals` that sets it.

    `run(subject, settings)` gives its entries; `groups` are further groups that decide them; `off` the knobs, with the
    values that turn it off; `example` how to turn it on where that is needed; `pixels` whether raw pixels have it;
    `labels` whether images need a class, or several.
    """

    run: Callable[[Subject, ConfigDict], Entries]
    groups: tuple[str, ...] = ()
    off: Mapping[str, Any] = {}
    example: str = ""
    pixels: bool = True
    labels: bool = True


class Subject:
    """A candidate before its judge: images are read and features computed when an evaluator first asks for them."""

    def __init__(self, candidate: Candidate, bench: Bench, seed: int) -> None:
        self.candidate, self.bench, self._seed = candidate, bench, seed

    @cached_property
    def judge(self) -> Judge:
        return Judge(self.bench, self._seed)

    @cached_property
    def variables(self) -> Any:
        return jax.device_put(self.candidate.variables, replicated(self.bench.mesh))

    @cached_property
    def frozen(self) -> Frozen:
        return self.judge.frozen_pixels() if self.candidate.variables is None else self.judge.frozen(self.variables)


def _of_features(name: str) -> Callable[[Subject, ConfigDict], Entries]:
    return lambda subject, settings: subject.judge.under(settings).score(subject.frozen, (name,))


def _taught(subject: Subject, settings: ConfigDict) -> Entries:
    return subject.judge.under(settings).teach(subject.variables)


def _robust(subject: Subject, settings: ConfigDict) -> Entries:
    return robustness.judge(subject.judge.under(settings), subject.variables)


def _masks(subject: Subject, settings: ConfigDict) -> Entries:
    judge = subject.judge.under(settings)
    if subject.candidate.variables is None:
        return dense.judge_pixels(judge)
    return dense.judge(judge, subject.variables) | dense.teach(judge, subject.variables)


def _label_free(subject: Subject, settings: ConfigDict) -> Entries:
    scores = label_free_scores(subject.judge.under(settings), subject.bench.config.data, subject.variables)
    protocol = {name: settings.health[name] for name in ("views", "feature")} | {"split": "train"}
    seen = min(settings.health.images, len(subject.bench.train))
    return {f"{HEALTH}{name}": entry(value, None, None, seen, protocol, None) for name, value in scores.items()}


EVALUATORS: dict[str, Evaluator] = {
    "knn": Evaluator(_of_features("knn")),
    "linear": Evaluator(_of_features("linear")),
    "lowshot": Evaluator(_of_features("lowshot"), off={"lowshot.shots": ()}),
    "segmentation": Evaluator(_masks, off={"segmentation.decoder.steps": 0}, labels=False),
    "sgd_linear": Evaluator(_taught, ("linear",), {"sgd_linear.steps": 0}, "sgd_linear.steps=5000", False),
    "finetune": Evaluator(
        _taught, ("linear",), {"finetune.labels": (), "finetune.shares": ()}, "finetune.labels='(1000,)'", False
    ),
    "robustness": Evaluator(
        _robust,
        ("linear",),
        {f"robustness.{name}": () for name in ("corruptions", "linf", "l2", "shift")},
        "robustness.corruptions=\"('all',)\"",
        False,
    ),
    "health": Evaluator(_label_free, (), {"health.images": 0}, "health.images=1000", pixels=False, labels=False),
}
"""Every value of `--evals`, in the order in which they are run."""

ASIDE = ("every", "which", "tsne_points", "picture_images")
"""Knobs of `config.evals` that no score depends on."""


def chosen(names: Sequence[str], settings: ConfigDict) -> ConfigDict:
    """`settings` with the evaluators off that are not among `names`.

    Raises UserError for a name that is not known, and for an evaluator that is asked for and off by its settings."""
    for name in names:
        if name not in EVALUATORS:
            raise unknown("evaluator", name, EVALUATORS)
    settings = settings.copy_and_resolve_references()
    for name, evaluator in EVALUATORS.items():
        now = flat(settings.to_dict())
        if name not in names:
            settings.update_from_flattened_dict({key: value for key, value in evaluator.off.items() if key in now})
        elif evaluator.example and all(now[key] == value for key, value in evaluator.off.items()):
            raise UserError(f"--evals={name} is off by its settings: give --evals.{evaluator.example}")
    return settings


def judged(
    candidates: Sequence[Candidate], names: Sequence[str], folder: Path, seed: int, console: Console
) -> dict[str, Any]:
    """Runs the evaluators `names` on every candidate; writes and returns `<folder>/results.json`.

    Everything is opened and checked before the first evaluator runs. Raises UserError for what cannot work.
    """
    started = time.perf_counter()
    order = [name for name in EVALUATORS if name in names]
    subjects = [Subject(one, opened(one, order), seed) for one in candidates]
    done = Done(folder / "done")
    entries: dict[str, Entries] = {}
    for subject in subjects:
        entries[subject.candidate.name] = {}
        for name in order:
            if subject.candidate.variables is None and not EVALUATORS[name].pixels:
                console.print(f"{subject.candidate.name}: {name} needs a network, left out", highlight=False)
                continue
            settings = chosen([name], subject.bench.config.evals)
            key = decided_by(subject, name, settings, seed)
            found = done.read(key)
            if found is None:
                console.print(f"{subject.candidate.name}: {name} ...", highlight=False)
                found = EVALUATORS[name].run(subject, settings)
                done.write(key, found)
            else:
                console.print(f"{subject.candidate.name}: {name} was judged before", highlight=False)
            entries[subject.candidate.name] |= found
        draw(subject, done, seed)
        vars(subject).pop("frozen", None)  # features of one backbone at a time are held
    results = collected([(one.candidate, one.bench) for one in subjects], entries, seed)
    for subject in subjects:
        told = results["run"]["backbones"][subject.candidate.name]
        told["unreadable_images"] = len(subject.judge.broken) if "judge" in vars(subject) else 0
        place = pictures_of(subject, done, seed)
        told["pictures"] = str(place.relative_to(folder)) if place.is_file() else ""
    results["run"] |= {"evaluators": order, "evaluation_seconds": time.perf_counter() - started}
    write_atomically(folder / "results.json", json.dumps(results, indent=1) + "\n")
    return results


def opened(one: Candidate, names: Sequence[str]) -> Bench:
    """The images that a candidate is judged on, with the settings that `names` need, checked."""
    config = one.config.copy_and_resolve_references()
    config.evals = chosen(names, config.evals)
    streams: dict[str, Source] = {}
    if "stream" in (config.evals.data.train, config.evals.data.test):
        kind = METHODS[config.method.name]
        sizes = {name: config.optim.batch_size * stream.ratio for name, stream in config.data.streams.items()}
        streams, _, _ = open_streams(config, kind, sizes)
    train, test = (evaluation_source(config, split, streams) for split in ("train", "test"))
    if not train.parts and "segmentation" in names:
        raise UserError(f"{train.name} has no masks: --evals=segmentation needs images with them (mosaics, masks:DIR)")
    if not train.classes and any(EVALUATORS[name].labels for name in names):
        raise UserError(f"{train.name} has no labels: the evaluators {', '.join(names)} need them")
    refresh.check_statistics(config.evals, isinstance(one.backbone, ResNet))
    suite.check(labels_to_check(train, config.evals), config.evals, train.classes)
    if config.evals.lowshot.lists and train.classes:
        few_images.check_lists(config.evals.lowshot, [train.describe(i) for i in range(len(train))])
    segmentation.check(config.evals.segmentation, train.parts, one.backbone, config.data)
    tuning.check_backbone(config.evals.finetune, one.backbone)
    robust.check(config.evals.robustness, train, config.data)
    return Bench(config, train, test, one.backbone, make_mesh())


def decided_by(subject: Subject, name: str, settings: ConfigDict, seed: int) -> dict[str, Any]:
    """Everything that the entries of an evaluator depend on, as plain JSON."""
    candidate, bench = subject.candidate, subject.bench
    mine = (name, *EVALUATORS[name].groups)
    images = ("image_size", "channels", "contrast_normalise")
    return {
        "evaluator": name,
        "weights": candidate.digest,
        "network": str(candidate.backbone),
        "images": {key: plain(bench.config.data[key]) for key in images},
        "train": bench.train.fingerprint(),
        "test": bench.test.fingerprint(),
        "beside": beside(name, settings, bench),
        "settings": {k: plain(v) for k, v in settings.items() if k in mine or k not in (*EVALUATORS, *ASIDE)},
        "seed": seed,
        "version": __version__,
    }


def beside(name: str, settings: ConfigDict, bench: Bench) -> dict[str, str]:
    """What an evaluator reads beside the images it judges, each with a digest: lists of images, shifted data sets."""
    if name == "lowshot":
        files = [Path(file).expanduser() for file in settings.lowshot.lists]
        return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    if name == "robustness":
        found = robust.shifted(settings.robustness, bench.train.classes, bench.config.data)
        return {other: source.fingerprint() for other, (source, _) in found.items()}
    return {}


def draw(subject: Subject, done: Done, seed: int) -> None:
    """Keeps the map of the test images and neighbours of some of them, of a network, unless they are there already."""
    place = pictures_of(subject, done, seed)
    if subject.candidate.variables is None or place.is_file():
        return
    judge, settings = subject.judge, subject.judge.settings
    split = "test" if len(subject.bench.test) else "train"
    train, test = (judge.some(name, settings.picture_images) for name in ("train", split))
    train, test = ({**found, "label": leading(found["label"])} for found in (train, test))
    known, asked = (judge.features(subject.variables, part)[settings.knn.feature] for part in (train, test))
    pictures = {"neighbours": neighbours(train, test, known, asked)}
    rows, points = t_sne(asked, points=settings.tsne_points, seed=0)
    if len(rows):
        pictures["tsne"] = {"points": points, "labels": test["label"][rows]}
    place.parent.mkdir(parents=True, exist_ok=True)
    archive.write_pictures(place, pictures, subject.bench.train.classes)


def pictures_of(subject: Subject, done: Done, seed: int) -> Path:
    """Where the pictures of a candidate are kept."""
    settings = subject.bench.config.evals
    shown = {name: settings[name] for name in ("tsne_points", "picture_images")}
    key = decided_by(subject, "knn", settings, seed) | {"evaluator": "pictures", "shown": shown}
    return done.path(key).with_suffix(".pictures.npz")


def introduced(one: Candidate) -> str:
    """A candidate in one line for the console: what it is, how it is shown the images, and what to know of it."""
    data = one.config.data
    if one.variables is None:
        return f"the images, shrunk to {one.facts['side']} pixels a side"
    shown = f"{data.image_size} px, mean {tuple(data.mean)}, std {tuple(data.std)}"
    return "; ".join([f"{one.facts['network']}, {one.facts['parameters'] / 1e6:.2f} M parameters", shown, *one.notes])
