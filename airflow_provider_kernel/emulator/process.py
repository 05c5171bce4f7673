"""The server's side of a zygote, and of one invocation's processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

from airflow_provider_kernel.api.models import InvocationStatus
from airflow_provider_kernel.emulator.line_splitter import LineSplitter
from airflow_provider_kernel.emulator.loader import AppFileError
from airflow_provider_kernel.emulator.store import Outcome, failed


class Forkserver:
    """
    A process that has imported one app file.

    Made before the event loop runs, since importing is waited for; everything else does not block.

    :param path: the app file.
    :param environment: all variables that the process gets.
    """

    def __init__(self, path: Path, environment: Mapping[str, str]) -> None:
        self.path = path
        self._control, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "airflow_provider_kernel.emulator.forkserver",
                    str(theirs.fileno()),
                    str(path),
                ],
                env=environment,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=2,  # what a file prints while it is imported belongs to nobody's log
                start_new_session=True,  # Ctrl-C is for the server alone
            )

    def apps(self) -> dict[str, list[str]]:
        """
        Wait for the import; return the actions' names by app.

        :raises AppFileError: there is nothing to serve.
        """
        with self._control.makefile("rb") as control:
            hello = json.loads(control.readline() or b"{}")
        self._control.setblocking(False)
        if not hello:
            code = self._process.wait()
            raise AppFileError(f"{self.path}: importing it ended the process, {_how_ended(code)}")
        if "error" in hello:
            raise AppFileError(hello["error"])
        apps: dict[str, list[str]] = hello["apps"]
        return apps

    def watch(self, on_end: Callable[[], None]) -> None:
        """Have ``on_end`` called when the process ends."""
        loop = asyncio.get_running_loop()

        def ended() -> None:
            loop.remove_reader(self._control)
            on_end()

        loop.add_reader(self._control, ended)

    async def order(self, link: int, output: int) -> None:
        """Have a process forked that holds the two descriptors."""
        while True:
            try:
                socket.send_fds(self._control, [b"."], [link, output])
                return
            except BlockingIOError:  # it is hundreds of orders behind
                await asyncio.sleep(0.01)

    def close(self) -> None:
        """End the process, and with it everything it forked."""
        self._control.close()
        try:
            self._process.wait(0.5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Process:
    """One invocation's processes: what they print, how they end, and their end at will."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        output: asyncio.StreamReader,
        pipe: asyncio.ReadTransport,
    ) -> None:
        self._reader, self._writer, self._output, self._pipe = reader, writer, output, pipe

    @classmethod
    async def start(cls, forkserver: Forkserver, request: Mapping[str, Any]) -> Process:
        """
        Have the zygote start a process for ``request``, see ``warden``.

        :raises OSError: it could not be started.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                receiving, sending = os.pipe()
            except OSError:
                ours.close()
                raise
            try:
                await forkserver.order(theirs.fileno(), sending)
            except OSError:
                ours.close()
                os.close(receiving)
                raise
            finally:
                os.close(sending)
        output = asyncio.StreamReader()
        pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(output), os.fdopen(receiving, "rb", 0)
        )
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        writer.write(json.dumps(request).encode() + b"\n")
        if not await reader.readline():
            writer.close()
            pipe.close()
            raise OSError("the new process ended at once")
        return cls(reader, writer, output, pipe)

    def kill(self) -> None:
        """End the processes; :meth:`wait` returns when nothing is left of them."""
        with contextlib.suppress(OSError):
            self._writer.write_eof()

    async def lines(self) -> AsyncIterator[list[str]]:
        """Yield the lines that the processes print, as they come, until nobody can print any more."""
        cutter = LineSplitter()
        try:
            while data := await self._output.read(65_536):
                if lines := cutter.feed(data):
                    yield lines
        finally:  # who holds the other end may never let go of it
            self._pipe.close()
        if lines := cutter.close():
            yield lines

    async def wait(self) -> Outcome:
        """Wait until nothing is left of the processes; return how the action ended."""
        try:
            said = await self._reader.read()
        except OSError:
            said = b""
        self._writer.close()
        answer, _, code = said.strip(b"\n").rpartition(b"\n")
        return _outcome(answer.strip(b"\n"), code)


def _outcome(answer: bytes, code: bytes) -> Outcome:
    try:
        exit_code = int(code)
    except ValueError:
        return failed("The process was lost: what supervised it was killed.")
    try:
        data = json.loads(answer)
    except ValueError:  # none, or a part of one
        return failed(f"The process ended before the action returned, {_how_ended(exit_code)}.")
    if "reason" in data:
        return failed(data["reason"], data.get("output"))
    return Outcome(InvocationStatus.SUCCEEDED, data["output"], None)


def _how_ended(code: int) -> str:
    if code >= 0:
        return f"with exit status {code}"
    try:
        return f"by signal {signal.Signals(-code).name}"
    except ValueError:
        return f"by signal {-code}"
