"""SimMIM and, by another corruption, GMML: the loss over hidden pixels, and what the student may see of them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gssl_jax.errors import UserError
from tests.methods.objectives import RESNET, begun, judged, made, shown
from tests.tiny import QUICK

KEY = jax.random.key(3)
GMML = dict(method__corruption__kind="noise", method__corruption__align=1, method__corruption__max_side=0.5)


@pytest.mark.parametrize("changes", [{}, GMML], ids=["token", "noise"])
def test_the_loss_is_the_distance_of_the_hidden_pixels(changes):
    """Mean over hidden pixels of |x - rebuilt| in the normalised space, in float64; the picture shows the others."""
    method, views = made("simmim", **changes), shown("simmim", **changes)
    params, state = begun(method, views)
    loss, (after, _) = judged(method)(params, state, views, KEY, jnp.int32(0))
    own = method.loss.__self__
    rebuilt, picture = jax.jit(
        lambda p: (own.rebuilt(p, views, KEY, False), method.reconstruct(p, views)), compiler_options=QUICK
    )(params)
    clean, mask = np.float64(views["clean"]), np.asarray(views["mask"])
    expected = np.abs((clean - 0.5) / 0.25 - np.float64(rebuilt))[mask].mean()
    assert float(loss) == pytest.approx(expected, rel=1e-4) and after == {}
    np.testing.assert_array_equal(np.asarray(picture)[~mask], np.asarray(views["clean"])[~mask])
    np.testing.assert_allclose(
        np.asarray(picture)[mask], np.clip(np.float64(rebuilt) * 0.25 + 0.5, 0, 1)[mask], atol=1e-5
    )
    assert ("mask_token" in params["heads"]) == (not changes)


def test_single_cells_are_hidden_up_to_the_ratio():
    """Boxes of one cell: .6 of 9 cells are 6 after rounding up."""
    mask = np.asarray(shown("simmim")["mask"])
    cells = mask[..., ::4, ::4]
    np.testing.assert_array_equal(cells.sum((2, 3)), 6)
    np.testing.assert_array_equal(mask, cells.repeat(4, 2).repeat(4, 3))


def test_hidden_pixels_do_not_reach_the_student():
    """Through the token: neither their values nor their gradient."""
    method, views = made("simmim"), shown("simmim")
    params, _ = begun(method, views)
    own, mask = method.loss.__self__, np.asarray(views["mask"])[..., None]
    rebuilt = jax.jit(lambda s: own.rebuilt(params, {**views, "student": s}, KEY, False), compiler_options=QUICK)
    before, other = rebuilt(views["student"]), 1.0 - views["student"]
    np.testing.assert_array_equal(rebuilt(jnp.where(mask, other, views["student"])), before)
    assert (np.asarray(rebuilt(jnp.where(mask, views["student"], other))) != before).any()
    of_clean = jax.grad(lambda c: method.loss(params, {}, {**views, "clean": c}, KEY, 0, True)[0])
    assert (np.asarray(of_clean(views["clean"])) == 0).all()  # targets


@pytest.mark.parametrize(("changes", "network", "words"), [
    ({}, RESNET, "simmim hides patches.*set --config.backbone.kind=vit"),
    (dict(method__corruption__kind="drop"), None, "set --config.method.corruption.kind=token"),
    (dict(method__views__locals=1), None, "set --config.method.views.locals=0"),
    (dict(method__corruption__align=2), None, "hides whole patches: set --config.method.corruption.align=4"),
])  # fmt: skip
def test_what_means_nothing_is_refused(changes, network, words):
    with pytest.raises(UserError, match=words):
        made("simmim", network, **changes)
