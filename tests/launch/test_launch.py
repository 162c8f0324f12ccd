"""The launch scripts: what they would run, to the letter, and how they behave when a rented machine is taken away.

Every run sees a PATH that holds only the tools named in TOOLS and the stand-ins of the test, so that a gcloud which is
installed on the machine can never be called.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from gssl_jax.cli import EXIT_REFUSED

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("bash", "cat", "dirname", "env", "sed")
VM = "gcloud compute tpus tpu-vm"
ARCHIVE = "+ git archive --prefix=gssl_jax/ --output=/tmp/gssl_jax.tar.gz HEAD"
CREATE = f"+ {VM} create box --zone=here --accelerator-type=v5litepod-8 --version=v2-alpha-tpuv5-lite"
SEND = f"+ {VM} scp /tmp/gssl_jax.tar.gz box: --zone=here --worker=all"
INSTALL = (
    f"+ {VM} ssh box --zone=here --worker=all '--command=tar -xzf gssl_jax.tar.gz && python3 -m pip install --user uv"
    " && cd gssl_jax && PATH=~/.local/bin:$PATH && uv venv --python=3.12 --allow-existing .venv"
    """ && uv pip install --python=.venv/bin/python --editable . "jax[tpu]"'"""
)
TRAIN = (
    f"+ {VM} ssh box --zone=here --worker=all '--command=cd gssl_jax && .venv/bin/python -m gssl_jax.main"
    " --distributed=auto"
)


@pytest.fixture
def run(tmp_path):
    """Runs a launch script with a closed PATH; returns the finished process."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found is not None
        (tools / tool).symlink_to(found)

    def call(script: str, *flags: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(ROOT / "launch" / script), *flags],
            env={"PATH": str(tools), "HOME": str(tmp_path)} | environment,
            cwd=cwd,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=60,
        )

    call.tools = tools
    return call


def stand_in(run, name: str, body: str) -> None:
    path = run.tools / name
    path.write_text(f"#!{run.tools}/bash\n{body}\n")
    path.chmod(0o755)


@pytest.mark.parametrize("script", sorted((ROOT / "launch").glob("*.sh")), ids=lambda path: path.name)
def test_a_script_is_short_and_executable(script):
    lines = script.read_text().splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 120
    assert script.stat().st_mode & 0o111


def test_local_prints_the_default_command(run, tmp_path):
    done = run("local.sh", "--dry-run", "--workdir=runs/a b", cwd=tmp_path, PYTHON="/opt/python")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        f"+ env PYTHONPATH={ROOT} /opt/python -m gssl_jax.main --config={ROOT}/configs/maskcluster_vit.py"
        " --workdir=runs/a\\ b\n"
    )


@pytest.mark.parametrize("config", [("--config=my.py:tiny",), ("--config", "my.py:tiny")])
def test_local_passes_a_config_on_and_keeps_the_python_path(run, config):
    done = run("local.sh", *config, "--dry-run", "--config.run.seed=1", PYTHON="/opt/python", PYTHONPATH="/mine")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        f"+ env PYTHONPATH={ROOT}:/mine /opt/python -m gssl_jax.main {' '.join(config)} --config.run.seed=1\n"
    )


def test_an_override_alone_does_not_count_as_a_config(run):
    done = run("local.sh", "--dry-run", "--config.run.seed=1", PYTHON="/opt/python")
    assert done.stdout.endswith(f"--config={ROOT}/configs/maskcluster_vit.py --config.run.seed=1\n")


def test_local_runs_what_it_printed_and_hands_on_the_exit_code(run, tmp_path):
    python = tmp_path / "python"
    python.write_text(f'#!{sys.executable}\nimport os, sys\nprint("ran", *sys.argv[1:], flush=True)\nsys.exit(7)\n')
    python.chmod(0o755)
    done = run("local.sh", "--config=my.py", PYTHON=str(python))
    assert done.returncode == 7
    assert done.stdout.splitlines()[1] == "ran -m gssl_jax.main --config=my.py"


def test_tpu_vm_prints_its_commands_in_order(run):
    flags = ("--dry-run", "--name=box", "--zone=here", "--config=configs/maskcluster_vit.py:imagenet")
    done = run("tpu_vm.sh", *flags, "--workdir=/mnt/my run")
    assert (done.returncode, done.stderr) == (0, "")
    train = f"{TRAIN} --config=configs/maskcluster_vit.py:imagenet --workdir=/mnt/my\\ run'"
    assert done.stdout.splitlines() == [ARCHIVE, f"{CREATE} --spot", SEND, INSTALL, train]


def test_tpu_vm_takes_names_from_the_environment_and_flags_win(run):
    env = {"TPU_NAME": "x", "TPU_ZONE": "here", "TPU_TYPE": "v4-8", "TPU_VERSION": "image", "TPU_FLAGS": "--a --b=1"}
    done = run("tpu_vm.sh", "--dry-run", "--name=box", "--version=newer", **env)
    create = f"+ {VM} create box --zone=here --accelerator-type=v4-8 --version=newer --a --b=1"
    assert done.stdout.splitlines()[1] == create
    bare = run("tpu_vm.sh", "--dry-run", **(env | {"TPU_FLAGS": ""}))
    assert bare.stdout.splitlines()[1].endswith("--accelerator-type=v4-8 --version=image")


def test_tpu_vm_mounts_before_it_trains(run):
    mount = "sudo mount /dev/sdb /mnt"
    done = run("tpu_vm.sh", "--dry-run", "--name=box", "--zone=here", "--config=c", TPU_MOUNT=mount)
    train = TRAIN.replace("--command=", f"--command={mount} && ")
    assert done.stdout.splitlines()[-1] == f"{train} --config=c'"


@pytest.mark.parametrize("flags", [(), ("--name=box",), ("--zone=here", "--dry-run")])
def test_tpu_vm_without_a_name_or_a_zone_shows_its_usage(run, flags):
    done = run("tpu_vm.sh", *flags)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: launch/tpu_vm.sh [--dry-run] --name=NAME --zone=ZONE ")


def test_tpu_vm_without_gcloud_says_so(run):
    stand_in(run, "git", "exit 0")
    done = run("tpu_vm.sh", "--name=box", "--zone=here")
    assert done.returncode == 2
    assert done.stderr == "error: there is no gcloud here\n"


# A stand-in for gcloud whose machine lives in the file `state`; training number n ends as the n-th word of FATE says.
GCLOUD = """
here=${0%/*}
case "$4 $*" in
    describe*) [ -s $here/state ] && cat $here/state ;;
    create*) [ "$FATE" != never ] && echo READY > $here/state ;;
    delete*) : > $here/state ;;
    ssh*gssl_jax.main*)
        echo x >> $here/trainings
        count=0; while read -r _; do count=$((count + 1)); done < $here/trainings
        set -- $FATE; shift $((count - 1))
        case $1 in
            done) exit 0 ;;
            preempted) echo PREEMPTED > $here/state; exit 255 ;;
            broken) exit 1 ;;
        esac ;;
esac
"""


def rented(run, fate: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    for name, body in {"git": "exit 0", "sleep": "exit 0", "gcloud": GCLOUD}.items():
        stand_in(run, name, body)
    done = run("tpu_vm.sh", "--name=box", "--zone=here", "--config=c", FATE=fate)
    return done, done.stdout.splitlines()


def test_after_preemption_another_machine_runs_the_same_command(run):
    done, commands = rented(run, "preempted preempted done")
    assert done.returncode == 0, done.stderr
    machine = [f"{CREATE} --spot", SEND, INSTALL, f"{TRAIN} --config=c'"]
    delete = f"+ {VM} delete box --zone=here --quiet"
    assert commands == [ARCHIVE, *machine, delete, *machine, delete, *machine]


def test_a_command_that_fails_on_a_living_machine_is_not_repeated(run):
    done, commands = rented(run, "broken done")
    assert done.returncode == 1
    assert done.stderr == "error: box is up, so the command failed: mend it\n"
    assert commands.count(f"{TRAIN} --config=c'") == 1


def test_a_first_machine_that_cannot_be_had_ends_it_at_once(run):
    done, commands = rented(run, "never")
    assert done.returncode == 1
    assert done.stderr == "error: no machine was made; see gcloud's words above\n"
    assert commands == [ARCHIVE, f"{CREATE} --spot"]


def test_a_machine_that_is_there_is_used_as_it_is(run):
    (run.tools / "state").write_text("READY\n")
    done, commands = rented(run, "done")
    assert done.returncode == 0
    assert commands == [ARCHIVE, SEND, INSTALL, f"{TRAIN} --config=c'"]


def test_a_stopped_machine_is_left_alone(run):
    (run.tools / "state").write_text("STOPPED\n")
    done, commands = rented(run, "done")
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == "box is STOPPED"
    assert commands == [ARCHIVE]


SHELLCHECK = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.skipif(SHELLCHECK is None, reason="shellcheck comes with the test requirements")
def test_shellcheck_finds_nothing():
    scripts = [*sorted((ROOT / "launch").glob("*.sh")), ROOT / ".ci" / "run"]
    done = subprocess.run([str(SHELLCHECK), *map(str, scripts)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


SBATCH = (
    f"+ sbatch --job-name=gssl_jax --nodes=%d --ntasks-per-node=%d --gpus-per-node=%d --requeue --open-mode=append"
    f" --signal=TERM@180 --export=ALL\\,GSSL_ROOT={ROOT}"
)


def test_slurm_submits_itself_with_a_process_for_each_gpu(run):
    flags = ("--nodes=4", "--gpus=2", "--config=c", "--workdir=/shared/my run")
    done = run("slurm.sh", "--dry-run", *flags, SLURM_FLAGS="--partition=gpu --time=60")
    assert (done.returncode, done.stderr) == (0, "")
    own = f" --partition=gpu --time=60 {ROOT}/launch/slurm.sh --config=c --workdir=/shared/my\\ run\n"
    assert done.stdout == SBATCH % (4, 2, 2) + own
    assert run("slurm.sh", "--dry-run").stdout == SBATCH % (1, 8, 8) + f" {ROOT}/launch/slurm.sh\n"


SRUN = f"+ srun --kill-on-bad-exit=1 env PYTHONPATH={ROOT} /opt/python -m gssl_jax.main --distributed=auto --config=c\n"


def test_slurm_starts_the_processes_inside_a_job(run):
    done = run("slurm.sh", "--dry-run", "--config=c", PYTHON="/opt/python", SLURM_JOB_ID="7")
    assert (done.returncode, done.stdout, done.stderr) == (0, SRUN, "")


@pytest.mark.parametrize(("code", "submitted", "requeued"), [
    (143, True, True), (143, False, False), (0, True, False), (1, True, False), (2, True, False),
])  # fmt: skip
def test_a_slurm_job_queues_again_where_it_was_told_to_save(run, code, submitted, requeued):
    stand_in(run, "srun", f"exit {code}")
    stand_in(run, "scontrol", 'echo "scontrol $*"')
    env = {"PYTHON": "/opt/python", "SLURM_JOB_ID": "7"} | ({"GSSL_ROOT": str(ROOT)} if submitted else {})
    done = run("slurm.sh", "--config=c", **env)
    assert done.returncode == code
    assert done.stdout == SRUN + ("scontrol requeue 7\n" if requeued else "")


def test_slurm_finds_the_project_where_it_was_submitted_from(run, tmp_path):
    copy = tmp_path / "spool" / "slurm_script"  # SLURM runs a copy
    copy.parent.mkdir()
    shutil.copy(ROOT / "launch" / "slurm.sh", copy)
    env = {"PATH": str(run.tools), "PYTHON": "/opt/python", "SLURM_JOB_ID": "7", "GSSL_ROOT": str(ROOT)}
    done = subprocess.run([str(copy), "--dry-run", "--config=c"], env=env, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, SRUN)


NAMED = ("--name=ssl", "--image=registry/gssl:cuda", "--claim=disk")


def jobset(printed: str) -> tuple[dict, str]:
    """What was printed as a JobSet, and the command after it."""
    written, _, command = printed.rpartition("\n+ ")
    return yaml.safe_load(written), command


def test_kubernetes_prints_a_jobset_of_a_process_for_each_node(run):
    done = run("kubernetes.sh", "--dry-run", *NAMED, "--nodes=4", "--gpus=2", "--config=it's", "--workdir=/shared/a b")
    assert (done.returncode, done.stderr) == (0, "")
    made, command = jobset(done.stdout)
    assert command == "kubectl apply -f -\n"
    assert (made["apiVersion"], made["kind"], made["metadata"]) == (
        "jobset.x-k8s.io/v1alpha2", "JobSet", {"name": "ssl"},
    )  # fmt: skip
    (replicated,) = made["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    assert (replicated["name"], job["parallelism"], job["completions"]) == ("train", 4, 4)
    assert (job["completionMode"], job["backoffLimit"]) == ("Indexed", 0)
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    assert container["image"] == "registry/gssl:cuda"
    assert container["resources"] == {"limits": {"nvidia.com/gpu": 2}}
    assert container["command"] == [
        "python", "-m", "gssl_jax.main", "--distributed=ssl-train-0-0.ssl:8476", "--processes=4",
        "--process=$(JOB_COMPLETION_INDEX)", "--config=it's", "--workdir=/shared/a b",
    ]  # fmt: skip
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts == {"disk": "/shared", "memory": "/dev/shm"}
    assert {volume["name"] for volume in pod["volumes"]} == set(mounts)


def test_kubernetes_starts_again_after_a_loss_but_not_after_a_refusal(run):
    made, _ = jobset(run("kubernetes.sh", "--dry-run", *NAMED, RESTARTS="7").stdout)
    policy, job = made["spec"]["failurePolicy"], made["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert policy == {
        "maxRestarts": 7, "rules": [{"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}],
    }  # fmt: skip
    (rule,) = job["podFailurePolicy"]["rules"]
    assert (rule["action"], rule["onExitCodes"]["values"]) == ("FailJob", [EXIT_REFUSED])
    assert job["template"]["spec"]["restartPolicy"] == "Never"  # which podFailurePolicy needs


def test_kubernetes_hands_the_jobset_to_kubectl(run):
    stand_in(run, "kubectl", f'echo "$*" > {run.tools}/said; cat > {run.tools}/given')
    done = run("kubernetes.sh", *NAMED, "--config=c", KUBECTL_FLAGS="--namespace=lab")
    assert done.returncode == 0
    assert (run.tools / "said").read_text() == "--namespace=lab apply -f -\n"
    assert yaml.safe_load((run.tools / "given").read_text()) == jobset(done.stdout)[0]


@pytest.mark.parametrize("flags", [(), NAMED[1:], NAMED[:2]])
def test_kubernetes_without_what_it_needs_shows_its_usage(run, flags):
    done = run("kubernetes.sh", *flags)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: launch/kubernetes.sh [--dry-run] --name=NAME --image=IMAGE --claim=CLAIM ")


def test_the_container_copies_what_is_there_and_may_be_copied():
    lines = (ROOT / "launch" / "Dockerfile").read_text().splitlines()
    copied = [name for line in lines if line.startswith("COPY ") for name in line.split()[1:-1]]
    allowed = (ROOT / "launch" / "Dockerfile.dockerignore").read_text().splitlines()
    assert copied and all((ROOT / name).exists() for name in copied)
    assert sorted(f"!{name}" for name in copied) == sorted(line for line in allowed if line.startswith("!"))
    assert allowed[0] == "*"
    assert max(map(len, lines)) <= 120


def test_the_container_names_extras_that_jax_has():
    text = (ROOT / "launch" / "Dockerfile").read_text()
    extras = importlib.metadata.metadata("jax").get_all("Provides-Extra")
    assert {"cuda12", "cuda13"} <= set(extras)
    assert "JAX='jax[cuda13]'" in text and "ARG JAX=jax\n" in text
