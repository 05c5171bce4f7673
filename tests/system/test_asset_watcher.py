"""Dags that start when invocations have ended: no end is missed, whatever happens to the triggerers."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kernel
import pytest
import sqlalchemy

from airflow_provider_kernel.hooks.kernel import KernelHook
from airflow_provider_kernel.testing import KernelEmulator
from dev.airflow_api import DagRun
from dev.airflow_stack import AirflowStack
from dev.processes import RunFolder
from dev.wait import wait_until
from tests.faulty import FaultyProxy

pytestmark = pytest.mark.system

#: Maximum seconds from an end to its event: a few scans, and the start of a triggerer.
TIMEOUT = 400
#: Maximum seconds from storing an event to storing the cursor, on a busy machine.
WINDOW = 5
WORK, FAILED = "watched_work", "watched_failed"


class Watched:
    """Starts invocations outside of Airflow, and reads their events and Dag runs in Airflow."""

    def __init__(
        self, airflow: AirflowStack, emulator: KernelEmulator, proxy: FaultyProxy, folder: Path
    ) -> None:
        self.airflow = airflow
        self.proxy = proxy
        self.folder = folder
        self.kernel = kernel.Kernel(base_url=emulator.base_url, api_key=emulator.api_key, max_retries=0)
        self.database = sqlalchemy.create_engine(airflow.database_url)

    def start(self, action: str = "work", **payload: Any) -> str:
        """Start an invocation with Kernel's own SDK; return its id."""
        return self.kernel.invocations.create(
            app_name="watched", action_name=action, version="latest", async_=True, payload=json.dumps(payload)
        ).id

    def select(self, query: str) -> list[Any]:
        with self.database.connect() as connection:
            return list(connection.execute(sqlalchemy.text(query)))

    def ends(self, asset: str) -> list[tuple[str, float, dict[str, Any]]]:
        """Return each end in the events of an asset: the invocation's id, the time of the event, and the whole end."""
        rows = self.select(
            "SELECT e.extra, e.timestamp FROM asset_event e JOIN asset a ON a.id = e.asset_id"
            f" WHERE a.name = '{asset}' ORDER BY e.id"
        )
        extras = [(json.loads(e) if isinstance(e, str) else e, at) for e, at in rows]
        return [
            (end["invocation_id"], at.timestamp(), end)
            for extra, at in extras
            for end in extra["payload"]["invocations"]
        ]

    def count(self, asset: str) -> Counter[str]:
        return Counter(one for one, _, _ in self.ends(asset))

    def seen_ids(self) -> list[set[str]]:
        """Return, for each stored cursor, the ids that it has seen."""
        states = [json.loads(state) for (state,) in self.select("SELECT value FROM asset_state_store")]
        return [set(state["seen"]) for state in states if state["since"]]

    def wait_until_seen(self, *invocations: str) -> None:
        """Wait until the stored cursors of both watchers have seen these invocations."""
        wait_until(
            lambda: sum(set(invocations) <= seen for seen in self.seen_ids()) == 2,
            TIMEOUT,
            "the cursors are stored",
            0.05,
        )

    def scans(self) -> list[str]:
        """Return the paths of the watchers' requests."""
        return [e.path for e in self.proxy.seen("GET /invocations")]

    def returned(self, dag_id: str) -> Counter[str]:
        """Return the ids that the runs of the Dag returned; check that an event started each run."""
        seen = Counter[str]()
        for run in self.airflow.api.call("GET", f"dags/{dag_id}/dagRuns", limit=100)["dag_runs"]:
            assert run["run_type"] == "asset_triggered"
            path = f"dags/{dag_id}/dagRuns/{run['dag_run_id']}/taskInstances/ids/xcomEntries/return_value"
            assert run["state"] != "failed", (
                DagRun(self.airflow.api, dag_id, run["dag_run_id"]).task("ids").error()
            )
            if run["state"] == "success":
                seen.update(self.airflow.api.call("GET", path, deserialize=True)["value"])
        return seen


@pytest.fixture(scope="module")
def watched(airflow: AirflowStack, emulator: KernelEmulator, run_folder: RunFolder) -> Iterator[Watched]:
    folder = run_folder.path / "watched"
    folder.mkdir()
    with FaultyProxy(emulator.base_url) as proxy:
        airflow.api.add_kernel_connection("kernel_watched", proxy.base_url, emulator.api_key)
        watched = Watched(airflow, emulator, proxy, folder)
        for name in ("triggerer", "triggerer-2"):  # the tests of another file may have killed one
            if airflow.components[name].process is None:
                airflow.components[name].start()
        wait_until(lambda: len(watched.seen_ids()) >= 2, TIMEOUT, "the watchers' first scan is over")
        yield watched
        watched.database.dispose()


def test_each_end_is_in_one_run_when_ends_follow_each_other_closely(watched: Watched, emulator, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_KERNEL_DEFAULT", emulator.connection_json)
    until = time.monotonic() + 22  # three scans, each between two ends
    failed, other = watched.start(fail=True), watched.start("rest")
    with KernelHook() as hook:
        by_hook = hook.invoke("watched", "work", {"seconds": 1}).id
    started = [failed, by_hook]
    while time.monotonic() < until:
        started.append(watched.start())
        wait_until(
            lambda: watched.kernel.invocations.retrieve(started[-1]).status == "succeeded", TIMEOUT, "its end"
        )

    for asset, ends in ((WORK, started), (FAILED, [failed])):
        wait_until(lambda: set(watched.count(asset)) >= set(ends), TIMEOUT, "the ends are in events")  # noqa: B023
        runs = f"once_{asset}"
        wait_until(lambda: watched.returned(runs) == watched.count(asset), TIMEOUT, "the ends are in runs")  # noqa: B023
        assert watched.count(asset) == dict.fromkeys(ends, 1)
    assert other not in watched.count(WORK)
    assert 1 < len({at for _, at, _ in watched.ends(WORK)}) < len(started)

    end = next(end for one, _, end in watched.ends(WORK) if one == failed)
    assert set(end) == {
        "invocation_id", "app_name", "action_name", "version", "status", "started_at", "finished_at"
    }  # fmt: skip
    assert end["status"] == "failed"
    states = watched.select("SELECT value FROM asset_state_store")
    assert "secret" not in str(watched.ends(WORK)) + str(states)


def test_no_end_is_missed_and_only_the_last_ends_are_repeated_when_the_triggerers_are_killed(
    watched: Watched,
):
    go = watched.folder / "while-dead"
    before, runs = watched.start(), watched.start(until=str(go))
    watched.wait_until_seen(before)
    last = [watched.start() for _ in range(5)]
    wait_until(lambda: set(watched.count(WORK)) & set(last), TIMEOUT, "the events", interval=0.01)
    first, second = (watched.airflow.components[name] for name in ("triggerer", "triggerer-2"))
    first.kill()
    second.kill()
    killed = time.time()

    meanwhile = [watched.start(), watched.start(fail=True)]
    go.touch()
    wait_until(
        lambda: watched.kernel.invocations.retrieve(runs).status == "succeeded",
        TIMEOUT,
        "the invocation has ended",
    )
    # Start one alone: if the machine is too slow for its heartbeat, a second one would take over and report again.
    first.start()

    started = [before, runs, *last, *meanwhile]
    wait_until(
        lambda: set(started) <= set(watched.returned("once_watched_work")), TIMEOUT, "the ends are in runs"
    )
    wait_until(lambda: meanwhile[1] in watched.count(FAILED), TIMEOUT, "the failed end is in an event")
    watched.wait_until_seen(runs, *last, *meanwhile)
    counts = watched.count(WORK)
    assert {one for one in started if counts[one] > 1} <= set(last)
    assert {counts[one] for one in started} <= {1, 2}
    again = {at for one, at, _ in watched.ends(WORK) if counts[one] > 1 and at <= killed + 1}
    assert all(killed - WINDOW < at for at in again)
    second.start()


def test_no_end_is_repeated_when_a_frozen_triggerer_wakes(watched: Watched):
    watched.airflow.components["triggerer-2"].kill()
    first = watched.start()
    watched.wait_until_seen(first)
    watched.airflow.components["triggerer"].freeze()
    watched.airflow.components["triggerer-2"].start()
    meanwhile = [watched.start() for _ in range(3)]
    wait_until(
        lambda: set(meanwhile) <= set(watched.count(WORK)), TIMEOUT, "the other triggerer has taken over"
    )
    watched.wait_until_seen(*meanwhile)

    scans = len(watched.scans())
    watched.airflow.components["triggerer"].thaw()

    last = watched.start()
    watched.wait_until_seen(last)
    # Both watchers share the scans: a scan for one alone would filter by its action.
    assert watched.scans()[scans:]
    assert not [path for path in watched.scans()[scans:] if "action_name" in path]
    counts = watched.count(WORK)
    assert {counts[one] for one in (first, *meanwhile, last)} == {1}
