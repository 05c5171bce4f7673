"""
TypeScript and JavaScript apps, which run under the Node.js that is on the app's ``PATH``.

Node.js executes ``node_runner.mjs``, which imports the app file and takes the SDK from the app's own ``node_modules``.

Choices where Kernel's behaviour is unknown, besides those of ``worker``:

- Each invocation imports the file anew, so that its log has what the import prints.
- An action that returns nothing has the output ``null``. ``JSON.stringify`` writes NaN as ``null``, and leaves out
  functions within objects; what it refuses fails the invocation.
- An error that nobody handles ends the process, as Node.js does, and so fails the invocation.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Any

from airflow_provider_kernel.emulator.loader import AppFileError, check_apps, check_file
from airflow_provider_kernel.emulator.process_control import (
    describe_exit,
    kill_descendants,
    signal_on_parent_death,
)

_SUFFIXES = frozenset({".ts", ".mts", ".cts", ".js", ".mjs", ".cjs"})
_RUNNER = Path(__file__).with_name("node_runner.mjs")


def is_node_file(path: Path) -> bool:
    """Return whether Node.js runs an app file."""
    return path.suffix in _SUFFIXES


def list_node_apps(path: Path, control: socket.socket) -> dict[str, list[str]]:
    """
    Import an app file under Node.js; return the actions' names by app. No process is left.

    :param path: the app file.
    :param control: the socket to the server; its end stops the import.
    :raises AppFileError: Node.js or the SDK is missing, the file cannot be imported, defines no app, or an app has no
        action.
    """
    check_file(path)
    if shutil.which("node") is None:
        raise AppFileError(f"{path}: there is no program node on the PATH. Install Node.js 22.18 or newer")
    receiving, sending = os.pipe()
    with open(receiving, "rb", 0) as pipe:
        try:
            process = subprocess.Popen(
                _command(path, sending),
                pass_fds=[sending],
                preexec_fn=partial(signal_on_parent_death, signal.SIGKILL),
            )
        except OSError as error:
            raise AppFileError(f"{path}: cannot start node: {error.strerror}") from None
        finally:
            os.close(sending)
        answer = _read(pipe, control)
        if answer is None:
            process.kill()
        code = process.wait()
    kill_descendants()
    if answer is None:
        raise AppFileError(f"{path}: the emulator was stopped during the import")
    if not answer:
        raise AppFileError(f"{path}: importing it ended the process, {describe_exit(code)}")
    message = json.loads(answer)
    if "error" in message:
        raise AppFileError(f"{path}{message['error']}")
    check_apps(
        path,
        message["apps"],
        hints=("const app = kernel.app('name')", "app.action('name', async (context) => { … })"),
    )
    return dict(message["apps"])


def run_in_node(link: socket.socket, request: dict[str, Any], path: Path) -> None:
    """
    Make this process a process of Node.js, which runs an action and sends its answer to the server.

    :param link: the socket to the server.
    :param request: ``id``, ``app_name``, ``action_name`` and ``payload`` of the invocation.
    :param path: the app file.
    """
    # A payload may be longer than a pipe takes before anybody reads, and other users can read a command line.
    try:
        with tempfile.TemporaryFile() as file:
            file.write(json.dumps(request).encode())
            file.seek(0)
            for descriptor in (link.fileno(), file.fileno()):
                # Node.js sees to it that no program inherits them from the app.
                os.set_inheritable(descriptor, True)
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and programs inherit that.
            os.execvp("node", _command(path, link.fileno(), file.fileno()))  # noqa: S606, S607 - the app's PATH decides
    except OSError as error:
        link.sendall(json.dumps({"reason": f"Node.js could not be started: {error}."}).encode())


def _command(path: Path, *descriptors: int) -> list[str]:
    return ["node", str(_RUNNER), str(path.resolve()), *map(str, descriptors)]


def _read(pipe: FileIO, control: socket.socket) -> bytes | None:
    """Return all that the pipe has until its end; None if the server closed the control socket before."""
    answer = b""
    while True:
        readable, _, _ = select.select([pipe.fileno(), control.fileno()], [], [])
        if control.fileno() in readable:
            return None
        piece = pipe.read(65_536)
        if not piece:
            return answer
        answer += piece
