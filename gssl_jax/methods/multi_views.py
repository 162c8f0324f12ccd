"""Several augmented views of each image: global ones of the size of the images, and smaller local ones.

Letters: B images, V global views, L local views, S side of a global view, s of a local one, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from gssl_jax.errors import UserError
from gssl_jax.methods.base import Batches, host_crop
from gssl_jax.ops.augment import augment_batch
from gssl_jax.ops.keys import named


def host_views(config: ConfigDict) -> dict[str, list[dict[str, Any]]]:
    """The global and the local views, where the host cuts them."""
    views, presets = config.method.views, config.method.augment
    return {
        "global": [host_crop(presets[f"global_{min(v, 1) + 1}"]) for v in range(views["globals"])],
        "local": [host_crop(presets["local"])] * views["locals"],
    }


def step_key(key: Array, step: Array) -> Array:
    """The key of everything that a step draws for the stream `train`."""
    return jax.random.fold_in(named(key, "train"), step)


@dataclass(frozen=True)
class MultiViews:
    """Draws the views of a batch; `settings` is `config.method` (groups `views` and `augment`)."""

    settings: ConfigDict
    host_crops: bool
    contrast_normalise: bool

    @staticmethod
    def build(config: ConfigDict) -> MultiViews:
        """Checks the sizes. Raises UserError naming the key to change."""
        settings, size = config.method, config.data.image_size
        for name in ("global_1", "global_2")[: settings.views.globals]:
            if settings.augment[name].size != size:
                raise UserError(
                    f"method.augment.{name}.size={settings.augment[name].size} is not data.image_size={size}: set "
                    f"--config.method.augment.{name}.size={size}"
                )
        patch = config.backbone.patch if config.backbone.kind == "vit" else 1
        if settings.views.locals and settings.augment["local"].size % patch:
            raise UserError(
                f"method.augment.local.size={settings.augment['local'].size} is not a multiple of the "
                f"patch ({patch} pixels)"
            )
        return MultiViews(settings, config.data.crop == "host", config.data.contrast_normalise)

    def draw(self, batches: Batches, key: Array, step: Array) -> dict[str, Array]:
        """`clean` float [B, V, S, S, C] in [0, 1], and `local` [B, L, s, s, C] where there are local views.

        Every draw belongs to (step, view, the sample's `draw`).
        """
        batch, own, counts = batches["train"], step_key(key, step), self.settings.views
        globals_ = [(f"global_{v}", f"global_{min(v, 1) + 1}") for v in range(counts["globals"])]
        views = {"clean": self._stacked(own, batch, batch["image"], globals_)}
        if counts["locals"]:
            source = batch["local"] if self.host_crops else batch["image"]
            views["local"] = self._stacked(
                own, batch, source, [(f"local_{v}", "local") for v in range(counts["locals"])]
            )
        return views

    def _stacked(self, key: Array, batch: Any, images: Array, views: list[tuple[str, str]]) -> Array:
        """The named views, each by a group of `method.augment`, side by side."""
        own = {"crop": not self.host_crops, "contrast_normalise": self.contrast_normalise}
        drawn = []
        for place, (name, preset) in enumerate(views):
            settings = dict(self.settings.augment[preset].items()) | own
            shown = images[:, place if self.host_crops else 0]
            drawn.append(augment_batch(named(key, name), batch["draw"], shown, settings))
        return jnp.stack(drawn, axis=1)
