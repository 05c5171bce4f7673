"""An emulator as a person starts it: a process of its own, whose lines can be waited for."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import kernel

from dev.wait import wait_until


class EmulatorProcess:
    """
    A running emulator.

    :param process: its process; standard error goes where standard output goes.
    :param output: the end of a pipe or terminal that has what it prints.
    """

    def __init__(self, process: subprocess.Popen[bytes], output: int) -> None:
        self.process = process
        self._output = output
        self._printed = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.url = self.wait_for(r"Kernel emulator on (\S+)\r?\n")[1]
        self.wait_for("In a browser: .*\n")
        self.client = kernel.Kernel(base_url=self.url, api_key="x", max_retries=0, timeout=60)

    @property
    def printed(self) -> str:
        """What the emulator has printed so far."""
        return self._printed.decode()

    @property
    def lines(self) -> list[str]:
        """The lines after the announcement, without the time of day."""
        lines = self.printed.splitlines()
        start = next(number for number, line in enumerate(lines) if line.startswith("In a browser: "))
        return [re.sub(r"^\d\d:\d\d:\d\d ", "", line) for line in lines[start + 1 :]]

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Wait until the emulator has printed text that a regular expression matches."""

        def found() -> re.Match[str] | None:
            return re.search(pattern, self.printed)

        wait_until(lambda: found() or not self._reader.is_alive(), 30, f"{pattern} is printed", interval=0.01)
        match = found()
        assert match, self.printed
        return match

    def invoke(self, action: str = "act", app: str = "shop", **options: Any) -> Any:
        """Invoke an action; return the response."""
        return self.client.invocations.create(app_name=app, action_name=action, version="latest", **options)

    def stop(self) -> None:
        """Stop the emulator and wait for the end of what it prints."""
        self.process.terminate()
        assert self.process.wait(20) == 0
        self._reader.join(10)

    def _read(self) -> None:
        while True:
            try:
                piece = os.read(self._output, 65_536)
            except OSError:  # The other end of a terminal is closed.
                return
            if not piece:
                return
            self._printed += piece


@contextmanager
def emulator_process(
    *arguments: str | Path, terminal: bool = False, **environment: str
) -> Iterator[EmulatorProcess]:
    """Start an emulator that prints to a pipe or a ``terminal``; stop it at the end."""
    receiving, sending = os.openpty() if terminal else os.pipe()
    colours = ("NO_COLOR", "FORCE_COLOR", "TERM")
    process = subprocess.Popen(
        [sys.executable, "-m", "airflow_provider_kernel.emulator", "--port=0", *map(str, arguments)],
        env={name: os.environ[name] for name in os.environ if name not in colours} | environment,
        stdin=subprocess.DEVNULL,
        stdout=sending,
        stderr=sending,
    )
    os.close(sending)
    try:
        yield EmulatorProcess(process, receiving)
    finally:
        process.terminate()
        process.wait()
        os.close(receiving)


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port
