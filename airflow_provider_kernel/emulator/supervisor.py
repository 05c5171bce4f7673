"""
The process between the zygote and one invocation's worker: it starts the worker, and leaves nothing behind.

The link, a socket to the server, carries the request (a line of JSON) one way; the other way an empty line
when the worker starts, the worker's answer if it came to one, and a line with the worker's exit code when
nothing is left of the invocation. If the server ends its side of the link, or dies, the invocation is killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
from typing import TYPE_CHECKING

from airflow_provider_kernel.emulator.process_control import adopt_orphans, kill_descendants, reap
from airflow_provider_kernel.emulator.worker import work

if TYPE_CHECKING:
    from kernel.app_framework import KernelApp


def supervise(link: socket.socket, output: int, apps: dict[str, KernelApp]) -> None:
    """Run one invocation from request to exit code. ``output`` is a descriptor for what it prints."""
    adopt_orphans()
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # ignored, it would not wake
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])  # nor blocked, as an app's file may leave it
    link.settimeout(None)  # an app's file may have set a default one
    request = _receive(link)
    if request is None:
        return
    with contextlib.suppress(OSError):
        link.sendall(b"\n")
    worker = os.fork()
    if worker == 0:
        work(link, output, json.loads(request), apps)
    os.close(output)
    ended: dict[int, int] = {}
    while worker not in ended:
        readable, _, _ = select.select([link.fileno(), woken], [], [])
        if link.fileno() in readable and not link.recv(1):
            break
        if woken in readable:
            os.read(woken, 4096)
            ended |= reap() or {}
    ended |= kill_descendants()
    with contextlib.suppress(OSError):
        link.sendall(b"\n%d\n" % ended[worker])


def _receive(link: socket.socket) -> bytes | None:
    """Return the line with the request; None if the server gave it up."""
    request = bytearray()
    while not request.endswith(b"\n"):
        piece = link.recv(2**20)
        if not piece:
            return None
        request += piece
    return bytes(request)
