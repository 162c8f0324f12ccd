"""What a stage takes from the stage before it.

By default the backbone alone, as HPT does (arXiv 2103.12718, section 3): projector, prototypes and queue begin anew.
The network that is handed over is the one that the earlier stage judges by, `evals.which`, in the state that validation
chose. A teacher begins as a copy of what its student was given, unless the earlier teacher is asked for too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gssl_jax.errors import UserError, unknown
from gssl_jax.training.state import TrainState

PARTS = ("backbone", "projector", "predictor", "prototypes", "heads", "teacher")
"""Every name `config.method.hand_over` may hold."""


class Handed(NamedTuple):
    """The end of a stage: its name, the variables of the backbone that it is judged by, and its whole state."""

    stage: str
    variables: Mapping[str, Any]
    params: Mapping[str, Any]
    method_state: Mapping[str, Any]


def check(names: Sequence[str]) -> None:
    """Raises UserError for a part that does not exist."""
    for name in names:
        if name not in PARTS:
            raise unknown("method.hand_over", name, PARTS)


def hand_over(state: TrainState, handed: Handed, names: Sequence[str]) -> TrainState:
    """`state`, fresh, with the parts `names` of the stage before; every array is a copy.

    Raises:
        UserError: an unknown part, one that either stage lacks, or one of another form, naming the first array.
    """
    check(names)
    params, own = dict(state.params), dict(state.method_state)
    given = {**handed.params, "backbone": handed.variables["params"]}
    teacher = dict(own["teacher"]) if "teacher" in own else {}
    earlier = handed.method_state.get("teacher", {}) if "teacher" in names else {}
    if "teacher" in names and not (teacher and earlier):
        raise _lacking("teacher", handed.stage, "teacher" in handed.method_state)
    for name in [name for name in names if name != "teacher"]:
        if name not in given or name not in params:
            raise _lacking(name, handed.stage, name in given)
        _check_form(name, handed.stage, given[name], params[name])
        params[name] = _copied(given[name])
        if name in teacher:
            source = earlier[name] if name in earlier else given[name]
            _check_form(f"teacher/{name}", handed.stage, source, teacher[name])
            teacher[name] = _copied(source)
    if teacher:
        own["teacher"] = teacher
    if "backbone" in names and "batch_stats" in handed.variables:
        for name in own.keys() & {"batch_stats", "teacher_batch_stats"}:
            kept = "teacher" in names and name in handed.method_state
            own[name] = _copied(handed.method_state[name] if kept else handed.variables["batch_stats"])
    return dataclasses.replace(state, params=params, method_state=own)


def _copied(tree: Any) -> Any:
    return jax.tree.map(jnp.copy, tree)


def _lacking(name: str, stage: str, there: bool) -> UserError:
    who = "this stage's method" if there else f"stage {stage!r}"
    return UserError(f"method.hand_over names {name!r} and {who} has none: leave it out")


def _check_form(name: str, stage: str, given: Any, wanted: Any) -> None:
    """Raises UserError naming the first array in which two trees differ."""
    here, there = (
        {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in found}
        for found in (jax.tree.leaves_with_path(wanted), jax.tree.leaves_with_path(given))
    )
    for path in {**here, **there}:
        if here.get(path) != there.get(path):
            words = [f"{list(forms[path])}" if path in forms else "absent" for forms in (there, here)]
            raise UserError(
                f"{name}/{path} is {words[0]} in stage {stage!r} and {words[1]} here: give both stages the same "
                f"network, or leave {name.split('/')[-1]!r} out of method.hand_over"
            )
