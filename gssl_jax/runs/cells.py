"""Runs side by side, each in processes of its own: one that crashes is one that failed, and the others go on."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import NamedTuple

from gssl_jax.training.signals import StopRequest

TAIL = 2000
"""Letters of a log that are kept of a run that failed."""

POLL = 0.2  # seconds between looks at the signals


class Work(NamedTuple):
    """What stands after `python`, one command after the other, and the file that all they say is added to."""

    name: str
    commands: tuple[tuple[str, ...], ...]
    log: Path


class Ended(NamedTuple):
    """How work ended: the exit code of its last command, seconds over all of them, and the end of what they said."""

    code: int
    seconds: float
    said: str


def side_by_side(
    works: Sequence[Work],
    jobs: int,
    compiled: Path,
    ended: Callable[[Work, Ended], bool],
    may_begin: Callable[[Work], bool] = lambda work: True,
    cwd: Path | None = None,
) -> int:
    """Runs every work, `jobs` at a time, each on cores of its own where there are several.

    SIGINT and SIGTERM are passed on once, so that runs save where they stand, and nothing more is begun; at a second
    one the runs are killed.

    Args:
      compiled: where programs are kept once compiled: runs of one kind have the same.
      ended: told of every work that ended, one at a time; False begins no more.
      may_begin: asked before a work is begun; those that may not are left out.
      cwd: folder of the processes, this one's without it.

    Returns the number of the signal that stopped it, 0 for none.
    """
    compiled.mkdir(parents=True, exist_ok=True)
    lanes = _Lanes(list(works), jobs, compiled, ended, may_begin, cwd)
    with StopRequest() as request, ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(lanes.run, job) for job in range(jobs)]
        passed = False
        try:
            while wait(futures, timeout=POLL).not_done:
                if request.asked and not passed:
                    passed = True
                    lanes.stop(signal.SIGINT)
        except BaseException:
            lanes.stop(signal.SIGKILL)
            raise
    for each in futures:
        each.result()
    return request.asked


def pinned(job: int, jobs: int) -> list[int]:
    """The cores of the lane `job` of `jobs`; empty where they are not to be pinned: a lane alone has all of them."""
    if jobs < 2 or not shutil.which("taskset") or not hasattr(os, "sched_getaffinity"):
        return []
    cores = sorted(os.sched_getaffinity(0))
    return cores[job::jobs] or cores


class _Lanes:
    """The works that wait, and the processes that run."""

    def __init__(
        self,
        waiting: list[Work],
        jobs: int,
        compiled: Path,
        ended: Callable[[Work, Ended], bool],
        may_begin: Callable[[Work], bool],
        cwd: Path | None,
    ) -> None:
        self._waiting, self._jobs, self._ended, self._may_begin, self._cwd = waiting, jobs, ended, may_begin, cwd
        self._lock, self._running = threading.Lock(), set[subprocess.Popen[bytes]]()
        self._stopped = self._signalled = False
        self._surroundings = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(compiled.resolve())}

    def run(self, job: int) -> None:
        """Takes one work after the other until there is none."""
        while True:
            with self._lock:
                if self._stopped or not self._waiting:
                    return
                work = self._waiting.pop(0)
                if not self._may_begin(work):
                    continue
            found = self._one(job, work)
            with self._lock:
                if not self._ended(work, found):
                    self._stopped = True

    def stop(self, number: int) -> None:
        """Begins nothing more and sends the signal `number` to what runs."""
        with self._lock:
            self._stopped = self._signalled = True
            for process in self._running:
                process.send_signal(number)

    def _one(self, job: int, work: Work) -> Ended:
        start, code = time.perf_counter(), 0
        cores = pinned(job, self._jobs)
        before = ["taskset", "--cpu-list", ",".join(map(str, cores))] if cores else []
        work.log.parent.mkdir(parents=True, exist_ok=True)
        with work.log.open("ab") as log:
            begun = log.tell()
            for command in work.commands:
                with self._lock:
                    if self._stopped:
                        code = -signal.SIGINT
                        break
                    # a session of its own: Ctrl-C in a terminal reaches this process alone, which passes it on once
                    process = subprocess.Popen(
                        [*before, sys.executable, *command],
                        stdout=log, stderr=subprocess.STDOUT, cwd=self._cwd, env=self._surroundings,
                        start_new_session=True,
                    )  # fmt: skip
                    self._running.add(process)
                code = process.wait()
                with self._lock:
                    self._running.discard(process)
                    code = -signal.SIGINT if code < 0 and self._signalled else code  # killed here, at the second signal
                if code:
                    break
        said = work.log.read_bytes()[begun:].decode("utf-8", "replace")
        return Ended(code, time.perf_counter() - start, said[-TAIL:])
