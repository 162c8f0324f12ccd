"""What is handed over from stage to stage, on states written by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gssl_jax.errors import UserError
from gssl_jax.runs.handover import Handed, hand_over
from gssl_jax.training.state import TrainState


def network(value, width=3):
    return {"dense": {"kernel": jnp.full((2, width), float(value)), "bias": jnp.full(width, float(value))}}


def begun(value=0, **method_state):
    zero = jnp.zeros((), jnp.int32)
    params = {"backbone": network(value), "projector": network(value), "prototypes": network(value)}
    return TrainState(zero, params, method_state, (), jax.random.key(0), zero.astype(jnp.uint32), zero)


def ended(value=1, teacher=2, judged=3, **changes):
    """Student, teacher and judged backbone can be told apart by their numbers."""
    state = {"teacher": {"backbone": network(teacher), "projector": network(teacher)}, "batch_stats": network(4)}
    state |= {"teacher_batch_stats": network(5)}
    params = {"backbone": network(value), "projector": network(value), "prototypes": network(value)}
    variables = {"params": network(judged), "batch_stats": network(6)}
    return Handed(**{"stage": "source", "variables": variables, "params": params, "method_state": state} | changes)


def value(tree):
    """The one number that a network was filled with."""
    (only,) = {float(x) for leaf in jax.tree.leaves(tree) for x in np.ravel(leaf)}
    return only


def with_teacher():
    teacher = {"backbone": network(0), "projector": network(0)}
    return begun(teacher=teacher, batch_stats=network(0), teacher_batch_stats=network(0), centre=jnp.zeros(2))


def test_the_judged_backbone_alone_by_default():
    after = hand_over(with_teacher(), ended(), ("backbone",))
    assert {name: value(part) for name, part in after.params.items()} == dict(backbone=3, projector=0, prototypes=0)
    assert (value(after.method_state["teacher"]["backbone"]), value(after.method_state["teacher"]["projector"])) == (
        3,
        0,
    )
    assert value(after.method_state["batch_stats"]) == value(after.method_state["teacher_batch_stats"]) == 6
    assert float(after.method_state["centre"].sum()) == 0.0
    given = ended()
    first = hand_over(with_teacher(), given, ("backbone",)).params["backbone"]["dense"]["kernel"]
    assert first is not given.variables["params"]["dense"]["kernel"]  # a step that gives its arrays away spoils none


def test_other_parts_and_the_earlier_teacher_by_choice():
    after = hand_over(with_teacher(), ended(), ("backbone", "projector", "teacher"))
    assert {name: value(part) for name, part in after.params.items()} == dict(backbone=3, projector=1, prototypes=0)
    assert value(after.method_state["teacher"]) == 2
    assert (value(after.method_state["batch_stats"]), value(after.method_state["teacher_batch_stats"])) == (4, 5)
    after = hand_over(with_teacher(), ended(), ("prototypes",))
    assert {name: value(part) for name, part in after.params.items()} == dict(backbone=0, projector=0, prototypes=1)


def test_a_stage_without_teacher_or_statistics_takes_what_it_has():
    after = hand_over(begun(), ended(), ("backbone",))
    assert value(after.params["backbone"]) == 3 and after.method_state == {}
    bare = ended(variables={"params": network(3)})
    assert value(hand_over(with_teacher(), bare, ("backbone",)).method_state["batch_stats"]) == 0


@pytest.mark.parametrize(
    ("state", "given", "names", "words"),
    [
        (begun, ended(), ("backbon",), "unknown method.hand_over 'backbon'; did you mean 'backbone'"),
        (begun, ended(), ("predictor",), "names 'predictor' and stage 'source' has none"),
        (begun, ended(), ("teacher",), "names 'teacher' and this stage's method has none"),
        (with_teacher, ended(method_state={}), ("teacher",), "names 'teacher' and stage 'source' has none"),
        (begun, ended(variables={"params": network(1, width=4)}), ("backbone",),
         r"backbone/dense/bias is \[4\] in stage 'source' and \[3\] here.*leave 'backbone' out"),
        (begun, ended(variables={"params": network(1) | {"norm": network(1)}}), ("backbone",),
         r"backbone/norm/dense/bias is \[3\] in stage 'source' and absent here"),
    ],
)  # fmt: skip
def test_what_cannot_be_handed_over_is_refused(state, given, names, words):
    with pytest.raises(UserError, match=words):
        hand_over(state(), given, names)
