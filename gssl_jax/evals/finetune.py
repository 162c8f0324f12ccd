"""Fine-tuning: the whole network, or a part of it, is trained on labelled images, few or all.

A linear layer with a rate of its own stands on the feature. The defaults are HPT's semi-supervised protocol (arXiv
2103.12718): everything trains, batch norm in train mode, by SGD with momentum, drops and no decay; the paper adds up
the gradients of 4 batches of 64, here a batch is one, and so are its statistics. `protocols.vit_finetuning` has the
values that are usual for transformers. A grid of rates and schedules is chosen from on validation images; HPT reports
the best of grid and evaluations on its test images.

With `trains="heads"` the backbone runs in eval mode; under every other rule batch norm trains on, as elsewhere.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jax.sharding import Sharding

from gssl_jax.errors import UserError, unknown
from gssl_jax.evals import sgd, tuning
from gssl_jax.evals.features import extract
from gssl_jax.evals.linear import linear
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
    """Raises UserError for values of `evals.finetune` that mean nothing, and for fewer images than `classes` (0 where
    an image has several labels); with `labels` and `shares` empty the protocol is off."""
    if not settings.labels and not settings.shares:
        return
    tuning.check(settings)
    if any(not 0 < share <= 1 for share in settings.shares):
        raise UserError(f"evals.finetune.shares is {settings.shares}: give shares of every class, above 0 and up to 1")
    if not classes and (settings.shares or settings.start == "linear"):
        raise UserError(
            "evals.finetune.shares and .start=linear are for images of one class each, and these have several labels: "
            "set --config.evals.finetune.shares='()' and --config.evals.finetune.start=random"
        )
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
    if min(settings.labels, default=0) < 0:
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
    not the drops. Drops in epochs mean the same in both readings. A cosine has no drops.
    """
    found, quarter = [], ACCUMULATED if settings.drops == "code" else 1
    stepwise = settings.schedule == "steps"
    if settings.steps:
        drops = tuple(place // quarter for place in settings.milestones) if stepwise else ()
        found.append(Schedule(f"{settings.steps} steps", settings.steps, drops))
    if settings.epochs:
        epoch = max(1, images // settings.batch_size)
        drops = tuple(place * epoch for place in settings.epoch_milestones) if stepwise else ()
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
    regression: Mapping[str, Any],
    feature: str,
    classes: Sequence[str],
    seed: int,
    resamples: int,
    sharding: Sharding | None = None,
) -> dict[str, dict[str, Any]]:
    """The entry `finetune_<name>/top1` of the labelled images `pools`, one for each draw; of several labels an image
    `/map`, `/auroc`, `/f1_macro` and `/f1_micro`.

    Every draw trains the whole grid, chooses by the validation images and shows the test images to the chosen network
    alone. With one draw the interval is over test images, with more of them Student's t over the draws.

    Args:
      encode: the backbone in eval mode, (variables, images) -> features by name; one object for one program.
      variables: {"params"} and, for a ResNet, {"batch_stats"}: where every training starts.
      settings: `config.evals.finetune`.
      regression: options of `linear.linear`, for heads that start from its solution.
    """
    network = tuning.with_drop_path(backbone, settings.drop_path)
    protocol = _protocol(settings, feature, pools, sgd.metric_of(pools[0].labels))
    grids, chosen, scores = [], [], []
    options: dict[str, Any] = {"classes": classes, "seed": seed, "resamples": resamples}
    labels = pools[0].labels

    def called(entries: sgd.Entries) -> sgd.Entries:
        return {f"finetune_{name}/{measure}": found for measure, found in entries.items()}

    for draw, pool in enumerate(pools):
        head = None
        if settings.start == "linear":
            head = solved_head(encode, variables, pool, feature, len(classes), seed, regression, settings.batch_size)
        tuned = _grid(
            network, encode, variables, pool, validation, settings, feature, len(classes), (seed, draw), sharding, head
        )
        usable = [point for point in tuned if point.score is not None]
        grids.append({point.name: point.score for point in tuned})
        if not usable:
            problem = "the loss was not finite anywhere on the grid: lower evals.finetune.learning_rates"
            return called(sgd.without_value(labels, protocol | {"grid": grids}, problem))
        best = max(usable, key=lambda point: point.score or 0.0)  # the first of equals
        chosen.append(best.name)
        asked = extract(encode, test(), (feature,), variables=best.variables)
        scores.append(np.asarray(_decide(best.head, asked[feature])))
        labels = asked["label"]
    protocol |= {"grid": grids, "chosen": chosen, "test_images": len(labels)}
    if len(pools) == 1:
        return called(sgd.scored(scores[0], labels, protocol=protocol, **options))
    return called(sgd.over_draws(scores, labels, protocol))


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
    head: Any,
) -> list[Tuned]:
    def judged(state: Any, head: Any) -> float | None:
        held = extract(encode, validation(), (feature,), variables=state)
        scores = np.asarray(_decide(head, held[feature]))
        return sgd.score_of(scores, held["label"]) if np.isfinite(scores).all() else None

    points = itertools.product(settings.learning_rates, schedules(settings, len(pool.labels)))
    return [
        tune(backbone, variables, pool, judged, settings, rate, plan, feature, classes, seed, sharding, head)
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
    head: Any = None,
) -> Tuned:
    """Trains one grid point; `judged(variables, head)` is its validation score, None where that is not finite.

    It begins with `head`, or with a random one. Of the states every `settings.every` steps (0 = the end only) the first
    of the best is kept.
    """
    key = jax.random.fold_in(jax.random.key(seed[0]), seed[1])
    image = pool.pick(np.zeros(1, np.int64))[0]
    size = jax.eval_shape(lambda v: backbone.apply(v, image / np.float32(255))[feature], variables).shape[-1]
    params = {"backbone": variables["params"], "head": head or sgd.new_head(named(key, "head"), size, classes)}
    rule = tuning.rule_of(settings)
    moments, rest = tuning.moments(rule).init(params), {n: v for n, v in variables.items() if n != "params"}
    rows, name = sgd.rows_of(len(pool.labels), settings.batch_size, seed), f"rate {rate:g}, {plan.name}"
    places = {plan.steps} | set(range(settings.every or plan.steps, plan.steps, settings.every or plan.steps))
    scores: list[float] = []
    states: dict[int, tuple[Any, Any]] = {}
    options = {"backbone": backbone, "feature": feature, "scale": tuple(settings.scale), "flip": settings.flip}
    for step in range(plan.steps):
        batch = jax.device_put(pool.pick(next(rows)), sharding)
        now = tuning.rate_at(step, rate, settings, plan.steps, plan.milestones)
        params, moments, rest = _step(
            params, moments, rest, *batch, jax.random.fold_in(key, step), now, rule=rule, **options
        )
        if step + 1 in places:
            score = judged({"params": params["backbone"], **rest}, params["head"])
            if score is None:
                return Tuned(name, None, None, None)
            states[len(scores)] = ({"params": params["backbone"], **rest}, params["head"])
            scores.append(score)
            best = best_of(scores, list(states))
            states = {best: states[best]}
    return Tuned(name, *states[best], scores[best])


@partial(jax.jit, static_argnames=("rule", "backbone", "feature", "scale", "flip"))
def _step(
    params: Any,
    moments: Any,
    rest: Any,
    images: Array,
    labels: Array,
    key: Array,
    rate: Array,
    *,
    rule: tuning.Rule,
    backbone: Backbone,
    feature: str,
    scale: tuple[float, float],
    flip: float,
) -> tuple[Any, Any, Any]:
    views = sgd.cropped(images, named(key, "crop"), scale, flip)
    rngs = {name: named(key, name) for name in ("dropout", "drop_path")}

    def loss(params: Any) -> tuple[Array, Any]:
        params = tuning.frozen(params, rule)
        own, training = {"params": params["backbone"], **rest}, rule.trains != "heads"
        out, new = backbone.apply(own, views, train=training, rngs=rngs, mutable=["batch_stats"] if training else [])
        return sgd.class_loss(sgd.decide(params["head"], out[feature]), labels, rule.label_smoothing), new

    gradients, new = jax.grad(loss, has_aux=True)(params)
    params, moments = tuning.moved(params, moments, gradients, rate, rule, backbone)
    return params, moments, {**rest, **new}


def solved_head(
    encode: Encode,
    variables: Any,
    pool: sgd.Pool,
    feature: str,
    classes: int,
    seed: int,
    regression: Mapping[str, Any],
    batch_size: int,
) -> dict[str, Array]:
    """The head of the logistic regression on the frozen features of a pool, images as they are, without crops."""

    def batches() -> Iterator[Mapping[str, np.ndarray]]:
        for start in range(0, len(pool.labels), batch_size):
            rows = np.arange(start, start + batch_size)
            images, labels = pool.pick(np.minimum(rows, len(pool.labels) - 1))
            yield {"image": images, "label": labels, "valid": (rows < len(pool.labels)) & (labels >= 0)}

    known = extract(encode, batches(), (feature,), variables=variables)
    features, labels = known[feature], known["label"]
    found = linear(features, labels, features[:1], labels[:1], classes=classes, seed=seed, **regression)
    return found.classifier._asdict()


_decide = jax.jit(sgd.decide)


def _protocol(settings: Any, feature: str, pools: Sequence[sgd.Pool], metric: str) -> dict[str, Any]:
    names = ("start", "schedule", "warmup", "drop_path", "batch_size", "factor", "flip", "drops", "validation", "every")
    protocol: dict[str, Any] = {"feature": feature, "metric": metric, "draws": settings.draws}
    protocol |= {name: settings[name] for name in names} | tuning.rule_of(settings)._asdict()
    protocol |= {"labels": [len(pool.labels) for pool in pools], "scale": list(settings.scale)}
    plans = schedules(settings, len(pools[0].labels))
    protocol |= {"schedules": {plan.name: {"steps": plan.steps, "drops": list(plan.milestones)} for plan in plans}}
    protocol |= {"batch norm": "statistics of the whole batch", "images": pools[0].images}
    return protocol | {"choice": "validation images; the paper takes the best on its test images"}
