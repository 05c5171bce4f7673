"""
The forkserver: a process that serves one app file, and forks a supervisor for each invocation.

It has imported a Python file, and each invocation runs in a fork. A TypeScript or JavaScript file is imported by a new
process of Node.js at the start, to list its apps, and in each invocation.

The forkserver has one thread and keeps no state of invocations. A fork takes milliseconds, so one supervisor, with its
worker, waits for the next invocation. The server asks for it on the control socket, by one byte with two descriptors:
the link to the server, and the writing end of a pipe for what the invocation prints. The supervisor that waits takes the
request, and the forkserver forks the next one. The forkserver ends with the server, and ends all its descendants. Each
app file has a forkserver of its own, so that modules of one name in two files do not collide.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import traceback
import warnings
from functools import partial
from pathlib import Path
from typing import NoReturn

from airflow_provider_kernel.emulator.loader import AppFileError, load_apps
from airflow_provider_kernel.emulator.node import is_node_file, list_node_apps, run_in_node
from airflow_provider_kernel.emulator.process_control import (
    adopt_orphans,
    kill_descendants,
    make_forks_cheap,
    signal_on_parent_death,
)
from airflow_provider_kernel.emulator.source_files import imported_files
from airflow_provider_kernel.emulator.supervisor import Work, supervise, take_request
from airflow_provider_kernel.emulator.worker import work


def main(control_fd: int, path: Path) -> None:
    """
    Import an app file, send the server one line of JSON, and fork supervisors until the server ends.

    The line has ``apps`` (the actions' names by app), or ``error`` if the file cannot be served; and ``files``, what the
    import has read of the file's folder.

    :param control_fd: descriptor of the control socket, which the server holds the other end of.
    :param path: the app file.
    """
    control = socket.socket(fileno=control_fd)
    # During the import, this process does not read the control socket and so does not see its end.
    signal_on_parent_death(signal.SIGKILL)
    adopt_orphans()
    _replace_streams()
    try:
        apps, run = _load(path, control)
    except AppFileError as error:
        files = imported_files(path.resolve().parent, error.__context__)
        _send(control, {"error": str(error), "files": files})
    else:
        if threading.active_count() > 1:
            print(
                f"Kernel emulator: {path} starts threads when it is imported. These threads do not run in invocations, "
                "and the locks that they hold stay locked there. Start threads in actions instead.",
                file=sys.stderr,
            )
        # Each fork would print unflushed text again.
        sys.stdout.flush()
        sys.stderr.flush()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # The system then reaps the supervisors.
        _send(control, {"apps": apps, "files": imported_files(path.resolve().parent)})
        signal_on_parent_death(0)
        make_forks_cheap()
        _fork_supervisors(control, run)
    kill_descendants()


def _load(path: Path, control: socket.socket) -> tuple[dict[str, list[str]], Work]:
    """
    Import an app file; return the actions' names by app, and what runs an action.

    :raises AppFileError: the file cannot be served.
    """
    if is_node_file(path):
        return list_node_apps(path, control), partial(run_in_node, path=path)
    apps = load_apps(path)
    return {name: list(app.actions) for name, app in apps.items()}, partial(work, apps=apps)


def _replace_streams() -> None:
    """
    Replace the standard streams by streams that write at each line feed and accept any text.

    Python's streams remember whether they are seekable. The emulator's own may be files, which are seekable. In an
    invocation pipes replace them, which are not, and an action that wraps a stream would fail. So the new streams are
    created on a pipe.
    """
    pipe = os.pipe()
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        file = os.dup(descriptor)
        os.dup2(pipe[1], descriptor)
        stream = open(descriptor, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        os.dup2(file, descriptor)
        os.close(file)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    for descriptor in pipe:
        os.close(descriptor)


def _send(control: socket.socket, message: object) -> None:
    with contextlib.suppress(ConnectionError):  # The server was stopped during the import.
        control.sendall(json.dumps(message).encode() + b"\n")


def _fork_supervisors(control: socket.socket, run: Work) -> None:
    """Keep one supervisor that waits for the next request on the control socket, until the server closes it."""
    is_requested = False
    while True:
        if _fork_supervisor(control, run):
            is_requested = False
        elif is_requested:  # Again there was no process. The server sees that the link closes at once.
            for descriptor in take_request(control):
                os.close(descriptor)
            is_requested = False
        elif not (is_requested := _wait_for_request(control)):
            return


def _fork_supervisor(control: socket.socket, run: Work) -> bool:
    """Fork a supervisor, and wait until it has taken a request. Return False if there is none, or it ended before."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            try:
                with warnings.catch_warnings():
                    # Python 3.12 warns of a fork beside threads; main() has warned of them already.
                    warnings.simplefilter("ignore", DeprecationWarning)
                    is_child = os.fork() == 0
                if is_child:
                    ours.close()
                    _become_supervisor(control, theirs, run)
            except OSError as error:
                print(f"Kernel emulator: cannot fork: {error}.", file=sys.stderr, flush=True)
        ours.settimeout(None)  # The app file may have set a default.
        return bool(ours.recv(1))


def _wait_for_request(control: socket.socket) -> bool:
    """Return True when there is a request, False when the server has closed the control socket."""
    try:
        return bool(control.recv(1, socket.MSG_PEEK))
    except ConnectionResetError:  # The server ended before it read what was sent.
        return False


def _become_supervisor(control: socket.socket, forkserver: socket.socket, run: Work) -> NoReturn:
    try:
        supervise(control, forkserver, run)
    except BaseException:  # noqa: BLE001 - a forked process must never return into its parent's code
        traceback.print_exc()
    finally:
        os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
