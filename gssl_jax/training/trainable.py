"""What of the network trains: everything, all but the patch embedding, its norms, its last blocks, or the heads alone.

A rule marks leaves of the backbone by their path; heads, projectors and prototypes always train. Frozen leaves are cut
off in the loss, so that no gradient is computed for them, and left out of the optimiser, so that clipping, decay and
moments do not know them. Batch norm keeps updating its statistics under every rule: `norm` is HPT-BN (arXiv 2103.12718,
section 3: convolutions stay, scales, shifts and statistics adapt), for a ViT its layer norms. A ViT under contrast is
more stable with its random patch embedding as it is (MoCo-v3, arXiv 2104.02057, section 4): `all_but_patch_embed`.
"""

from __future__ import annotations

from typing import Any

import jax
import optax

from gssl_jax.errors import UserError, unknown
from gssl_jax.methods.base import Method

RULES = ("all", "all_but_patch_embed", "norm", "last_k", "heads")
"""Every value `config.optim.trains` may have."""


def trained(params: Any, rule: str, blocks: int) -> Any:
    """True for the leaves that train; `params` as a method has them, with `backbone` at the top.

    Under `last_k` those are the last `blocks` blocks and the norm after them.

    Raises:
        UserError: an unknown rule, more blocks than there are, or fewer than one, and no patch embedding to leave out.
    """
    if rule not in RULES:
        raise unknown("optim.trains", rule, RULES)
    if rule == "all_but_patch_embed" and "patch_embed" not in params["backbone"]:
        raise UserError(
            "optim.trains=all_but_patch_embed and this backbone has no patch embedding: set --config.optim.trains=all"
        )
    depth = sum(name.startswith("block_") for name in params["backbone"])
    if rule == "last_k" and not 1 <= blocks <= depth:
        raise UserError(
            f"optim.trains=last_k with optim.last_blocks={blocks}, and the backbone has {depth} blocks: set "
            f"--config.optim.last_blocks to 1 up to {depth}"
        )

    def one(path: tuple[jax.tree_util.DictKey, ...], _: Any) -> bool:
        names = [str(key.key) for key in path]
        if names[0] != "backbone" or rule == "all":
            return True
        if rule == "all_but_patch_embed":
            return names[1] != "patch_embed"
        if rule == "norm":
            return any(name.startswith("norm") for name in names)
        if rule == "last_k":
            return names[1] == "norm" or (
                names[1].startswith("block_") and int(names[1].removeprefix("block_")) >= depth - blocks
            )
        return False

    return jax.tree_util.tree_map_with_path(one, params)


def limited(
    method: Method, optimiser: optax.GradientTransformation, rule: str, blocks: int
) -> tuple[Method, optax.GradientTransformation]:
    """The method and the optimiser with everything frozen that the rule does not name. Raises UserError as `trained`,
    once the parameters are known."""
    if rule not in RULES:
        raise unknown("optim.trains", rule, RULES)
    if rule == "all":
        return method, optimiser

    def loss(params: Any, *others: Any) -> Any:
        kept = jax.tree.map(
            lambda leaf, on: leaf if on else jax.lax.stop_gradient(leaf), params, trained(params, rule, blocks)
        )
        return method.loss(kept, *others)

    def labels(params: Any) -> Any:
        return jax.tree.map(lambda on: "trained" if on else "frozen", trained(params, rule, blocks))

    split = optax.partition({"trained": optimiser, "frozen": optax.set_to_zero()}, labels)
    return method._replace(loss=loss), split
