"""Every method by its name, one entry a file of this folder."""

from __future__ import annotations

from gssl_jax.methods import byol, fixmatch, gated, mae, maskcluster, moco, moco_v3, simclr, simmim, supervised

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
    "supervised": supervised.KIND,
}
"""Every value `config.method.name` may have."""
