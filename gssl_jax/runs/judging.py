"""Any evaluators on any backbones, side by side; what was judged before is not judged again.

Every evaluator's entries are kept in `<folder>/done/`, under a digest of the weights, the images and the settings that
decide them: a call that was interrupted, or that asks for one more evaluator or backbone, computes what is missing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict
from rich.console import Console

from gssl_jax import __version__
from gssl_jax.data.sources import Source
from gssl_jax.errors import UserError, unknown
from gssl_jax.evals import segmentation, suite
from gssl_jax.evals.intervals import Entry, paired
from gssl_jax.evals.projection import t_sne
from gssl_jax.knobs import flat
from gssl_jax.models.build import Backbone
from gssl_jax.models.resnet import ResNet
from gssl_jax.runs import archive, dense
from gssl_jax.runs.candidates import Candidate
from gssl_jax.runs.done import Done
from gssl_jax.runs.evaluation import Entries, Judge
from gssl_jax.runs.folder import plain, write_atomically
from gssl_jax.runs.judged import Frozen
from gssl_jax.runs.parts import METHODS, device_words, evaluation_source, labels_to_check, open_streams
from gssl_jax.runs.pictures import leading, neighbours
from gssl_jax.runs.results import SCHEMA, describe_source, versions
from gssl_jax.training.mesh import make_mesh, replicated


class Bench(NamedTuple):
    """What a `Judge` has to know, without a method: see `evaluation.Judged`."""

    config: ConfigDict
    train: Source
    test: Source
    backbone: Backbone
    mesh: Mesh
    validation: Source | None = None
    predict: Callable[..., jax.Array] | None = None
    counts: np.ndarray | None = None


class Evaluator(NamedTuple):
    """One value of `--evals`, which is the group of `config.evals` that sets it.

    `run(subject, settings)` gives its entries; `groups` are further groups that decide them; `off` the knobs, with the
    values that turn it off; `example` how to turn it on where that is needed; `pixels` whether raw pixels have it."""

    run: Callable[[Subject, ConfigDict], Entries]
    groups: tuple[str, ...] = ()
    off: Mapping[str, Any] = {}
    example: str = ""
    pixels: bool = True


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


def _masks(subject: Subject, settings: ConfigDict) -> Entries:
    judge = subject.judge.under(settings)
    return dense.judge_pixels(judge) if subject.candidate.variables is None else dense.judge(judge, subject.variables)


EVALUATORS: dict[str, Evaluator] = {
    "knn": Evaluator(_of_features("knn")),
    "linear": Evaluator(_of_features("linear")),
    "lowshot": Evaluator(_of_features("lowshot"), off={"lowshot.shots": ()}),
    "segmentation": Evaluator(_masks),
    "sgd_linear": Evaluator(_taught, ("linear",), {"sgd_linear.steps": 0}, "sgd_linear.steps=5000", False),
    "finetune": Evaluator(_taught, ("linear",), {"finetune.labels": ()}, "finetune.labels='(1000,)'", False),
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
    results = collected(subjects, order, entries, seed) | {"schema": SCHEMA}
    results["run"]["evaluation_seconds"] = time.perf_counter() - started
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
    if not train.classes and set(names) != {"segmentation"}:
        raise UserError(f"{train.name} has no labels: the evaluators {', '.join(names)} need them")
    suite.check_statistics(config.evals, isinstance(one.backbone, ResNet))
    suite.check(labels_to_check(train, config.evals), config.evals, train.classes)
    segmentation.check(config.evals.segmentation, train.parts, one.backbone, config.data)
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
        "settings": {k: plain(v) for k, v in settings.items() if k in mine or k not in (*EVALUATORS, *ASIDE)},
        "seed": seed,
        "version": __version__,
    }


def draw(subject: Subject, done: Done, seed: int) -> None:
    """Keeps the map of the test images and neighbours of some of them, of a network, unless they are there already."""
    place = pictures_of(subject, done, seed)
    if subject.candidate.variables is None or place.is_file():
        return
    judge, settings = subject.judge, subject.judge.settings
    train, test = (judge.some(split, settings.picture_images) for split in ("train", "test"))
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


def collected(
    subjects: Sequence[Subject], names: Sequence[str], entries: Mapping[str, Entries], seed: int
) -> dict[str, Any]:
    """The content of results.json: `eval` of the first backbone, `controls` of the others, the `differences` of the
    first from each where the images are the same, and in `run.backbones` what each of them is."""
    first, *others = subjects
    done = Done(Path("done"))
    resamples = first.bench.config.evals.bootstrap.resamples
    differences = {
        other.candidate.name: differing(entries[first.candidate.name], entries[other.candidate.name], seed, resamples)
        for other in others
        if same_images(first.bench, other.bench)
    }
    backbones = {}
    for subject in subjects:
        one, data = subject.candidate, subject.bench.config.data
        shown = {key: plain(data[key]) for key in ("image_size", "channels", "mean", "std", "contrast_normalise")}
        shown["resize"] = subject.bench.config.evals.data.resize
        backbones[one.name] = {
            **one.facts,
            "digest": one.digest,
            "images": shown,
            "notes": list(one.notes),
            "unreadable_images": len(subject.judge.broken) if "judge" in vars(subject) else 0,
            "pictures": "" if one.variables is None else str(pictures_of(subject, done, seed)),
        }
    return {
        "eval": entries[first.candidate.name],
        "controls": {other.candidate.name: entries[other.candidate.name] for other in others},
        "differences": differences,
        "run": {
            "evaluators": list(names),
            "backbones": backbones,
            "seed": seed,
            "evals": plain(first.bench.config.evals),
            "device": device_words(),
            "versions": versions(),
            "data": {
                "eval_train": describe_source(first.bench.train),
                "eval_test": describe_source(first.bench.test),
            },
        },
    }


def introduced(one: Candidate) -> str:
    """A candidate in one line for the console: what it is, how it is shown the images, and what to know of it."""
    data = one.config.data
    if one.variables is None:
        return f"the images, shrunk to {one.facts['side']} pixels a side"
    shown = f"{data.image_size} px, mean {tuple(data.mean)}, std {tuple(data.std)}"
    return "; ".join([f"{one.facts['network']}, {one.facts['parameters'] / 1e6:.2f} M parameters", shown, *one.notes])


def same_images(one: Bench, other: Bench) -> bool:
    """Whether both are judged on the same images and learn from the same ones, whatever size each is shown them in."""
    pairs = ((one.train, other.train), (one.test, other.test))
    return all(ours.fingerprint() == theirs.fingerprint() for ours, theirs in pairs)


def differing(ours: Entries, theirs: Entries, seed: int, resamples: int) -> dict[str, Any]:
    """Paired differences ours - theirs of every measure whose samples both have, and equally many (images that one of
    them cannot read are not among its samples)."""
    found = {}
    for name, one in ours.items():
        other = theirs.get(name)
        if not isinstance(one, Entry) or not isinstance(other, Entry) or one["interval"] != other["interval"]:
            continue
        if one.samples is not None and other.samples is not None and len(one.samples) == len(other.samples):
            found[name] = paired(one.samples, other.samples, one["interval"] or "t-draws", seed, resamples)
    return found
