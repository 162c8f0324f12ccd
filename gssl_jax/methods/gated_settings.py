"""The settings of supervised training with pretexts: what is refused, and in which space channels are exchanged."""

from __future__ import annotations

import numpy as np
from ml_collections import ConfigDict

from gssl_jax.errors import UserError, unknown
from gssl_jax.methods import mixture
from gssl_jax.ops import supervised
from gssl_jax.ops.pretexts import check as check_pretexts

LOSSES = ("ce", "ldam", "focal")
SPACES = ("pixels", "standardised")


def check(settings: ConfigDict, data: ConfigDict) -> None:
    """Raises UserError, naming the key, for what `config.method` and `config.data` cannot mean together."""
    check_pretexts(settings.pretexts.names, settings.pretexts, data.image_size, data.channels)
    mixture.check(settings.gate)
    if settings.augment.train.size != data.image_size:
        raise UserError(
            f"method.augment.train.size={settings.augment.train.size} is not data.image_size={data.image_size}: set "
            f"--config.method.augment.train.size={data.image_size}"
        )
    for key, value, known in (
        ("method.loss.kind", settings.loss.kind, LOSSES),
        ("method.loss.reweighting", settings.loss.reweighting, supervised.REWEIGHTING),
        ("method.pretexts.channels_space", settings.pretexts.channels_space, SPACES),
    ):
        if value not in known:
            raise unknown(key, value, known)
    if settings.loss.kind == "ldam" and not settings.heads.normed:
        raise UserError("method.loss.kind=ldam needs cosines: set --config.method.heads.normed=True")


def check_attack(settings: ConfigDict, data: ConfigDict) -> None:
    """Raises UserError where an attack would meet values outside [0, 1]."""
    if settings.attack.steps and exchange_space(settings, data) is not None:
        raise UserError(
            "method.pretexts.channels_space=standardised gives values outside [0, 1], which an attack cuts off: set "
            "--config.method.pretexts.channels_space=pixels or --config.method.attack.steps=0"
        )


def exchange_space(settings: ConfigDict, data: ConfigDict) -> tuple[np.ndarray, np.ndarray] | None:
    """Mean and standard deviation, float32 [C] or [1], of the space in which channels are exchanged; None for pixels.

    In pixels an exchange gives the colours of another light. After (x - mean) / std, as in the authors' code, each
    channel gets the mean and spread of the one whose place it takes; values may leave [0, 1] a little. The other
    pretexts move whole pixels, for which both spaces are one.
    """
    if settings.pretexts.channels_space == "pixels" or "channels" not in settings.pretexts.names:
        return None
    return np.asarray(data.mean, np.float32), np.asarray(data.std, np.float32)
