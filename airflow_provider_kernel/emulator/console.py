"""
What the emulator prints in the terminal.

Printing never waits: a thread writes, and lines that a terminal or a pipe does not take in time are counted instead of
printed. If standard output is closed, the emulator goes on without it.
"""

from __future__ import annotations

import os
import select
import sys
import threading
import time
from collections.abc import Callable
from typing import TextIO

from airflow_provider_kernel.emulator.console_lines import Lines, escape, wants_colour
from airflow_provider_kernel.emulator.store import StoredInvocation

#: Maximum bytes that wait to be written. Beyond it, lines are dropped.
MAX_PENDING = 4 * 2**20


class Console:
    """
    Prints what happens. Nothing is printed before :meth:`announce`.

    :param quiet: whether only the announcement and errors are printed.
    :param verbose: whether each request is printed, not only those that are refused.
    :param stream: where lines are printed; None: standard output.
    """

    def __init__(self, *, quiet: bool = False, verbose: bool = False, stream: TextIO | None = None) -> None:
        stream = stream or sys.stdout
        self._output = _Output(stream)
        self._errors = _Output(sys.stderr)
        self._lines = Lines(wants_colour(os.environ, is_terminal=stream.isatty()))
        self._is_quiet = quiet
        self._is_verbose = verbose
        self._told: set[str] = set()
        self._early: list[str] | None = []

    def announce(self, text: str) -> None:
        """Print the announcement, whose first line programs read, and then what was to be printed before."""
        early, self._early = self._early or [], None
        self._output.write("".join(f"{line}\n" for line in (text, *early)))

    def follow(self, invocation: StoredInvocation, user_agent: str) -> None:
        """Print start, log and end of an invocation that was just accepted."""
        if self._is_quiet:
            return
        self.invocation_started(invocation, user_agent)
        printed = 0

        def on_change() -> None:
            nonlocal printed
            end = invocation.dropped + len(invocation.logs)
            for _, text in invocation.lines(max(printed, invocation.dropped), end - printed):
                self.app_line(invocation.id, text)
            printed = end
            if invocation.is_ended:
                self.invocation_ended(invocation)

        invocation.listeners.append(on_change)

    def invocation_started(self, invocation: StoredInvocation, user_agent: str) -> None:
        """Print that an invocation was accepted from a client with this ``User-Agent``."""
        self._print(lambda lines, clock: lines.started(clock, invocation.id, invocation.title, user_agent))

    def app_line(self, invocation_id: str, text: str) -> None:
        """Print a line of an invocation's log."""
        self._print(lambda lines, clock: lines.app_line(clock, invocation_id, text))

    def invocation_ended(self, invocation: StoredInvocation) -> None:
        """Print how an invocation ended. The output is printed only if it says why the invocation failed."""
        seconds = ((invocation.finished or invocation.started) - invocation.started) / 1e9
        reason = invocation.reason and f"{invocation.reason} {invocation.output or ''}"
        self._print(lambda lines, clock: lines.ended(clock, invocation.id, invocation.title, seconds, reason))

    def refused(self, status: int, method: str, path: str, message: str) -> None:
        """Print a request that was answered with an error."""
        self._print(lambda lines, clock: lines.refused(clock, status, method, path, message))

    def fault(self, method: str, path: str, effects: str) -> None:
        """Print a request that has a fault on purpose."""
        self._print(lambda lines, clock: lines.fault(clock, method, path, effects))

    def request(self, status: int, method: str, path: str, seconds: float) -> None:
        """Print a request that was answered without an error, with ``--verbose``."""
        if self._is_verbose:
            self._print(lambda lines, clock: lines.request(clock, status, method, path, seconds))

    def note(self, text: str) -> None:
        """Print one sentence that a person should know."""
        self._print(lambda lines, clock: lines.note(clock, text))

    def note_once(self, text: str) -> None:
        """Print one sentence that a person should know, if it was not printed before."""
        if text not in self._told:
            self._told.add(text)
            self.note(text)

    def error(self, text: str) -> None:
        """Print one sentence on standard error, also with ``--quiet``: somebody must act."""
        self._errors.write(f"Kernel emulator: {escape(text)}\n")

    def close(self) -> None:
        """Wait for at most a second until everything is written."""
        self._output.close(1.0)
        self._errors.close(1.0)

    def _print(self, make: Callable[[Lines, str], str]) -> None:
        if self._is_quiet:
            return
        line = make(self._lines, time.strftime("%H:%M:%S"))
        if self._early is None:
            self._output.write(f"{line}\n")
        else:
            self._early.append(line)


class _Output:
    """A standard stream. A thread writes to its descriptor, so that nobody else waits for a slow reader."""

    def __init__(self, stream: TextIO) -> None:
        self._descriptor: int | None = stream.fileno()
        self._encoding = stream.encoding
        self._changed = threading.Condition()
        self._pending: list[bytes] = []
        self._size = 0
        self._dropped = 0
        self._is_writing = False
        self._thread: threading.Thread | None = None

    def write(self, text: str) -> None:
        data = text.encode(self._encoding, "backslashreplace")
        with self._changed:
            if self._descriptor is None:
                return
            if self._pending and self._size + len(data) > MAX_PENDING:
                self._dropped += 1
                return
            self._pending.append(data)
            self._size += len(data)
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._write_pending, name="console", daemon=True)
                self._thread.start()

    def close(self, timeout: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not (self._pending or self._is_writing), timeout)

    def _write_pending(self) -> None:
        while (descriptor := self._descriptor) is not None:
            with self._changed:
                self._is_writing = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._pending)
                data, self._pending, self._size = b"".join(self._pending), [], 0
                if self._dropped:
                    data += b"[%d lines were not printed: they came too fast]\n" % self._dropped
                    self._dropped = 0
                self._is_writing = True
            try:
                _write_all(descriptor, data)
            except OSError:  # Nobody reads any more.
                with self._changed:
                    self._descriptor, self._pending, self._is_writing = None, [], False
                    self._changed.notify_all()


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:  # Whoever started the emulator has made the descriptor non-blocking.
            select.select([], [descriptor], [])
