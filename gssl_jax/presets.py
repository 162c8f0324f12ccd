"""What recipes share: how `:preset,key=value` is read, groups such as `evals` and `run`, HPT's chains, transformers.

A preset is a function that changes a configuration; its parameters after the first are its options, with their
defaults. A recipe imports nothing but this file and ml_collections.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from gssl_jax import domains as domains  # for recipes
from gssl_jax.errors import UserError, unknown
from gssl_jax.protocols import evaluation as evaluation  # for recipes
from gssl_jax.protocols import labelled_evaluation as labelled_evaluation  # for recipes
from gssl_jax.protocols import vit_finetuning as vit_finetuning  # for recipes

Preset = Callable[..., None]

VITS = {
    "vit_micro4": dict(patch=4, width=192, depth=4, heads=3),
    "vit_micro8": dict(patch=8, width=192, depth=4, heads=3),
    "vit_ti4": dict(patch=4, width=192, depth=12, heads=3),
    "vit_ti16": dict(patch=16, width=192, depth=12, heads=3),
    "vit_s16": dict(patch=16, width=384, depth=12, heads=6),
    "vit_b16": dict(patch=16, width=768, depth=12, heads=12),
    "vit_l16": dict(patch=16, width=1024, depth=24, heads=16),
}
"""Sizes of arXiv 2010.11929 and 2012.12877 (ti, s, b, l; the number is the patch in pixels), and smaller ones."""


def choose(argument: str | None, presets: Mapping[str, Preset], base: Callable[[], ConfigDict]) -> ConfigDict:
    """The configuration `base()` as the preset of `argument` changes it: `name[,key=value ...]`, the first without one.

    An option is a whole number where its default is one, else text; one without a default has to be given. Raises
    UserError for a preset or an option that is not known, a value of the wrong kind, and one that is missing.
    """
    name, *pairs = (argument or next(iter(presets))).split(",")
    if name not in presets:
        raise unknown("preset", name, presets)
    parameters = dict(list(inspect.signature(presets[name]).parameters.items())[1:])
    given: dict[str, Any] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator:
            raise UserError(f"preset option {pair!r} is not of the form key=value")
        if key not in parameters:
            known = f"known: {', '.join(parameters)}" if parameters else "it knows none"
            raise UserError(f"preset {name!r} has no option {key!r}; {known}")
        default = parameters[key].default
        if isinstance(default, int) and not value.isdigit():
            raise UserError(f"{key}={value}: give a whole number, e.g. {key}={default}")
        given[key] = int(value) if isinstance(default, int) else value
    for key, parameter in parameters.items():
        if parameter.default is inspect.Parameter.empty and not given.get(key):
            raise UserError(f"preset {name!r} needs {key}: write :{name},{key}=VALUE after the recipe")
    config = base()
    presets[name](config, **given)
    return config


def by_method(preset: Preset, methods: Mapping[str, Preset], default: str) -> Preset:
    """`preset` with the option `method` besides its own: one of `methods`, which then changes what the preset left.

    The result raises UserError for a method that is not known.
    """

    def chosen(c: ConfigDict, *, method: str = default, **options: Any) -> None:
        if method not in methods:
            raise unknown("method", method, methods)
        preset(c, **options)
        methods[method](c)

    own = inspect.signature(chosen).parameters
    options = list(inspect.signature(preset).parameters.values())[1:]
    named = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*options, own["method"])]
    vars(chosen)["__signature__"] = inspect.Signature([own["c"], *named])
    return chosen


def known_vit(name: str) -> dict[str, int]:
    """Patch, width, depth and heads of one of `VITS`; raises UserError for another name."""
    if name not in VITS:
        raise unknown("backbone", name, VITS)
    return VITS[name]


def backbone(c: ConfigDict, name: str) -> None:
    """Another backbone for a method of labels and its optimiser with it: a ResNet by name, or one of `VITS`.

    Neither paper trains a transformer so; AdamW, its rate (for batches of 512) and its decay are those of DeiT (arXiv
    2012.12877, table 9); warm-up and duration stay those of the recipe. Raises UserError for an unknown ViT.
    """
    if not name.startswith("vit"):
        c.backbone.name = name
        return
    network: dict[str, Any] = dict(kind="vit", **known_vit(name), mlp_ratio=4.0, registers=0, positions="learned")
    network |= dict(drop_path=0.1, layer_scale=0.0, layer_norm_eps=1e-6, dtype=c.backbone.dtype)
    network |= dict(weights=c.backbone.weights, allow=c.backbone.allow)
    c.backbone = ConfigDict(network)
    o = c.optim
    o.update(dict(name="adamw", schedule="cosine", learning_rate=5e-4, reference_batch=512, final_learning_rate=0.0))
    o.update(dict(weight_decay=0.05, final_weight_decay=0.05, decay_positions=False, decay_vectors=False))


def continuation() -> ConfigDict:
    """The group `continuation`: what watches over a stage that starts from weights or from the stage before.

    A score of the backbone as it is judged, on training images of the evaluation; a fall stops the stage.
    """
    w = ConfigDict()
    w.watch = "auto"  # knn | health | off; auto: knn where the evaluation images have labels, else health
    w.every = 0.05  # share of the stage between looks
    w.images = 1000  # at most so many; knn: half of them known, half asked about, equally of every class
    w.margin = 0.05  # knn: fall of the accuracy below the best look, that is no longer chance, that counts
    w.rank_share = 0.5  # health: effective rank below this share of that at the start counts
    w.patience = 2  # looks in a row that count until the stage stops
    w.restore = True  # what is judged and handed on is the best look then, the untouched start included
    return w


def running(log_every: int, health_every: int, checkpoint_every: int) -> ConfigDict:
    """The group `run`, which changes no result (`deterministic` apart); all three in steps."""
    r = ConfigDict()
    r.steps_per_dispatch = 1  # 1-20 steps scanned in one call
    r.log_every = log_every  # the collapse alarm looks at these averages
    r.health_every = health_every
    r.health_samples = 512  # images of the label-free health probe
    r.checkpoint_every = checkpoint_every
    r.keep_checkpoints = 2
    r.deterministic = False  # GPU: bit-exact resume at some cost; a CPU always is
    r.keep_host_memory = False  # CPU only: freed memory stays with the process; pays for steps above a second
    r.fsdp = 1  # devices that share one copy of parameters, teacher and moments; 1: each has all, 0: all share
    r.programs = "auto"  # where compiled programs are kept for the next start: auto (the user's cache) | off | a folder
    r.remat = "none"  # ViT, what the backward pass computes again to save memory: none | dots | blocks
    r.tensorboard = True
    return r


TRIALS = {
    "baseline": (),
    "no_grey": ("grey",),
    "no_colour": ("jitter",),  # and grey stays: not nested with the one before
    "crop_blur": ("grey", "jitter", "flip"),
    "crop": ("grey", "jitter", "flip", "blur"),
}
"""What HPT's five sets of augmentation leave out (arXiv 2103.12718, its study of robustness), in its order."""


def leave_out(views: Mapping[str, ConfigDict], trial: str) -> None:
    """Turns off in every view of `method.augment` what the set `trial` leaves out; UserError for an unknown one."""
    if trial not in TRIALS:
        raise unknown("set of augmentations", trial, TRIALS)
    for view in views.values():
        for name in TRIALS[trial]:
            if name in ("jitter", "blur"):
                view[name].probability = 0.0
            else:
                view[name] = 0.0


def hierarchy(c: ConfigDict, base: Mapping[str, Any] | None, source: Mapping[str, Any] | None) -> None:
    """HPT's stages and arms (arXiv 2103.12718, section 3), around a recipe that trains on the target from scratch.

    `base` and `source` are what these stages change against the target. Without `base` the arms start from the file of
    `backbone.weights`; without that too, those that are about a base are left out, and without `source` those that pass
    through one. As the paper's, a base on its own is judged on the target, as it is and with the batch statistics of
    the target's images. The stage `norm` trains the norms alone (HPT-BN).
    """
    scratch = {"backbone": {"weights": ""}}
    stages: dict[str, Any] = {
        "target": {},
        "scratch": scratch,
        "norm": {"optim": {"trains": "norm"}},
        "judged": {"optim": {"duration": 0.0}},
        "refreshed": {"optim": {"duration": 0.0}, "evals": {"statistics": "refreshed"}},
    }
    first: tuple[str, ...] = ()
    if base is not None:
        stages["base"], first = {**base}, ("base",)
    arms = {
        "base": (*first, "judged"),
        "base_refreshed": (*first, "refreshed"),
        "target": ("scratch",),
        "hpt": (*first, "target"),
        "hpt_bn": (*first, "norm"),
    }
    if source is not None:
        stages["source"] = {**source}
        arms["base_source"] = (*first, "source", "judged")
        arms["base_source_target"] = (*first, "source", "target")
    if c.backbone.kind == "vit":
        del arms["base_refreshed"], stages["refreshed"]
    if base is None and not c.backbone.weights:
        arms = {name: chain for name, chain in arms.items() if name in ("target", "base_source", "base_source_target")}
    c.stages = (*first, *(("source",) if source is not None else ()), "target")
    c.stage = ConfigDict(stages)
    c.arms = ConfigDict(arms)


def as_stage(c: ConfigDict, duration: float) -> dict[str, Any]:
    """What a recipe learns from as it stands, images, statistics and views, as a stage before another target: all of
    its images, for `duration` in optim.unit."""
    stream = c.data.streams.train
    images = dict(source=stream.source, path=stream.path, split=stream.split, share=1.0)
    data = dict(streams=dict(train=images), canvas=c.data.canvas, mean=tuple(c.data.mean), std=tuple(c.data.std))
    return dict(data=data, method=dict(augment=c.method.augment.to_dict()), optim=dict(duration=duration))


def beside(recipe: str, name: str) -> str:
    """The path of another recipe of the same folder; `recipe` is the `__file__` of the one that asks."""
    return str(Path(recipe).with_name(f"{name}.py"))


def sibling(recipe: str, name: str) -> ModuleType:
    """Another recipe of the same folder, for one that is built on it; `recipe` is the `__file__` of the latter."""
    path = Path(recipe).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.exists():
        raise UserError(f"{Path(recipe).name} is built on {path}, which is not there: keep them in one folder")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
