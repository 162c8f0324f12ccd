"""Batch statistics of other images: what a backbone gains from new data without learning anything.

HPT's base model (arXiv 2103.12718) is judged so: means and variances of batch norm are those of the target images,
every weight stays. After a short pretraining much of the gain is this and no more: the control to beat.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gssl_jax.errors import UserError, unknown
from gssl_jax.evals.features import to_unit_range
from gssl_jax.models.resnet import ResNet

STATISTICS = ("own", "refreshed")


def check_statistics(settings: Any, has_statistics: bool) -> None:
    """Raises UserError for a word `evals.statistics` that is not known, or one that the backbone cannot follow."""
    if settings.statistics not in STATISTICS:
        raise unknown("evals.statistics", settings.statistics, STATISTICS)
    if settings.statistics == "refreshed" and not has_statistics:
        raise UserError(
            "evals.statistics=refreshed renews the statistics of batch norm, which a vision transformer has not: set "
            "--config.evals.statistics=own"
        )


def refreshed(
    backbone: ResNet, variables: Mapping[str, Any], batches: Iterable[Mapping[str, np.ndarray]]
) -> dict[str, Any]:
    """`variables` with the mean over the batches of their batch statistics; no gradient, no momentum, no dropout.

    Every full batch counts equally (torch's cumulative average, `momentum=None`, with biased variances as flax keeps
    them). A batch that was padded is left out unless it is the only one; then its valid images count.

    Args:
      variables: {"params", "batch_stats"}.
      batches: {"image": uint8, uint16 or float [B, S, S, C], "valid": bool [B]}.

    Raises ValueError where there is no batch.
    """
    total, count, padded = None, 0, None
    for batch in batches:
        valid = np.asarray(batch["valid"], bool)
        if not valid.all():
            padded = batch["image"][valid]
            continue
        own = _statistics(backbone, variables, batch["image"])
        total = own if total is None else jax.tree.map(jnp.add, total, own)
        count += 1
    if total is None:
        if padded is None or not len(padded):
            raise ValueError("batch statistics need at least one image")
        total, count = _statistics(backbone, variables, padded), 1
    return {**variables, "batch_stats": jax.tree.map(lambda x: x / count, total)}


@partial(jax.jit, static_argnames=("backbone",))
def _statistics(backbone: ResNet, variables: Any, images: Any) -> Any:
    alone = backbone.clone(batch_norm_momentum=0.0)
    _, new = alone.apply(variables, to_unit_range(images), use_running_average=False, mutable=["batch_stats"])
    return new["batch_stats"]
