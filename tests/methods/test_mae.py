"""MAE: what is rebuilt from what, against NumPy; nothing of a hidden pixel reaches the encoder."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gssl_jax.errors import UserError
from tests.methods.objectives import RESNET, batch, begun, judged, made, shown, three_steps
from tests.tiny import QUICK, leaves

KEY = jax.random.key(3)
RATIO = dict(method__corruption__ratio=0.67)  # 6 of the 9 patches


def patches_of(images):
    """[n, 12, 12, 1] -> [n, 9, 16] by slices."""
    cells = [images[:, i : i + 4, j : j + 4].reshape(len(images), -1) for i in (0, 4, 8) for j in (0, 4, 8)]
    return np.stack(cells, axis=1)


@pytest.mark.parametrize("normalised", [True, False])
def test_the_loss_is_the_error_of_the_hidden_patches(normalised):
    """Of pixels less .5 over .25, or each patch by its own mean and sample deviation, by loops in float64."""
    changes = {**RATIO, "method__loss__normalised_patches": normalised}
    method, views = made("mae", **changes), shown("mae", **changes)
    params, state = begun(method, views)
    loss, (after, _) = judged(method)(params, state, views, KEY, jnp.int32(0))
    own = method.loss.__self__
    rebuilt = np.float64(jax.jit(lambda p: own.predict_patches(p, views, KEY, False), compiler_options=QUICK)(params))
    clean = (np.float64(views["clean"]).reshape(-1, 12, 12, 1) - 0.5) / 0.25
    hidden = patches_of(np.asarray(views["mask"]).reshape(-1, 12, 12, 1)).all(-1)
    assert (hidden.sum(1) == 6).all() and rebuilt.shape == (16, 9, 16)
    costs = []
    for i, cells in enumerate(patches_of(clean)):
        for n, patch in enumerate(cells):
            if hidden[i, n]:
                if normalised:
                    patch = (patch - patch.mean()) / np.sqrt(patch.var(ddof=1) + 1e-6)
                costs.append(((rebuilt[i, n] - patch) ** 2).mean())
    assert float(loss) == pytest.approx(np.mean(costs), rel=1e-4)
    assert after == {} and method.predict is None


def test_hidden_pixels_reach_neither_the_prediction_nor_the_loss_of_others():
    """Other pixels under the mask change no prediction, visible ones do; the loss asks for the hidden ones alone."""
    method, views = made("mae", **RATIO), shown("mae", **RATIO)
    params, _ = begun(method, views)
    own, mask = method.loss.__self__, np.asarray(views["mask"])[..., None]

    def predicted(clean):
        return own.predict_patches(params, {**views, "clean": clean}, KEY, False)

    def loss(clean, prediction):
        targets = own._patches({**views, "clean": clean})
        return jnp.where(own._hidden(views)[..., None], (targets - prediction) ** 2, 0.0).sum()

    fast = jax.jit(predicted, compiler_options=QUICK)
    before, other = fast(views["clean"]), 1.0 - views["clean"]
    np.testing.assert_array_equal(fast(jnp.where(mask, other, views["clean"])), before)
    assert (np.asarray(fast(jnp.where(mask, views["clean"], other))) != before).any()
    pulled = jax.jit(jax.grad(lambda c: (predicted(c) ** 2).sum()), compiler_options=QUICK)(views["clean"])
    assert (np.asarray(pulled)[np.broadcast_to(mask, pulled.shape)] == 0).all()
    wanted = np.asarray(jax.grad(loss)(views["clean"], before))
    assert (wanted[np.broadcast_to(~mask, wanted.shape)] == 0).all() and (wanted != 0).any()
    whole = jax.jit(lambda c: method.loss(params, {}, {**views, "clean": c}, KEY, 0, True)[0], compiler_options=QUICK)
    assert float(whole(jnp.where(mask, other, views["clean"]))) != float(whole(views["clean"]))


def test_targets_get_no_gradient():
    method, views = made("mae", **RATIO), shown("mae", **RATIO)
    params, _ = begun(method, views)
    of_pixels = jax.grad(lambda c: method.loss(params, {}, {**views, "clean": c}, KEY, 0, True)[0])
    found = np.asarray(jax.jit(of_pixels, compiler_options=QUICK)(views["clean"]))
    hidden = np.broadcast_to(np.asarray(views["mask"])[..., None], found.shape)
    assert (found[hidden] == 0).all() and (found[~hidden] != 0).any()


@pytest.mark.parametrize("normalised", [True, False])
def test_the_picture_shows_visible_patches_as_they_are_and_the_others_rebuilt(normalised):
    changes = {**RATIO, "method__loss__normalised_patches": normalised}
    method, views = made("mae", **changes), shown("mae", **changes)
    params, _ = begun(method, views)
    pixels, raw = jax.jit(
        lambda p: (method.reconstruct(p, views), method.loss.__self__.predict_patches(p, views, KEY, False)),
        compiler_options=QUICK,
    )(params)
    clean, mask = np.asarray(views["clean"]), np.asarray(views["mask"])
    assert pixels.shape == clean.shape
    np.testing.assert_allclose(np.asarray(pixels)[~mask], clean[~mask], atol=1e-6)
    flat = (np.float64(clean).reshape(-1, 12, 12, 1) - 0.5) / 0.25
    truth, expected = patches_of(flat), np.float64(raw)
    if normalised:
        expected = expected * np.sqrt(truth.var(-1, ddof=1, keepdims=True) + 1e-6) + truth.mean(-1, keepdims=True)
    hidden = patches_of(mask.reshape(-1, 12, 12, 1)).all(-1)
    found = patches_of(np.asarray(pixels).reshape(-1, 12, 12, 1))[hidden]
    np.testing.assert_allclose(found, np.clip(expected[hidden] * 0.25 + 0.5, 0, 1), atol=1e-5)


def test_parameters_are_the_backbone_and_a_decoder_that_is_left_behind():
    method = made("mae")
    params, state = jax.eval_shape(method.init, jax.random.key(0), shown("mae"))
    assert set(params) == {"backbone", "heads"} and set(params["heads"]) == {"decoder"} and state == {}
    assert params["heads"]["decoder"]["mask_token"].shape == (64,)
    assert set(leaves(method.backbone(begun(method, shown("mae"))[0], {}, "teacher"))) == {
        f"['params']{name}" for name in leaves(begun(method, shown("mae"))[0]["backbone"])
    }


@pytest.mark.parametrize(("changes", "network", "words"), [
    ({}, RESNET, "mae leaves patches out.*set --config.backbone.kind=vit"),
    (dict(method__corruption__kind="noise"), None, "set --config.method.corruption.kind=drop"),
    (dict(method__views__locals=1), None, "set --config.method.views.locals=0"),
    (dict(method__decoder__heads=5), None, "method.decoder.width=64 is not divisible by 4 and by"),
    (dict(method__corruption__ratio=0.99), None, "drops all 9 cells"),
])  # fmt: skip
def test_what_means_nothing_is_refused(changes, network, words):
    with pytest.raises(UserError, match=words):
        made("mae", network, **changes)


def test_eight_devices_equal_one():
    method = made("mae", **RATIO)
    (one, first), (eight, second) = (three_steps(method, n) for n in (1, 8))
    assert len(eight.step.sharding.device_set) == 8
    for a, b in zip(first, second, strict=True):
        assert a == pytest.approx(b, rel=1e-4, abs=1e-5)
    for name, value in leaves(one).items():
        np.testing.assert_allclose(leaves(eight)[name], value, atol=1e-4, err_msg=name)


def test_the_same_sample_is_masked_alike_wherever_it_stands():
    method, order = made("mae", **RATIO), np.arange(8)[::-1]
    mixed = {"train": {name: value[order] for name, value in batch()["train"].items()}}
    draw = jax.jit(method.views, compiler_options=QUICK)
    straight, turned = draw(batch(), jax.random.key(0), 0), draw(mixed, jax.random.key(0), 0)
    np.testing.assert_array_equal(turned["keep"], np.asarray(straight["keep"])[order])
