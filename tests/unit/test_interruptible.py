"""A wait that a signal handler can end."""

from __future__ import annotations

import contextvars
import signal
import threading

import pytest

from airflow_provider_kernel.operators.interruptible import Interrupted, Interruptible

pytestmark = pytest.mark.no_airflow

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")


def test_run_returns_what_the_function_returns():
    assert Interruptible().run(lambda: [1]) == [1]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_run_raises_what_the_function_raises(error):
    def fail():
        raise error("why")

    with pytest.raises(error, match="why"):
        Interruptible().run(fail)


def test_the_function_runs_in_the_callers_context():
    variable.set("here")
    assert Interruptible().run(variable.get) == "here"


def test_a_signal_handler_ends_the_wait_and_the_function_continues():
    interruptible, go_on, went_on = Interruptible(), threading.Event(), threading.Event()

    def function():
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        go_on.wait(10)
        went_on.set()

    previous = signal.signal(signal.SIGALRM, lambda *_: interruptible.interrupt())
    try:
        with pytest.raises(Interrupted):
            interruptible.run(function)
    finally:
        signal.signal(signal.SIGALRM, previous)
    assert not went_on.is_set()
    go_on.set()
    assert went_on.wait(10)


def test_run_does_not_call_the_function_after_an_interruption():
    interruptible, begun = Interruptible(), []
    interruptible.check()
    interruptible.interrupt()
    with pytest.raises(Interrupted):
        interruptible.run(lambda: begun.append(1))
    with pytest.raises(Interrupted):
        interruptible.check()
    assert begun == []
