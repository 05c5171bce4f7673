"""
Leaves no process behind.

Airflow's components fork workers, which fork task supervisors, which put their tasks into process groups of
their own: neither a process group nor a tree of parents finds them all once something in between has died. An
environment variable does: every descendant inherits it. Run as a program, this module is the watchdog that
ends what is left when the program that started it is gone, however it went.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import psutil

from airflow_provider_kernel.emulator.process_control import adopt_orphans
from dev.wait import wait_until

MARK = "DEV_RUN_FOLDER"
REPOSITORY = Path(__file__).resolve().parent.parent


class RunFolder(AbstractContextManager["RunFolder"]):
    """
    A folder for one run at a time, empty at its start, and all processes that are started during it.

    Whatever this process starts until the exit is ended then; if this process is killed, at that moment.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.mark = f"{self.path}#"

    def __enter__(self) -> RunFolder:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = self.path.with_name(f"{self.path.name}.lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit(f"Another run is using {self.path}. End it first.") from None
        adopt_orphans()  # so that kill_marked() leaves no zombies, either
        kill_marked(self.mark)
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir()
        self._watchdog = subprocess.Popen(
            [sys.executable, "-m", "dev.processes", self.mark],
            stdin=subprocess.PIPE,
            cwd=REPOSITORY,
            # Without the mark of a run around this one, whose own watchdog would end it before it has done its work.
            env={name: value for name, value in os.environ.items() if name != MARK},
            start_new_session=True,  # A Ctrl-C in the terminal is not for the watchdog.
        )
        self._previous_mark = os.environ.get(MARK)
        os.environ[MARK] = self.mark
        return self

    def __exit__(self, *exc_info: object) -> None:
        kill_marked(self.mark)
        self._watchdog.communicate()
        for child in psutil.Process().children():
            if child.status() == psutil.STATUS_ZOMBIE:
                reap(child.pid)
        os.environ.pop(MARK)
        if self._previous_mark is not None:
            os.environ[MARK] = self._previous_mark
        self._lock.close()


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
    killed: set[int] = set()

    def none_left() -> bool:
        processes = marked(mark)
        for process in processes:
            killed.add(process.pid)
            with suppress(psutil.Error):
                process.kill()
        return not processes

    wait_until(none_left, 60, f"the processes of {mark} are gone", interval=0.05)
    for pid in killed:
        reap(pid)


def signal_marked(mark: str, number: signal.Signals) -> None:
    """Send SIGSTOP or SIGCONT to every process with this mark, until it has done what it does."""

    def done() -> bool:
        stopped = number == signal.SIGSTOP
        left = [process for process in marked(mark) if (process.status() == psutil.STATUS_STOPPED) != stopped]
        for process in left:
            with suppress(psutil.Error):
                process.send_signal(number)
        return not left

    wait_until(done, 60, f"the processes of {mark} have got {number.name}", interval=0.02)


def is_alive(pid: int) -> bool:
    """Tell whether there is a process of this number that has not ended."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def reap(pid: int) -> None:
    """Wait for the end of a process, if it is our child."""
    with suppress(ChildProcessError):
        os.waitpid(pid, 0)


if __name__ == "__main__":
    sys.stdin.read()
    kill_marked(sys.argv[1])
