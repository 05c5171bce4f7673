"""Wait on a worker so that a signal handler can end the wait."""

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
    """The wait was interrupted; its function continues in a thread, and its result is dropped."""


class Interruptible:
    """
    Runs long functions in a thread of their own while the main thread only waits.

    Airflow calls ``on_kill`` in a signal handler, where the main thread may hold any lock. Sending a byte through a socket
    is safe there. It wakes the main thread, and interrupts no code in the middle, as an exception would.
    """

    def __init__(self) -> None:
        self.is_interrupted = False
        self._bell: socket.socket | None = None

    def interrupt(self) -> None:
        """End the current wait, or the next one. Safe in a signal handler."""
        self.is_interrupted = True
        if self._bell:
            with suppress(OSError):
                self._bell.send(INTERRUPT)

    def check(self) -> None:
        """
        Raise if :meth:`interrupt` was called.

        :raises Interrupted: it was.
        """
        if self.is_interrupted:
            raise Interrupted

    def run(self, function: Callable[[], T], grace: float = 0.0) -> T:
        """
        Return what ``function`` returns, or raise what it raises.

        :param function: what takes long.
        :param grace: seconds for which it may continue after an interruption. Default 0.
        :raises Interrupted: the wait was interrupted; ``function`` continues.
        """
        results: list[T] = []
        errors: list[BaseException] = []
        waiting, bell = socket.socketpair()
        context = contextvars.copy_context()

        def work() -> None:
            try:
                results.append(context.run(function))
            except BaseException as error:  # noqa: BLE001 - the main thread raises it
                errors.append(error)
            with suppress(OSError):  # the main thread no longer waits
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
