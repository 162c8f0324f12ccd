"""Programs that are kept: a second process finds them, in a private folder, within bounds."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from gssl_jax.errors import UserError
from gssl_jax.training import kept_programs
from gssl_jax.training.kept_programs import keep_programs, machine, prune

PROGRAM = """
import sys, jax, jax.numpy as jnp
from gssl_jax.training import kept_programs
kept_programs.LEAST_SECONDS = 0.0
print(kept_programs.keep_programs(sys.argv[1]))
met = []
jax.monitoring.register_event_listener(lambda event, **_: met.append(event))
jax.jit(lambda x: jnp.sin(x) @ x.T)(jnp.ones((8, 8)))
print(sum(event == "/jax/compilation_cache/cache_hits" for event in met))
"""


def started(setting, home):
    env = {name: value for name, value in os.environ.items() if "CACHE" not in name}
    env |= {"XDG_CACHE_HOME": str(home), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", PROGRAM, setting], env=env, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


def test_a_second_start_finds_what_the_first_compiled_in_a_folder_of_the_user_alone(tmp_path):
    where, hits = started("auto", tmp_path)
    assert Path(where) == tmp_path / "gssl_jax" / machine() and hits == "0"
    assert stat.S_IMODE((tmp_path / "gssl_jax").stat().st_mode) == 0o700
    assert int(started("auto", tmp_path)[1]) >= 1
    assert started("off", tmp_path) == ["None", "0"]


def test_what_the_environment_says_goes_first(tmp_path):
    assert keep_programs("auto", {"JAX_COMPILATION_CACHE_DIR": "there", "XDG_CACHE_HOME": str(tmp_path)}) is None
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_others_can_write_to_is_refused_or_left_alone(tmp_path):
    shared = tmp_path / "gssl_jax"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(UserError, match="others can write there"):
        keep_programs(str(shared), {})
    assert keep_programs("auto", {"XDG_CACHE_HOME": str(tmp_path)}) is None
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="run.programs=.*file"):
        keep_programs(str(tmp_path / "file"), {})


def test_another_processor_or_version_has_a_folder_of_its_own(monkeypatch):
    here = machine()
    monkeypatch.setattr(kept_programs.jax, "__version__", "9.9")
    assert machine() != here
    monkeypatch.undo()
    monkeypatch.setattr(kept_programs.Path, "read_text", lambda *_, **__: "flags : sse9")
    assert machine() != here and machine().startswith("jax-")


def test_what_was_read_longest_ago_goes_first(tmp_path):
    for age, name in enumerate("dbca"):
        path = tmp_path / name
        path.write_bytes(bytes(100))
        os.utime(path, (1000 - age, 1000 - age))
    os.utime(tmp_path / "a", (2000, 900))  # written first, read last
    prune(tmp_path, 250)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "d"]
