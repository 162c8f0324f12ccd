"""Processes side by side: order, failures, signals, cores."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from gssl_jax.runs.cells import Work, pinned, side_by_side


def work(folder, name, *codes):
    return Work(name, tuple(("-c", code) for code in codes), folder / f"{name}.log")


def run(folder, works, jobs=1, **options):
    ended = []

    def note(one, how):
        ended.append((one.name, how))
        return True

    stopped = side_by_side(works, jobs, folder / "compiled", options.pop("ended", note), **options)
    return stopped, ended


def test_a_work_that_crashes_does_not_stop_the_others(tmp_path):
    works = [work(tmp_path, "a", "raise SystemExit('broken')"), work(tmp_path, "b", "print('fine')")]
    stopped, ended = run(tmp_path, works)
    assert stopped == 0
    assert [(name, how.code, how.said) for name, how in ended] == [("a", 1, "broken\n"), ("b", 0, "fine\n")]


def test_commands_follow_each_other_until_one_fails(tmp_path):
    _, [(_, how)] = run(tmp_path, [work(tmp_path, "a", "print(1)", "raise SystemExit(3)", "print(2)")])
    assert (how.code, how.said) == (3, "1\n")


def test_the_log_grows_and_what_was_said_is_of_this_start_alone(tmp_path):
    for said in ("first", "second"):
        _, [(_, how)] = run(tmp_path, [work(tmp_path, "a", f"print('{said}')")])
    assert how.said == "second\n"
    assert (tmp_path / "a.log").read_text() == "first\nsecond\n"


def test_what_may_not_begin_is_left_out_and_false_begins_no_more(tmp_path):
    works = [work(tmp_path, name, "") for name in "abc"]
    _, ended = run(tmp_path, works, may_begin=lambda one: one.name != "b")
    assert [name for name, _ in ended] == ["a", "c"]
    seen = []
    run(tmp_path, works, ended=lambda one, how: bool(seen.append(one.name)))
    assert seen == ["a"]


def test_a_signal_is_passed_on_and_nothing_more_begins(tmp_path):
    """The child writes a file when it runs, gets SIGINT once, and ends with 7; the second work is never begun."""
    code = (
        "import pathlib, time\n"
        f"try:\n pathlib.Path({str(tmp_path / 'on')!r}).touch()\n time.sleep(30)\n"
        "except KeyboardInterrupt: raise SystemExit(7)"
    )

    def interrupt():
        while not (tmp_path / "on").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    stopped, ended = run(tmp_path, [work(tmp_path, "a", code), work(tmp_path, "b", "")])
    thread.join()
    assert stopped == signal.SIGINT
    assert [(name, how.code) for name, how in ended] == [("a", 7)]


def test_a_second_signal_kills_what_runs_and_that_is_no_failure(tmp_path):
    """The child does not heed SIGINT; the second one raises here, and the child is told of as interrupted."""
    code = (
        "import pathlib, signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        f"pathlib.Path({str(tmp_path / 'on')!r}).touch()\ntime.sleep(60)"
    )

    def interrupt():
        while not (tmp_path / "on").exists():
            time.sleep(0.02)
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1.0)

    thread, ended = threading.Thread(target=interrupt), []
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run side by side
    try:
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            side_by_side([work(tmp_path, "a", code)], 1, tmp_path, lambda one, how: bool(ended.append(how.code)))
        thread.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended == [-signal.SIGINT]


def test_programs_are_kept_in_one_place(tmp_path):
    _, [(_, how)] = run(tmp_path, [work(tmp_path, "a", "import os; print(os.environ['JAX_COMPILATION_CACHE_DIR'])")])
    assert how.said == f"{(tmp_path / 'compiled').resolve()}\n"


def test_lanes_share_out_the_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3, 4}, raising=False)
    monkeypatch.setattr("shutil.which", lambda _: "/bin/taskset")
    assert [pinned(k, 2) for k in range(2)] == [[0, 2, 4], [1, 3]]
    assert pinned(5, 6) == [0, 1, 2, 3, 4]  # more lanes than cores
    assert pinned(0, 1) == []


def test_a_failure_of_the_study_itself_is_raised(tmp_path):
    def broken(one, how):
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        run(tmp_path, [work(tmp_path, "a", "")], ended=broken)
