"""The benchmark of the step: its count of operations against the products that the program really holds."""

from __future__ import annotations

import importlib.util
import math
import sys

import jax
import jax.numpy as jnp
import pytest
from jax.extend.core import jaxprs_in_params

from gssl_jax.runs.parts import assemble, stage_config
from tests.runs.recipes import CONFIGS, recipe


@pytest.fixture(scope="module")
def benchmark_module():
    spec = importlib.util.spec_from_file_location("step_benchmark", CONFIGS.parent / "benchmarks" / "step.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def product_flops(jaxpr):
    """2 x the multiplications of every matrix product in a jaxpr, those of inner jaxprs included."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)
        for inner in jaxprs_in_params(equation.params):
            total += product_flops(inner)
    return total


def test_the_counted_operations_are_those_of_the_teacher(benchmark_module):
    config = recipe("tiny")
    parts = assemble(stage_config(config, "target"))
    side, channels, batch = config.data.image_size, config.data.channels, config.optim.batch_size
    views = {"clean": jax.ShapeDtypeStruct((batch, 2, side, side, channels), jnp.float32)}
    method = parts.method.loss.__self__
    teacher = jax.eval_shape(lambda v: method.init(jax.random.key(0), v)[1]["teacher"], views)
    found = product_flops(jax.make_jaxpr(method.teacher)(teacher, views).jaxpr)
    assert found == 2 * batch * benchmark_module.forward_flops(parts, side, "all")


def test_help(benchmark_module, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["step.py", "--help"])
    with pytest.raises(SystemExit) as stopped:
        benchmark_module.main()
    assert stopped.value.code == 0 and "--rounds" in capsys.readouterr().out
