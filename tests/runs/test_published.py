"""A run that starts from a file of published weights, written here under timm's names."""

from __future__ import annotations

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from gssl_jax.errors import UserError
from gssl_jax.interop.save import safetensors_bytes, timm_weights
from gssl_jax.methods.base import Clock
from gssl_jax.methods.known import METHODS
from gssl_jax.methods.maskcluster import build
from gssl_jax.models.build import build_backbone
from gssl_jax.runs import stage
from gssl_jax.training.state import TrainState
from tests.runs.recipes import recipe


@pytest.fixture(scope="module")
def released():
    """(configuration, backbone, its variables of another seed with every number moved)."""
    c = recipe("tiny")
    backbone = build_backbone(c)
    image = jnp.zeros((1, c.data.image_size, c.data.image_size, c.data.channels))
    variables = jax.jit(backbone.init)(jax.random.key(7), image)
    return c, backbone, jax.tree.map(lambda x: x + 0.25, variables)


def begun(c, backbone, seed=0):
    """The fresh state of a method whose teacher is a copy of its student."""
    image = jnp.zeros((1, c.data.image_size, c.data.image_size, c.data.channels))
    params = {"backbone": jax.jit(backbone.init)(jax.random.key(seed), image)["params"], "projector": jnp.zeros(3)}
    state = {"teacher": jax.tree.map(jnp.copy, params)}
    zero = jnp.zeros((), jnp.int32)
    return TrainState(zero, params, state, (), jax.random.key(0), zero.astype(jnp.uint32), zero)


def parts_of(c, backbone):
    """As much of a stage as the start from a file reads."""
    method = build(c, backbone, Clock(8, 1))
    fields = dict.fromkeys(stage.Parts._fields) | {"config": c, "backbone": backbone, "method": method}
    return stage.Parts(**fields | {"kind": METHODS["maskcluster"]})


def test_student_and_teacher_start_from_the_file_and_the_heads_anew(released, tmp_path):
    c, backbone, variables = released
    (tmp_path / "net.safetensors").write_bytes(safetensors_bytes(timm_weights(backbone, variables), {}))
    c.backbone.weights = str(tmp_path / "net.safetensors")
    said = io.StringIO()
    state = stage.published(parts_of(c, backbone), begun(c, backbone), Console(file=said, width=120))
    for given in (state.params["backbone"], state.method_state["teacher"]["backbone"]):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), given, variables["params"])
    assert not np.any(state.params["projector"]) and "timm" in said.getvalue() and "loaded" in said.getvalue()


def test_a_leaf_that_is_missing_is_refused_unless_it_is_allowed(released, tmp_path):
    c, backbone, variables = released
    weights = timm_weights(backbone, variables)
    del weights["norm.weight"]
    (tmp_path / "net.safetensors").write_bytes(safetensors_bytes(weights, {}))
    c.backbone.weights, c.backbone.allow = str(tmp_path / "net.safetensors"), ()
    with pytest.raises(UserError, match="net.safetensors.*norm/scale"):
        stage.published(parts_of(c, backbone), begun(c, backbone), Console(quiet=True))
    c.backbone.allow = ("norm/scale",)
    state = stage.published(parts_of(c, backbone), begun(c, backbone), Console(quiet=True))
    np.testing.assert_array_equal(state.params["backbone"]["norm"]["scale"], 1.0)  # as it was initialised
    np.testing.assert_allclose(state.params["backbone"]["norm"]["bias"], 0.25)
