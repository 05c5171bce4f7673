"""
Processes that have Airflow imported from the start: forks of one that imports it once.

Each does what a new interpreter would do, without two seconds of CPU time for the import.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Self

from dev.processes import REPOSITORY

#: A process that takes longer is killed.
TIMEOUT = 300


class ForkServer:
    """
    Runs code in forks, one at a time.

    :param home: the AIRFLOW_HOME of all of them, and where they run.
    :param env: besides this process's environment; some of it Airflow reads only when it is imported.
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
        """Run code with these arguments on its command line, and ``env`` besides this process's environment."""
        request = {"code": code, "argv": ["-c", *arguments], "env": {**os.environ, **env}}
        print(json.dumps(request), file=self._process.stdin, flush=True)
        status = int(self._process.stdout.readline())
        output, errors = ((self.home / name).read_text() for name in ("stdout", "stderr"))
        return subprocess.CompletedProcess(arguments, status, output, errors)


def become(request: dict, home: Path) -> None:
    """Make this process, a fork, the one that was asked for, up to its code."""
    signal.alarm(TIMEOUT)
    os.chdir(home)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for fd, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), fd)
    os.environ.update({**request["env"], "AIRFLOW_HOME": str(home)})
    sys.argv = request["argv"]


def serve(home: Path) -> None:
    """Fork for each request, and answer with the exit status."""
    # What Airflow prints as it is imported, as 3.2 does, is no answer.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    import airflow.__main__
    import airflow.models
    from sqlalchemy.orm import configure_mappers

    airflow.models.import_all_models()
    configure_mappers()
    for line in sys.stdin:
        if not (pid := os.fork()):
            request = json.loads(line)
            become(request, home)
            exec(request["code"], {"__name__": "__main__"})
            return
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), file=answers, flush=True)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
