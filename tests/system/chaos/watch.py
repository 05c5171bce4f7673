"""Collects what the emulator, the proxy and Airflow say of a chaos run, into its history."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from math import inf
from pathlib import Path
from typing import Any

import requests

from airflow_provider_kernel.testing import KernelEmulator
from dev.airflow_api import AirflowApi, DagRun
from tests.faulty import Exchange
from tests.system.chaos.audit import Audit
from tests.system.chaos.history import Done, History, Request, Run, Task
from tests.system.chaos.monkey import Monkey

PAGE = 100


class Invocations:
    """All invocations that the emulator ever had: it forgets the oldest, so that it has to be asked now and then."""

    def __init__(self, emulator: KernelEmulator) -> None:
        self._emulator = emulator
        self._session = requests.Session()
        self._session.trust_env = False
        self._found: dict[str, dict[str, Any]] = {}

    def look(self) -> None:
        """Ask for all."""
        offset = 0
        while True:
            reply = self._session.get(
                f"{self._emulator.base_url}/invocations",
                params={"limit": str(PAGE), "offset": str(offset)},
                headers={"Authorization": f"Bearer {self._emulator.api_key}"},
                timeout=30,
            )
            reply.raise_for_status()
            page = reply.json()
            news = [one for one in page if self._found.get(one["id"]) != one]
            self._found |= {one["id"]: one for one in page}
            offset = int(reply.headers["X-Next-Offset"])
            # The newest come first: a page without news is followed by others without, unless one there is active.
            if not offset or (not news and not self.active()):
                return

    def active(self) -> list[str]:
        """Return the ids of those that had not ended when they were seen last."""
        return [one["id"] for one in self._found.values() if one["status"] in ("queued", "running")]

    def by_task(self) -> dict[str, list[Run]]:
        """Return them by the name in their payload."""
        found = defaultdict(list)
        for one in self._found.values():
            found[json.loads(one["payload"])["name"]].append(run_of(one))
        return found


def run_of(invocation: dict[str, Any]) -> Run:
    """Return an invocation as the emulator describes it."""
    finished = invocation.get("finished_at")
    output = invocation.get("output")
    return Run(
        invocation["id"],
        _seconds(invocation["started_at"]),
        _seconds(finished) if finished else inf,
        invocation["status"],
        json.loads(output) if output and invocation["status"] == "succeeded" else None,
        f"{invocation.get('status_reason') or ''} {(output or '')[:200]}".strip(),
        invocation["status"] == "failed" and (output or "").startswith('{"cancelled"'),
    )


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def task_instances(api: AirflowApi) -> list[dict[str, Any]]:
    """Return all task instances, as Airflow's API describes them."""
    found: list[dict[str, Any]] = []
    while True:
        page = api.call("GET", "dags/~/dagRuns/~/taskInstances", limit=PAGE, offset=len(found), order_by="id")
        found += page["task_instances"]
        if not page["task_instances"] or len(found) >= page["total_entries"]:
            return found


def collect(
    api: AirflowApi, audit: Audit, monkey: Monkey, invocations: Invocations, exchanges: Iterable[Exchange]
) -> History:
    """Return what has happened."""
    runs, changes, holdings = invocations.by_task(), audit.changes(), audit.holdings()
    deeds = defaultdict(list)
    for name, done in monkey.to_tasks.values():
        deeds[name].append(done)
    for row in audit.mismatches():
        # Which try it was: that which Airflow failed at this moment.
        hit = tuple(c.ti_id for c in changes.get(row.task, ()) if abs(c.at - row.at) < 2)
        deeds[row.task].append(Done(row.at, row.at, "Airflow's state mismatch", None, hit, row.extra))
    requests_to = requests_by_invocation(exchanges)
    tasks = {}
    for ti in task_instances(api):
        name = f"{ti['dag_id']}/{ti['dag_run_id']}/{ti['map_index']}"
        instance = DagRun(api, ti["dag_id"], ti["dag_run_id"]).task("work", ti["map_index"])
        own = changes.get(name, [])
        triggers = {change.trigger_id for change in own if change.trigger_id is not None}
        tasks[name] = Task(
            name,
            ti["state"],
            instance.xcom() if ti["state"] == "success" else None,
            own,
            sorted(deeds[name], key=lambda done: done.at),
            sorted(runs.pop(name, []), key=lambda run: run.started),
            requests_to,
            sorted((h for t in triggers for h in holdings.get(t, ())), key=lambda held: held.at),
        )
    for name, left in runs.items():  # of no task that Airflow knows
        tasks[name] = Task(name, None, runs=left, requests=requests_to)
    return History(tasks, monkey.outages)


def requests_by_invocation(exchanges: Iterable[Exchange]) -> dict[str, list[Request]]:
    """Return the requests that name an invocation, by its id; those for a new one by the name in the payload."""
    found = defaultdict(list)
    for one in exchanges:
        of = re.match(r"/invocations/([^/?]+)", one.path)
        if of:
            key = of[1]
        elif one.method == "POST":
            key = json.loads(one.json["payload"])["name"]
        else:
            continue
        what = f"{one.method} {one.path.partition('?')[0].replace(key, '…')}"
        found[key].append(Request(one.at, what, one.did, one.upstream_status, one.answered_status))
    return found


def log_lines(home: Path, name: str) -> list[tuple[float, str]]:
    """Return the lines of all logs of a task, with their times."""
    dag_id, run_id, map_index = name.split("/")
    folder = home / "logs" / f"dag_id={dag_id}" / f"run_id={run_id}" / "task_id=work"
    if int(map_index) >= 0:
        folder /= f"map_index={map_index}"
    lines = []
    for path in sorted(folder.glob("attempt=*")):
        if not path.is_file():
            continue
        for line in path.read_text(errors="replace").splitlines():
            try:
                entry = json.loads(line)
                at = _seconds(entry["timestamp"])
            except (ValueError, KeyError, TypeError):
                continue
            details = [f"{one['exc_type']}: {one['exc_value']}" for one in entry.get("error_detail") or []]
            text = " | ".join([entry.get("event", ""), *details])
            lines.append((at, f"{path.name.removeprefix('attempt=')}: {text}"))
    return lines
