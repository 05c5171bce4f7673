"""Dags that the ends of invocations start: none missed and none doubled, whatever happens to the triggerers."""

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
from tests import faults
from tests.faulty import FaultyProxy

pytestmark = pytest.mark.system

#: Seconds within which an end is an event: a few looks, and the start of a triggerer.
TIMEOUT = 120
#: Seconds from storing an event to keeping the cursor, at most.
WINDOW = 5
WORK, FAILED = "watched_work", "watched_failed"


class Watched:
    """What is started outside of Airflow, and what becomes of it inside."""

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

    def events(self, asset: str) -> list[tuple[str, float, dict[str, Any]]]:
        """Return the events of an asset: the invocation's id, when Airflow stored it, and all that it says."""
        rows = self.select(
            "SELECT e.extra, e.timestamp FROM asset_event e JOIN asset a ON a.id = e.asset_id"
            f" WHERE a.name = '{asset}' ORDER BY e.id"
        )
        extras = [(json.loads(e) if isinstance(e, str) else e, at) for e, at in rows]
        return [(extra["payload"]["invocation_id"], at.timestamp(), extra) for extra, at in extras]

    def count(self, asset: str) -> Counter[str]:
        return Counter(one for one, _, _ in self.events(asset))

    def kept(self) -> list[set[str]]:
        """Return, for each watcher that has kept how far it is, the ends that it has reported lately."""
        states = [json.loads(state) for (state,) in self.select("SELECT value FROM asset_state_store")]
        return [set(state["seen"]) for state in states if state["since"]]

    def wait_until_kept(self, *invocations: str) -> None:
        """Wait until it is kept that these ends were reported."""
        wait_until(lambda: any(set(invocations) <= seen for seen in self.kept()), TIMEOUT, "it is kept")

    def triggerers(self, do: str) -> None:
        """Do something to both triggerers."""
        for name in ("triggerer", "triggerer-2"):
            getattr(self.airflow.components[name], do)()

    def returned(self, dag_id: str) -> Counter[str]:
        """Return what the runs of the Dag, each of which must have been started by an event, saw."""
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
        for name in ("triggerer", "triggerer-2"):  # another file's tests may have killed one
            if airflow.components[name].process is None:
                airflow.components[name].start()
        wait_until(lambda: len(watched.kept()) >= 2, TIMEOUT, "the watchers' first look is over")
        yield watched
        watched.database.dispose()


def test_each_end_outside_of_airflow_is_one_event_and_starts_the_dag(watched: Watched, emulator, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_KERNEL_DEFAULT", emulator.connection_json)
    succeeded, failed, other = watched.start(), watched.start(fail=True), watched.start("rest")
    with KernelHook() as hook:
        by_hook = hook.invoke("watched", "work", {"seconds": 1}).id

    expected = {succeeded, failed, by_hook}
    wait_until(lambda: expected <= set(watched.count(WORK)), TIMEOUT, "the ends are events")
    wait_until(lambda: failed in watched.count(FAILED), TIMEOUT, "so is the failed one for the other Dag")
    wait_until(lambda: expected <= set(watched.returned("once_watched_work")), TIMEOUT, "the Dag has run")

    assert watched.count(WORK) == dict.fromkeys(expected, 1)
    assert watched.count(FAILED) == {failed: 1}
    assert other not in watched.returned("once_watched_work")
    assert watched.returned("once_watched_work") == dict.fromkeys(expected, 1)
    extra = next(extra for one, _, extra in watched.events(WORK) if one == failed)
    assert set(extra["payload"]) == {
        "invocation_id", "app_name", "action_name", "version", "status", "started_at", "finished_at"
    }  # fmt: skip
    assert extra["payload"]["status"] == "failed"
    assert "secret" not in str(watched.events(WORK)) + str(
        watched.select("SELECT value FROM asset_state_store")
    )


def test_two_watchers_of_a_connection_share_one_look(watched: Watched):
    def looks() -> int:
        return len(watched.proxy.seen("GET /invocations"))

    before, started = looks(), time.monotonic()
    wait_until(lambda: looks() >= before + 3, TIMEOUT, "it is looked three times")
    assert time.monotonic() - started > 20


def test_what_ends_while_no_triggerer_runs_is_an_event_afterwards_and_only_once(watched: Watched):
    go = watched.folder / "while-dead"
    before = watched.start()
    runs = watched.start(until=str(go))
    wait_until(lambda: before in watched.count(WORK), TIMEOUT, "it is an event")
    watched.wait_until_kept(before)

    watched.triggerers("kill")
    meanwhile = watched.start(fail=True)
    go.touch()
    wait_until(
        lambda: watched.kernel.invocations.retrieve(runs).status == "succeeded", TIMEOUT, "it has ended"
    )
    watched.triggerers("start")

    expected = {before, runs, meanwhile}
    wait_until(lambda: expected <= set(watched.count(WORK)), TIMEOUT, "all are events")
    wait_until(lambda: meanwhile in watched.count(FAILED), TIMEOUT, "for the other Dag, too")
    watched.wait_until_kept(runs, meanwhile)
    assert set(watched.count(WORK).values()) == set(watched.count(FAILED).values()) == {1}


def test_a_triggerer_that_was_frozen_doubles_nothing_when_it_wakes(watched: Watched):
    watched.airflow.components["triggerer-2"].kill()
    first = watched.start()
    wait_until(lambda: first in watched.count(WORK), TIMEOUT, "the first triggerer has the watchers")
    watched.wait_until_kept(first)
    watched.airflow.components["triggerer"].freeze()
    watched.airflow.components["triggerer-2"].start()
    meanwhile = [watched.start() for _ in range(3)]
    wait_until(lambda: set(meanwhile) <= set(watched.count(WORK)), TIMEOUT, "the other has taken over")
    watched.wait_until_kept(*meanwhile)

    watched.airflow.components["triggerer"].thaw()

    last = watched.start()
    wait_until(lambda: last in watched.count(WORK), TIMEOUT, "it goes on")
    watched.wait_until_kept(last)
    assert set(watched.count(WORK).values()) == {1}


def test_killed_at_any_moment_nothing_is_missed_and_doubled_is_only_what_was_stored_just_before(
    watched: Watched,
):
    started, kills = [], []
    for _ in range(4):
        known = set(watched.count(WORK))
        started += [watched.start() for _ in range(5)]
        # The worst moment: the events are being stored.
        wait_until(lambda: set(watched.count(WORK)) - known, TIMEOUT, "events come", interval=0.01)  # noqa: B023
        watched.triggerers("kill")
        kills.append(time.time())
        started += [watched.start() for _ in range(5)]
        watched.triggerers("start")

    wait_until(lambda: set(started) <= set(watched.count(WORK)), TIMEOUT, "all are events")
    watched.wait_until_kept(*started[-5:])
    events = watched.events(WORK)
    first = {one: at for one, at, _ in reversed(events)}
    doubled = [one for one, count in watched.count(WORK).items() if count > 1]
    print(f"{len(started)} started, {len(doubled)} doubled")
    assert set(watched.count(WORK).values()) <= {1, 2}
    assert all(any(kill - WINDOW < first[one] <= kill + 1 for kill in kills) for one in doubled)


def test_a_watcher_outlives_whatever_kernel_answers(watched: Watched):
    for fault in (faults.html(502), faults.answer(401), faults.answer(429, headers={"Retry-After": "3"})):
        rule = watched.proxy.on("GET /invocations", fault, times=2)
        one = watched.start()
        wait_until(lambda: one in watched.count(WORK), TIMEOUT, f"an event after {fault.name}")  # noqa: B023
        assert rule.left == 0
    assert watched.airflow.components["triggerer"].process
