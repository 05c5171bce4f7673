"""CeleryExecutor for an Airflow on this machine: Redis, Airflow's settings, and workers."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from dev.airflow_stack import AirflowStack, Component
from dev.server import Server
from dev.wait import wait_until

PROGRAM = "redis-server"


class Redis(Server):
    """The server of Celery's queues."""

    name = "Redis"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.url = f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    def start(self) -> subprocess.Popen[bytes]:
        """Start the server, which keeps nothing on disk."""
        check_redis()
        self.folder.mkdir(parents=True)
        settings = {
            "bind": "127.0.0.1",
            "port": self.port,
            "requirepass": self.password,
            "dir": self.folder,
            "logfile": self.log,
            "save": '""',  # Nothing here outlives the run.
            "set-proc-title": "no",  # Keeps its environment readable; see dev.processes.
        }
        process = subprocess.Popen(
            [PROGRAM, "-"],  # The settings come from stdin: a command line shows the password.
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert process.stdin
        with process.stdin as stdin:
            stdin.write("\n".join(f"{name} {value}" for name, value in settings.items()).encode())

        return process

    def is_ready(self) -> bool:
        """Return whether it takes connections."""
        return self.log.exists() and "Ready to accept connections" in self.log.read_text()

    def stop(self) -> None:
        """Kill it: nothing of its state is needed any more."""
        self.process.kill()
        self.process.wait()


def check_redis() -> None:
    """
    Check that there is a Redis server.

    :raises SystemExit: there is none.
    """
    if shutil.which(PROGRAM) is None:
        raise SystemExit(
            f"{PROGRAM} is missing: install Debian's package {PROGRAM}, or another Redis from 7 on."
        )


def celery_settings(redis: Redis, database_url: str) -> dict[str, str]:
    """Return what Airflow is told of Celery."""
    return {
        "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
        "AIRFLOW__CELERY__BROKER_URL": redis.url,
        "AIRFLOW__CELERY__RESULT_BACKEND": f"db+{database_url}",
        "C_FORCE_ROOT": "1",
    }


def start_worker(stack: AirflowStack, name: str, concurrency: int = 16) -> Component:
    """Start a worker, and wait until it takes tasks."""
    options = f"--celery-hostname={name} --concurrency={concurrency} --skip-serve-logs"
    worker = stack.start(f"celery worker {options}", name)

    def is_ready() -> bool:
        worker.check()
        return "ready." in worker.tail()

    wait_until(is_ready, 120, f"{name} is ready")
    return worker
