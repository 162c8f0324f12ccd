"""Ctrl-C and SIGTERM as a wish, the second time as an order."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from gssl_jax.training.signals import SIGNALS, StopRequest


def handlers():
    return [signal.getsignal(number) for number in SIGNALS]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_noted_and_the_old_handlers_stand_again(number):
    before = handlers()
    with StopRequest() as request:
        assert request.asked == 0 and handlers() != before
        os.kill(os.getpid(), number)
        assert request.asked == number
        assert handlers() == before  # a second one is obeyed at once
    assert handlers() == before


@pytest.fixture
def python_handles_ctrl_c():
    """A shell starts what runs in its background with SIGINT ignored, and then nothing would interrupt."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_second_ctrl_c_interrupts(python_handles_ctrl_c):
    with StopRequest() as request, pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        assert request.asked == signal.SIGINT
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("the second signal was swallowed")


def test_without_a_signal_the_handlers_come_back():
    before = handlers()
    with StopRequest() as request:
        pass
    assert request.asked == 0 and handlers() == before


def test_an_error_inside_brings_the_handlers_back():
    before = handlers()
    with pytest.raises(RuntimeError, match="broken"), StopRequest():
        raise RuntimeError("broken")
    assert handlers() == before


def test_outside_the_main_thread_it_does_nothing():
    before, found = handlers(), []

    def work():
        with StopRequest() as request:
            found.append((request.asked, handlers() == before))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(0, True)]
