"""Which network a weights file holds, from the shapes in it, and what its export wrote beside it about its images."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors

from gssl_jax.errors import UserError, unknown
from gssl_jax.interop.files import read_weights
from gssl_jax.interop.layouts import IMAGENET_MEAN, IMAGENET_STD, Layout, detect
from gssl_jax.models.resnet import ARCHITECTURES

HEAD_WIDTH = 64
"""Width of an attention head in published transformers; a file does not say how many heads its network has."""

STEM_SIDES = {"cifar": 3, "imagenet": 7}


class Known(NamedTuple):
    """What is known of a network before its weights are loaded.

    `backbone` is the group of a configuration (without dtype, weights and allow); `image_size` the side that its
    positions were made for, 0 where nothing says it, `shorter_side` what images are resized to before they are cut;
    `mean`, `std` empty where nothing says them; `said` in words where all of this is from.
    """

    backbone: dict[str, Any]
    layout: str
    image_size: int
    shorter_side: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    contrast_normalise: bool
    said: tuple[str, ...]


def inferred(path: Path, heads: int = 0) -> Known:
    """The network in a file. `heads` replaces what is told of its attention heads elsewhere, 0 = nothing does.

    Raises UserError for a file that cannot be read or is of no known layout, and for a network that cannot be built.
    """
    try:
        named = detect(stored := read_weights(path)[1])
        shapes = {leaf: stored[name].shape for name, (leaf, _, _) in named.parts.items()}
        facts = written_facts(path)
        vit = named.layout.kind == "vit"
        told = heads or facts.get("timm", {}).get("arguments", {}).get("num_heads", 0)
        network = _vit(shapes, named.layout, told) if vit else _resnet(shapes)
    except UserError as problem:
        raise problem if str(path) in str(problem) else UserError(f"{path}: {problem}") from problem
    side = _native_side(shapes, network["patch"], network["registers"]) if vit else 0
    said = [f"layout {named.layout.name}"]
    if vit and not told:
        said.append(f"{network['heads']} heads by width / {HEAD_WIDTH}")
    images = facts.get("images", {})
    first = shapes["patch_embed/kernel" if vit else "stem/kernel"]
    mean, std = (tuple(images.get(name, ())) for name in ("mean", "std"))
    if images:
        said.append("its export says what images it wants")
    elif named.layout.mean:
        mean, std = named.layout.mean, named.layout.std
        said.append(f"mean and std of {named.layout.name}")
    if "layer_norm_eps" in facts.get("timm", {}):
        network["layer_norm_eps"] = facts["timm"]["layer_norm_eps"]
    return Known(
        network,
        named.layout.name,
        images.get("size", side),
        images.get("shorter_side", 0),
        first[1],
        mean,
        std,
        images.get("contrast_normalise", False),
        tuple(said),
    )


def with_imagenet(known: Known) -> Known:
    """`known` with ImageNet's mean and deviation where nothing says them, and a word about it."""
    if known.mean:
        return known
    words = (*known.said, "mean and std of ImageNet since nothing says them")
    return known._replace(mean=IMAGENET_MEAN, std=IMAGENET_STD, said=words)


def written_facts(path: Path) -> dict[str, Any]:
    """What `gssl_jax.export` wrote into FILE.json beside a file, or into a safetensors file itself; else empty."""
    beside = path.with_name(f"{path.name}.json")
    if beside.is_file():
        try:
            facts = json.loads(beside.read_text(encoding="utf-8"))
        except ValueError as problem:
            raise UserError(f"{beside} is not readable JSON ({problem}): export again, or take it away") from problem
        return facts if isinstance(facts, dict) and isinstance(facts.get("images"), dict) else {}
    if path.suffix != ".safetensors":
        return {}
    with safetensors.safe_open(path, "numpy") as file:
        held = file.metadata() or {}
    return {name: json.loads(held[name]) for name in ("images", "timm")} if {"images", "timm"} <= set(held) else {}


def _vit(shapes: Mapping[str, tuple[int, ...]], layout: Layout, heads: int) -> dict[str, Any]:
    first = shapes["patch_embed/kernel"]
    if len(first) != 4:
        raise UserError(
            f"its patches are embedded by an array of shape {list(first)}: expected [width, channels, p, p]"
        )
    width, patch = first[0], first[-1]
    depth = 1 + max((int(leaf.split("/")[0][6:]) for leaf in shapes if leaf.startswith("block_")), default=-1)
    if "block_0/fc1/bias" not in shapes:
        raise UserError("its blocks have no MLP of two layers (fc1, fc2), as networks with gated ones have not")
    if width % (heads or HEAD_WIDTH):
        raise UserError(
            f"its width {width} is not divisible by {f'{heads} heads' if heads else HEAD_WIDTH}: say by --heads=N how "
            "many attention heads it has"
        )
    return {
        "kind": "vit",
        "patch": patch,
        "width": width,
        "depth": depth,
        "heads": heads or width // HEAD_WIDTH,
        "mlp_ratio": shapes["block_0/fc1/bias"][0] / width,
        "registers": shapes["registers"][-2] if "registers" in shapes else 0,
        "positions": "learned",  # fixed ones are read as they stand in the file
        "drop_path": 0.0,
        "layer_scale": 1e-5 if "block_0/scale1" in shapes else 0.0,  # initial value only
        "layer_norm_eps": layout.layer_norm_eps,
    }


def _native_side(shapes: Mapping[str, tuple[int, ...]], patch: int, registers: int) -> int:
    """Pixels a side for the grid of positions in the file, whatever it has in front of it; 0 without positions."""
    count = shapes["positions"][-2] if "positions" in shapes else 0
    for extra in (1, 0, 1 + registers):
        if (side := math.isqrt(max(0, count - extra))) and side * side == count - extra:
            return side * patch
    return 0


def _resnet(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The network of `ARCHITECTURES` with these blocks and this stem."""
    stem = shapes["stem/kernel"]
    blocks = 1 + max((int(leaf.split("/")[0][6:]) for leaf in shapes if leaf.startswith("block_")), default=-1)
    last = [leaf for leaf in shapes if leaf.startswith(f"block_{blocks - 1}/conv")]
    block = "bottleneck" if f"block_{blocks - 1}/conv3/kernel" in last else "basic"
    width = shapes[f"block_{blocks - 1}/conv2/kernel"][0]
    for name, form in ARCHITECTURES.items():
        found = (form["block"], sum(form["depths"]), form["widths"][-1])
        if found == (block, blocks, width) and form.get("stem_width", 16) == stem[0]:
            kind = next((word for word, side in STEM_SIDES.items() if side == stem[-1]), "")
            if not kind:
                raise UserError(f"its stem is {stem[-2]} x {stem[-1]} pixels: {name} has one of 3 or of 7 here")
            return {"kind": "resnet", "name": name, "stem": kind, "dropout": 0.0, "batch_norm_momentum": 0.9}
    raise UserError(
        f"it is a ResNet of {blocks} {block} blocks that ends at width {width}: known are "
        f"{', '.join(name for name, form in ARCHITECTURES.items() if form['block'] != 'preactivation')}"
    )


def named_network(name: str, vits: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    """The group `backbone` of an architecture by name: one of `vits` or a ResNet. Raises UserError for another."""
    if name in vits:
        rest = dict(mlp_ratio=4.0, registers=0, positions="learned", drop_path=0.0, layer_scale=0.0)
        return {"kind": "vit", **vits[name], **rest, "layer_norm_eps": 1e-6}
    if name in ARCHITECTURES:
        stem = ARCHITECTURES[name].get("stem", "cifar")
        return {"kind": "resnet", "name": name, "stem": stem, "dropout": 0.0, "batch_norm_momentum": 0.9}
    raise unknown("architecture", name, [*vits, *ARCHITECTURES])
