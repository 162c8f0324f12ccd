"""What a process reads of its launcher; the variables are those that each of them documents."""

from __future__ import annotations

import pytest

from gssl_jax.errors import UserError
from gssl_jax.training.launchers import detected, first_host

SRUN = {
    "SLURM_JOB_ID": "4242",
    "SLURM_STEP_NODELIST": "node[07-09,12]",
    "SLURM_NTASKS": "4",
    "SLURM_STEP_NUM_NODES": "4",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
}
SHARED = {"SLURM_STEP_NUM_NODES": "1", "SLURM_LOCALID": "2"}
JOB = {"JAX_COORDINATOR_ADDRESS": "run-0.run:9123", "JAX_NUM_PROCESSES": "8", "JOB_COMPLETION_INDEX": "5"}


def place(environment):
    found = detected(environment)
    return found["coordinator_address"], found["num_processes"], found["process_id"], found.get("local_device_ids")


@pytest.mark.parametrize(
    ("hosts", "first"),
    [("one", "one"), ("one,two", "one"), ("node[07-09,12]", "node07"), ("n[3,5],z", "n3"), ("g[01-2]-ib", "g01-ib")],
)
def test_the_first_host_of_a_slurm_list(hosts, first):
    assert first_host(hosts) == first


@pytest.mark.parametrize(
    ("more", "devices"),
    [({}, None), (SHARED, [2]), (SHARED | {"CUDA_VISIBLE_DEVICES": "2"}, None)],
    ids=["a task a host", "a task a device", "devices hidden"],
)
def test_srun(more, devices):
    assert place(SRUN | more) == ("node07:61586", 4, 2, devices)  # 61440 + 4242 % 4096


def test_a_slurm_job_without_srun_is_told_so():
    with pytest.raises(UserError, match="SLURM_STEP_NODELIST is not set in SLURM job 4242: start it with srun"):
        detected({"SLURM_JOB_ID": "4242"})


def test_an_indexed_job_and_variables_set_by_hand():
    assert place(JOB) == ("run-0.run:9123", 8, 5, None)
    assert place(JOB | {"JAX_PROCESS_ID": "6"})[2] == 6
    for wrong in ({"JAX_NUM_PROCESSES": ""}, {"JOB_COMPLETION_INDEX": "8"}, {"JOB_COMPLETION_INDEX": "x"}):
        with pytest.raises(UserError, match="needs JAX_NUM_PROCESSES, and JAX_PROCESS_ID or"):
            detected(JOB | wrong)


def test_what_jax_finds_itself():
    assert detected({"TPU_WORKER_ID": "1"}) == {} and detected({"OMPI_MCA_orte_hnp_uri": "x"}) == {}


def test_no_launcher_at_all(monkeypatch):
    monkeypatch.setattr("glob.glob", lambda pattern: [])
    with pytest.raises(UserError, match="finds no launcher here .*--distributed=HOST:PORT"):
        detected({})
