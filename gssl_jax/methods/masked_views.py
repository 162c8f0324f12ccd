"""Views of masked methods: those of `multi_views`, and what of the global ones is hidden from the student.

Letters: B images, V global views, L local views, S side of a global view, s of a local one, C channels, N tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from gssl_jax.errors import UserError, unknown
from gssl_jax.methods.base import Batches, Params
from gssl_jax.methods.multi_views import MultiViews, step_key
from gssl_jax.ops import masking
from gssl_jax.ops.keys import named, per_sample

KINDS = ("noise", "zeros", "foreign", "token", "drop")
"""How the student's view is spoilt: pixels replaced (noise, zeros, foreign content), or patches replaced by a learned
token, or patches left out."""


def _check_shares(corruption: ConfigDict) -> None:
    """Raises UserError for shares that are none."""
    for name in ("ratio", "foreign_ratio", "max_side"):
        if not 0.0 < corruption[name] < 1.0:
            raise UserError(f"method.corruption.{name}={corruption[name]} is not a share: give a value between 0 and 1")
    if not 0.0 <= corruption.foreign_probability <= 1.0:
        raise UserError(
            f"method.corruption.foreign_probability={corruption.foreign_probability} is no probability: give 0 to 1"
        )
    spread, share = corruption.spread, corruption.images
    if not 0.0 <= spread < min(corruption.ratio, 1.0 - corruption.ratio):
        raise UserError(
            f"method.corruption.spread={spread}: ratio - spread and ratio + spread have to be shares, and ratio is "
            f"{corruption.ratio}"
        )
    if not 0.0 < share <= 1.0:
        raise UserError(f"method.corruption.images={share} is not a share: give more than 0.0, at most 1.0")
    if (spread or share < 1.0) and corruption.kind != "token":
        raise UserError(
            "method.corruption.spread and .images are for method.corruption.kind=token: set them to 0.0 and 1.0"
        )


@dataclass(frozen=True)
class MaskedViews:
    """Draws the views of a batch. `settings` is `config.method`; `fill` [C] is the grey that normalises to zero."""

    settings: ConfigDict
    patch: int
    fill: tuple[float, ...]
    crops: MultiViews

    @staticmethod
    def build(config: ConfigDict) -> MaskedViews:
        """Checks the sizes and the kind of corruption. Raises UserError naming the key to change."""
        settings, patch, size = config.method, config.backbone.patch, config.data.image_size
        if settings.corruption.kind not in KINDS:
            raise unknown("method.corruption.kind", settings.corruption.kind, KINDS)
        if size % settings.corruption.align:
            raise UserError(
                f"method.corruption.align={settings.corruption.align} does not divide data.image_size={size}"
            )
        cells = (size // settings.corruption.align) ** 2
        if settings.corruption.kind == "drop" and round(settings.corruption.ratio * cells) >= cells:
            raise UserError(f"method.corruption.ratio={settings.corruption.ratio} drops all {cells} cells: lower it")
        if settings.corruption.kind in ("token", "drop") and settings.corruption.align % patch:
            raise UserError(
                f"method.corruption.kind={settings.corruption.kind} hides whole patches: set "
                f"--config.method.corruption.align={patch}"
            )
        _check_shares(settings.corruption)
        mean = tuple(config.data.mean)
        fill = mean * config.data.channels if len(mean) == 1 else mean
        return MaskedViews(settings, patch, fill, MultiViews.build(config))

    def draw(self, batches: Batches, key: Array, step: Array) -> dict[str, Array]:
        """All views of one step.

        `clean`, `student` float [B, V, S, S, C] in [0, 1], `mask` bool [B, V, S, S] (True = hidden from the
        student), `local` [B, L, s, s, C] where there are local views, `keep` int32 [B, V, n] where patches are
        dropped. Every draw belongs to (step, view, the sample's `draw`).
        """
        batch = batches["train"]
        images, index = batch["image"], batch["draw"]
        c = self.settings.corruption
        if len(images) < 2 and (c.kind == "foreign" or (c.kind in ("noise", "zeros") and c.foreign_probability)):
            raise UserError("foreign content needs a second image in the batch: raise optim.batch_size")
        views, own = self.crops.draw(batches, key, step), step_key(key, step)
        globals_ = range(self.settings.views.globals)
        spoilt = [self._hide(named(own, f"hide_{v}"), index, views["clean"][:, v]) for v in globals_]
        for name in spoilt[0]:
            views[name] = jnp.stack([s[name] for s in spoilt], axis=1)
        return views

    def _hide(self, key: Array, index: Array, clean: Array) -> dict[str, Array]:
        c, size = self.settings.corruption, clean.shape[1]
        if c.kind in ("token", "drop"):
            grid = size // c.align
            if c.kind == "drop":
                count = round(c.ratio * grid * grid)
                hidden = jax.vmap(lambda k: masking.random_mask(k, grid * grid, count))(per_sample(key, index))
                mask = masking.expand(hidden.reshape(-1, grid, grid), c.align)
                visible = (~masking.token_mask(mask, self.patch)).astype(jnp.int32)
                n = (size // self.patch) ** 2 - count * (c.align // self.patch) ** 2
                keep = jnp.sort(jax.lax.top_k(visible, n)[1], axis=-1)
                return {"student": clean, "mask": mask, "keep": keep}
            longest = max(1, int(c.max_side * grid + 1e-6))
            if c.spread or c.images < 1.0:
                shares = (c.ratio - c.spread, c.ratio + c.spread)
                cells = masking.varied_block_masks(key, index, grid, shares, c.images, longest)
            else:
                cells = masking.block_masks(key, index, grid, c.ratio, longest)
            return {"student": clean, "mask": masking.expand(cells, c.align)}
        student, mask = masking.gmml_corrupt(
            key,
            index,
            clean,
            kind=c.kind,
            ratio=c.ratio,
            max_side=c.max_side,
            align=c.align,
            foreign_probability=c.foreign_probability,
            foreign_ratio=c.foreign_ratio,
            fill=jnp.asarray(self.fill),
        )
        return {"student": student, "mask": mask}

    def tokens(self, mask: Array) -> Array:
        """The hidden patches of pixel masks bool [B, V, S, S] -> bool [B, V, N]."""
        flat = masking.token_mask(mask.reshape(-1, *mask.shape[2:]), self.patch)
        return flat.reshape(*mask.shape[:2], -1)

    def hidden(self, params: Params, views: dict[str, Array]) -> dict[str, Array]:
        """What tells the backbone which patches are hidden, where that is not in the pixels already."""
        kind = self.settings.corruption.kind
        if kind == "drop":
            return {"keep": views["keep"].reshape(-1, views["keep"].shape[-1])}
        if kind == "token":
            tokens = self.tokens(views["mask"])
            return {"mask": tokens.reshape(-1, tokens.shape[-1]), "mask_token": params["heads"]["mask_token"]}
        return {}
