"""The account of a weights file: its layout, every array with its leaf, and files of no layout all the same."""

from __future__ import annotations

import re

import numpy as np
import pytest

from gssl_jax import weights
from gssl_jax.errors import UserError
from tests.interop.archives import save_zip
from tests.interop.test_load import hugging_face
from tests.interop.transformer import save, timm_weights


def call(*words):
    return weights.main(["weights", *map(str, words)])


def line(text, start):
    """The cells of the row that begins with `start`."""
    found = next(row for row in text.splitlines() if row.startswith(f"{start} "))
    return re.split("  +", found)


def test_a_file_of_a_known_layout(tmp_path, capsys):
    arrays = {"a.weight": np.zeros((2, 3), np.float16)}
    save_zip(tmp_path / "w.pth", hugging_face(timm_weights()) | arrays | {"pooler.dense.bias": np.zeros(8, np.float32)})
    assert call(tmp_path / "w.pth") == 0
    text = capsys.readouterr().out
    # 26 in two blocks of 16 (q, k, v apart) and 6 around them, then the two above
    assert "torch archive; 40 arrays, 0.00 M numbers, 0.0 MiB" in text
    wanted = (
        "layout hf_vit: a ViT with patch=4, width=8, depth=2, mlp_ratio=2, registers=0, layer_scale=0.0, channels=3"
    )
    assert f"{wanted}, image_size=12" in text
    name = "encoder.layer.1.attention.attention.key.weight"
    assert line(text, name) == [name, "8 x 8", "float32", "block_1/attn/qkv/kernel (2 of 3)"]
    assert line(text, "a.weight") == ["a.weight", "2 x 3", "float16", "(unknown)"]
    assert line(text, "pooler.dense.bias") == ["pooler.dense.bias", "8", "float32", "(skipped)"]


def test_a_file_of_no_layout_is_shown_without_leaves(tmp_path, capsys):
    save(tmp_path / "w", {"conv_stem.weight": np.zeros((4, 3, 3, 3), np.float32), "n": np.zeros((), np.int64)})
    assert call(tmp_path / "w") == 0
    text = capsys.readouterr().out
    assert "safetensors; 2 arrays" in text and "those of no known layout" in text
    assert line(text, "conv_stem.weight") == ["conv_stem.weight", "4 x 3 x 3 x 3", "float32"]
    assert line(text, "n") == ["n", "one number", "int64"]


def test_a_layout_can_be_named(tmp_path, capsys):
    save(tmp_path / "w", timm_weights())
    assert call(tmp_path / "w", "--layout=dino") == 0
    assert "layout dino: a ViT" in capsys.readouterr().out
    assert call(tmp_path / "w", "--layout=hf_vit") == 2
    assert "no known layout" in capsys.readouterr().err


def test_refusals_are_one_line(tmp_path, capsys):
    assert call(tmp_path / "absent") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and "no such file" in error
    assert call("a", "b") == 2
    assert "give one file, not 2" in capsys.readouterr().err
    with pytest.raises(UserError, match="no such file"):
        call(tmp_path / "absent", "--debug")


@pytest.mark.parametrize("words", [["--help"], []])
def test_help(words, capsys):
    assert call(*words) == 0
    assert capsys.readouterr().out == weights.USAGE
