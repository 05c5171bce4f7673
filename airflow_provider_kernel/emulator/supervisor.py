"""
The supervisor of one invocation: the process between the forkserver and the worker.

It forks the worker and ends every process of the invocation. Through the link, a socket, the server sends the request
as a line of JSON. The supervisor's side of the link carries, in this order:

1. an empty line before the worker starts,
2. the worker's answer, if the worker gave one,
3. a line with the worker's exit code, once no process of the invocation is left.

If the server shuts down its side of the link, or dies, the supervisor kills the invocation.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import traceback
from collections.abc import Callable
from typing import Any, NoReturn, TypeAlias

from airflow_provider_kernel.emulator.process_control import (
    adopt_orphans,
    die_first_when_memory_is_short,
    kill_descendants,
    reap,
    signal_on_parent_death,
)

#: Runs an action in the worker: takes the link, and the request with ``id``, ``app_name``, ``action_name`` and ``payload``.
Work: TypeAlias = Callable[[socket.socket, dict[str, Any]], None]


def supervise(link: socket.socket, output: int, work: Work) -> None:
    """
    Supervise one invocation, from its request to its exit code.

    :param link: the socket to the server.
    :param output: descriptor for what the worker prints.
    :param work: runs the action in the worker.
    """
    adopt_orphans()
    wakeup, sender = os.pipe()
    os.set_blocking(sender, False)
    signal.set_wakeup_fd(sender, warn_on_full_buffer=False)
    signal.signal(
        signal.SIGCHLD, lambda *_: None
    )  # An ignored signal writes nothing to the wakeup descriptor.
    # The app file may have blocked the signal, and set a default timeout for sockets.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
    link.settimeout(None)
    request = _receive_request(link)
    if request is None:
        return
    with contextlib.suppress(OSError):
        link.sendall(b"\n")
    worker = os.fork()
    if worker == 0:
        _become_worker(link, output, json.loads(request), work)
    os.close(output)
    ended: dict[int, int] = {}
    while worker not in ended:
        readable, _, _ = select.select([link.fileno(), wakeup], [], [])
        if link.fileno() in readable and not link.recv(1):
            break
        if wakeup in readable:
            os.read(wakeup, 4096)
            ended |= reap() or {}
    ended |= kill_descendants()
    with contextlib.suppress(OSError):
        link.sendall(b"\n%d\n" % ended[worker])


def _receive_request(link: socket.socket) -> bytes | None:
    """Return the line with the request; None if the server closed the link before the end of the line."""
    request = bytearray()
    while not request.endswith(b"\n"):
        piece = link.recv(2**20)
        if not piece:
            return None
        request += piece
    return bytes(request)


def _become_worker(link: socket.socket, output: int, request: dict[str, Any], work: Work) -> NoReturn:
    try:
        signal_on_parent_death(signal.SIGKILL)
        die_first_when_memory_is_short()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        for descriptor in (1, 2):
            os.dup2(output, descriptor)
        os.close(output)
        work(link, request)
    except BaseException:  # noqa: BLE001 - a forked process must never return into its parent's code
        traceback.print_exc()
    finally:
        os._exit(0)
