"""
The supervisor of one invocation: the process between the forkserver and the worker.

It forks the worker, waits for an invocation, and ends every process of it. Through the link, a socket, the server sends
the request as a line of JSON. The supervisor's side of the link carries, in this order:

1. an empty line before the worker gets the request,
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


def supervise(control: socket.socket, forkserver: socket.socket, work: Work) -> None:
    """
    Fork a worker, wait for an invocation, and supervise it until its exit code.

    :param control: the control socket, where the server asks for a supervisor.
    :param forkserver: a socket to the forkserver, which gets one byte when this supervisor has taken a request.
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
    ours, theirs = socket.socketpair()
    for connection in (forkserver, ours, theirs):
        connection.settimeout(None)
    worker = os.fork()
    if worker == 0:
        for connection in (control, forkserver, ours):
            connection.close()
        _become_worker(theirs, work)
    theirs.close()
    readable, _, _ = select.select([control.fileno(), forkserver.fileno(), wakeup], [], [])
    if readable != [control.fileno()]:
        return  # The forkserver or the worker was killed. Another supervisor takes the request.
    descriptors = take_request(control)
    control.close()
    if not descriptors:
        return
    with forkserver:
        forkserver.sendall(b".")
    link = socket.socket(fileno=descriptors[0])
    link.settimeout(None)
    request = _receive_request(link)
    if request is None:
        return
    with ours, contextlib.suppress(OSError):  # The server or the worker may be gone.
        link.sendall(b"\n")
        socket.send_fds(ours, [b"\n"], descriptors)
        ours.sendall(request)
    os.close(descriptors[1])
    _wait_for_end(link, worker, wakeup)


def _wait_for_end(link: socket.socket, worker: int, wakeup: int) -> None:
    """Wait until the worker or the link ends; then kill what is left, and send the worker's exit code."""
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
    link.close()  # Before the memory of this process is freed, which takes longer.


def take_request(control: socket.socket) -> list[int]:
    """Wait for the server's request; return its two descriptors, or none if the server has closed the control socket."""
    try:
        descriptors = socket.recv_fds(control, 1, 2)[1]
    except ConnectionResetError:  # The server ended before it read what was sent.
        return []
    return descriptors if len(descriptors) == 2 else []


def _receive_request(link: socket.socket) -> bytes | None:
    """Return the line with the request; None if the server closed the link before the end of the line."""
    request = bytearray()
    while not request.endswith(b"\n"):
        piece = link.recv(2**20)
        if not piece:
            return None
        request += piece
    return bytes(request)


def _become_worker(supervisor: socket.socket, work: Work) -> NoReturn:
    try:
        signal_on_parent_death(signal.SIGKILL)
        die_first_when_memory_is_short()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        _, descriptors, _, _ = socket.recv_fds(supervisor, 1, 2)
        request = _receive_request(supervisor)
        supervisor.close()
        if request is not None:
            link, output = descriptors
            for descriptor in (1, 2):
                os.dup2(output, descriptor)
            os.close(output)
            os.set_inheritable(link, False)
            connection = socket.socket(fileno=link)
            connection.settimeout(None)
            work(connection, json.loads(request))
    except BaseException:  # noqa: BLE001 - a forked process must never return into its parent's code
        traceback.print_exc()
    finally:
        os._exit(0)
