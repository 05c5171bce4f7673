"""
Runs code in forks of one process that has imported Airflow.

A fork does what a new interpreter does, without the two seconds of CPU time that the import takes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Self

from dev.processes import REPOSITORY

#: Seconds after which a fork is killed.
TIMEOUT = 300


class ForkServer:
    """
    Runs code in forks, one at a time. The process that forks has imported Airflow.

    :param home: AIRFLOW_HOME and working directory of the forks.
    :param env: environment variables besides those of this process. Airflow reads some of them only when it is imported.
    """

    def __init__(self, home: Path, **env: str) -> None:
        self.home = home
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.forkserver", str(home)],
            env={**os.environ, **env, "AIRFLOW_HOME": str(home)},
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.communicate()

    def run(self, code: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run code with these command-line arguments, and with ``env`` besides this process's environment."""
        request = {"code": code, "argv": ["-c", *arguments], "env": {**os.environ, **env}}
        print(json.dumps(request), file=self._process.stdin, flush=True)
        status = int(self._process.stdout.readline())
        output, errors = ((self.home / name).read_text() for name in ("stdout", "stderr"))
        return subprocess.CompletedProcess(arguments, status, output, errors)


def prepare_fork(request: dict, home: Path) -> None:
    """Set working directory, standard streams, environment and arguments of this process, a fork."""
    signal.alarm(TIMEOUT)
    os.chdir(home)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for fd, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), fd)
    os.environ.update({**request["env"], "AIRFLOW_HOME": str(home)})
    sys.argv = request["argv"]


def serve(home: Path) -> None:
    """Fork for each request on standard input, and write the exit status to standard output."""
    # Airflow 3.2 prints when it is imported. That text must not be read as an answer.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    import airflow.__main__
    import airflow.models

    with suppress(ImportError):  # Airflow 2, where a process has no server in itself.
        import airflow.api_fastapi.execution_api.routes
        import airflow.sdk.execution_time.supervisor
    from sqlalchemy.orm import configure_mappers

    airflow.models.import_all_models()
    configure_mappers()
    for line in sys.stdin:
        if not (pid := os.fork()):
            request = json.loads(line)
            prepare_fork(request, home)
            exec(request["code"], {"__name__": "__main__"})
            return
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), file=answers, flush=True)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
