"""A real Airflow on this machine: every component a process of its own, everything it writes in one folder."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

import psutil
import sqlalchemy

from dev.airflow_api import AirflowApi
from dev.processes import MARK, REPOSITORY, kill_marked, signal_marked
from dev.wait import wait_until

#: For tests that kill things: a death is noticed within seconds, not minutes, yet two busy cores make none up.
NOTICE_DEATHS_SOON = {
    # A worker: its task is failed or tried again.
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "20",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
    # A scheduler: the next one starts its tasks anew.
    "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "20",
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "3",
    # A triggerer: another one takes its triggers over.
    "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "1",
    "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "15",
    # And a deferral that timed out.
    "AIRFLOW__SCHEDULER__TRIGGER_TIMEOUT_CHECK_INTERVAL": "2",
}
#: The commands whose processes fork: for tasks, Dag files and triggers.
FORKING = ("scheduler", "dag-processor", "triggerer", "celery")


def free_port(preferred: int = 0) -> int:
    """Return the preferred port of localhost if nobody has it, else one that the system picks."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", preferred))
        except OSError:
            return free_port()
        port: int = probe.getsockname()[1]
        return port


class Component:
    """One of Airflow's processes, with all its descendants."""

    def __init__(self, name: str, arguments: Sequence[str], home: Path, env: Mapping[str, str]) -> None:
        self.name = name
        self.arguments = arguments
        self.home = home
        self.mark = f"{env[MARK]}{name}#"
        self.env = {**env, MARK: self.mark}
        self.log = home / f"{name}.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the component; its output goes to its log file."""
        program = "dev.airflow_preloaded" if self.arguments[0] in FORKING else "airflow"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", program, *self.arguments],
                env=self.env,
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # A Ctrl-C in the terminal ends it by way of stop().
            )

    def stop(self, timeout: float = 30) -> None:
        """End it as a service manager does: SIGTERM, and SIGKILL for what is left of it after ``timeout``."""
        if self.process:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout)
        self.kill()

    def kill(self) -> None:
        """Kill it and its descendants at once."""
        kill_marked(self.mark)
        if self.process:
            self.process.wait()
            self.process = None

    def freeze(self) -> None:
        """Stop it and its descendants where they are (SIGSTOP), until :meth:`thaw`."""
        signal_marked(self.mark, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it and its descendants go on (SIGCONT)."""
        signal_marked(self.mark, signal.SIGCONT)

    def check(self) -> None:
        """Raise with the end of the log if the component has ended."""
        if self.process and self.process.poll() is not None:
            raise RuntimeError(f"airflow {self.name} ended with {self.process.returncode}:\n{self.tail()}")

    def tail(self, lines: int = 30) -> str:
        """Return the end of the log."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])


class AirflowStack:
    """
    Starts Airflow on enter, ends it on exit. Use it within a :class:`~dev.processes.RunFolder`.

    :param home: its AIRFLOW_HOME, which must not exist yet.
    :param dags: folders with Dags.
    :param env: more environment for every component, such as ``AIRFLOW_CONN_…``.
    :param port: the preferred port of the api-server.
    :param database_url: SQLAlchemy's, of an empty database; default: SQLite, in ``home``.
    :param connections: stored before anything runs: by their ids, what ``airflow connections add --conn-json`` takes.
    :param triggerers: how many; the first is named ``triggerer``, the next ``triggerer-2``.
    """

    username = "admin"

    def __init__(
        self,
        home: Path,
        dags: Sequence[Path],
        env: Mapping[str, str] | None = None,
        port: int = 0,
        database_url: str | None = None,
        connections: Mapping[str, str] | None = None,
        triggerers: int = 1,
    ) -> None:
        self.home = home.resolve()
        self.url = f"http://127.0.0.1:{free_port(port)}"
        self.password = secrets.token_urlsafe(9)
        self.database_url = database_url or f"sqlite:///{self.home}/airflow.db"
        self.connections = {conn_id: json.loads(text) for conn_id, text in (connections or {}).items()}
        self.triggerers = triggerers
        self.env = self._environment(dags, env or {})
        self.components: dict[str, Component] = {}
        self.api = AirflowApi(self.url)

    def __enter__(self) -> Self:
        try:
            (self.home / "tmp").mkdir(parents=True)
            (self.home / "passwords.json").write_text(json.dumps({self.username: self.password}))
            self._run("db", "migrate")
            if self.connections:
                (self.home / "connections.json").write_text(json.dumps(self.connections))
                self._run("connections", "import", "connections.json")
            for name in ("api-server", "scheduler", "dag-processor", "triggerer"):
                self.start(name)
            for number in range(2, self.triggerers + 1):
                self.start("triggerer", f"triggerer-{number}")
            self.wait_until_healthy()
            self.api.log_in(self.username, self.password)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def start(self, command: str, name: str | None = None) -> Component:
        """Start a component by its command line, or one more of the kind under a name of its own."""
        env = {
            **self.env,
            "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(free_port()),
            "LOGNAME": name or command,  # by which Airflow's table of jobs tells the components apart
        }
        component = Component(name or command, command.split(), self.home, env)
        self.components[component.name] = component
        component.start()
        return component

    def kill_alone(self, component: Component) -> None:
        """
        Kill a component's first process at once, and leave what that has started to itself. Needs PostgreSQL.

        What it has left of its sessions with the database is ended, too: its workers, forked from it, hold the sockets
        open, and the rows that it had locked would stay so; the next scheduler would pass those Dag runs over.
        """
        assert component.process
        sockets = psutil.Process(component.process.pid).net_connections()
        component.process.kill()
        component.process.wait()
        component.process = None
        ports = [socket.laddr.port for socket in sockets]
        end = sqlalchemy.text(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE client_port = ANY(:ports)"
        )
        with sqlalchemy.create_engine(self.database_url).connect() as connection:
            connection.execute(end, {"ports": ports})

    def stop(self) -> None:
        """Kill every process of the stack: nothing of its state is needed any more, and it takes no time."""
        for component in self.components.values():
            component.kill()

    def _run(self, *arguments: str) -> None:
        """Run an ``airflow`` command to its end."""
        component = Component("-".join(arguments), arguments, self.home, self.env)
        component.start()
        assert component.process
        if component.process.wait(300):
            component.check()

    def wait_until_healthy(self) -> None:
        """Wait until there is one of every kind; raise with the end of the logs of what is not there."""

        def healthy() -> bool:
            for component in self.components.values():
                component.check()
            return not self.api.unhealthy()

        try:
            wait_until(healthy, 300, "Airflow is healthy")
        except TimeoutError as error:
            tails = [f"--- {name}\n{self.components[name].tail()}" for name in self.api.unhealthy()]
            raise TimeoutError("\n".join([str(error), *tails])) from None

    def _environment(self, dags: Sequence[Path], more: Mapping[str, str]) -> dict[str, str]:
        """Return the environment of all components: theirs alone decides, not what the user has configured."""
        strange = ("AIRFLOW", "KERNEL_", "XDG_", "PYTHON")
        env = {name: value for name, value in os.environ.items() if not name.startswith(strange)}
        bundles = [
            {
                "name": f"kernel-{path.name}",  # "example_dags" is reserved
                "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
                "kwargs": {"path": str(path.resolve())},
            }
            for path in dags
        ]
        settings: dict[str, dict[str, object]] = {
            "core": {
                "executor": "LocalExecutor",
                "hostname_callable": "dev.localhost",
                "parallelism": 8,
                "load_examples": False,
                "dags_are_paused_at_creation": False,
                "test_connection": "Enabled",
                "fernet_key": urlsafe_b64encode(secrets.token_bytes(32)).decode(),
                "execution_api_server_url": f"{self.url}/execution/",
                "simple_auth_manager_users": f"{self.username}:admin",
                "simple_auth_manager_passwords_file": self.home / "passwords.json",
            },
            "database": {"sql_alchemy_conn": self.database_url},
            "dag_processor": {
                "dag_bundle_config_list": json.dumps(bundles),
                "bundle_refresh_check_interval": 1,
                "refresh_interval": 5,
                "min_file_process_interval": 300,  # a file that has changed is read at once
            },
            "api": {
                "host": "127.0.0.1",
                "port": self.url.rpartition(":")[2],
                "base_url": self.url,
                "secret_key": secrets.token_hex(32),
                "enable_xcom_deserialize_support": True,  # Airflow 3.0 asks for it
            },
            "api_auth": {
                "jwt_secret": secrets.token_hex(32),
                "jwt_issuer": self.url,  # Airflow 3.0 does not start without one
            },
            "logging": {
                "base_log_folder": self.home / "logs",
                "worker_log_server_port": free_port(),
            },
            # A server answers its first request when it has made its routes: that may take longer than the default of 5 s.
            "workers": {"execution_api_timeout": 60},
            "scheduler": {"scheduler_idle_sleep_time": 0.5, "scheduler_heartbeat_sec": 1},
            "usage_data_collection": {"enabled": False},
        }
        for section, options in settings.items():
            for option, value in options.items():
                env[f"AIRFLOW__{section}__{option}".upper()] = str(value)
        return {
            **env,
            "AIRFLOW_HOME": str(self.home),
            "PYTHONPATH": str(REPOSITORY),
            # What libraries would put into the user's folders goes here, too.
            "HOME": str(self.home),
            "TMPDIR": str(self.home / "tmp"),
            # Keeps the environment of a process readable after it has changed its title; see dev.processes.
            "SPT_NOENV": "1",
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
            "PYTHONUNBUFFERED": "1",
            **more,
        }
