"""What a step takes, said before it runs, and what a user can do where it is too much."""

import jax
import pytest
from rich.console import Console

from gssl_jax.errors import UserError
from gssl_jax.runs import memory
from gssl_jax.runs.images import Images, shape_batch
from gssl_jax.runs.memory import check_memory, device_bytes, exhausted, program_bytes, too_much
from gssl_jax.runs.parts import assemble, stage_config
from gssl_jax.runs.stage import fresh_state, state_places, step_maker
from gssl_jax.training.mesh import put_batch
from tests.runs.recipes import recipe


@pytest.fixture(scope="module")
def begun():
    """(parts, images, state, step maker) of the tiny recipe."""
    parts = assemble(stage_config(recipe("tiny"), "target"))
    images = Images.load(parts)
    places = state_places(parts, images)
    batch = put_batch(shape_batch(parts), parts.mesh)
    state = jax.jit(fresh_state(parts, images), out_shardings=places)(batch, jax.random.key(0))
    return parts, images, state, step_maker(parts, places)


def test_the_program_that_was_looked_at_is_the_one_that_runs(begun, capsys):
    parts, images, state, step_for = begun
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: compiled.append(event) if event.endswith("backend_compile_duration") else None
    )
    check_memory(parts, step_for, state, images.resident, Console(width=200))
    assert "a step takes" in capsys.readouterr().out and len(compiled) >= 1
    kept, batch = jax.tree.map(lambda x: x.copy(), state), put_batch(shape_batch(parts), parts.mesh)
    before = len(compiled)
    jax.block_until_ready(step_for(1)(kept, images.resident, batch))
    assert len(compiled) == before


def test_too_little_memory_is_refused_with_a_batch_that_fits(begun, monkeypatch):
    parts, images, state, step_for = begun
    held = put_batch(shape_batch(parts), parts.mesh)
    needed = program_bytes(step_for(1).lower(state, images.resident, held).compile())
    fixed = device_bytes((state, images.resident))
    assert needed > fixed > 0
    there = int((fixed + 0.6 * (needed - fixed)) / memory.SPARE)
    monkeypatch.setattr(memory, "memory_bytes", lambda mesh: 8 * there)  # eight devices of one machine share it
    with pytest.raises(UserError, match="a step would take .* on each device and there are") as refused:
        check_memory(parts, step_for, state, images.resident, Console(quiet=True))
    assert "--config.optim.batch_size=16 (fits by reckoning)" in str(refused.value)  # .6 of 32 is 19
    assert "--config.run.remat=blocks" in str(refused.value)


def test_what_a_device_says_when_it_has_run_out_is_said_with_the_same_advice(begun):
    parts, images, state, _ = begun
    said = exhausted(parts, state, images.resident, RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9"))
    assert isinstance(said, UserError) and "--config.optim.batch_size=16" in str(said)
    assert exhausted(parts, state, images.resident, RuntimeError("INTERNAL: something else")) is None


def test_images_and_a_state_that_fill_the_device_are_named(begun):
    parts, images, state, _ = begun
    said = too_much(parts, state, images.resident, 10**12, device_bytes(state))
    assert "--config.run.fsdp=0" in said and "batch_size" not in said  # no batch would fit
    said = too_much(parts, state, images.resident, 10**12, device_bytes((state, images.resident)))
    assert "--config.data.crop=host" in said and device_bytes(images.resident) * 3 > device_bytes(state)


def test_a_run_that_runs_out_while_it_trains_says_what_to_do(monkeypatch, tmp_path, capsys):
    from gssl_jax import main as entry
    from gssl_jax.runs import stage

    def full(*_, **__):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 99 bytes")

    monkeypatch.setattr(stage, "train", full)
    assert entry.main(["main", "--config=configs/maskcluster_vit.py:tiny", f"--workdir={tmp_path}"]) == 2
    said = capsys.readouterr()
    assert "a step takes" in said.out and "error: a step takes more than a device has" in said.err
