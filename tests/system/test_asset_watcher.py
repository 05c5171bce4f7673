"""Dags that the ends of invocations start: none is missed, whatever happens to the triggerers."""

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

#: Seconds within which an end is an event: a few looks, and the start of a triggerer.
TIMEOUT = 400
#: Seconds from storing an event to keeping the cursor, at most, on a busy machine.
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

    def ends(self, asset: str) -> list[tuple[str, float, dict[str, Any]]]:
        """Return what the events of an asset tell: an invocation's id, when Airflow stored it, and all there is."""
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

    def kept(self) -> list[set[str]]:
        """Return, for each watcher that has kept how far it is, the ends that it has reported lately."""
        states = [json.loads(state) for (state,) in self.select("SELECT value FROM asset_state_store")]
        return [set(state["seen"]) for state in states if state["since"]]

    def wait_until_kept(self, *invocations: str) -> None:
        """Wait until both watchers have kept that these ends of ``work`` are settled."""
        wait_until(
            lambda: sum(set(invocations) <= seen for seen in self.kept()) == 2, TIMEOUT, "it is kept", 0.05
        )

    def looks(self) -> list[str]:
        """Return what the watchers have asked Kernel for."""
        return [e.path for e in self.proxy.seen("GET /invocations")]

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


def test_however_close_ends_follow_each_other_each_is_in_one_run_without_waiting_for_a_later(
    watched: Watched, emulator, monkeypatch
):
    monkeypatch.setenv("AIRFLOW_CONN_KERNEL_DEFAULT", emulator.connection_json)
    until = time.monotonic() + 22  # within three looks, each of which comes between two ends
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
        wait_until(lambda: set(watched.count(asset)) >= set(ends), TIMEOUT, "they are in events")  # noqa: B023
        runs = f"once_{asset}"
        wait_until(lambda: watched.returned(runs) == watched.count(asset), TIMEOUT, "runs have them")  # noqa: B023
        assert watched.count(asset) == dict.fromkeys(ends, 1)
    assert other not in watched.count(WORK)
    assert 1 < len({at for _, at, _ in watched.ends(WORK)}) < len(started)

    end = next(end for one, _, end in watched.ends(WORK) if one == failed)
    assert set(end) == {
        "invocation_id", "app_name", "action_name", "version", "status", "started_at", "finished_at"
    }  # fmt: skip
    assert end["status"] == "failed"
    kept = watched.select("SELECT value FROM asset_state_store")
    assert "secret" not in str(watched.ends(WORK)) + str(kept)


def test_killed_at_the_worst_moment_nothing_is_missed_and_reported_again_is_only_what_was_stored_just_before(
    watched: Watched,
):
    go = watched.folder / "while-dead"
    settled, runs = watched.start(), watched.start(until=str(go))
    watched.wait_until_kept(settled)
    last_words = [watched.start() for _ in range(5)]
    wait_until(lambda: set(watched.count(WORK)) & set(last_words), TIMEOUT, "events come", interval=0.01)
    first, second = (watched.airflow.components[name] for name in ("triggerer", "triggerer-2"))
    first.kill()
    second.kill()
    killed = time.time()

    meanwhile = [watched.start(), watched.start(fail=True)]
    go.touch()
    wait_until(
        lambda: watched.kernel.invocations.retrieve(runs).status == "succeeded", TIMEOUT, "it has ended"
    )
    # Alone: a second one would take over from it, and report again, if the machine is too slow for its heartbeat.
    first.start()

    started = [settled, runs, *last_words, *meanwhile]
    wait_until(lambda: set(started) <= set(watched.returned("once_watched_work")), TIMEOUT, "runs have them")
    wait_until(lambda: meanwhile[1] in watched.count(FAILED), TIMEOUT, "for the other Dag, too")
    watched.wait_until_kept(runs, *last_words, *meanwhile)
    counts = watched.count(WORK)
    assert {one for one in started if counts[one] > 1} <= set(last_words)
    assert {counts[one] for one in started} <= {1, 2}
    again = {at for one, at, _ in watched.ends(WORK) if counts[one] > 1 and at <= killed + 1}
    assert all(killed - WINDOW < at for at in again)
    second.start()


def test_a_triggerer_that_was_frozen_doubles_nothing_when_it_wakes(watched: Watched):
    watched.airflow.components["triggerer-2"].kill()
    first = watched.start()
    watched.wait_until_kept(first)
    watched.airflow.components["triggerer"].freeze()
    watched.airflow.components["triggerer-2"].start()
    meanwhile = [watched.start() for _ in range(3)]
    wait_until(lambda: set(meanwhile) <= set(watched.count(WORK)), TIMEOUT, "the other has taken over")
    watched.wait_until_kept(*meanwhile)

    looks = len(watched.looks())
    watched.airflow.components["triggerer"].thaw()

    last = watched.start()
    watched.wait_until_kept(last)
    # Both watchers share them: one alone would ask for its action.
    assert watched.looks()[looks:]
    assert not [path for path in watched.looks()[looks:] if "action_name" in path]
    counts = watched.count(WORK)
    assert {counts[one] for one in (first, *meanwhile, last)} == {1}
