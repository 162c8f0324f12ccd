"""One run in two processes on this machine: the losses of a run in one, one folder, one voice, one end."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gssl_jax.main import main
from gssl_jax.training.metrics import read_rows
from tests.training.test_distributed import free_port, side_by_side

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "gssl_jax.main", f"--config={ROOT}/configs/maskcluster_vit.py:tiny"]


def commands(workdir, *flags):
    """The command of each of two processes."""
    port = free_port()
    common = [*COMMAND, f"--workdir={workdir}", *flags, f"--distributed=127.0.0.1:{port}", "--processes=2"]
    return [[*common, f"--process={number}"] for number in range(2)]


def losses(workdir):
    return {row["step"]: row["train/loss"] for row in read_rows(workdir / "metrics.jsonl") if "train/loss" in row}


@pytest.mark.slow
@pytest.mark.parametrize("fsdp", [1, 2])
def test_two_processes_train_and_judge_as_one(tmp_path, fsdp):
    workdir = tmp_path / "shared"
    # wide enough for a matrix to be split
    flags = (f"--config.run.fsdp={fsdp}", "--config.backbone.width=128", "--config.optim.learning_rate=1e-4")
    (code, said), (other, silence) = side_by_side(commands(workdir, *flags))
    assert (code, other) == (0, 0), said + silence
    assert "report: " in said and "step" not in silence and "report" not in silence
    alone = tmp_path / "alone"
    assert main(["main", *COMMAND[3:], f"--workdir={alone}", *flags[1:]]) == 0
    assert losses(workdir) == pytest.approx(losses(alone), rel=1e-4)
    ours, theirs = (json.loads((one / "results.json").read_text()) for one in (workdir, alone))
    assert ours["eval"].keys() == theirs["eval"].keys()
    assert abs(ours["eval"]["knn/top1"]["value"] - theirs["eval"]["knn/top1"]["value"]) < 0.02
    again = side_by_side(commands(workdir, *flags))
    assert [code for code, _ in again] == [0, 0] and "is finished" in again[0][1]


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_at_one_step_and_one_process_goes_on(tmp_path):
    long = "--config.optim.duration=3000.0"
    held = [
        subprocess.Popen(one, env={**os.environ}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for one in commands(tmp_path, long)
    ]
    try:
        end = time.monotonic() + 200
        while not ((tmp_path / "metrics.jsonl").exists() and len(losses(tmp_path)) > 3):
            assert time.monotonic() < end and held[0].poll() is None, held[0].communicate()[0]
            time.sleep(0.2)
        held[1].send_signal(signal.SIGTERM)  # the scheduler takes a host away
        said = [one.communicate(timeout=100)[0] for one in held]
    finally:
        for one in held:
            one.kill()
    assert [one.returncode for one in held] == [128 + signal.SIGTERM] * 2, said
    stopped = int(said[0].split("stopped and saved at step ")[1].split(";")[0])
    assert 0 < stopped < 3000 and stopped == max(losses(tmp_path))
    flags = [f"--workdir={tmp_path}", long, "--config.run.log_every=1"]
    with subprocess.Popen([*COMMAND, *flags], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as alone:
        assert alone.stdout is not None
        for line in alone.stdout:
            if "going on at step" in line:
                break
        alone.kill()
    assert f"going on at step {stopped} of 3000" in line


def test_a_folder_that_is_another_runs_is_refused_in_both_processes(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (code, said), (other, silence) = side_by_side(commands(tmp_path), 120)
    assert (code, other) == (2, 2)
    assert "is not empty and not a run folder" in said and "process 0 has refused" in silence
