"""The server's side of a forkserver, and of the processes of one invocation."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

from airflow_provider_kernel.api.models import InvocationStatus
from airflow_provider_kernel.emulator.line_splitter import LineSplitter
from airflow_provider_kernel.emulator.loader import AppFileError
from airflow_provider_kernel.emulator.process_control import describe_exit
from airflow_provider_kernel.emulator.store import InvocationResult, failed


class Forkserver:
    """
    A process that imports one app file and forks supervisors.

    Call :meth:`apps` before the event loop runs or in another thread: it blocks until the import ends. ``started`` is the
    time of creation, in nanoseconds since 1970. ``files`` are the app file and, after :meth:`apps`, what it has imported.

    :param path: the app file.
    :param environment: the complete environment of the process.
    """

    def __init__(self, path: Path, environment: Mapping[str, str]) -> None:
        self.path = path
        self.started = time.time_ns()
        self.files = {str(path.resolve())}
        self._control, theirs = socket.socketpair()
        self._spawning = asyncio.Lock()
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
                stdout=2,  # What the file prints during its import is in no invocation's log.
                start_new_session=True,  # Ctrl-C must stop the server alone.
            )

    def apps(self) -> dict[str, list[str]]:
        """
        Wait for the end of the import; return the actions' names by app.

        :raises AppFileError: the file cannot be served.
        """
        with self._control.makefile("rb") as control:
            message = json.loads(control.readline() or b"{}")
        self._control.setblocking(False)
        if not message:
            code = self._process.wait()
            raise AppFileError(f"{self.path}: importing it ended the process, {describe_exit(code)}")
        self.files |= set(message.get("files", ()))
        if "error" in message:
            raise AppFileError(message["error"])
        apps: dict[str, list[str]] = message["apps"]
        return apps

    def watch(self, on_end: Callable[[], None]) -> None:
        """Call ``on_end`` when the process ends."""
        loop = asyncio.get_running_loop()

        def ended() -> None:
            loop.remove_reader(self._control)
            on_end()

        loop.add_reader(self._control, ended)

    def unwatch(self) -> None:
        """Do not call what :meth:`watch` was given: the end of the process is expected."""
        asyncio.get_running_loop().remove_reader(self._control)

    async def spawn(self, link: int, output: int) -> None:
        """
        Fork a supervisor.

        :param link: descriptor of the supervisor's link to the server.
        :param output: descriptor for what the invocation prints.
        """
        async with self._spawning:
            while True:
                try:
                    socket.send_fds(self._control, [b"."], [link, output])
                    return
                except BlockingIOError:  # Hundreds of requests are waiting.
                    await asyncio.sleep(0.01)

    def close(self) -> None:
        """End the process and all its descendants."""
        self._control.close()
        try:
            self._process.wait(0.5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Process:
    """The processes of one invocation: their output, their result, and their end."""

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
        Start the processes of an invocation.

        :param forkserver: the forkserver of the invocation's app.
        :param request: the request for the supervisor: ``id``, ``app_name``, ``action_name``, ``payload``.
        :raises OSError: the processes cannot be started.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                receiving, sending = os.pipe()
            except OSError:
                ours.close()
                raise
            try:
                await forkserver.spawn(theirs.fileno(), sending)
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
        """Kill the processes. :meth:`wait` returns when none is left."""
        with contextlib.suppress(OSError):
            self._writer.write_eof()

    async def lines(self) -> AsyncIterator[list[str]]:
        """Yield the lines that the processes print, until every process has closed the output."""
        splitter = LineSplitter()
        try:
            while data := await self._output.read(65_536):
                if lines := splitter.feed(data):
                    yield lines
        finally:  # A process that escaped may hold the other end for ever.
            self._pipe.close()
        if lines := splitter.close():
            yield lines

    async def wait(self) -> InvocationResult:
        """Wait until no process is left; return the result of the action."""
        try:
            received = await self._reader.read()
        except OSError:
            received = b""
        self._writer.close()
        answer, _, code = received.strip(b"\n").rpartition(b"\n")
        return _read_result(answer.strip(b"\n"), code)


def _read_result(answer: bytes, code: bytes) -> InvocationResult:
    """Return the result that the worker's answer and the supervisor's exit code mean."""
    try:
        exit_code = int(code)
    except ValueError:
        return failed("The process was lost: its supervisor was killed.")
    try:
        data = json.loads(answer)
    except ValueError:  # The answer is missing or incomplete.
        return failed(f"The process ended before the action returned, {describe_exit(exit_code)}.")
    if "reason" in data:
        return failed(data["reason"], data.get("output"))
    return InvocationResult(InvocationStatus.SUCCEEDED, data["output"], None)
