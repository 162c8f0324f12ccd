"""How releases name their weights: one row of `LAYOUTS` each, and a function from their names to our leaves.

A leaf is a path in the variables of a backbone, `block_3/attn/qkv/kernel`; running statistics end in `mean` and `var`.
To read one more release, add a row, and a function of file names where its scheme is new.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

from gssl_jax.errors import UserError, unknown

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Bicubic(NamedTuple):
    """How a release resizes its positions: Keys' `a`, whether the filter widens when shrinking, and what is added to
    the new side before the scale is taken from it (DINO's guard against rounding, which shifts the samples)."""

    a: float
    antialias: bool
    offset: float = 0.0


TORCH = Bicubic(-0.75, False)
ANTIALIASED = Bicubic(-0.5, True)  # torch changes `a` with antialias=True, as Pillow has it
DINO = Bicubic(-0.75, False, 0.1)

Part = tuple[str, int, int]
"""(leaf, which part of it, of how many): three files make up one leaf where q, k and v are stored apart."""

Naming = Callable[[Collection[str]], dict[str, Part]]
"""All names of a file (prefix taken off) -> our leaf for every one that has one."""

AFFINE = {"weight": "scale", "bias": "bias"}
LINEAR = {"weight": "kernel", "bias": "bias"}
BATCH_NORM = {**AFFINE, "running_mean": "mean", "running_var": "var"}


def matched(names: Iterable[str], rules: list[tuple[str, Callable[..., Part]]]) -> dict[str, Part]:
    """The part for every name that one of the regular expressions matches as a whole; groups become arguments."""
    found = {}
    for name in names:
        for pattern, part in rules:
            if match := re.fullmatch(pattern, name):
                found[name] = part(*match.groups())
                break
    return found


def whole(leaf: str) -> Part:
    """A leaf that is stored in one piece."""
    return leaf, 0, 1


def timm_vit(names: Collection[str]) -> dict[str, Part]:
    """timm's VisionTransformer, which DINO, DINOv2, MAE and MoCo-v3 share; blocks may stand in chunks (DINOv2)."""
    block = r"blocks\.(?:\d+\.)?(\d+)\."
    return matched(
        names,
        [
            (r"cls_token", lambda: whole("cls_token")),
            (r"pos_embed", lambda: whole("positions")),
            (r"reg_token|register_tokens", lambda: whole("registers")),
            (r"patch_embed\.proj\.(weight|bias)", lambda w: whole(f"patch_embed/{LINEAR[w]}")),
            (r"norm\.(weight|bias)", lambda w: whole(f"norm/{AFFINE[w]}")),
            (block + r"(norm[12])\.(weight|bias)", lambda i, n, w: whole(f"block_{i}/{n}/{AFFINE[w]}")),
            (block + r"attn\.(qkv|proj)\.(weight|bias)", lambda i, n, w: whole(f"block_{i}/attn/{n}/{LINEAR[w]}")),
            (block + r"mlp\.(fc[12])\.(weight|bias)", lambda i, n, w: whole(f"block_{i}/{n}/{LINEAR[w]}")),
            (block + r"ls([12])\.gamma", lambda i, n: whole(f"block_{i}/scale{n}")),
        ],
    )


QKV = {"query": 0, "key": 1, "value": 2}


def hugging_face_vit(names: Collection[str]) -> dict[str, Part]:
    """`ViTModel` and `Dinov2Model` of transformers, which differ in the names of norms, layer scale and the MLP."""
    layer, wb = r"encoder\.layer\.(\d+)\.", r"\.(weight|bias)"
    return matched(
        names,
        [
            (r"embeddings\.cls_token", lambda: whole("cls_token")),
            (r"embeddings\.position_embeddings", lambda: whole("positions")),
            (r"embeddings\.register_tokens", lambda: whole("registers")),
            (r"embeddings\.patch_embeddings\.projection" + wb, lambda w: whole(f"patch_embed/{LINEAR[w]}")),
            (r"layernorm" + wb, lambda w: whole(f"norm/{AFFINE[w]}")),
            (layer + r"norm([12])" + wb, lambda i, n, w: whole(f"block_{i}/norm{n}/{AFFINE[w]}")),
            (layer + "layernorm_before" + wb, lambda i, w: whole(f"block_{i}/norm1/{AFFINE[w]}")),
            (layer + "layernorm_after" + wb, lambda i, w: whole(f"block_{i}/norm2/{AFFINE[w]}")),
            (
                layer + r"attention\.attention\.(query|key|value)" + wb,
                lambda i, n, w: (f"block_{i}/attn/qkv/{LINEAR[w]}", QKV[n], 3),
            ),
            (layer + r"attention\.output\.dense" + wb, lambda i, w: whole(f"block_{i}/attn/proj/{LINEAR[w]}")),
            (layer + r"(?:intermediate\.dense|mlp\.fc1)" + wb, lambda i, w: whole(f"block_{i}/fc1/{LINEAR[w]}")),
            (layer + r"(?:output\.dense|mlp\.fc2)" + wb, lambda i, w: whole(f"block_{i}/fc2/{LINEAR[w]}")),
            (layer + r"layer_scale([12])\.lambda1", lambda i, n: whole(f"block_{i}/scale{n}")),
        ],
    )


def torchvision_resnet(names: Collection[str]) -> dict[str, Part]:
    """ResNets of torchvision and timm, which number the blocks within each stage; ours are numbered through."""
    sizes: dict[int, int] = {}
    for name in names:
        if match := re.match(r"layer(\d+)\.(\d+)\.", name):
            stage = int(match[1])
            sizes[stage] = max(sizes.get(stage, 0), int(match[2]) + 1)

    def at(stage: str, block: str) -> str:
        return f"block_{sum(n for s, n in sizes.items() if s < int(stage)) + int(block)}"

    block, norm = r"layer(\d+)\.(\d+)\.", r"\.(weight|bias|running_mean|running_var)"
    return matched(
        names,
        [
            (r"conv1\.weight", lambda: whole("stem/kernel")),
            (r"bn1" + norm, lambda w: whole(f"norm_stem/{BATCH_NORM[w]}")),
            (block + r"(conv\d)\.weight", lambda s, b, n: whole(f"{at(s, b)}/{n}/kernel")),
            (block + r"bn(\d)" + norm, lambda s, b, n, w: whole(f"{at(s, b)}/norm{n}/{BATCH_NORM[w]}")),
            (block + r"downsample\.0\.weight", lambda s, b: whole(f"{at(s, b)}/shortcut/kernel")),
            (block + r"downsample\.1" + norm, lambda s, b, w: whole(f"{at(s, b)}/norm_shortcut/{BATCH_NORM[w]}")),
        ],
    )


class Layout(NamedTuple):
    """One release.

    kind: `vit` or `resnet`. prefixes: where the backbone stands among the names of the file. marks: names (after the
    prefix) by which it is known, all of them there. naming: file names -> leaves. skipped: patterns of names that no
    backbone needs; what stands outside the prefix is skipped anyhow. bicubic: how positions are resized.
    layer_norm_eps: of all layer norms (0 = it has none). mean, std: what its images were normalised by, in units of
    [0, 1]; empty where models of this naming differ and the model's own card says it.
    """

    name: str
    kind: str
    prefixes: tuple[str, ...]
    marks: tuple[str, ...]
    naming: Naming
    skipped: tuple[str, ...]
    bicubic: Bicubic
    layer_norm_eps: float
    mean: tuple[float, ...]
    std: tuple[float, ...]


HEADS = ("head.*", "head_dist.*", "fc.*", "classifier.*", "pooler.*", "mask_token", "embeddings.mask_token")
COUNTERS = ("*num_batches_tracked",)
NONE: tuple[float, ...] = ()
VIT, VIT_SCALE = "patch_embed.proj.weight", "blocks.0.ls1.gamma"
HF_VIT, RESNET = "embeddings.patch_embeddings.projection.weight", "layer1.0.conv1.weight"
NORMED = (IMAGENET_MEAN, IMAGENET_STD)
DINOV2_PLACES = ("", "backbone.", "teacher.backbone.", "module.backbone.")
PLACES = ("", "module.", "model.", "model.visual.", "backbone.", "encoder.", "net.")
HF_PLACES = ("", "vit.", "deit.", "dinov2.", "dinov2_with_registers.", "backbone.", "model.")
TRANSFORMERS_DINOV2 = (HF_VIT, "encoder.layer.0.layer_scale1.lambda1")

LAYOUTS = tuple(
    Layout(*row)
    for row in (
        ("mae", "vit", ("", "module."), (VIT, "decoder_embed.weight"), timm_vit, (*HEADS, "decoder_*"), TORCH, 1e-6,
         *NORMED),
        ("moco_v3", "vit", ("module.base_encoder.", "base_encoder."), (VIT,), timm_vit, HEADS, TORCH, 1e-6, *NORMED),
        # facebookresearch/dinov2, hub/backbones.py: models with registers are resized antialiased and without offset
        ("dinov2_registers", "vit", DINOV2_PLACES, (VIT, VIT_SCALE, "register_tokens"), timm_vit, HEADS, ANTIALIASED,
         1e-6, *NORMED),
        ("dinov2", "vit", DINOV2_PLACES, (VIT, VIT_SCALE, "mask_token"), timm_vit, HEADS, DINO, 1e-6, *NORMED),
        ("dinov2", "vit", DINOV2_PLACES, (VIT, "blocks.0.0.ls1.gamma"), timm_vit, HEADS, DINO, 1e-6, *NORMED),
        ("dino", "vit", ("module.backbone.", "backbone."), (VIT,), timm_vit, HEADS, DINO, 1e-6, *NORMED),
        ("timm", "vit", PLACES, (VIT,), timm_vit, HEADS, ANTIALIASED, 1e-6, NONE, NONE),
        ("hf_dinov2_registers", "vit", HF_PLACES, (*TRANSFORMERS_DINOV2, "embeddings.register_tokens"),
         hugging_face_vit, HEADS, ANTIALIASED, 1e-6, *NORMED),
        ("hf_dinov2", "vit", HF_PLACES, TRANSFORMERS_DINOV2, hugging_face_vit, HEADS, TORCH, 1e-6, *NORMED),
        ("hf_vit", "vit", HF_PLACES, (HF_VIT, "encoder.layer.0.layernorm_before.weight"), hugging_face_vit,
         (*HEADS, "decoder.*"), TORCH, 1e-12, NONE, NONE),
        ("moco_v2", "resnet", ("module.encoder_q.", "encoder_q."), (RESNET,), torchvision_resnet, (*HEADS, *COUNTERS),
         TORCH, 0.0, *NORMED),
        ("moco_v3", "resnet", ("module.base_encoder.", "base_encoder."), (RESNET,), torchvision_resnet,
         (*HEADS, *COUNTERS), TORCH, 0.0, *NORMED),
        ("dino", "resnet", ("module.backbone.", "backbone."), (RESNET,), torchvision_resnet, (*HEADS, *COUNTERS),
         TORCH, 0.0, *NORMED),
        ("timm", "resnet", PLACES, (RESNET,), torchvision_resnet, (*HEADS, *COUNTERS), TORCH, 0.0, NONE, NONE),
    )
)  # fmt: skip
"""Every release that is read, the more specific before the more general; the first that fits a file is taken."""


class Named(NamedTuple):
    """A file's names sorted: `parts` what becomes of a name, `skipped` what no backbone needs, `unknown` the rest."""

    layout: Layout
    parts: dict[str, Part]
    skipped: tuple[str, ...]
    unknown: tuple[str, ...]


def detect(names: Collection[str], wanted: str = "auto") -> Named:
    """The layout of a file by its names, or the one called `wanted`.

    Releases that share all names, such as the bare backbones of DINO and of timm, differ in how positions are resized
    only; the general one is taken then, and `wanted` chooses the other. Raises UserError where none fits.
    """
    if wanted != "auto" and wanted not in (known := {layout.name for layout in LAYOUTS}):
        raise unknown("layout of weights", wanted, [*known, "auto"])
    for layout in LAYOUTS:
        if wanted not in ("auto", layout.name):
            continue
        for prefix in (*layout.prefixes, "") if wanted != "auto" else layout.prefixes:
            needed = (VIT if layout.naming is timm_vit else layout.marks[0],) if wanted != "auto" else layout.marks
            if all(prefix + mark in names for mark in needed):
                return _sorted(layout, prefix, names)
    seen = ", ".join(list(names)[:4])
    kinds = ", ".join(sorted({f"{layout.name} ({layout.kind})" for layout in LAYOUTS}))
    raise UserError(f"its names ({seen}, ...) are those of no known layout; known: {kinds}")


def _sorted(layout: Layout, prefix: str, names: Collection[str]) -> Named:
    inside = {name.removeprefix(prefix): name for name in names if name.startswith(prefix)}
    parts = {inside[short]: part for short, part in layout.naming(list(inside)).items()}
    rest = {short: name for short, name in inside.items() if name not in parts}
    skipped = {name for short, name in rest.items() if any(fnmatch.fnmatchcase(short, p) for p in layout.skipped)}
    outside = {name for name in names if not name.startswith(prefix)}
    strange = tuple(name for name in rest.values() if name not in skipped)
    return Named(layout, parts, tuple(n for n in names if n in skipped | outside), strange)
