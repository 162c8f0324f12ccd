"""HPT's semi-supervised protocol (arXiv 2103.12718): the whole network is trained on few labelled images.

A linear layer with a rate of its own stands on the feature, batch norm is in train mode, SGD has momentum and no decay.
A grid of rates and schedules is chosen from on validation images; the paper reports the best of grid and evaluations on
its test images. The paper adds up the gradients of 4 batches of 64; here a batch is one, and so are its statistics.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Sharding

from gssl_jax.errors import UserError, unknown
from gssl_jax.evals import sgd
from gssl_jax.evals.features import extract
from gssl_jax.evals.intervals import entry, t_interval
from gssl_jax.evals.sgd_linear import best_of
from gssl_jax.models.build import Backbone
from gssl_jax.ops.keys import named

DROPS = ("intended", "code")
ACCUMULATED = 4  # batches a step in HPT's code, whose drops count batches

Encode = Callable[[Any, Array], Mapping[str, Array]]


class Schedule(NamedTuple):
    """So many steps with drops of the rate at `milestones`, called `name` in results."""

    name: str
    steps: int
    milestones: tuple[int, ...]


class Tuned(NamedTuple):
    """A grid point: backbone and head at the best validation score, and that score; None where training diverged."""

    name: str
    variables: Any
    head: Any
    score: float | None


def check(settings: Any, classes: int) -> None:
    """Raises UserError for values of `evals.finetune` that mean nothing, and for fewer images than `classes`; with
    `labels` empty the protocol is off."""
    if not settings.labels:
        return
    for name, least in (("batch_size", 1), ("draws", 1), ("steps", 0), ("epochs", 0), ("every", 0)):
        if settings[name] < least:
            raise UserError(f"evals.finetune.{name} is {settings[name]}: set it to {least} or more")
    if settings.drops not in DROPS:
        raise unknown("evals.finetune.drops", settings.drops, DROPS)
    if not settings.steps and not settings.epochs:
        raise UserError("evals.finetune.steps and .epochs are both 0: give one of the schedules a length")
    if not settings.learning_rates or min(settings.learning_rates) <= 0:
        raise UserError(f"evals.finetune.learning_rates is {settings.learning_rates}: give at least one rate above 0")
    if not 0 < settings.validation < 1:
        raise UserError(f"evals.finetune.validation is {settings.validation}: give a share between 0 and 1")
    if min(settings.labels) < 0:
        raise UserError(f"evals.finetune.labels is {settings.labels}: give numbers of images, or 0 for all")
    if min((n for n in settings.labels if n), default=classes) < classes:
        raise UserError(
            f"evals.finetune.labels is {settings.labels} and there are {classes} classes, each of which has an image "
            f"among the labelled ones: give {classes} or more, or 0 for all"
        )


def schedules(settings: Any, images: int) -> list[Schedule]:
    """The schedules of the grid for so many labelled images.

    Drops stand at `milestones` steps of `steps`, and at `epoch_milestones` epochs of `epochs`. With `drops="code"`
    those in steps come at a quarter of their place: HPT's code multiplies the length by the 4 batches of a step, and
    not the drops. Drops in epochs mean the same in both readings.
    """
    found, quarter = [], ACCUMULATED if settings.drops == "code" else 1
    if settings.steps:
        drops = tuple(place // quarter for place in settings.milestones)
        found.append(Schedule(f"{settings.steps} steps", settings.steps, drops))
    if settings.epochs:
        epoch = max(1, images // settings.batch_size)
        drops = tuple(place * epoch for place in settings.epoch_milestones)
        found.append(Schedule(f"{settings.epochs} epochs", settings.epochs * epoch, drops))
    return found


def finetune(
    backbone: Backbone,
    encode: Encode,
    variables: Any,
    pools: Sequence[sgd.Pool],
    validation: sgd.Batches,
    test: sgd.Batches,
    *,
    name: str,
    settings: Any,
    feature: str,
    classes: Sequence[str],
    seed: int,
    resamples: int,
    sharding: Sharding | None = None,
) -> dict[str, dict[str, Any]]:
    """The entry `finetune_<name>/top1` or `/auroc` of the labelled images `pools`, one for each draw.

    Every draw trains the whole grid, chooses by the validation images and shows the test images to the chosen network
    alone. With one draw the interval is over test images, with more of them Student's t over the draws.

    Args:
      encode: the backbone in eval mode, (variables, images) -> features by name; one object for one program.
      variables: {"params"} and, for a ResNet, {"batch_stats"}: where every training starts.
      settings: `config.evals.finetune`.
    """
    metric, values, grids, chosen = sgd.metric_of(pools[0].labels), [], [], []
    key, protocol = f"finetune_{name}/{metric}", _protocol(settings, feature, pools, metric)
    options: dict[str, Any] = {"classes": classes, "seed": seed, "resamples": resamples}
    found: dict[str, Any] = {}
    for draw, pool in enumerate(pools):
        tuned = _grid(
            backbone, encode, variables, pool, validation, settings, feature, len(classes), (seed, draw), sharding
        )
        usable = [point for point in tuned if point.score is not None]
        grids.append({point.name: point.score for point in tuned})
        if not usable:
            problem = "the loss was not finite anywhere on the grid: lower evals.finetune.learning_rates"
            return {key: entry(None, None, None, None, protocol | {"grid": grids, "problem": problem}, None)}
        best = max(usable, key=lambda point: point.score or 0.0)  # the first of equals
        chosen.append(best.name)
        asked = extract(encode, test(), (feature,), variables=best.variables)
        scores = np.asarray(_decide(best.head, asked[feature]))
        values.append(sgd.score_of(scores, asked["label"]))
        found = {"scores": scores, "labels": asked["label"]}
    protocol |= {"grid": grids, "chosen": chosen, "test_images": len(found["labels"])}
    if len(pools) == 1:
        return {key: sgd.scored(found["scores"], found["labels"], protocol=protocol, **options)}
    return {
        key: entry(
            *t_interval(values), len(values), protocol | {"values": values}, "t-draws", samples=np.asarray(values)
        )
    }


def _grid(
    backbone: Backbone,
    encode: Encode,
    variables: Any,
    pool: sgd.Pool,
    validation: sgd.Batches,
    settings: Any,
    feature: str,
    classes: int,
    seed: tuple[int, int],
    sharding: Sharding | None,
) -> list[Tuned]:
    def judged(state: Any, head: Any) -> float | None:
        held = extract(encode, validation(), (feature,), variables=state)
        scores = np.asarray(_decide(head, held[feature]))
        return sgd.score_of(scores, held["label"]) if np.isfinite(scores).all() else None

    points = itertools.product(settings.learning_rates, schedules(settings, len(pool.labels)))
    return [
        tune(backbone, variables, pool, judged, settings, rate, plan, feature, classes, seed, sharding)
        for rate, plan in points
    ]


def tune(
    backbone: Backbone,
    variables: Any,
    pool: sgd.Pool,
    judged: Callable[[Any, Any], float | None],
    settings: Any,
    rate: float,
    plan: Schedule,
    feature: str,
    classes: int,
    seed: tuple[int, int],
    sharding: Sharding | None = None,
) -> Tuned:
    """Trains one grid point; `judged(variables, head)` is its validation score, None where that is not finite.

    Of the states every `settings.every` steps (0 = the end only) the first of the best is kept.
    """
    key = jax.random.fold_in(jax.random.key(seed[0]), seed[1])
    image = pool.pick(np.zeros(1, np.int64))[0]
    size = jax.eval_shape(lambda v: backbone.apply(v, image / np.float32(255))[feature], variables).shape[-1]
    params = {"backbone": variables["params"], "head": sgd.new_head(named(key, "head"), size, classes)}
    moments, rest = jax.tree.map(jnp.zeros_like, params), {n: v for n, v in variables.items() if n != "params"}
    rows, name = sgd.rows_of(len(pool.labels), settings.batch_size, seed), f"rate {rate:g}, {plan.name}"
    places = {plan.steps} | set(range(settings.every or plan.steps, plan.steps, settings.every or plan.steps))
    scores: list[float] = []
    states: dict[int, tuple[Any, Any]] = {}
    options = {"backbone": backbone, "feature": feature, "scale": tuple(settings.scale), "flip": settings.flip}
    for step in range(plan.steps):
        batch = jax.device_put(pool.pick(next(rows)), sharding)
        now = sgd.rate_at(step, rate, plan.milestones, settings.factor)
        params, moments, rest = _step(
            params, moments, rest, *batch, jax.random.fold_in(key, step), now,
            settings.head_rate, settings.momentum, **options,
        )  # fmt: skip
        if step + 1 in places:
            score = judged({"params": params["backbone"], **rest}, params["head"])
            if score is None:
                return Tuned(name, None, None, None)
            states[len(scores)] = ({"params": params["backbone"], **rest}, params["head"])
            scores.append(score)
            best = best_of(scores, list(states))
            states = {best: states[best]}
    return Tuned(name, *states[best], scores[best])


@partial(jax.jit, static_argnames=("backbone", "feature", "scale", "flip"))
def _step(
    params: Any,
    moments: Any,
    rest: Any,
    images: Array,
    labels: Array,
    key: Array,
    rate: Array,
    head_rate: float,
    momentum: float,
    *,
    backbone: Backbone,
    feature: str,
    scale: tuple[float, float],
    flip: float,
) -> tuple[Any, Any, Any]:
    views = sgd.cropped(images, named(key, "crop"), scale, flip)
    rngs = {name: named(key, name) for name in ("dropout", "drop_path")}

    def loss(params: Any) -> tuple[Array, Any]:
        own = {"params": params["backbone"], **rest}
        out, new = backbone.apply(own, views, train=True, rngs=rngs, mutable=["batch_stats"])
        return sgd.class_loss(sgd.decide(params["head"], out[feature]), labels), new

    gradients, new = jax.grad(loss, has_aux=True)(params)
    rates = {
        name: jax.tree.map(lambda _, n=name: rate * (head_rate if n == "head" else 1.0), params[name])
        for name in params
    }
    params, moments = sgd.moved(params, moments, gradients, rates, momentum)
    return params, moments, {**rest, **new}


_decide = jax.jit(sgd.decide)


def _protocol(settings: Any, feature: str, pools: Sequence[sgd.Pool], metric: str) -> dict[str, Any]:
    names = ("batch_size", "momentum", "head_rate", "factor", "flip", "drops", "validation", "every", "draws")
    protocol: dict[str, Any] = {"feature": feature, "metric": metric, **{name: settings[name] for name in names}}
    protocol |= {"labels": [len(pool.labels) for pool in pools], "scale": list(settings.scale)}
    plans = schedules(settings, len(pools[0].labels))
    protocol |= {"schedules": {plan.name: {"steps": plan.steps, "drops": list(plan.milestones)} for plan in plans}}
    protocol |= {"batch norm": "statistics of the whole batch", "images": pools[0].images}
    return protocol | {"choice": "validation images; the paper takes the best on its test images"}
