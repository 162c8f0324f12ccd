"""HPT's linear protocol (arXiv 2103.12718): a linear layer on a frozen backbone, trained by SGD on random crops.

The backbone runs in eval mode, on its running statistics. The validation images are scored every so many iterations and
the layer of the best of the later half of these evaluations is the one that the test images are shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Sharding

from gssl_jax.errors import UserError
from gssl_jax.evals import sgd
from gssl_jax.evals.features import extract
from gssl_jax.ops.keys import named

Encode = Callable[[Any, Array], Mapping[str, Array]]


class Trained(NamedTuple):
    """A repeat: the layer of the best validation evaluation, the iterations of all evaluations and their scores; the
    layer is None where the loss was not finite."""

    head: dict[str, Array] | None
    iterations: list[int]
    curve: list[float]
    chosen: int


def check(settings: Any) -> None:
    """Raises UserError for values of `evals.sgd_linear` that mean nothing; with `steps` 0 the protocol is off."""
    if settings.steps == 0:
        return
    for name in ("steps", "batch_size", "every", "seeds"):
        if settings[name] < 1:
            raise UserError(f"evals.sgd_linear.{name} is {settings[name]}: set it to 1 or more")
    if settings.every > settings.steps:
        raise UserError(
            f"evals.sgd_linear.every is {settings.every} and there are {settings.steps} steps: no layer would be "
            f"evaluated; set --config.evals.sgd_linear.every={max(1, settings.steps // 20)}"
        )
    if not 0 < settings.validation < 1:
        raise UserError(f"evals.sgd_linear.validation is {settings.validation}: give a share between 0 and 1")
    if settings.learning_rate <= 0:
        raise UserError(f"evals.sgd_linear.learning_rate is {settings.learning_rate}: give a rate above 0")


def sgd_linear(
    encode: Encode,
    variables: Any,
    train: sgd.Pool,
    validation: sgd.Batches,
    test: sgd.Batches,
    *,
    settings: Any,
    feature: str,
    classes: Sequence[str],
    seed: int,
    resamples: int,
    sharding: Sharding | None = None,
) -> dict[str, dict[str, Any]]:
    """The entry `linear_sgd/top1`, or `linear_sgd/map`, `/auroc`, `/f1_macro` and `/f1_micro` of several labels.

    Args:
      encode: (variables, images float32 [B, S, S, C] in [0, 1]) -> features by name; one object for one program.
      settings: `config.evals.sgd_linear`; `seeds` repeats differ in the layer's start, in order and in crops.
      feature: what the layer sees, [B, D].
      sharding: places a training batch on several devices.

    With one repeat the interval is over test images, with more of them Student's t over the repeats. A loss that is not
    finite gives an entry without a value: rate 30 suits the scale of MoCo's features and not that of all.
    """
    held, asked = (extract(encode, part(), (feature,), variables=variables) for part in (validation, test))
    if not all(np.isfinite(part[feature]).all() for part in (held, asked)):
        return _named(sgd.without_value(train.labels, {"feature": feature}, "features are not finite"))
    runs = [
        train_head(encode, variables, train, held, settings, feature, len(classes), (seed, k), sharding)
        for k in range(settings.seeds)
    ]
    protocol = _protocol(settings, feature, train, held, runs, len(classes))
    broken = [run for run in runs if run.head is None]
    if broken:
        problem = "the loss was not finite: lower evals.sgd_linear.learning_rate"
        return _named(sgd.without_value(train.labels, protocol, problem))
    scores = [np.asarray(_decide(run.head, asked[feature])) for run in runs]
    if len(runs) == 1:
        options: dict[str, Any] = {"classes": classes, "seed": seed, "resamples": resamples}
        return _named(sgd.scored(scores[0], asked["label"], protocol=protocol, **options))
    protocol |= {"test_images": len(asked["label"]), "metric": sgd.metric_of(train.labels)}
    return _named(sgd.over_draws(scores, asked["label"], protocol))


def _named(entries: sgd.Entries) -> sgd.Entries:
    return {f"linear_sgd/{measure}": found for measure, found in entries.items()}


def train_head(
    encode: Encode,
    variables: Any,
    train: sgd.Pool,
    held: Mapping[str, np.ndarray],
    settings: Any,
    feature: str,
    classes: int,
    seed: tuple[int, int],
    sharding: Sharding | None,
) -> Trained:
    """One repeat; `held` holds the validation images' features and labels."""
    key = jax.random.fold_in(jax.random.key(seed[0]), seed[1])
    head = sgd.new_head(named(key, "head"), held[feature].shape[1], classes)
    moments = jax.tree.map(jnp.zeros_like, head)
    known = jnp.asarray(held[feature])
    iterations: list[int] = []
    curve: list[float] = []
    heads: dict[int, dict[str, Array]] = {}
    later = _later_half(settings.steps // settings.every)
    options = {"encode": encode, "feature": feature, "scale": tuple(settings.scale), "flip": settings.flip}
    rows = sgd.rows_of(len(train.labels), settings.batch_size, seed)
    for step in range(settings.steps):
        images, labels = train.pick(next(rows))
        rate = sgd.rate_at(step, settings.learning_rate, settings.milestones, settings.factor)
        batch = jax.device_put((images, labels), sharding)
        head, moments = _step(
            head, moments, variables, *batch, jax.random.fold_in(key, step), rate, settings.momentum, **options
        )
        if (step + 1) % settings.every == 0:
            scores = np.asarray(_decide(head, known))
            if not np.isfinite(scores).all():
                return Trained(None, iterations, curve, -1)
            if len(curve) in later:
                heads[len(curve)] = head
            iterations.append(step + 1)
            curve.append(sgd.score_of(scores, held["label"]))
            heads = {k: heads[k] for k in (best_of(curve, list(heads)),)} if heads else {}
    chosen = best_of(curve, list(later))
    return Trained(heads[chosen], iterations, curve, chosen)


def best_of(curve: Sequence[float], places: Sequence[int]) -> int:
    """The first of the best evaluations among `places`; NaN is worse than any."""
    return max(places, key=lambda k: (-np.inf if np.isnan(curve[k]) else curve[k], -k))


def _later_half(count: int) -> range:
    """The evaluations, counted from 0, whose number exceeds half of `count`; the last one where there is none.

    HPT's script means to compare numbers and compares text: of 50 evaluations it takes 3 to 9 too. Here numbers are.
    """
    return range(min(count // 2 + 1, count - 1), count)


@partial(jax.jit, static_argnames=("encode", "feature", "scale", "flip"))
def _step(
    head: Any,
    moments: Any,
    variables: Any,
    images: Array,
    labels: Array,
    key: Array,
    rate: Array,
    momentum: float,
    *,
    encode: Encode,
    feature: str,
    scale: tuple[float, float],
    flip: float,
) -> tuple[Any, Any]:
    features = jax.lax.stop_gradient(encode(variables, sgd.cropped(images, key, scale, flip))[feature])
    gradients = jax.grad(lambda h: sgd.class_loss(sgd.decide(h, features), labels))(head)
    return sgd.moved(head, moments, gradients, jax.tree.map(lambda _: rate, head), momentum)


_decide = jax.jit(sgd.decide)


def _protocol(
    settings: Any, feature: str, train: sgd.Pool, held: Mapping[str, np.ndarray], runs: Sequence[Trained], classes: int
) -> dict[str, Any]:
    names = ("steps", "batch_size", "learning_rate", "momentum", "factor", "every", "flip", "seeds")
    protocol: dict[str, Any] = {"feature": feature, "preprocessing": "none", **{n: settings[n] for n in names}}
    protocol |= {"milestones": list(settings.milestones), "scale": list(settings.scale), "images": train.images}
    protocol |= {"train_images": len(train.labels), "validation_images": len(held["label"])}
    protocol |= {"parameters": (held[feature].shape[1] + 1) * classes, "chosen": "best validation of the later half"}
    repeats = [[None if np.isnan(score) else score for score in run.curve] for run in runs]
    length = min(map(len, repeats))  # a repeat that diverged is shorter
    mean = [float(np.mean([run.curve[k] for run in runs])) for k in range(length)]
    curve = {"steps": runs[0].iterations[:length], "validation": [None if np.isnan(one) else one for one in mean]}
    protocol |= {"curve": curve | {"repeats": repeats}}
    return protocol | {"chosen_iterations": [r.iterations[r.chosen] if r.head is not None else None for r in runs]}
