"""The parts of Airflow's public REST API that the demo and the system tests need."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3 import Retry

from airflow_provider_kernel.hooks.connection_form import EXTRA_FIELDS

FINAL_STATES = {"success", "failed"}
#: A line of the app in a task's log; one that came late begins with its own time.
APP_LINE = re.compile(r"\[app\] (?:\d{4}-\d\d-\d\dT[\d:.]+Z )?(.*)", re.DOTALL)


class AirflowApi:
    """A client for the api-server of an :class:`~dev.airflow_stack.AirflowStack`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.session = requests.Session()
        self.session.trust_env = False  # No proxy between us and localhost.
        # 500 is SQLite, which the scheduler is writing to; nothing was changed.
        again = Retry(
            8, status_forcelist=[500], allowed_methods=None, backoff_factor=0.2, raise_on_status=False
        )
        self.session.mount(url, HTTPAdapter(max_retries=again))

    def log_in(self, username: str, password: str) -> None:
        """Get a token; everything but :meth:`unhealthy` needs one."""
        reply = self.session.post(
            f"{self.url}/auth/token", json={"username": username, "password": password}, timeout=30
        )
        reply.raise_for_status()
        self.session.headers["Authorization"] = f"Bearer {reply.json()['access_token']}"

    def unhealthy(self) -> list[str]:
        """Return the components that do not run, or not yet."""
        try:
            health = self.call("GET", "monitor/health")
        except requests.RequestException:
            return ["api-server"]
        return [
            part.replace("_", "-")
            for part in ("scheduler", "dag_processor", "triggerer")
            if health[part]["status"] != "healthy"
        ]

    def call(self, method: str, path: str, body: Any = None, **params: Any) -> Any:
        """Return the decoded answer of one request; requests.HTTPError if it is refused."""
        reply = self.session.request(
            method, f"{self.url}/api/v2/{path}", json=body, params=params, timeout=30
        )
        reply.raise_for_status()
        return reply.json()

    def dag_ids(self) -> set[str]:
        """Return the Dags that the scheduler knows."""
        return {dag["dag_id"] for dag in self.call("GET", "dags", limit=100)["dags"]}

    def import_errors(self) -> dict[str, str]:
        """Return the traceback of each Dag file that could not be imported."""
        errors = self.call("GET", "importErrors")["import_errors"]
        return {error["filename"]: error["stack_trace"] for error in errors}

    def add_kernel_connection(self, conn_id: str, host: str, token: str, **extras: Any) -> None:
        """Make a connection as the form does, which saves a field that was left empty as null."""
        extra = json.dumps(dict.fromkeys(field.name for field in EXTRA_FIELDS) | extras)
        port = urlsplit(host).port  # without it the Test button refuses
        fields = {"conn_type": "kernel", "host": host, "port": port, "password": token, "extra": extra}
        self.call("POST", "connections", {"connection_id": conn_id, **fields})

    def trigger(self, dag_id: str, **conf: Any) -> DagRun:
        """Start a run of the Dag."""
        run = self.call("POST", f"dags/{dag_id}/dagRuns", {"logical_date": None, "conf": conf})
        return DagRun(self, dag_id, run["dag_run_id"])


class DagRun:
    """One run of a Dag."""

    def __init__(self, api: AirflowApi, dag_id: str, run_id: str) -> None:
        self.api = api
        self.dag_id = dag_id
        self.run_id = run_id
        self.path = f"dags/{dag_id}/dagRuns/{run_id}"

    def state(self) -> str:
        """Return the state of the run."""
        state: str = self.api.call("GET", self.path)["state"]
        return state

    def finished(self) -> bool:
        """Say whether the run has ended."""
        return self.state() in FINAL_STATES

    def task(self, task_id: str, map_index: int = -1) -> TaskInstance:
        """Return a task of this run."""
        return TaskInstance(self, task_id, map_index)

    def tasks(self) -> list[TaskInstance]:
        """Return all tasks of this run that there are up to now, mapped ones too."""
        found = self.api.call("GET", f"{self.path}/taskInstances", limit=1000)["task_instances"]
        return [self.task(task["task_id"], task["map_index"]) for task in found]


class TaskInstance:
    """One task of one run."""

    def __init__(self, run: DagRun, task_id: str, map_index: int = -1) -> None:
        self.run = run
        self.api = run.api
        self.task_id = task_id
        self.base = f"{run.path}/taskInstances/{task_id}"
        self.map_index = map_index
        self.path = self.base if map_index < 0 else f"{self.base}/{map_index}"

    def details(self) -> dict[str, Any]:
        """Return what Airflow knows of the task instance."""
        details: dict[str, Any] = self.api.call("GET", self.path)
        return details

    def state(self) -> str | None:
        """Return its state; None before it is scheduled."""
        state: str | None = self.details()["state"]
        return state

    def set_state(self, state: str) -> None:
        """Do what a user's "mark as …" does: ``success``, ``failed`` or ``skipped``."""
        self.api.call("PATCH", self.path, {"new_state": state})

    def clear(self) -> None:
        """Do what a user's "clear" does: the task runs again, whatever its state."""
        target = self.task_id if self.map_index < 0 else [self.task_id, self.map_index]
        body = {"dry_run": False, "dag_run_id": self.run.run_id, "task_ids": [target], "only_failed": False}
        self.api.call("POST", f"dags/{self.run.dag_id}/clearTaskInstances", body)

    def tries(self) -> list[dict[str, Any]]:
        """Return what Airflow knows of every try, the first one first."""
        tries: list[dict[str, Any]] = self.api.call("GET", f"{self.path}/tries")["task_instances"]
        return sorted(tries, key=lambda one: one["try_number"])

    def xcom(self, key: str = "return_value") -> Any:
        """Return an XCom value, None if there is none yet."""
        try:
            entry = self.api.call(
                "GET", f"{self.base}/xcomEntries/{key}", map_index=self.map_index, deserialize=True
            )
        except requests.HTTPError as error:
            if error.response.status_code == 404:
                return None
            raise
        return entry["value"]

    def links(self) -> dict[str, str | None]:
        """Return the addresses of the links in the task's page, by their names; None for one that leads nowhere yet."""
        links: dict[str, str | None] = self.api.call("GET", f"{self.base}/links", map_index=self.map_index)[
            "extra_links"
        ]
        return links

    def log(self, try_number: int = 1) -> list[str]:
        """Return the messages of the log of one try up to now, wherever it runs at this moment; none before it starts."""
        return [entry["event"] for entry in self._log_entries(try_number)]

    def app_lines(self, try_number: int = 1) -> list[str]:
        """Return the app's lines in the log of one try, without the times of those that came late."""
        found = [APP_LINE.match(text) for text in self.log(try_number)]
        return [line[1] for line in found if line]

    def error(self, try_number: int = 1) -> str:
        """Return the exceptions in the log of one try: their names and messages."""
        details = [
            detail for entry in self._log_entries(try_number) for detail in entry.get("error_detail") or []
        ]
        return "\n".join(f"{detail['exc_type']}: {detail['exc_value']}" for detail in details)

    def _log_entries(self, try_number: int) -> list[Any]:
        path = f"{self.base}/logs/{try_number}"
        try:
            entries: list[Any] = self.api.call("GET", path, map_index=self.map_index)["content"]
        except requests.HTTPError as error:
            if error.response.status_code == 404:
                return []
            raise
        return entries
