"""The ends of processes: system calls that keep processes from outliving their parents, and what an exit code means."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import resource
import signal
import sys
import time
from pathlib import Path

import psutil

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_MADV_COLLAPSE = 25
_MANY_DESCRIPTORS = 65_536
_LARGE_PAGE = 2 * 2**20


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


def make_forks_cheap() -> None:
    """
    Prepare this process for many forks. No effect on what it does.

    The garbage collection of a fork then copies no memory. Linux maps the memory in pages of 2 MiB, of which a fork
    copies fewer entries than of 4 KiB.
    """
    gc.collect()
    gc.freeze()
    if sys.platform != "linux":
        return
    madvise = ctypes.CDLL(None).madvise
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, access, _, _, _, *names = line.split()
        if access != "rw-p" or names not in ([], ["[heap]"]):
            continue
        start, end = (int(address, 16) for address in addresses.split("-"))
        start, end = -(-start // _LARGE_PAGE) * _LARGE_PAGE, end // _LARGE_PAGE * _LARGE_PAGE
        if start < end:  # Before Linux 6.1 this is an error without effect.
            madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_COLLAPSE)


def allow_many_descriptors() -> None:
    """Raise the limit of open descriptors of this process, and of those that it starts, to 65,536 or the hard limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MANY_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(_MANY_DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):  # macOS may allow fewer than it says.
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


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
