"""Several devices and several processes as one: the same losses and parameters; clear words where flags are wrong."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from gssl_jax.errors import UserError
from gssl_jax.training import distributed
from gssl_jax.training.checkpoint import Checkpoints
from gssl_jax.training.mesh import in_parts, make_mesh, put_batch
from tests.tiny import leaves
from tests.training.layouts import BATCH, batches, steps, trained


def agree(found, expected):
    """Losses, and parameters by name, to 1e-5 of the largest of each array (of .1 where all are smaller)."""
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    for name, value in expected[1].items():
        scale = max(np.abs(value).max(), 0.1)
        np.testing.assert_allclose(found[1][name], value, atol=1e-5 * scale, rtol=0, err_msg=name)


@pytest.fixture(scope="module")
def alone():
    """Optimiser -> losses and parameters on one device."""
    found = {}

    def of(optimiser):
        if optimiser not in found:
            losses, state = trained(make_mesh(1), optimiser)
            assert len(set(losses)) == len(losses)
            found[optimiser] = losses, leaves(state.params)
        return found[optimiser]

    return of


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("devices", "fsdp", "optimiser"),
    [
        (8, 4, "sgd"),
        slow(2, 1, "sgd"),
        slow(8, 1, "sgd"),
        slow(2, 2, "adamw"),
        slow(8, 1, "adamw"),
        slow(8, 4, "adamw"),
    ],
)
def test_any_layout_of_devices_gives_the_losses_and_parameters_of_one(alone, devices, fsdp, optimiser):
    losses, state = trained(make_mesh(devices, fsdp), optimiser)
    agree((losses, leaves(state.params)), alone(optimiser))


def test_with_fsdp_every_device_holds_its_part_and_the_step_gathers(alone):
    mesh = make_mesh(8, 4)
    state, step = steps(mesh, "adamw")
    kernel = state.params["backbone"]["block_0"]["fc1"]["kernel"]
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(128, 128)}  # of [128, 512]
    moment = state.opt_state[0].mu["backbone"]["block_0"]["fc1"]["kernel"]
    teacher = state.method_state["teacher"]["backbone"]["block_0"]["fc1"]["kernel"]
    assert moment.sharding == teacher.sharding == kernel.sharding
    program = step.lower(state, {}, put_batch(batches(0, BATCH)[0], mesh)).compile()
    assert "all-gather" in program.as_text()
    whole, step = steps(make_mesh(8), "adamw")
    plain = step.lower(whole, {}, put_batch(batches(0, BATCH)[0], make_mesh(8))).compile()
    assert program.memory_analysis().argument_size_in_bytes < 0.4 * plain.memory_analysis().argument_size_in_bytes


def test_a_checkpoint_goes_on_with_other_devices_and_another_layout(tmp_path):
    mesh = make_mesh(8, 4)
    state, step = steps(mesh, "adamw")
    state, _ = step(state, {}, put_batch(batches(0, BATCH)[0], mesh))
    expected = leaves(state)
    with Checkpoints(tmp_path, 1) as checkpoints:
        checkpoints.save(state, {})
        checkpoints.finish()
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
        for devices, fsdp in ((2, 2), (1, 1), (8, 2)):
            places = in_parts(abstract, make_mesh(devices, fsdp))
            found, _ = checkpoints.restore(abstract, places)
            alike = jax.tree.map(lambda x, place: x.sharding.is_equivalent_to(place, x.ndim), found, places)
            assert all(jax.tree.leaves(alike))
            for name, value in leaves(found).items():
                np.testing.assert_array_equal(value, expected[name], err_msg=name)


def free_port():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


def side_by_side(commands, seconds=240):
    """Runs all at once; returns (exit code, output) of each, and leaves none behind."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    held = [
        subprocess.Popen(one, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for one in commands
    ]
    try:
        said = [one.communicate(timeout=seconds)[0] for one in held]
    finally:
        for one in held:
            one.kill()
    return [(one.returncode, text) for one, text in zip(held, said, strict=True)]


@pytest.mark.parametrize(("devices", "fsdp", "optimiser"), [(2, 4, "sgd"), slow(1, 1, "sgd"), slow(2, 2, "adamw")])
def test_two_processes_give_the_losses_and_parameters_of_one(tmp_path, alone, devices, fsdp, optimiser):
    port, path = free_port(), tmp_path / "found.npz"
    common = [str(devices), str(fsdp), optimiser, str(path)]
    commands = [[sys.executable, "-m", "tests.training.layouts", str(port), "2", str(i), *common] for i in range(2)]
    for code, text in side_by_side(commands):
        assert code == 0, text
    with np.load(path) as held:
        found = dict(held)
    assert (found.pop("said"), str(found.pop("text"))) == (0.1, "abc")
    assert found.pop("answers").tolist() == [15, 0, 15]  # the largest of 0 and 15, asked at every second call
    agree((found.pop("losses"), found), alone(optimiser))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("node0:1", "", "1"), "needs --processes, a whole number, and got ''"),
        (("node0:1", "2", "x"), "needs --process, a whole number, and got 'x'"),
        (("node0:1", "2", "2"), "--process=2 of --processes=2: they are counted from 0 to 1"),
        (("node0", "2", "0"), "give auto, or HOST:PORT of process 0"),
        (("", "2", "0"), "go with --distributed=HOST:PORT"),
        (("auto", "2", ""), "leave them out"),
        (("node0:70000", "2", "0"), "give auto, or HOST:PORT of process 0"),
    ],
)
def test_flags_that_do_not_belong_together(given, said):
    with pytest.raises(UserError, match=said.replace("(", r"\(")):
        distributed.start(dict(zip(("distributed", "processes", "process"), given, strict=True)))


@pytest.mark.parametrize("process", ["0", "1"])
def test_processes_that_do_not_come_are_told_of_with_the_coordinator(process):
    given = {"distributed": f"127.0.0.1:{free_port()}", "processes": "2", "process": process}
    code = f"from gssl_jax.training import distributed; distributed.start({given}, 1)"
    [(code, said)] = side_by_side([[sys.executable, "-c", code]])
    assert code == 2, said
    assert f"error: --distributed={given['distributed']}: the coordinator {given['distributed']} did not" in said


def test_a_single_process_agrees_with_itself():
    asked = iter([0, 0, 2])
    wish = distributed.agreed(lambda: next(asked), 2)
    assert [wish(), wish(), wish()] == [0, 0, 2]
    assert distributed.first() and distributed.same(0.3) == 0.3 and distributed.same_text("10", 2) == "10"
    distributed.start({"distributed": "", "processes": "", "process": ""})
