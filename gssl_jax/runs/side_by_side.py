"""results.json of backbones side by side: by the schema of a run's, with what each is and the differences of pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gssl_jax.evals.intervals import Entry, paired
from gssl_jax.runs.candidates import Candidate
from gssl_jax.runs.evaluation import Entries
from gssl_jax.runs.folder import plain
from gssl_jax.runs.judged import Bench
from gssl_jax.runs.parts import device_words
from gssl_jax.runs.results import SCHEMA, describe_source, versions

HEALTH = "health/"
"""How the entries of label-free scores begin: they are no accuracies and stand under `health`."""


def collected(judged: Sequence[tuple[Candidate, Bench]], entries: Mapping[str, Entries], seed: int) -> dict[str, Any]:
    """The content of results.json: `eval` of the first backbone, `controls` of the others, the `differences` of the
    first from each where the images are the same, and in `run.backbones` what each of them is."""
    (first, bench), *others = judged
    scores = {name: {k: v for k, v in found.items() if not k.startswith(HEALTH)} for name, found in entries.items()}
    resamples = bench.config.evals.bootstrap.resamples
    return {
        "schema": SCHEMA,
        "eval": scores[first.name],
        "controls": {other.name: scores[other.name] for other, _ in others},
        "differences": {
            other.name: differing(scores[first.name], scores[other.name], seed, resamples)
            for other, theirs in others
            if same_images(bench, theirs)
        },
        "health": health_of(entries),
        "run": {
            "backbones": {one.name: told(one, theirs) for one, theirs in judged},
            "seed": seed,
            "evals": plain(bench.config.evals),
            "device": device_words(),
            "versions": versions(),
            "data": {"eval_train": describe_source(bench.train), "eval_test": describe_source(bench.test)},
        },
    }


def told(one: Candidate, bench: Bench) -> dict[str, Any]:
    """What a backbone is and how it was shown the images."""
    data = bench.config.data
    shown = {key: plain(data[key]) for key in ("image_size", "channels", "mean", "std", "contrast_normalise")}
    shown["resize"] = bench.config.evals.data.resize
    return {**one.facts, "digest": one.digest, "images": shown, "notes": list(one.notes)}


def health_of(entries: Mapping[str, Entries]) -> dict[str, Any]:
    """Label-free scores by backbone and name, and their protocol, as results.json of a run has them; empty without."""
    found: dict[str, Any] = {}
    for name, judged in entries.items():
        mine = {key.removeprefix(HEALTH): one for key, one in judged.items() if key.startswith(HEALTH)}
        if mine:
            first = next(iter(mine.values()))
            found[name] = {key: one["value"] for key, one in mine.items()}
            found["protocol"] = {"images": first["n"], **first["protocol"]}
    return found


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
