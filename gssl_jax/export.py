"""A trained backbone as a file to deploy: `python -m gssl_jax.export RUN --format=safetensors|stablehlo|onnx`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from gssl_jax.cli import refuse, words_and_values
from gssl_jax.data.arrays import evaluation_set
from gssl_jax.data.sources.subset import Subset
from gssl_jax.data.substitution import as_readable
from gssl_jax.errors import UserError, unknown
from gssl_jax.interop import graphs, save
from gssl_jax.interop.load import load_backbone
from gssl_jax.models.build import Backbone
from gssl_jax.runs.evaluation import floats, spread
from gssl_jax.runs.folder import write_atomically
from gssl_jax.runs.parts import Parts, assemble
from gssl_jax.runs.restored import finished, last_stage, selected, unusable

USAGE = """usage: python -m gssl_jax.export RUN --format=FORMAT [--out=FILE] [--feature=NAME]

  RUN               the folder of a finished run
  --format=FORMAT   safetensors  weights under timm's names, which timm loads with strict=True
                    stablehlo    a program for jax.export (cpu, cuda, tpu) that needs jax alone
                    onnx         a model for onnxruntime and others; needs jax2onnx
  --out=FILE        RUN/export/backbone.FORMAT without it; beside it FILE.json says what images it wants
  --feature=NAME    what a program returns: feat (without it), patch_mean, map, ... ; a ViT also has tokens,
                    cls_prenorm, last4_cls
  --debug           a traceback where something is refused
  --help            this text
"""

FORMATS = ("safetensors", "stablehlo", "onnx")
CHECKED = 8
"""Images that a file is checked on before it gets its name."""

LARGEST = 1e-4
"""Largest difference allowed between features of the file and of the run, relative to the largest feature."""


class Chosen(NamedTuple):
    """What a run is exported as: its last stage, the backbone that its results are of, and images to check on.

    `variables` are on the CPU, `images` float32 [n, S, S, C] in [0, 1] as the evaluation shows them.
    """

    parts: Parts
    variables: dict[str, Any]
    step: int
    images: np.ndarray

    @property
    def backbone(self) -> Backbone:
        """The network, computing in float32."""
        return self.parts.backbone


def main(argv: Sequence[str] | None = None) -> int:
    """Exports the run of the command line; returns the exit code (0 written and checked, 2 refused)."""
    argv = list(sys.argv if argv is None else argv)
    try:
        given = words_and_values(argv, USAGE, {"format": "", "out": "", "feature": "feat"})
        if given is None:
            return 0
        words, values = given
        if len(words) != 1:
            raise UserError(f"give the folder of one run, not {len(words)}; see --help")
        if values["format"] not in FORMATS:
            raise unknown("format", values["format"], FORMATS)
        run = Path(words[0])
        out = Path(values["out"] or run / "export" / f"backbone.{values['format']}")
        export(run, values["format"], out, values["feature"], Console(soft_wrap=True, highlight=False))
        return 0
    except UserError as problem:
        if "--debug" in argv:
            raise
        return refuse(problem)


def export(run: Path, form: str, out: Path, feature: str, console: Console) -> float:
    """Writes `out` and `out`.json in one of `FORMATS`; returns the largest relative difference from the run.

    Everything runs in float32 on the CPU, where a run on any device and its file compute alike. Raises UserError for a
    folder that is no finished run, an unknown feature, a network that the format cannot hold, and where the file
    differs from the run by more than `LARGEST`: then it is not there.
    """
    if form == "onnx":
        for module in ("jax2onnx", "onnxruntime"):  # before any work
            graphs.optional(module)
    if out.is_dir():
        raise UserError(f"--out={out} is a folder: give a file")
    with jax.default_device(jax.devices("cpu")[0]):
        chosen = restore(run)
        facts = described(chosen, run, form, feature)
        content, features = FORMS[form](chosen, feature, facts)
        wanted = reference(chosen, feature, form)
        difference = save.write_checked(out, content, lambda path: checked(features(path), wanted, out))
    write_atomically(out.with_name(f"{out.name}.json"), json.dumps(facts, indent=1) + "\n")
    size = out.stat().st_size / 2**20
    console.print(f"{out}: {size:.1f} MiB, {form} of the {facts['source']['which']} at step {chosen.step}")
    console.print(f"checked on {len(chosen.images)} images: largest relative difference of {feature} {difference:.1e}")
    return difference


def restore(run: Path) -> Chosen:
    """The backbone that the results of a finished run are of. Raises UserError where `run` is none."""
    folder, results = finished(run)
    try:
        number, stage, settings = last_stage(folder)
        settings.backbone.dtype = "float32"
        parts = assemble(settings)
    except (AttributeError, KeyError) as problem:
        raise unusable(folder, results, problem) from problem
    step, params, state = selected(folder, results, number, stage)
    variables = parts.method.backbone(params, state, parts.config.evals.which)
    return Chosen(parts, dict(variables), step, some_images(parts))


def some_images(parts: Parts) -> np.ndarray:
    """At most `CHECKED` evaluation images over the whole set, float32 [n, S, S, C] in [0, 1]."""
    source = parts.test if len(parts.test) else next(iter(parts.streams.values()))
    data = parts.config.data
    some = as_readable(Subset(source, spread(np.arange(len(source)), CHECKED)), data.max_broken)
    return floats(evaluation_set(some, data, parts.config.evals.data.resize)["image"])


def described(chosen: Chosen, run: Path, form: str, feature: str) -> dict[str, Any]:
    """What a deployed file has to say: the images it wants, where it comes from and, for weights, timm's model."""
    config, backbone = chosen.parts.config, chosen.backbone
    contrast = bool(config.data.contrast_normalise)
    numbers = {name: np.broadcast_to(getattr(backbone, name), backbone.channels).tolist() for name in ("mean", "std")}
    inside = form != "safetensors"
    side = backbone.image_size
    facts: dict[str, Any] = {
        "images": {
            "size": side,
            "channels": backbone.channels,
            "range": [0.0, 1.0],
            "shorter_side": config.evals.data.resize,
            "resize": f"shorter side to {config.evals.data.resize} pixels, then the central {side} x {side}",
            "contrast_normalise": contrast,
            **numbers,
            "inside_the_file": ["mean", "std", *(["contrast_normalise"] if contrast else [])] if inside else [],
            "before_the_file": [] if inside else [*(["contrast_normalise"] if contrast else []), "mean", "std"],
            "shape": "float32 [batch, size, size, channels]" if inside else "as timm: [batch, channels, size, size]",
        },
        "source": {"run": run.absolute().name, "step": chosen.step, "which": config.evals.which},
    }
    if contrast:
        formula = "of all pixels g in 0..255 of one image: clip((g - mean) / (std + 4) * 50 + 128, 0, 255)"
        facts["images"]["contrast_normalisation"] = formula
    return facts | ({"feature": feature} if inside else {"timm": save.timm_model(backbone)})


def reference(chosen: Chosen, feature: str, form: str) -> np.ndarray:
    """The feature of the run's own backbone for the images, as the file is to give it."""
    contrast = bool(chosen.parts.config.data.contrast_normalise) and form != "safetensors"
    encode = graphs.encoder(chosen.backbone, chosen.variables, feature, contrast)
    return np.asarray(jax.jit(encode)(jnp.asarray(chosen.images)))


Features = Callable[[Path], np.ndarray]


def as_safetensors(chosen: Chosen, feature: str, facts: dict[str, Any]) -> tuple[bytes, Features]:
    """The file and a function that reads it again into an empty backbone."""
    backbone = chosen.backbone
    content = save.safetensors_bytes(save.timm_weights(backbone, chosen.variables), facts)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), chosen.variables)

    def features(path: Path) -> np.ndarray:
        variables, _ = load_backbone(path, backbone, shapes, layout="timm")
        return np.asarray(backbone.apply(variables, jnp.asarray(chosen.images))[feature])

    return content, features


def as_stablehlo(chosen: Chosen, feature: str, facts: dict[str, Any]) -> tuple[bytes, Features]:
    """The file and a function that runs it."""
    encode = graphs.encoder(chosen.backbone, chosen.variables, feature, facts["images"]["contrast_normalise"])
    content = graphs.stablehlo_bytes(encode, chosen.backbone.image_size, chosen.backbone.channels)
    return content, lambda path: graphs.run_stablehlo(path, chosen.images)


def as_onnx(chosen: Chosen, feature: str, facts: dict[str, Any]) -> tuple[bytes, Features]:
    """The file and a function that runs it."""
    encode = graphs.encoder(chosen.backbone, chosen.variables, feature, facts["images"]["contrast_normalise"])
    content = graphs.onnx_bytes(encode, chosen.backbone.image_size, chosen.backbone.channels)
    return content, lambda path: graphs.run_onnx(path, chosen.images)


FORMS = {"safetensors": as_safetensors, "stablehlo": as_stablehlo, "onnx": as_onnx}


def checked(found: np.ndarray, wanted: np.ndarray, out: Path) -> float:
    """The largest difference relative to the largest feature. Raises UserError where it exceeds `LARGEST`."""
    if found.shape != wanted.shape:
        raise UserError(f"{out} was not written: it gives {list(found.shape)} and the run {list(wanted.shape)}")
    difference = float(np.max(np.abs(found - wanted)) / max(np.max(np.abs(wanted)), np.finfo(np.float32).tiny))
    if not difference <= LARGEST:
        raise UserError(
            f"{out} was not written: its features differ from the run's by {difference:.1e} of the largest, "
            f"{LARGEST:g} are allowed"
        )
    return difference


if __name__ == "__main__":
    sys.exit(main())
