"""Views: shapes, what is hidden by each kind of corruption, and draws that belong to the sample and the step."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gssl_jax.errors import UserError
from gssl_jax.methods.masked_views import KINDS, MaskedViews
from tests import reference
from tests.tiny import QUICK, tiny_batch, tiny_config, tiny_crops

PLAIN = {f"method__augment__{name}__flip": 0.0 for name in ("global_1", "global_2", "local")}
HOST = dict(data__crop="host", method__views__locals=2, method__corruption__foreign_probability=0.0, **PLAIN)


def made(**changes):
    config = tiny_config()
    config.update_from_flattened_dict({name.replace("__", "."): value for name, value in changes.items()})
    return MaskedViews.build(config)


@functools.cache
def drawing(**changes):
    """The jitted `draw` of a variant; compiled once for all tests of this file."""
    return jax.jit(made(**changes).draw, compiler_options=QUICK)


def draw(batch, step=0, seed=0, **changes):
    return {k: np.asarray(v) for k, v in drawing(**changes)(batch, jax.random.key(seed), step).items()}


def other_images(batch):
    return {"train": {**batch["train"], "image": 255 - batch["train"]["image"]}}


def shuffled(batch, order):
    return {"train": {name: value[order] for name, value in batch["train"].items()}}


# -- crops on the device: grey canvases, noise and foreign content ---------------------------------------------------


def test_shapes_and_what_is_hidden():
    views = draw(tiny_batch())
    assert set(views) == {"clean", "student", "mask"}
    assert views["clean"].shape == views["student"].shape == (8, 2, 12, 12, 1) and views["mask"].shape == (8, 2, 12, 12)
    assert views["clean"].dtype == np.float32 and views["mask"].dtype == bool
    assert views["clean"].min() >= 0 and views["clean"].max() <= 1
    hidden = views["mask"]
    np.testing.assert_array_equal(views["student"][~hidden], views["clean"][~hidden])
    assert (views["student"][hidden] != views["clean"][hidden]).all()
    assert reference.patch_aligned(hidden, 4)
    assert 0.3 <= hidden.mean() <= 0.8


def test_every_draw_follows_the_sample_and_not_its_place():
    """Crops, flips, masks, noise and the donor of foreign content."""
    batch, order = tiny_batch(), np.asarray([5, 2, 7, 0, 1, 6, 3, 4])
    straight, mixed = draw(batch), draw(shuffled(batch, order))
    for name in straight:
        np.testing.assert_array_equal(mixed[name], straight[name][order], err_msg=name)


def test_an_image_that_comes_twice_in_a_batch_gets_two_draws():
    batch = tiny_batch()["train"]
    twice = {**batch, "image": np.repeat(batch["image"][:4], 2, axis=0), "index": np.repeat(batch["index"][:4], 2)}
    views = draw({"train": twice})
    for name in ("clean", "mask"):
        assert all((views[name][2 * i] != views[name][2 * i + 1]).any() for i in range(4))


def test_views_steps_and_seeds_draw_anew_and_the_same_step_again():
    batch = tiny_batch()
    first = draw(batch)
    for name in ("clean", "mask"):
        assert (first[name][:, 0] != first[name][:, 1]).any()
        assert (draw(batch, step=1)[name] != first[name]).any()
        assert (draw(batch, seed=1)[name] != first[name]).any()
        np.testing.assert_array_equal(draw(batch)[name], first[name])


# -- crops from the host: nothing but corruption is left to the device -----------------------------------------------


def test_host_crops_are_taken_as_they_are():
    """View v is crop v, without another crop; local view v is local crop v, and nothing is hidden there."""
    batch = tiny_crops()
    views = draw(batch, **HOST)
    np.testing.assert_allclose(views["clean"], batch["train"]["image"] / 255.0, atol=1e-6)
    np.testing.assert_allclose(views["local"], batch["train"]["local"] / 255.0, atol=1e-6)


def test_the_first_view_has_its_own_augmentation_and_all_others_share_one():
    flips = {"method__augment__global_1__flip": 0.0, "method__augment__global_2__flip": 1.0}
    batch = tiny_crops()
    batch["train"]["image"] = batch["train"]["image"][:, [0, 1, 0]]
    views = draw(batch, **{**HOST, **flips, "method__views__globals": 3})
    expected = batch["train"]["image"] / 255.0
    expected[:, 1:] = expected[:, 1:, :, ::-1]
    np.testing.assert_allclose(views["clean"], expected, atol=1e-6)


def test_noise_does_not_know_the_image_it_hides():
    batch = tiny_crops()
    views, others = draw(batch, **HOST), draw(other_images(batch), **HOST)
    np.testing.assert_array_equal(views["mask"], others["mask"])
    np.testing.assert_array_equal(views["student"][views["mask"]], others["student"][views["mask"]])
    assert (views["student"][~views["mask"]] != others["student"][~views["mask"]]).mean() > 0.9


def test_zeros_are_the_grey_that_normalises_to_zero():
    """One mean serves every channel, several serve one each."""
    for channels, mean in ((5, (0.5,)), (3, (0.2, 0.4, 0.6))):
        std = (0.25,) * len(mean)
        changes = {
            **HOST,
            "method__corruption__kind": "zeros",
            "data__channels": channels,
            "data__mean": mean,
            "data__std": std,
        }
        views = draw(tiny_crops(channels=channels), **changes)
        assert views["student"].shape[-1] == channels
        expected = np.broadcast_to(np.float32(mean), (channels,))
        np.testing.assert_array_equal(np.unique(views["student"][views["mask"]], axis=0), expected[None])


@pytest.mark.parametrize("kind", ["token", "drop"])
def test_whole_patches_are_hidden_and_the_pixels_left_alone(kind):
    changes = {**HOST, "method__corruption__kind": kind}
    views, own = draw(tiny_crops(), **changes), made(**changes)
    np.testing.assert_array_equal(views["student"], views["clean"])
    hidden = np.asarray(own.tokens(jnp.asarray(views["mask"])))
    assert hidden.shape == (8, 2, 9)
    np.testing.assert_array_equal(np.kron(hidden.reshape(8, 2, 3, 3), np.ones((4, 4), bool)), views["mask"])
    if kind == "token":
        assert set(views) == {"clean", "student", "mask", "local"}
        assert (hidden.sum(axis=-1) >= 5).all()  # half of nine, rounded up
    else:
        assert (hidden.sum(axis=-1) == 4).all()  # round(4.5), to even: the same number for every image
        for b in range(8):
            for v in range(2):
                np.testing.assert_array_equal(views["keep"][b, v], np.flatnonzero(~hidden[b, v]))
        assert len(np.unique(hidden.reshape(16, 9), axis=0)) > 8


def test_tokens_hidden_in_some_images_only():
    """With ratios from .2 to .6 of nine patches at least two are hidden, in two thirds of the views or none at all."""
    changes = {**HOST, "method__corruption__kind": "token", "method__corruption__ratio": 0.4}
    changes |= {"method__corruption__spread": 0.2, "method__corruption__images": 0.67}
    views = draw(tiny_crops(32), **changes)
    hidden = views["mask"].reshape(64, -1).mean(axis=1) * 9
    assert set(np.unique(np.round(hidden))) <= {0, 2, 3, 4, 5, 6, 7, 8} and 30 < (hidden > 0).sum() < 56
    assert reference.patch_aligned(views["mask"], 4)


def test_dropped_blocks_larger_than_a_patch():
    """Cells of 4 pixels over patches of 2: of 9 cells 4 are hidden, 16 of 36 patches."""
    changes = {**HOST, "method__corruption__kind": "drop", "backbone__patch": 2}
    views = draw(tiny_crops(), **changes)
    assert views["keep"].shape == (8, 2, 20)
    assert reference.patch_aligned(views["mask"], 4)


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("changes", "message"), [
    (dict(method__corruption__kind="tokens"), "unknown method.corruption.kind 'tokens'; did you mean 'token'"),
    (dict(method__corruption__align=5), "method.corruption.align=5 does not divide data.image_size=12"),
    (dict(method__corruption__kind="token", method__corruption__align=2), "set --config.method.corruption.align=4"),
    (dict(method__corruption__kind="drop", method__corruption__align=6), "set --config.method.corruption.align=4"),
    (dict(method__corruption__spread=0.1), "set them to 0.0 and 1.0"),
    (dict(method__corruption__kind="token", method__corruption__spread=0.5), "ratio - spread"),
    (dict(method__corruption__kind="token", method__corruption__images=1.5), "method.corruption.images=1.5"),
    (dict(method__augment__global_1__size=16), "set --config.method.augment.global_1.size=12"),
    (dict(method__augment__global_2__size=8), "method.augment.global_2.size=8 is not data.image_size=12"),
    (dict(method__views__locals=1, method__augment__local__size=10), "method.augment.local.size=10 is not a multiple"),
])  # fmt: skip
def test_mistakes_are_named_in_one_line(changes, message):
    with pytest.raises(UserError) as caught:
        made(**changes)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_builds(kind):
    assert made(method__corruption__kind=kind).fill == (0.5,)
    assert made(method__augment__local__size=10).settings.views.locals == 0  # no local views, no matter their size
    one_view = dict(method__views__globals=1, method__augment__global_2__size=10)
    assert made(**one_view).settings.views.globals == 1
