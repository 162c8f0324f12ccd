"""Backbones to judge, from where they come: a run folder, a weights file, a name in a cache, chance, or the pixels.

A candidate brings the images it wants: their size, channels and statistics are its own wherever something says them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from gssl_jax.errors import UserError
from gssl_jax.interop import architecture, cached
from gssl_jax.interop.architecture import Known
from gssl_jax.interop.load import load_backbone
from gssl_jax.methods.base import Clock
from gssl_jax.methods.known import METHODS
from gssl_jax.models.build import Backbone, build_backbone
from gssl_jax.models.vit import ViT
from gssl_jax.ops.keys import named
from gssl_jax.presets import VITS
from gssl_jax.runs import restored
from gssl_jax.runs.lineage import arrays_digest

RANDOM, PIXELS, UNTRAINED = "random", "pixels", ":untrained"
CROP = 8 / 7
"""Shorter side of an image over the side of the square that is cut from it, where nothing says another."""

AS_THEY_ARE = ("photos", "digits", "earth")
"""Sources whose images have the size that is asked for: nothing is cut off."""


class Asked(NamedTuple):
    """What the command line says of candidates; 0, "" and () leave it to what the candidate says itself."""

    size: int = 0
    resize: int = 0
    channels: int = 0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    heads: int = 0
    architecture: str = ""
    allow: tuple[str, ...] = ()


class Candidate(NamedTuple):
    """A backbone under the `name` that tables give it. `variables` are on the host, None for pixels; `config` has the
    groups `data` and `evals` by which it is judged; `facts` (plain JSON) say what it is, `digest` which weights it has,
    `notes` what a reader of its scores should know."""

    name: str
    backbone: Backbone
    variables: Any
    config: ConfigDict
    digest: str
    facts: dict[str, Any]
    notes: tuple[str, ...]


def is_run(spec: str) -> bool:
    """Whether the words of a backbone name a folder, and so a run."""
    return Path(spec.removesuffix(UNTRAINED)).is_dir()


def gathered(specs: dict[str, str], base: ConfigDict, asked: Asked, seed: int) -> list[Candidate]:
    """The candidates by name, in order; random ones and pixels are shown the images of the first that brings its own.

    `base` has `data`, `evals` and, from a recipe or a run, `backbone`. Raises UserError for what cannot be judged.
    """
    found: dict[str, Candidate] = {}
    for name, spec in specs.items():
        if spec.partition(":")[0] not in (RANDOM, PIXELS):
            found[name] = from_run(name, spec, base, asked) if is_run(spec) else from_file(name, spec, base, asked)
    lead = next(iter(found.values()), None)
    for kind in (RANDOM, PIXELS):
        for name, spec in specs.items():
            word, _, number = spec.partition(":")
            if word == RANDOM == kind:
                if number and not number.isdigit():
                    raise UserError(f"{spec}: what follows random is its seed, a whole number: random:1")
                found[name] = by_chance(name, base, asked, int(number or seed), lead)
                lead = lead or found[name]
            elif spec == PIXELS == kind:
                found[name] = of_pixels(name, base, asked, lead)
    return [found[name] for name in specs]


def from_run(name: str, spec: str, base: ConfigDict, asked: Asked) -> Candidate:
    """The backbone that a run's results are of, or with `:untrained` the one it was before its first step.

    Raises UserError for a folder that is no finished run, and for one of another version."""
    path = Path(spec.removesuffix(UNTRAINED))
    folder, results = restored.finished(path)
    try:
        number, stage, settings = restored.last_stage(folder)
        backbone = build_backbone(settings)
        facts: dict[str, Any] = {"kind": "run", "path": str(path), "stage": stage}
        if spec.endswith(UNTRAINED):
            variables, facts["step"] = fresh(backbone, settings.seed), 0
        else:
            facts["step"], variables = _judged(settings, backbone, restored.selected(folder, results, number, stage))
    except (AttributeError, KeyError) as problem:
        raise restored.unusable(folder, results, problem) from problem
    config = shown(base, settings.data, settings.data.image_size, asked, settings.evals.data.resize)
    return candidate(name, backbone, variables, config, facts | {"which": settings.evals.which})


def _judged(settings: ConfigDict, backbone: Backbone, state: tuple[int, Any, Any]) -> tuple[int, Any]:
    """Step and variables of the network that the run judges; the method that says which one needs no images for it."""
    settings = settings.copy_and_resolve_references()
    settings.data.crop = "device"
    step, params, method_state = state
    method = METHODS[settings.method.name].build(settings, backbone, Clock(1, 1), np.ones(2, int))
    return step, dict(method.backbone(params, method_state, settings.evals.which))


def from_file(name: str, spec: str, base: ConfigDict, asked: Asked) -> Candidate:
    """Published or exported weights: from a file, or by a name from the caches of this machine.

    Raises UserError where there are none, and where they do not fit the network that their shapes tell of."""
    path = Path(spec)
    facts: dict[str, Any] = {"kind": "weights", "path": spec}
    origin = cached.Found(path, (), (), 0, 0)
    if not path.is_file():
        if path.suffix in (".safetensors", ".pth", ".pt", ".tar", ".bin", ".ckpt", ".npz") or not cached.is_name(spec):
            raise UserError(f"{spec}: there is no such file or run folder")
        origin = cached.find(spec)
        path, facts = origin.path, {"kind": "weights", "path": str(origin.path), "model": spec}
    known = architecture.inferred(path, asked.heads or origin.heads)
    if asked.architecture:
        known = known._replace(backbone=architecture.named_network(asked.architecture, VITS))
    known = told(known, origin, asked)
    native = known.image_size or origin.image_size
    images = base.data.copy_and_resolve_references()
    images.update(dict(channels=asked.channels or known.channels, mean=known.mean, std=known.std))
    images.contrast_normalise = known.contrast_normalise and images.channels == 1
    images = fitted(images)
    config = shown(base, images, native or base.data.image_size, asked, known.shorter_side)
    backbone = network(known.backbone, config.data)
    variables, table = load_backbone(path, backbone, shapes_of(backbone, asked.allow), asked.allow)
    facts |= {"layout": table.layout, "leaves": {state: table.count(state) for state in ("loaded", "adapted", "kept")}}
    return candidate(name, backbone, variables, config, facts, (*known.said, *table.notes))


def told(known: Known, origin: cached.Found, asked: Asked) -> Known:
    """`known` with mean and deviation of the command line, else of the file itself, of its cache or of ImageNet."""
    mean, std = asked.mean or origin.mean, asked.std or origin.std
    if (asked.mean or not known.mean) and mean and std:
        return known._replace(mean=mean, std=std)
    return architecture.with_imagenet(known)


def by_chance(name: str, base: ConfigDict, asked: Asked, seed: int, lead: Candidate | None) -> Candidate:
    """An untrained network: of `--architecture`, else like the first candidate, else of the recipe.

    The key is that of every run's own network: the same seed gives its untrained control."""
    if asked.architecture:
        settings = architecture.named_network(asked.architecture, VITS)
    elif lead is None and "backbone" in base:
        settings = base.backbone.to_dict()
    elif lead is None:
        raise UserError("nothing says of which network random weights shall be: give --architecture=vit_s16")
    config = following(base, asked, lead)
    backbone = lead.backbone if lead and not asked.architecture else network(settings, config.data)
    return candidate(name, backbone, fresh(backbone, seed), config, {"kind": "random", "seed": seed})


def of_pixels(name: str, base: ConfigDict, asked: Asked, lead: Candidate | None) -> Candidate:
    """No network at all: the images that the first candidate is shown, shrunk to `evals.pixel_side`."""
    config = following(base, asked, lead)
    blank = lead.backbone if lead else network(architecture.named_network("resnet18", VITS), config.data)
    side = min(config.evals.pixel_side, config.data.image_size)
    return Candidate(name, blank, None, config, f"pixels-{side}", {"kind": "pixels", "side": side}, ())


def following(base: ConfigDict, asked: Asked, lead: Candidate | None) -> ConfigDict:
    """The images of another candidate, or without one those of `base` as the command line changes them."""
    if lead is not None:
        return lead.config.copy_and_resolve_references()
    images = base.data.copy_and_resolve_references()
    if asked.mean and asked.std:
        images.update(dict(mean=asked.mean, std=asked.std))
    images.channels = asked.channels or images.channels
    return shown(base, fitted(images), base.data.image_size, asked)


def shown(base: ConfigDict, images: ConfigDict, size: int, asked: Asked, resize: int = 0) -> ConfigDict:
    """`base` with the images as a backbone wants them, `size` pixels a side, and the shorter side before they are cut.

    `resize` is that of the backbone's own size. Raises UserError where nothing says a size."""
    config = base.copy_and_resolve_references()
    for key in ("channels", "mean", "std", "contrast_normalise"):
        config.data[key] = images[key]
    wanted = asked.size or size
    if not wanted:
        raise UserError("nothing says how large the images shall be: give --size=224")
    before, own = base.evals.data.resize, base.data.image_size
    if asked.resize:
        resize = asked.resize
    elif resize and size:
        resize = round(wanted * resize / size)
    elif before and own:
        resize = round(wanted * before / own)
    else:
        resize = wanted if base.evals.data.source in AS_THEY_ARE else round(wanted * CROP)
    config.data.image_size, config.evals.data.resize = wanted, resize
    return config


def fitted(images: ConfigDict) -> ConfigDict:
    """Statistics for another number of channels than they were given for: their mean over the channels."""
    for key in ("mean", "std"):
        if len(images[key]) not in (1, images.channels):
            images[key] = (float(np.mean(images[key])),)
    return images


def network(settings: dict[str, Any], images: ConfigDict) -> Backbone:
    """The network for these images. Raises UserError where their size is no multiple of its patch."""
    patch = settings["patch"] if settings["kind"] == "vit" else 1
    if images.image_size % patch:
        raise UserError(
            f"images of {images.image_size} pixels cannot be cut into patches of {patch}: give "
            f"--size={max(patch, images.image_size - images.image_size % patch)}"
        )
    return build_backbone(ConfigDict({"backbone": {"dtype": "auto", **settings}, "data": images.to_dict()}))


def blank(backbone: Backbone) -> jax.Array:
    """An image for initialisation: its shape counts, not what it shows."""
    return jnp.zeros((1, backbone.image_size, backbone.image_size, backbone.channels))


def fresh(backbone: Backbone, seed: int) -> Any:
    """The variables that every method's backbone has before training with this seed."""
    key = named(named(jax.random.key(seed), "init"), "backbone")
    return jax.device_get(jax.jit(backbone.init)(key, blank(backbone)))


def shapes_of(backbone: Backbone, allow: Sequence[str]) -> Any:
    """What is to be filled: shapes, or fresh weights where some leaves are allowed to stay."""
    return fresh(backbone, 0) if allow else jax.eval_shape(backbone.init, jax.random.key(0), blank(backbone))


def candidate(
    name: str, backbone: Backbone, variables: Any, config: ConfigDict, facts: dict[str, Any], notes: Sequence[str] = ()
) -> Candidate:
    """With the features that it has in place of those that it has not, and what it looks like in `facts`."""
    given = jax.eval_shape(backbone.apply, variables, blank(backbone))
    notes = list(notes)
    for group, settings in config.evals.items():
        if isinstance(settings, ConfigDict) and "feature" in settings and settings.feature not in given:
            notes.append(f"{group} looks at feat: this network has no {settings.feature}")
            settings.feature = "feat"
    variables = jax.device_get(variables)
    numbers = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    facts = {**facts, "network": in_words(backbone), "parameters": int(numbers)}
    return Candidate(name, backbone, variables, config, arrays_digest(variables), facts, tuple(notes))


def in_words(backbone: Backbone) -> str:
    """The network as somebody would call it."""
    if isinstance(backbone, ViT):
        return f"ViT, patch {backbone.patch}, width {backbone.width}, depth {backbone.depth}, {backbone.heads} heads"
    return f"ResNet, {sum(backbone.depths)} {backbone.block} blocks, {backbone.stem} stem"
