"""Published weights that are on this machine already: in the folders where Hugging Face and torch keep downloads.

Nothing is fetched and neither library is imported; a name of timm, or `owner/name` of the hub, is looked up on disk.
"""

from __future__ import annotations

import fnmatch
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gssl_jax.errors import UserError

WEIGHTS = ("model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors")

TORCH_FILES = {
    "vit_small_patch16_224.dino": "dino_deitsmall16_pretrain.pth",
    "vit_base_patch16_224.dino": "dino_vitbase16_pretrain.pth",
    "vit_small_patch14_dinov2.lvd142m": "dinov2_vits14_pretrain.pth",
    "vit_base_patch14_dinov2.lvd142m": "dinov2_vitb14_pretrain.pth",
    "vit_large_patch14_dinov2.lvd142m": "dinov2_vitl14_pretrain.pth",
    "deit_tiny_patch16_224.fb_in1k": "deit_tiny_patch16_224-a1311bcf.pth",
    "deit_small_patch16_224.fb_in1k": "deit_small_patch16_224-cd65a155.pth",
    "deit_base_patch16_224.fb_in1k": "deit_base_patch16_224-b5f2ef4d.pth",
    "resnet18.tv_in1k": "resnet18-f37072fd.pth",
    "resnet50.tv_in1k": "resnet50-0676ba61.pth",
    "resnet50.tv2_in1k": "resnet50-11ad3fa6.pth",
}
"""What torch.hub calls the files of models that timm has too."""

HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
STATISTICS = {"vit_*augreg*": HALVES, "vit_*.orig_in21k*": HALVES, "vit_*.sam_*": HALVES}
"""Mean and standard deviation by pattern of timm's name, where the cache holds no config.json to say them; others have
ImageNet's."""


class Found(NamedTuple):
    """A file of the cache, mean and std (empty = unsaid), attention heads and image side (0 = unsaid)."""

    path: Path
    mean: tuple[float, ...]
    std: tuple[float, ...]
    heads: int
    image_size: int


def is_name(words: str) -> bool:
    """Whether this may be the name of a model: timm's, or `owner/name`."""
    parts = words.split("/")
    plain = all(part and not part.startswith(".") and not set(part) & set("\\: ") for part in parts)
    return plain and (len(parts) == 1 and ("." in words or "_" in words or words.isalnum()) or len(parts) == 2)


def hub_folder(environment: Mapping[str, str]) -> Path:
    """Where huggingface_hub keeps what it fetched."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if environment.get(name):
            return Path(environment[name]).expanduser()
    home = environment.get("HF_HOME") or str(_caches(environment) / "huggingface")
    return Path(home).expanduser() / "hub"


def torch_folder(environment: Mapping[str, str]) -> Path:
    """Where torch.hub keeps weights."""
    home = environment.get("TORCH_HOME") or str(_caches(environment) / "torch")
    return Path(home).expanduser() / "hub" / "checkpoints"


def _caches(environment: Mapping[str, str]) -> Path:
    return Path(environment.get("XDG_CACHE_HOME") or "~/.cache").expanduser()


def find(name: str, environment: Mapping[str, str] | None = None) -> Found:
    """The weights of a model by its name, `vit_small_patch16_224.augreg_in21k` or `facebook/dino-vits16`.

    Raises UserError where they are not on disk, which says where they were looked for and how to get them.
    """
    environment = os.environ if environment is None else environment
    hub, torch = hub_folder(environment), torch_folder(environment)
    repository = name if "/" in name else f"timm/{name}"
    place = hub / f"models--{repository.replace('/', '--')}"
    for snapshot in _snapshots(place):
        for file in WEIGHTS:
            if (snapshot / file).is_file():
                return _described(name, snapshot / file, snapshot)
    names = [f"{name}.pth", f"{name}.safetensors", TORCH_FILES.get(name, "")]
    for file in filter(None, names):
        if (torch / file).is_file():
            return _described(name, torch / file, None)
    looked = ", ".join(str(torch / file) for file in filter(None, names))
    raise UserError(
        f"{name} is neither a file, a run folder, 'random' nor 'pixels', and its weights are not on this machine: "
        f"looked for {' or '.join(WEIGHTS[:2])} in {place}/snapshots and for {looked}. Where there is a network, fetch "
        f"them by `huggingface-cli download {repository}`, or give a weights file"
    )


def _snapshots(place: Path) -> list[Path]:
    """The revisions of a model that are here, that of `refs/main` first."""
    found = sorted(path for path in (place / "snapshots").glob("*") if path.is_dir())
    main = place / "refs" / "main"
    first = main.read_text(encoding="utf-8").strip() if main.is_file() else ""
    return sorted(found, key=lambda path: path.name != first)


def _described(name: str, file: Path, folder: Path | None) -> Found:
    """What config.json (timm's or of transformers) and preprocessor_config.json of a snapshot say, else the table."""
    names = ("config.json", "preprocessor_config.json")
    config, images = (_json(folder / one) if folder else {} for one in names)
    timm = config.get("pretrained_cfg", config)
    mean, std = (tuple(timm.get(n) or images.get(f"image_{n}") or ()) for n in ("mean", "std"))
    if not mean:
        mean, std = next((pair for rule, pair in STATISTICS.items() if fnmatch.fnmatchcase(name, rule)), ((), ()))
    size = timm.get("input_size") or config.get("image_size") or 0
    return Found(
        file, mean, std, int(config.get("num_attention_heads", 0)), int(size[-1] if isinstance(size, list) else size)
    )


def _json(path: Path) -> dict[str, Any]:
    """The object in a file, empty where there is no such file. Raises UserError where it is damaged."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as problem:
        raise UserError(f"{path} is not readable JSON ({problem}): fetch the model again") from problem
    return value if isinstance(value, dict) else {}
