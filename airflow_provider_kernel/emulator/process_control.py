"""What the emulator asks of the operating system about processes that must not outlive their parents."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import time
from pathlib import Path

import psutil

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def signal_on_parent_death(signal_number: int) -> None:
    """Have this process get a signal when its parent dies; 0: no more. Only on Linux; nothing elsewhere."""
    _prctl(_PR_SET_PDEATHSIG, signal_number)


def adopt_orphans() -> None:
    """Make this process the parent of its descendants' orphans. Only on Linux; nothing elsewhere."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_first_when_memory_is_short() -> None:
    """Offer this process, before any other, to the killer that Linux sends when memory runs out."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def reap() -> dict[int, int] | None:
    """Collect the children that have ended: exit code (negative: signal) by pid. None: no children are left."""
    ended: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended or None
        if pid == 0:
            return ended
        ended[pid] = os.waitstatus_to_exitcode(status)


def kill_descendants() -> dict[int, int]:
    """Kill and collect everything below this process, until nothing is left. Returns exit codes by pid."""
    ended: dict[int, int] = {}
    while (reaped := reap()) is not None:
        ended |= reaped
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                process.kill()
        time.sleep(0.001)
    return ended


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
