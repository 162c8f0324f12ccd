"""`python -m gssl_jax.plan`: its flags, its words and its numbers."""

from __future__ import annotations

import io
import json

import jax
import pytest
from rich.console import Console

from gssl_jax import plan
from gssl_jax.runs import chips, planning
from gssl_jax.runs.planning import Compiled, Moved, Plan

TINY = "--config=configs/maskcluster_vit.py:tiny"
V5E = chips.Target("v5e:2x4", chips.CHIPS["v5e"], [None] * 8)
STEP = Compiled(1024, True, 5 * 2**30, {"parameters": 2**30}, 4e12, 8e10, {"all-reduce": Moved(2, 9 * 10**7)})
WHOLE = Plan(V5E, STEP, 4096, 3 * 2**29, 1000, 12, 1024)


@pytest.fixture
def planned(monkeypatch):
    """What stands in the place of the compiler; `make` keeps what it was asked for."""
    asked = {}

    def make_plan(config, target, largest=True):
        asked.update(config=config, target=target, largest=largest)
        return asked.get("answer", WHOLE)

    monkeypatch.setattr(chips, "target", lambda name: V5E._replace(name=name))
    monkeypatch.setattr(planning, "make_plan", make_plan)
    return asked


def said(whole):
    out = io.StringIO()
    plan.tell(whole, Console(width=300, file=out))
    return out.getvalue()


def test_help_names_every_flag(capsys):
    assert plan.main(["plan", "--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"--{flag}" in out for flag in (*plan.FLAGS, *plan.SWITCHES))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--topology=v5:2x4",), "v5e:2x4"),
        (("--images=many",), "--images=many"),
        (("--classes=10",), "--images"),
        (("--json=nowhere/plan.json",), "nowhere"),
        (("--topolgy=host",), "--topology"),
    ],
)
def test_mistakes_are_refused_in_one_line(flags, words, capsys):
    assert plan.main(["plan", TINY, *flags]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and words in lines[0]


def test_the_flags_reach_the_plan_and_the_numbers_the_file(planned, tmp_path, capsys):
    path = tmp_path / "plan.json"
    assert plan.main(["plan", TINY, "--images=5000", "--classes=7", "--quick", f"--json={path}"]) == 0
    assert planned["largest"] is False and planned["config"].data.streams.train.path == "5000x7"
    found = json.loads(path.read_text())
    assert found["batch"] == 1024 and found["largest_batch"] == 4096 and found["devices"] == 8
    assert found["images_per_second_at_most"] == pytest.approx(1024 / max(found["least_seconds"].values()))
    assert "It fits" in capsys.readouterr().out


def test_what_does_not_fit_says_so_and_exits_with_1(planned, capsys):
    broken = STEP._replace(fits=False, needed=20 * 2**30, memory={}, moved={})
    planned["answer"] = WHOLE._replace(step=broken, largest=512)
    assert plan.main(["plan", TINY, "--topology=v5e:2x4"]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "does not fit: a device would take 20.0 GiB and has 15.8 GiB" in out
    assert "--config.optim.batch_size=512" in out and "At best" not in out


def test_the_words_are_those_of_the_numbers():
    """4 Tflop at 197 Tflop/s 20.30 ms, 80 GB at 819 GB/s 97.68 ms, 90 MB at 400 GB/s .23 ms; 1,024 images each."""
    words = said(WHOLE)
    for part in ("5.0 GiB of 15.8 GiB, 32 %", "20.30", "97.68", "0.23", "bound by memory", "10,483 images a second",
                 "12 views of each: about 85 cores", "2 all-reduce (90.0 MB)", "takes 1.5 GiB"):  # fmt: skip
        assert part in words, part


def test_no_batch_that_fits_and_images_on_the_device():
    none = said(WHOLE._replace(step=STEP._replace(fits=False, needed=0, memory={}), largest=0))
    assert "more than there is" in none and "No batch fits" in none
    assert "nothing is decoded" in said(WHOLE._replace(views=0))


@pytest.mark.slow
def test_a_recipe_is_compiled_for_chips_that_are_not_here(tmp_path):
    """By the real TPU compiler, in a process of its own: it must not find the devices of this one."""
    pytest.importorskip("libtpu", reason="the TPU compiler comes with pip install 'jax[tpu]'")
    import subprocess
    import sys

    path = tmp_path / "plan.json"
    flags = (TINY, "--topology=v5e:2x2", "--quick", f"--json={path}")
    done = subprocess.run([sys.executable, "-m", "gssl_jax.plan", *flags], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(path.read_text())
    assert found["devices"] == 4 and found["fits"] and found["flops"] > 0
    assert found["collectives"]["all-reduce"]["times"] >= 1
    assert 0 < found["least_seconds"]["operations"] < 1
    assert jax.default_backend() == "cpu"
