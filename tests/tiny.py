"""The smallest MaskCluster there is, and methods that compile in no time: what the tests of several files share."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from gssl_jax.methods import maskcluster
from gssl_jax.methods.base import Clock, Method
from gssl_jax.models.build import build_backbone

ROOT = Path(__file__).parents[1]

QUICK = {"xla_backend_optimization_level": 0}
"""`compiler_options` for programs that run a few times on toy sizes: half the time to compile."""

SIZES = {
    "data.image_size": 12,
    "data.channels": 1,
    "data.canvas": 16,
    "data.crop": "device",
    "data.contrast_normalise": False,
    "data.mean": (0.5,),
    "data.std": (0.25,),
    "backbone.patch": 4,
    "backbone.width": 16,
    "backbone.depth": 1,
    "backbone.heads": 2,
    "backbone.mlp_ratio": 2.0,
    "backbone.registers": 0,
    "backbone.positions": "learned",
    "backbone.drop_path": 0.0,
    "backbone.layer_scale": 0.0,
    "backbone.layer_norm_eps": 1e-6,
    "backbone.dtype": "float32",
}

METHOD = {
    "method.views.globals": 2,
    "method.views.locals": 0,
    "method.corruption.kind": "noise",
    "method.corruption.ratio": 0.5,
    "method.corruption.align": 4,
    "method.corruption.max_side": 0.5,
    "method.corruption.foreign_probability": 0.5,
    "method.corruption.foreign_ratio": 0.3,
    "method.projector.layers": 2,
    "method.projector.hidden": 16,
    "method.projector.output": 8,
    "method.projector.shared": False,
    "method.projector.norm": "none",
    "method.prototypes.cls": 6,
    "method.prototypes.patch": 10,
    "method.collapse.cls": "sinkhorn",
    "method.collapse.patch": "sinkhorn",
    "method.temperature.student": 0.1,
    "method.temperature.teacher_start": 0.04,
    "method.temperature.teacher_end": 0.07,
    "method.temperature.teacher_warmup": 30.0,
    "method.sinkhorn.eps": 0.05,
    "method.sinkhorn.iterations": 3,
    "method.sinkhorn.positionwise": False,
    "method.memax.weight": 1.0,
    "method.memax.sharpen": 0.25,
    "method.centring.momentum": 0.9,
    "method.loss.cls": 1.0,
    "method.loss.patch": 1.0,
    "method.loss.reconstruction": 1.0,
    "method.loss.same_view": False,
    "method.loss.patch_tokens": "all",
    "method.reconstruction.layers": 1,
    "method.momentum.start": 0.9,
    "method.momentum.end": 1.0,
    "method.momentum.curve": "cosine",
    "method.health_rows": 4096,
}

PLAIN_VIEW = {
    "scale": (0.3, 1.0),
    "flip": 0.5,
    "jitter.probability": 0.0,
    "grey": 0.0,
    "blur.probability": 0.0,
    "solarise.probability": 0.0,
}


def recipe():
    """The module configs/maskcluster_vit.py."""
    spec = importlib.util.spec_from_file_location("maskcluster_vit", ROOT / "configs" / "maskcluster_vit.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tiny_config(**changes) -> ConfigDict:
    """12-pixel grey images in 3 x 3 patches, one block of width 16, crops and flips only.

    `changes` are flat keys with `__` for the dot: `method__collapse__cls="memax"`.
    """
    config = recipe().get_config("tiny")
    views = {
        f"method.augment.{name}.{key}": value
        for name, size in (("global_1", 12), ("global_2", 12), ("local", 8))
        for key, value in {**PLAIN_VIEW, "size": size}.items()
    }
    flat = {name.replace("__", "."): value for name, value in changes.items()}
    config.update_from_flattened_dict({**SIZES, **METHOD, **views, **flat})
    return config


def tiny_method(total: int = 10, unit: int = 1, **changes) -> Method:
    """MaskCluster of `tiny_config`."""
    config = tiny_config(**changes)
    return maskcluster.build(config, build_backbone(config), Clock(total, unit))


def tiny_batch(size: int = 8, first: int = 0, channels: int = 1) -> dict[str, dict[str, np.ndarray]]:
    """One batch of random canvases, 16 pixels a side; image i depends on its index alone."""
    index = np.arange(first, first + size, dtype=np.int32)
    images = [np.random.default_rng(i).integers(0, 256, (1, 16, 16, channels), np.uint8) for i in index]
    return {"train": {"image": np.stack(images), "index": index, "draw": index, "valid": np.ones(size, bool)}}


def tiny_crops(size: int = 8, first: int = 0, channels: int = 1) -> dict[str, dict[str, np.ndarray]]:
    """The same for `data.crop = "host"`: two global crops of 12 pixels and two local ones of 8."""
    batch = tiny_batch(size, first, channels)["train"]
    canvas = batch["image"][:, 0]
    crops = np.stack([canvas[:, v : v + 12, 2 * v : 2 * v + 12] for v in range(2)], axis=1)
    local = np.stack([canvas[:, v : v + 8, 8 * v : 8 * v + 8] for v in range(2)], axis=1)
    return {"train": {**batch, "image": crops, "local": local}}


def noise(shape, seed: int, scale: float) -> jax.Array:
    """Numbers in [-scale, scale]; NumPy has frozen this generator, so they are the same under every version."""
    return jnp.asarray(np.random.RandomState(seed).uniform(-scale, scale, shape), jnp.float32)


def filled(shapes, seed: int, scale: float = 1.0):
    """A tree of `noise` in the shapes of another one: parameters without compiling their initialisers."""
    found, tree = jax.tree.flatten(shapes)
    return jax.tree.unflatten(tree, [noise(x.shape, seed + i, scale) for i, x in enumerate(found)])


def leaves(tree) -> dict[str, np.ndarray]:
    """Path -> array, keys as their data, so that two trees can be compared leaf by leaf."""

    def plain(x):
        return np.asarray(jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x)

    return {jax.tree_util.keystr(path): plain(x) for path, x in jax.tree.leaves_with_path(tree)}
