"""MSN: its loss against plain loops, what the dropped patches and the teacher's view give away, what is refused."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gssl_jax.errors import UserError
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


@pytest.mark.parametrize("control", CONTROLS)
def test_the_loss_equals_plain_loops(control):
    """One clean view teaches each of three anchors; ME-MAX is taken over all anchors."""
    taught, learned, centre = cosines(BATCH, 1, 6), cosines(BATCH, 3, 6, seed=1), cosines(6, seed=2) / 5
    networks = {"teacher": lambda *_: taught, "student": lambda *_: learned}
    own = given(tiny("msn", method__collapse__cls=control), networks)
    state = {"teacher": {}, "centre": {"cls": centre}}
    loss, (_, metrics) = own.loss({}, state, {}, jax.random.key(0), jnp.int32(STEP), True)
    goals = reference.targets(control, np.asarray(taught), np.asarray(centre), TEMPERATURE, config_of("msn").method)
    anchors = np.asarray(learned) / 0.1
    costs = [reference.cross_entropy(goals[b, 0], anchors[b, a]) for b in range(BATCH) for a in range(3)]
    penalty = 0.0
    if control == "memax":
        penalty = np.log(6) - reference.entropy(reference.softmax(anchors).reshape(-1, 6).mean(axis=0))
    assert float(metrics["train/loss_cls"]) == pytest.approx(np.mean(costs), rel=2e-4)
    assert float(loss) == pytest.approx(np.mean(costs) + penalty, rel=2e-4)


def test_the_first_view_teaches_and_the_others_learn():
    """No gradient to the teacher, its view, or a dropped patch; to every kept pixel of the anchors there is one."""
    method = tiny("msn", method__corruption__ratio=0.4)
    views = drawn_views(method)
    _, found = gradients(method, views)
    assert largest(found["state"]) == 0.0 and largest(found["views"]["clean"]) == 0.0
    reached, hidden = np.asarray(found["views"]["student"]) != 0, np.asarray(views["mask"])[..., None]
    assert not reached[:, 0].any()
    assert hidden[:, 1].mean() == pytest.approx(4 / 9) and not (reached & hidden).any()
    assert reached[:, 1][~hidden[:, 1]].mean() > 0.99
    assert largest(found["views"]["local"]) > 1e-5


def test_hidden_pixels_give_the_student_nothing_and_the_teacher_sees_all():
    method = tiny("msn", method__corruption__ratio=0.4)
    views, state = drawn_views(method), start(method)
    own = method.loss.__self__

    @jax.jit
    def both(student, clean):
        shown = {**views, "student": student, "clean": clean}
        return own.student(state.params, shown, jax.random.key(0), False), own.teacher(state.params, shown)

    before = both(views["student"], views["clean"])
    hidden = views["mask"][..., None]
    after = both(jnp.where(hidden, 0.123, views["student"]), jnp.where(hidden, 0.123, views["clean"]))
    np.testing.assert_array_equal(before[0], after[0])
    assert before[0].shape == (BATCH, 2, 6) and before[1].shape == (BATCH, 1, 6)
    assert np.abs(before[1] - after[1]).max() > 1e-4


def test_state():
    method = tiny("msn")
    state = start(method)
    assert set(state.method_state) == {"teacher", "centre"} and "heads" not in state.params
    after = method.loss(state.params, state.method_state, drawn_views(method), jax.random.key(0), jnp.int32(0), True)
    assert set(after[1][0]) == {"teacher", "centre"}


@pytest.mark.parametrize(("changes", "message"), [
    (dict(method__views__globals=1), "set --config.method.views.globals=2"),
    (dict(method__corruption__kind="noise"), "set --config.method.corruption.kind=drop"),
    (dict(backbone__kind="resnet"), "method.name=msn needs the patches of a vision transformer"),
])  # fmt: skip
def test_mistakes(changes, message):
    kind = changes.pop("backbone__kind", None)
    config = config_of("msn", **changes)
    if kind:
        config.backbone.kind = kind
    from gssl_jax.methods import msn

    with pytest.raises(UserError, match=message):
        msn.build(config, None, None) if kind else tiny("msn", **changes)
