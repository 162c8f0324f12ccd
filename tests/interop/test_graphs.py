"""Programs out: the same features in a process that cannot import this package, for any batch, and through ONNX."""

from __future__ import annotations

import subprocess
import sys

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from gssl_jax.errors import UserError
from gssl_jax.interop import graphs
from gssl_jax.models.resnet import resnet
from tests.interop.test_save import drawn
from tests.interop.transformer import images, vit

NETWORKS = {
    "vit": vit(registers=1, layer_scale=0.1),
    "resnet": resnet("resnet18", image_size=16, depths=(1, 1), widths=(4, 8), stem_width=4),
    "bottleneck": resnet("resnet50", image_size=16, depths=(1, 1), widths=(4, 8), stem_width=4, stem="cifar"),
    "wide": resnet("wrn_28_2", image_size=8, depths=(1, 1), widths=(4, 6)),
}


def made(name):
    backbone = NETWORKS[name]
    variables = drawn(backbone)
    x = np.random.default_rng(3).random((5, backbone.image_size, backbone.image_size, 3)).astype(np.float32)
    return backbone, variables, x


def relative(found, wanted):
    return np.max(np.abs(found - wanted)) / np.max(np.abs(wanted))


ALONE = """
import sys
sys.modules["gssl_jax"] = None  # an import would raise
import jax, numpy as np
from jax import export
program = export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
x = np.load(sys.argv[2])
np.savez(sys.argv[3], all=program.call(x), one=program.call(x[:1]), platforms=program.platforms)
"""


@pytest.mark.parametrize("name", NETWORKS)
def test_stablehlo_runs_where_this_package_is_not(tmp_path, name):
    backbone, variables, x = made(name)
    encode = graphs.encoder(backbone, variables, "feat", False)
    (tmp_path / "b.stablehlo").write_bytes(graphs.stablehlo_bytes(encode, backbone.image_size, 3))
    np.save(tmp_path / "x.npy", x)
    files = [str(tmp_path / n) for n in ("b.stablehlo", "x.npy", "out.npz")]
    done = subprocess.run(
        [sys.executable, "-c", ALONE, *files],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, env={"JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    out = np.load(tmp_path / "out.npz")
    wanted = np.asarray(backbone.apply(variables, x)["feat"])
    assert relative(out["all"], wanted) < 1e-5 and relative(out["one"], wanted[:1]) < 1e-5
    assert out["platforms"].tolist() == ["cpu", "cuda", "tpu"]
    assert relative(graphs.run_stablehlo(tmp_path / "b.stablehlo", x), wanted) < 1e-5


def test_normalisation_and_contrast_are_inside():
    """Contrast by hand: levels (0, 51), mean 25.5, deviation 25.5: 128 -+ 25.5 / 29.5 * 50, over 255."""
    backbone = vit(channels=1)
    variables = drawn(backbone)
    x = np.zeros((1, 12, 12, 1), np.float32)
    x[:, ::2] = 0.2
    step = 25.5 / 29.5 * 50
    shown = np.where(x > 0, 128 + step, 128 - step).astype(np.float32) / 255
    found = graphs.encoder(backbone, variables, "feat", True)(jnp.asarray(x))
    np.testing.assert_allclose(found, backbone.apply(variables, shown)["feat"], rtol=1e-4, atol=1e-5)
    plain = graphs.encoder(backbone, variables, "feat", False)(jnp.asarray(x))
    np.testing.assert_array_equal(plain, backbone.apply(variables, jnp.asarray(x))["feat"])


def test_another_feature_and_one_that_is_not_there():
    backbone = vit()
    variables = drawn(backbone)
    found = graphs.encoder(backbone, variables, "map", False)(jnp.asarray(images()))
    assert found.shape == (2, 3, 3, 8) and found.dtype == jnp.float32
    with pytest.raises(UserError, match="unknown feature 'fest'; did you mean 'feat'"):
        graphs.encoder(backbone, variables, "fest", False)


def test_onnx_without_its_converter_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(UserError, match="needs jax2onnx; run: pip install -e '..onnx.' && pip install --no-deps"):
        graphs.onnx_bytes(lambda x: x, 4, 3)


@pytest.mark.filterwarnings("ignore")  # of the converter and what it imports
@pytest.mark.parametrize("name", NETWORKS)
def test_onnx_gives_the_same_features(tmp_path, name):
    pytest.importorskip("jax2onnx")
    pytest.importorskip("onnxruntime")
    backbone, variables, x = made(name)
    encode = graphs.encoder(backbone, variables, "feat", False)
    (tmp_path / "b.onnx").write_bytes(graphs.onnx_bytes(encode, backbone.image_size, 3))
    wanted = np.asarray(jax.jit(encode)(x))
    assert relative(graphs.run_onnx(tmp_path / "b.onnx", x), wanted) < 1e-5
    assert relative(graphs.run_onnx(tmp_path / "b.onnx", x[:1]), wanted[:1]) < 1e-5
