"""What pictures are drawn from: maps of any backbone, reconstructions of any method that has them."""

from contextlib import contextmanager
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gssl_jax.methods.base import Method
from gssl_jax.models.build import build_backbone
from gssl_jax.runs.pictures import clusters, maps, reconstruction, spoilt
from gssl_jax.training.mesh import make_mesh
from tests.tiny import tiny_config

IMAGES = np.random.default_rng(0).random((4, 12, 12, 1), np.float32)


def convolutional(grid):
    """Stands for a ResNet: its map is `grid` [n, h, w, D] times the variables."""
    return SimpleNamespace(backbone=SimpleNamespace(apply=lambda w, x, capture: {"map": w * grid}))


def test_a_transformer_has_attention_clusters_and_colours():
    backbone = build_backbone(tiny_config())
    variables = jax.jit(backbone.init)(jax.random.key(0), IMAGES)
    found = maps(SimpleNamespace(backbone=backbone), variables, IMAGES)
    assert found["attention"]["maps"].shape == (4, 2, 3, 3) and found["attention"]["rollout"].shape == (4, 3, 3)
    assert found["clusters"]["maps"].shape == (4, 3, 3) and found["pca"]["maps"].shape == (4, 3, 3, 3)
    broken = maps(SimpleNamespace(backbone=backbone), jax.tree.map(lambda x: x * np.nan, variables), IMAGES)
    assert set(broken) == {"attention"}


def test_a_convolutional_network_has_clusters_and_colours():
    """Two kinds of patches, far apart: as many clusters, and colours from dark to bright."""
    kinds = np.arange(16).reshape(4, 2, 2) % 2
    found = maps(convolutional(np.eye(2)[kinds][..., [0, 1, 1]]), 3.0, IMAGES)
    assert set(found) == {"clusters", "pca"}
    patches = found["clusters"]["maps"]
    assert (patches[kinds == 0] == patches[0, 0, 0]).all() and (patches[kinds == 1] != patches[0, 0, 0]).all()
    shades = found["pca"]["maps"][..., 0]
    assert set(np.unique(shades)) == {0.0, 1.0} and np.ptp(shades[kinds == 0]) == 0
    np.testing.assert_array_equal(found["pca"]["images"], IMAGES)


@pytest.mark.parametrize("grid", [np.ones((4, 1, 1, 3)), np.full((4, 2, 2, 3), np.nan)])
def test_one_patch_and_numbers_that_are_not_finite_have_no_map(grid):
    assert maps(convolutional(grid), 1.0, IMAGES) == {}


def test_patches_that_are_all_alike_are_one_cluster():
    assert (clusters(np.ones((2, 3, 3, 5))) == 0).all()


@pytest.fixture
def rebuilt():
    """rebuilt(views) -> the reconstruction of a method whose views those are, one batch of 9 samples of them."""

    def run(**views):
        method = Method(("train",), None, lambda batches, key, step: views, None, None, None,
                        lambda params, shown: jnp.full_like(next(iter(shown.values())), params), None)  # fmt: skip

        @contextmanager
        def batches(start):
            yield iter(
                [{"train": {"index": np.arange(8, dtype=np.int32), "image": np.zeros((8, 1, 4, 4, 1), np.uint8)}}]
            )

        images = SimpleNamespace(batches=batches, resident={})
        state = SimpleNamespace(params=0.25, key=jax.random.key(0))
        return reconstruction(SimpleNamespace(mesh=make_mesh(), method=method), images, state)

    return run


def test_reconstructions_need_neither_a_spoilt_view_nor_a_mask(rebuilt):
    clean = jnp.asarray(np.random.default_rng(0).random((9, 2, 4, 4, 1), np.float32))
    found = rebuilt(clean=clean)["reconstruction"]
    np.testing.assert_array_equal(found["input"], clean[:8, 0])
    np.testing.assert_array_equal(found["corrupted"], clean[:8, 0])
    assert (found["reconstructed"] == 0.25).all() and found["reconstructed"].shape == (8, 4, 4, 1)
    student = clean.at[:, :, :2].set(0.0)
    assert (rebuilt(clean=clean, student=student)["reconstruction"]["corrupted"][:, :2] == 0).all()
    assert rebuilt(view_1=clean, view_2=clean) == {}


def test_hidden_patches_are_grey_where_the_pixels_do_not_show_them():
    clean = np.zeros((1, 4, 4, 1), np.float32)
    mask = np.zeros((1, 4, 4), bool)
    mask[0, :2, 2:] = True
    grey = spoilt(clean, clean, mask)
    assert (grey[0, :2, 2:] == 0.5).all() and grey.sum() == pytest.approx(4 * 0.5)
    by_patch = spoilt(clean, clean, np.array([[False, True, False, False]]))
    np.testing.assert_array_equal(by_patch, grey)
    noisy = clean + mask[..., None]  # the pixels themselves are replaced
    np.testing.assert_array_equal(spoilt(clean, noisy, mask), noisy)
