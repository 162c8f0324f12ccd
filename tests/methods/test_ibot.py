"""iBOT: both losses against plain loops, what hidden patches give away, its masks, what is refused."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gssl_jax.errors import UserError
from gssl_jax.ops.masking import expand
from tests import reference
from tests.methods.clustering_parts import (
    BATCH,
    CONTROLS,
    STEP,
    TEMPERATURE,
    config_of,
    cosines,
    drawn_views,
    given,
    gradients,
    largest,
    start,
    tiny,
)


@pytest.mark.parametrize(("cls", "patch"), [*itertools.product(CONTROLS, CONTROLS)][::3])
def test_the_loss_equals_plain_loops(cls, patch):
    """Every control at either level; of one view nothing is hidden, so that its patch loss is zero."""
    places = np.random.default_rng(3).random((BATCH, 2, 9)) < 0.4
    places[0, 0] = False
    mask = expand(jnp.asarray(places).reshape(BATCH, 2, 3, 3), 4)
    taught = {"cls": cosines(BATCH, 2, 6), "patch": cosines(BATCH, 2, 9, 10)}
    learned = {"cls": cosines(BATCH, 3, 6, seed=1), "patch": cosines(BATCH, 2, 9, 10, seed=1)}
    centre = {"cls": cosines(6, seed=2) / 5, "patch": cosines(10, seed=2) / 5}
    changes = dict(method__collapse__cls=cls, method__collapse__patch=patch, method__loss__patch=0.5)
    own = given(tiny("ibot", **changes), {"teacher": lambda *_: taught, "student": lambda *_: learned})
    state = {"teacher": {}, "centre": centre}
    loss, (_, metrics) = own.loss({}, state, {"mask": mask}, jax.random.key(0), jnp.int32(STEP), True)
    settings = config_of("ibot", **changes).method
    settings.loss["same_view"] = False
    expected = reference.clustering(
        settings, *jax.tree.map(np.asarray, (taught, learned, centre)), TEMPERATURE, mask=places
    )
    for name, number in expected.items():
        assert float(metrics[name]) == pytest.approx(number, rel=2e-4), name
    weighted = sum(number * (0.5 if name.endswith("patch") else 1.0) for name, number in expected.items())
    assert float(loss) == pytest.approx(weighted, rel=2e-4)


def test_hidden_pixels_give_the_student_nothing():
    """No gradient to them, to the teacher and to its views; the mask token and every level's prototypes learn."""
    method = tiny("ibot", method__corruption__images=1.0)
    views = drawn_views(method)
    _, found = gradients(method, views)
    assert largest(found["state"]) == 0.0 and largest(found["views"]["clean"]) == 0.0
    reached, hidden = np.asarray(found["views"]["student"]) != 0, np.asarray(views["mask"])[..., None]
    assert (
        hidden.any() and not (reached & hidden).any() and reached[np.broadcast_to(~hidden, reached.shape)].mean() > 0.99
    )
    for path in (("heads", "mask_token"), ("prototypes", "cls"), ("prototypes", "patch")):
        assert largest(found["params"][path[0]][path[1]]) > 1e-5, path


def test_state():
    method = tiny("ibot")
    state = start(method)
    assert set(state.method_state) == {"teacher", "centre"} and set(state.params["heads"]) == {"mask_token"}
    assert set(state.method_state["teacher"]) == {"backbone", "projector", "prototypes"}
    assert set(state.params["projector"]) == {"cls", "patch"}
    assert set(start(tiny("ibot", method__projector__shared=True)).params["projector"]) == {"shared"}
    after = method.loss(state.params, state.method_state, drawn_views(method), jax.random.key(0), jnp.int32(0), True)
    assert set(after[1][0]) == {"teacher", "centre"}


@pytest.mark.parametrize(("changes", "message"), [
    (dict(method__views__globals=1, method__views__locals=0), "set --config.method.views.globals=2"),
    (dict(method__corruption__kind="noise", method__corruption__spread=0.0, method__corruption__images=1.0),
     "set --config.method.corruption.kind=token"),
    (dict(method__corruption__kind="zeros"), "set --config.method.corruption.kind=token"),
    (dict(method__corruption__spread=0.3), "method.corruption.spread=0.3"),
    (dict(method__corruption__images=0.0), "method.corruption.images=0.0 is not a share"),
    (dict(method__collapse__patch="sinkhron"), "did you mean 'sinkhorn'"),
])  # fmt: skip
def test_mistakes(changes, message):
    with pytest.raises(UserError, match=message):
        tiny("ibot", **changes)
