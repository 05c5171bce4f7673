"""
The process that has imported one app file and forks off a warden for each invocation.

It is single-threaded and knows nothing of invocations: an order is one byte with two descriptors, the link to
the server and the end of a pipe for what the process prints. It ends, with all its descendants, when the
server does. Each app file has a zygote of its own, so that their modules cannot collide.
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
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_provider_kernel.emulator.loader import AppFileError, load_apps
from airflow_provider_kernel.emulator.process_control import (
    adopt_orphans,
    kill_descendants,
    signal_on_parent_death,
)
from airflow_provider_kernel.emulator.supervisor import supervise

if TYPE_CHECKING:
    from kernel.app_framework import KernelApp


def main(control_fd: int, path: Path) -> None:
    """Import ``path``, say what it holds (or what is wrong with it) in a line of JSON, and serve orders."""
    control = socket.socket(fileno=control_fd)
    # While importing, nobody listens for the end of the control socket.
    signal_on_parent_death(signal.SIGKILL)
    adopt_orphans()
    _make_streams()
    try:
        apps = load_apps(path)
    except AppFileError as error:
        _tell(control, {"error": str(error)})
    else:
        if threading.active_count() > 1:
            print(
                f"Kernel emulator: {path} starts threads while it is imported. They do not run in invocations, and "
                "locks that they hold stay locked there: start them in the actions",
                file=sys.stderr,
            )
        sys.stdout.flush()  # or each child would print it again
        sys.stderr.flush()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # wardens need no reaping
        _tell(control, {"apps": {name: list(app.actions) for name, app in apps.items()}})
        signal_on_parent_death(0)
        _serve(control, apps)
    kill_descendants()


def _make_streams() -> None:
    """
    Have what is printed in an invocation become a log event at the end of each line, whatever it holds.

    A stream remembers whether it can be sought. The emulator's may be files, and can; the pipes that take their
    place in an invocation cannot, and wrapping the streams would fail there. So the streams are made on a pipe.
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


def _tell(control: socket.socket, message: object) -> None:
    with contextlib.suppress(BrokenPipeError):  # the server was stopped meanwhile
        control.sendall(json.dumps(message).encode() + b"\n")


def _serve(control: socket.socket, apps: dict[str, KernelApp]) -> None:
    while True:
        order, descriptors, _, _ = socket.recv_fds(control, 1, 2)
        if not order:
            return
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)  # or programs that the action starts would hold the link
        try:
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore", DeprecationWarning
                )  # of the threads that were warned of above
                is_child = len(descriptors) == 2 and os.fork() == 0
            if is_child:
                _become_warden(control, descriptors, apps)
        except OSError as error:  # no more processes: the server sees a link that ends at once
            print(f"The emulator could not fork: {error}", file=sys.stderr, flush=True)
        for descriptor in descriptors:
            os.close(descriptor)


def _become_warden(control: socket.socket, descriptors: list[int], apps: dict[str, KernelApp]) -> None:
    try:
        control.close()
        link, output = descriptors
        supervise(socket.socket(fileno=link), output, apps)
    except BaseException:  # noqa: BLE001 - a forked process must never return into its parent's code
        traceback.print_exc()
    finally:
        os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
