"""Checkpoints: every bit back, on other devices too; what does not fit is named; a kill leaves the one before."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gssl_jax.errors import UserError
from gssl_jax.training.checkpoint import Checkpoints
from gssl_jax.training.mesh import make_mesh, put_batch, replicated
from gssl_jax.training.state import create_state
from gssl_jax.training.step import make_step
from tests.tiny import ROOT, leaves
from tests.toy import toy_batch, toy_method, toy_state

METHOD, OPTIMISER = toy_method(), optax.adam(0.05)
STREAM = {"train": {"samples": 2**40 + 3, "fingerprint": "0f3a"}, "stages": ["source", "target"]}


@pytest.fixture(scope="module")
def abstract():
    return jax.eval_shape(lambda b: create_state(METHOD, OPTIMISER, b, jax.random.key(0)), toy_batch(0))


@pytest.fixture(scope="module")
def state():
    """Two steps on eight devices, so that no array is at its start."""
    mesh = make_mesh()
    step, found = make_step(METHOD, OPTIMISER, mesh), toy_state(METHOD, OPTIMISER, mesh)
    for i in range(2):
        found, _ = step(found, {}, put_batch(toy_batch(i), mesh))
    return found


@pytest.fixture(scope="module")
def saved(state, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    with Checkpoints(folder, keep=2) as checkpoints:
        checkpoints.save(state, STREAM)
    return folder


@pytest.mark.parametrize("devices", [8, 1, 4])
def test_every_bit_comes_back_on_any_number_of_devices(saved, state, abstract, devices):
    with Checkpoints(saved, keep=2) as checkpoints:
        assert checkpoints.latest == 2
        found, stream = checkpoints.restore(abstract, replicated(make_mesh(devices)))
    assert stream == STREAM
    assert jax.tree.structure(found) == jax.tree.structure(state)
    assert found.key.dtype == state.key.dtype  # a typed key, not its bits
    for name, value in leaves(state).items():
        np.testing.assert_array_equal(leaves(found)[name], value, err_msg=name)
    assert all(x.is_fully_replicated and len(x.sharding.device_set) == devices for x in jax.tree.leaves(found))


def test_a_restored_state_trains_on_like_the_first(saved, state, abstract):
    mesh = make_mesh()
    step = make_step(METHOD, OPTIMISER, mesh)
    with Checkpoints(saved, keep=2) as checkpoints:
        found, _ = checkpoints.restore(abstract, replicated(mesh))
    copy = jax.tree.map(jnp.copy, state)
    first, second = (step(s, {}, put_batch(toy_batch(2), mesh))[0] for s in (copy, found))
    for name, value in leaves(first).items():
        np.testing.assert_array_equal(leaves(second)[name], value, err_msg=name)


def test_weights_come_back_without_the_optimiser(saved, state):
    with Checkpoints(saved, keep=2) as checkpoints:
        one = jax.sharding.SingleDeviceSharding(jax.devices()[3])
        step, params, method_state = checkpoints.restore_weights(one)
    assert step == 2
    for found, wanted in ((params, state.params), (method_state, state.method_state)):
        assert leaves(found).keys() == leaves(wanted).keys()
        for name, value in leaves(wanted).items():
            np.testing.assert_array_equal(leaves(found)[name], value, err_msg=name)
        assert all(x.devices() == {jax.devices()[3]} for x in jax.tree.leaves(found))


def test_weights_that_cannot_be_read_are_one_error(saved, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(saved, folder)
    for file in (folder / "2" / "state").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    with (
        Checkpoints(folder, keep=2) as checkpoints,
        pytest.raises(UserError, match="checkpoint 2 in .* cannot be read"),
    ):
        checkpoints.restore_weights(replicated(make_mesh(1)))


def test_an_empty_folder_has_no_latest(tmp_path):
    with Checkpoints(tmp_path / "a" / "b", keep=1) as checkpoints:
        assert checkpoints.latest is None


def test_the_last_ones_stay(state, abstract, tmp_path):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in (1, 5, 6, 9):
            checkpoints.save(state.replace(step=jnp.int32(step)), {"at": step})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["6", "9"]
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        found, stream = checkpoints.restore(abstract, replicated(make_mesh()))
    assert int(found.step) == 9 and stream == {"at": 9}


def test_a_step_that_is_there_is_left_alone(state, abstract, tmp_path):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.save(state, {"at": "first"})
        checkpoints.save(state, {"at": "second"})
        checkpoints.save(state, {"at": "third"})
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.restore(abstract, replicated(make_mesh()))[1] == {"at": "first"}


def test_what_is_saved_is_the_state_at_the_call(state, abstract, tmp_path):
    """The next step takes the buffers while the save is still in flight."""
    mesh = make_mesh()
    step, copy = make_step(METHOD, OPTIMISER, mesh), jax.tree.map(jnp.copy, state)
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.save(copy, {})
        step(copy, {}, put_batch(toy_batch(2), mesh))
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        found, _ = checkpoints.restore(abstract, replicated(mesh))
    for name, value in leaves(state).items():
        np.testing.assert_array_equal(leaves(found)[name], value, err_msg=name)


def with_backbone(abstract, **arrays):
    return abstract.replace(params={**abstract.params, "backbone": arrays})


W, OTHER = jax.ShapeDtypeStruct((4,), jnp.float32), jax.ShapeDtypeStruct((5,), jnp.float32)


@pytest.mark.parametrize(("arrays", "message"), [
    (dict(w=OTHER), r"params/backbone/w is float32 \[4\] in the checkpoint and float32 \[5\] in this run;"),
    (dict(w=W, v=OTHER), r"params/backbone/v is not there in the checkpoint and float32 \[5\] in this run;"),
    (dict(), r"params/backbone/w is float32 \[4\] in the checkpoint and not there in this run;"),
    (dict(w=jax.ShapeDtypeStruct((4,), jnp.bfloat16)), r"in the checkpoint and bfloat16 \[4\] in this run;"),
    (dict(v=OTHER), r"backbone/v is not there in the checkpoint and float32 \[5\] in this run, and 1 more;"),
])  # fmt: skip
def test_an_array_that_differs_is_named_in_one_line(saved, abstract, arrays, message):
    """Orbax would cast, and gives placeholders for what is missing."""
    with Checkpoints(saved, keep=2) as checkpoints:
        with pytest.raises(UserError, match=rf"checkpoint 2 in {saved} .*{message} use another --workdir") as caught:
            checkpoints.restore(with_backbone(abstract, **arrays), replicated(make_mesh()))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_another_optimiser_is_named(saved, abstract):
    other = abstract.replace(opt_state=jax.eval_shape(optax.sgd(0.1, momentum=0.9).init, abstract.params))
    with Checkpoints(saved, keep=2) as checkpoints, pytest.raises(UserError, match="opt_state/0/"):
        checkpoints.restore(other, replicated(make_mesh()))


@pytest.mark.parametrize("file", ["state/_METADATA", "_CHECKPOINT_METADATA"])
def test_a_damaged_checkpoint_is_named_in_one_line(state, abstract, tmp_path, file):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.save(state, {})
    (tmp_path / "2" / file).write_bytes(b"")
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        with pytest.raises(UserError, match="checkpoint 2 in .* cannot be read .* remove its folder") as caught:
            checkpoints.restore(abstract, replicated(make_mesh()))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


KILLED = """
import os, signal, sys, time
from pathlib import Path
import jax.numpy as jnp
import optax
from gssl_jax.training.checkpoint import Checkpoints
from gssl_jax.training.mesh import make_mesh
from tests.toy import toy_method, toy_state

folder, state = Path(sys.argv[1]), toy_state(toy_method(), optax.adam(0.05), make_mesh())
large = {"filler": jnp.arange(2**23, dtype=jnp.float32)}
checkpoints = Checkpoints(folder, keep=2)
checkpoints.save(state.replace(step=jnp.int32(4), params={**state.params, **large}), {"at": 4})
checkpoints._checkpointer.wait()
checkpoints.save(state.replace(step=jnp.int32(8), params={**state.params, **large}), {"at": 8})
print(*sorted(p.name for p in folder.iterdir()), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_process_killed_while_it_saves_leaves_the_checkpoint_before(abstract, tmp_path):
    surroundings = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    found = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, text=True, env=surroundings
    )
    assert found.returncode == -signal.SIGKILL, found.stderr
    there = found.stdout.split()
    assert there[0] == "4" and len(there) == 2 and there[1] != "8"  # the second was not committed yet
    filler = jax.ShapeDtypeStruct((2**23,), jnp.float32)
    expected = abstract.replace(params={**abstract.params, "filler": filler})
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.latest == 4
        state, stream = checkpoints.restore(expected, replicated(make_mesh(1)))
        assert int(state.step) == 4 and stream == {"at": 4}
        np.testing.assert_array_equal(state.params["filler"], np.arange(2**23, dtype=np.float32))
        checkpoints.save(state.replace(step=jnp.int32(8)), {"at": "again"})  # the remains are in nobody's way
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.latest == 8
    assert sorted(p.name for p in tmp_path.iterdir()) == ["4", "8"]
