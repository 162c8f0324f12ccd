"""The loop: what hooks see and when, averages over intervals, stopping and going on."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import optax
import pytest

from gssl_jax.training.loop import Hooks, fed, train
from gssl_jax.training.mesh import make_mesh
from gssl_jax.training.step import make_step
from tests.tiny import leaves
from tests.toy import toy_batch, toy_method, toy_state

BATCH = 8


class Diary:
    """A hook that writes down what it is told, and when it is told it the state's own step."""

    def __init__(self, name="", shared=None):
        self.name, self.entries, self.rows = name, [] if shared is None else shared, {}

    def on_log(self, step, row):
        self.entries.append(f"{self.name}log {step}")
        self.rows[step] = row

    def on_boundary(self, step, state):
        assert int(state.step) == step
        self.entries.append(f"{self.name}boundary {step}")


@pytest.fixture(scope="module")
def parts():
    method, optimiser, mesh = toy_method(), optax.adam(0.05), make_mesh()
    return method, optimiser, mesh, functools.cache(lambda n: make_step(method, optimiser, mesh, n))


def run(parts, hooks, total, state=None, broken=(), log_every=3, **settings):
    """(Stop, number of batches taken)."""
    method, optimiser, mesh, step_for = parts
    state = toy_state(method, optimiser, mesh) if state is None else state
    first, taken = int(state.step), itertools.count()
    batches = (toy_batch(i, broken=i in broken) for i in map(lambda k: k + first, taken))
    told = Hooks([diary.on_log for diary in hooks], [diary.on_boundary for diary in hooks])
    stop = train(
        state, step_for, batches, {}, mesh, total=total, batch_size=BATCH, hooks=told, log_every=log_every, **settings
    )
    return stop, next(taken)


def test_boundaries_after_every_step_and_logs_one_step_late(parts):
    """The row of an interval is read once the next step has been sent off; the last one at the end."""
    diary = Diary()
    stop, taken = run(parts, [diary], total=7)
    expected = "boundary 1, boundary 2, boundary 3, log 3, boundary 4, boundary 5, boundary 6, log 6, boundary 7, log 7"
    assert ", ".join(diary.entries) == expected
    assert not stop.interrupted and int(stop.state.step) == 7 and taken == 7


def test_several_steps_a_call_act_at_its_end_and_the_last_call_is_shorter(parts):
    diary = Diary()
    stop, taken = run(parts, [diary], total=7, dispatch=2)
    assert diary.entries == ["boundary 2", "boundary 4", "log 4", "boundary 6", "log 6", "boundary 7", "log 7"]
    assert int(stop.state.step) == 7 and taken == 7


def test_steps_a_call_change_neither_the_state_nor_the_averages(parts):
    one, many = Diary(), Diary()
    first, _ = run(parts, [one], total=6, log_every=6)
    second, _ = run(parts, [many], total=6, log_every=6, dispatch=4)
    for name, value in leaves(first.state).items():
        np.testing.assert_allclose(leaves(second.state)[name], value, atol=1e-6)
    assert one.rows[6]["train/loss"] == pytest.approx(many.rows[6]["train/loss"], rel=1e-6)


def test_rows_are_averages_over_their_interval(parts):
    """`train/step` is the number of the step, from 0: (0 + 1 + 2) / 3, (3 + 4 + 5) / 3, 6."""
    each, third = Diary(), Diary()
    run(parts, [each], total=7, log_every=1)
    run(parts, [third], total=7)
    assert {step: row["train/step"] for step, row in third.rows.items()} == {3: 1.0, 6: 4.0, 7: 6.0}
    losses = [each.rows[step]["train/loss"] for step in range(1, 8)]
    assert third.rows[6]["train/loss"] == pytest.approx(np.mean(losses[3:6]), rel=1e-6)
    assert all(row["train/images_per_second"] > 0 for row in third.rows.values())


def test_broken_steps_are_left_out_of_the_averages(parts):
    diary = Diary()
    stop, _ = run(parts, [diary], total=6, broken=(1, 3, 4, 5))
    assert int(stop.state.skipped) == 4 and int(stop.state.step) == 6
    assert diary.rows[3]["train/step"] == 1.0  # of 0, 1, 2 without 1
    assert np.isnan(diary.rows[6]["train/loss"])  # nothing left to average


def test_hooks_are_called_in_their_order(parts):
    entries: list[str] = []
    run(parts, [Diary("a ", entries), Diary("b ", entries)], total=2, log_every=2)
    assert entries == ["a boundary 1", "b boundary 1", "a boundary 2", "b boundary 2", "a log 2", "b log 2"]


@pytest.mark.parametrize(("dispatch", "stopped"), [(1, 5), (2, 6)])
def test_a_wish_to_stop_is_granted_at_the_next_boundary(parts, dispatch, stopped):
    """The state is that of the steps done, their row is written, no batch is taken in vain."""
    diary = Diary()
    stop, taken = run(
        parts, [diary], total=20, dispatch=dispatch, asked_to_stop=lambda: f"boundary {stopped}" in diary.entries
    )
    assert stop.interrupted and int(stop.state.step) == stopped and taken == stopped
    assert diary.entries[-1] == f"log {stopped}"


def test_asked_before_the_first_step(parts):
    diary = Diary()
    stop, taken = run(parts, [diary], total=5, asked_to_stop=lambda: True)
    assert stop.interrupted and int(stop.state.step) == 0 and taken == 0 and diary.entries == []


def test_a_stop_at_the_last_step_is_no_interruption(parts):
    diary = Diary()
    stop, _ = run(parts, [diary], total=4, asked_to_stop=lambda: "boundary 4" in diary.entries)
    assert not stop.interrupted


def test_going_on_equals_a_straight_run(parts):
    straight, _ = run(parts, [], total=7)
    diary = Diary()
    half, _ = run(parts, [diary], total=20, asked_to_stop=lambda: "boundary 4" in diary.entries)
    after = Diary()
    whole, taken = run(parts, [after], total=7, state=half.state)
    assert taken == 3 and after.entries == ["boundary 5", "boundary 6", "log 6", "boundary 7", "log 7"]
    assert after.rows[6]["train/step"] == 4.5  # steps 4 and 5: the interval began where the run went on
    for name, value in leaves(straight.state).items():
        np.testing.assert_array_equal(leaves(whole.state)[name], value)


def test_a_finished_run_does_nothing(parts):
    done, _ = run(parts, [], total=2)
    diary = Diary()
    stop, taken = run(parts, [diary], total=2, state=done.state)
    assert not stop.interrupted and taken == 0 and diary.entries == []


def test_fed_stacks_batches_in_front():
    mesh = make_mesh()
    batches = (toy_batch(i) for i in itertools.count())
    assert fed(batches, 1, mesh)["train"]["image"].shape == (8, 1, 2, 2, 1)
    several = fed(batches, 3, mesh)["train"]
    assert several["image"].shape == (3, 8, 1, 2, 2, 1)
    np.testing.assert_array_equal(several["index"], np.arange(8, 32).reshape(3, 8))
