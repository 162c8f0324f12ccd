"""Every method by its name, one entry a file of this folder."""

from __future__ import annotations

from gssl_jax.methods import (
    byol,
    dino,
    fixmatch,
    gated,
    ibot,
    mae,
    maskcluster,
    moco,
    moco_v3,
    msn,
    simclr,
    simmim,
    supervised,
    swav,
)

METHODS = {
    "maskcluster": maskcluster.KIND,
    "gated": gated.KIND,
    "fixmatch": fixmatch.KIND,
    "moco": moco.KIND,
    "byol": byol.KIND,
    "simclr": simclr.KIND,
    "moco_v3": moco_v3.KIND,
    "mae": mae.KIND,
    "simmim": simmim.KIND,
    "dino": dino.KIND,
    "swav": swav.KIND,
    "msn": msn.KIND,
    "ibot": ibot.KIND,
    "supervised": supervised.KIND,
}
"""Every value `config.method.name` may have."""
