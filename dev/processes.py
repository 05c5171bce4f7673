"""
Leaves no process behind.

Airflow's components fork workers, which fork task supervisors, which put their tasks into process groups of
their own: neither a process group nor a tree of parents finds them all once something in between has died. An
environment variable does: every descendant inherits it. Run as a program, this module is the watchdog that
ends what is left when the program that started it is gone, however it went.
"""

from __future__ import annotations

import os
import subprocess
import sys

import psutil

from dev.wait import wait_until

MARK = "KERNEL_DEV_STACK"


def marked(mark: str) -> list[psutil.Process]:
    """Return the living processes whose mark starts with ``mark``, except this one."""
    found = []
    for process in psutil.process_iter():
        try:
            if (
                process.pid != os.getpid()
                and process.environ().get(MARK, "").startswith(mark)
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                found.append(process)
        except psutil.Error:
            continue  # It has ended meanwhile, or belongs to somebody else.
    return found


def kill_marked(mark: str) -> None:
    """Kill every process with this mark, again until none is left: they may be forking just now."""

    def none_left() -> bool:
        processes = marked(mark)
        for process in processes:
            try:
                process.kill()
            except psutil.Error:
                continue
        return not processes

    wait_until(none_left, 15, f"processes marked {mark} are gone", interval=0.05)


def start_watchdog(mark: str) -> subprocess.Popen[bytes]:
    """Start a process that kills whatever carries ``mark`` once its standard input closes: with us, or before."""
    env = {name: value for name, value in os.environ.items() if name != MARK}
    return subprocess.Popen(
        [sys.executable, "-m", "dev.processes", mark],
        stdin=subprocess.PIPE,
        env=env,
        cwd=os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
        start_new_session=True,  # A Ctrl-C in the terminal is not for the watchdog.
    )


if __name__ == "__main__":
    sys.stdin.read()
    kill_marked(sys.argv[1])
