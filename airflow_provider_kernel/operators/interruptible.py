"""Waiting on a worker such that a signal handler can end the wait."""

from __future__ import annotations

import contextvars
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")
INTERRUPT, DONE = b"!", b"."


class Interrupted(Exception):
    """The wait was interrupted; what it waited for goes on in a thread that nobody listens to."""


class Interruptible:
    """
    Runs what takes long in a thread of its own, while the main thread does nothing but wait.

    Airflow calls ``on_kill`` in a signal handler. There hardly anything is safe: the main thread may hold any
    lock. A byte through a socket is, and wakes it; nothing is torn apart in the middle, as by an exception.
    """

    def __init__(self) -> None:
        self.is_interrupted = False
        self._bell: socket.socket | None = None

    def interrupt(self) -> None:
        """End the wait, now or as soon as there is one. Safe in a signal handler."""
        self.is_interrupted = True
        if self._bell:
            with suppress(OSError):
                self._bell.send(INTERRUPT)

    def check(self) -> None:
        """
        Do nothing, if all is well.

        :raises Interrupted: it was interrupted.
        """
        if self.is_interrupted:
            raise Interrupted

    def run(self, function: Callable[[], T], grace: float = 0.0) -> T:
        """
        Return what ``function`` returns, or raise what it raises.

        :param grace: seconds that it has to end by itself once it is interrupted.
        :raises Interrupted: it was interrupted; ``function`` goes on.
        """
        results: list[T] = []
        errors: list[BaseException] = []
        waiting, bell = socket.socketpair()
        context = contextvars.copy_context()

        def work() -> None:
            try:
                results.append(context.run(function))
            except BaseException as error:  # noqa: BLE001 - it is raised in the main thread
                errors.append(error)
            with suppress(OSError):  # nobody waits any more
                bell.send(DONE)

        with waiting, bell:
            self._bell = bell
            try:
                self.check()
                threading.Thread(target=work, name="kernel-wait", daemon=True).start()
                if waiting.recv(1) == INTERRUPT and grace:
                    waiting.settimeout(grace)
                    with suppress(TimeoutError):
                        while waiting.recv(1) == INTERRUPT:
                            pass
            finally:
                self._bell = None
        if results:
            return results[0]
        if errors:
            raise errors[0]
        raise Interrupted
