"""The ends of processes: system calls that keep processes from outliving their parents, and what an exit code means."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from pathlib import Path

import psutil

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def signal_on_parent_death(signal_number: int) -> None:
    """Send this process a signal when its parent dies. 0 cancels an earlier call. Linux only; no effect elsewhere."""
    _prctl(_PR_SET_PDEATHSIG, signal_number)


def adopt_orphans() -> None:
    """Make this process the parent of its descendants' orphans (child subreaper). Linux only; no effect elsewhere."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_first_when_memory_is_short() -> None:
    """Make this process the first that Linux kills when memory runs out. Linux only; no effect elsewhere."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def reap() -> dict[int, int] | None:
    """
    Collect the children that have ended, without waiting.

    :return: exit codes by pid; a negative code is a signal. None: this process has no children.
    """
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
    """Kill and collect all descendants of this process, until none is left. Return exit codes by pid."""
    ended: dict[int, int] = {}
    while (reaped := reap()) is not None:
        ended |= reaped
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                process.kill()
        time.sleep(0.001)
    return ended


def describe_exit(code: int) -> str:
    """Return how a process ended. The text continues a sentence."""
    if code >= 0:
        return f"with exit status {code}"
    try:
        return f"by signal {signal.Signals(-code).name}"
    except ValueError:
        return f"by signal {-code}"


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
