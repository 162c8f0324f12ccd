"""Trained backbones as programs that run without this package: StableHLO by `jax.export`, ONNX by jax2onnx.

Both take images, float32 [batch, S, S, C] in [0, 1], of any batch size, and return one feature [batch, ...]; the
normalisation is inside, and so is the contrast normalisation of grey images where the run had one.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flatbuffers  # noqa: F401  # jax.export serialises with it and does not bring it
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jax import Array

from gssl_jax.errors import UserError, unknown
from gssl_jax.models.build import Backbone
from gssl_jax.ops.augment import contrast_normalise

PLATFORMS = ("cpu", "cuda", "tpu")

# jax2onnx 0.17 asks for an older Orbax than training needs and for much that it imports for other frameworks only:
# what it does import is in the extra, and it goes in by itself.
ONNX_COMMAND = "pip install -e '.[onnx]' && pip install --no-deps 'jax2onnx>=0.17,<0.18'"

Encoder = Callable[[Array], Array]


def encoder(backbone: Backbone, variables: Mapping[str, Any], feature: str, contrast: bool) -> Encoder:
    """images float32 [B, S, S, C] in [0, 1] -> the feature `feature` [B, ...], float32.

    `contrast` puts the contrast normalisation of grey images first. Raises UserError for a feature that the backbone
    does not give.
    """
    images = jax.ShapeDtypeStruct((1, backbone.image_size, backbone.image_size, backbone.channels), jnp.float32)
    given = jax.eval_shape(backbone.apply, variables, images)
    if feature not in given:
        raise unknown("feature", feature, given)

    def encode(images: Array) -> Array:
        if contrast:
            images = jax.vmap(contrast_normalise)(images)
        return backbone.apply(variables, images)[feature].astype(jnp.float32)

    return encode


def stablehlo_bytes(encode: Encoder, side: int, channels: int) -> bytes:
    """The encoder as a serialised `jax.export.Exported` for `PLATFORMS`, weights inside, batch size open."""
    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, side, side, channels), jnp.float32)
    return bytes(jax.export.export(jax.jit(encode), platforms=PLATFORMS)(images).serialize())


def run_stablehlo(path: Path, images: np.ndarray) -> np.ndarray:
    """What the program in a file makes of images float32 [B, S, S, C]."""
    return np.asarray(jax.export.deserialize(bytearray(path.read_bytes())).call(jnp.asarray(images)))


def onnx_bytes(encode: Encoder, side: int, channels: int) -> bytes:
    """The encoder as an ONNX model with the input `images` and the output `features`, batch size open.

    Raises UserError where jax2onnx is not installed, or cannot convert the network.
    """
    convert = optional("jax2onnx").to_onnx
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)
    try:
        model = convert(
            encode,
            [("B", side, side, channels)],
            model_name="backbone",
            input_names=["images"],
            output_names=["features"],
        )
    except (NotImplementedError, ValueError, TypeError, KeyError) as problem:
        words = " ".join(str(problem).split())[:160] or type(problem).__name__
        raise UserError(f"jax2onnx cannot convert this network ({words}): use --format=stablehlo") from problem
    return bytes(model.SerializeToString())


def run_onnx(path: Path, images: np.ndarray) -> np.ndarray:
    """What the model in a file makes of images float32 [B, S, S, C], by onnxruntime on the CPU."""
    runtime = optional("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors: shapes that the converter wrote loosely are no news to a user
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["features"], {"images": images})[0])


def optional(module: str) -> Any:
    """An optional module. Raises UserError naming the command that brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as problem:
        raise UserError(f"--format=onnx needs {problem.name or module}; run: {ONNX_COMMAND}") from problem
