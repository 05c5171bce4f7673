"""The invocations kept in memory: their log, their end, what is listed and what is forgotten."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_kernel.api.models import InvocationStatus
from airflow_provider_kernel.emulator import store as module
from airflow_provider_kernel.emulator.store import Filter, Outcome, Record, Store

pytestmark = pytest.mark.no_airflow

SUCCEEDED = Outcome(InvocationStatus.SUCCEEDED, "1", None)


def record(name="id", **fields):
    given = {"app_name": "app", "action_name": "action", "version": "emulator", "deployment_id": "d"}
    return Record(id=name, **{"payload": None, "started": 0} | given | fields)


@given(st.lists(st.integers(0, 5)), st.integers(0, 10))
def test_times_of_lines_rise_so_that_since_names_one_line(times, since):
    kept = record()
    for time in times:
        kept.log("x", time)
    timestamps = [timestamp for timestamp, _ in kept.logs]

    assert timestamps == sorted(set(timestamps))
    assert kept.lines(kept.position(since), 100) == [line for line in kept.logs if line[0] >= since]


def test_an_endless_log_keeps_its_newest_lines_within_the_limit(monkeypatch):
    monkeypatch.setattr(module, "MAX_LOG", 100 * (module.LINE_COST + 1))
    kept = record()
    for number in range(1000):
        kept.log("x", number)
        assert kept.log_weight <= module.MAX_LOG
        assert kept.log_weight == len(kept.logs) * (module.LINE_COST + 1)

    assert kept.dropped + len(kept.logs) == 1000
    assert [timestamp for timestamp, _ in kept.logs] == list(range(kept.dropped, 1000))
    assert kept.position(None) == 0


def test_followers_are_told_of_every_change():
    told = []
    kept = record()
    kept.followers.add(lambda: told.append((kept.status.value, len(kept.logs))))

    kept.run()
    kept.log("x", 1)
    kept.end(SUCCEEDED, 2)

    assert told == [("running", 0), ("running", 1), ("succeeded", 1)]


@pytest.mark.parametrize(
    ("wanted", "takes"),
    [
        (Filter(), True),
        (Filter(app_name="app", action_name="action", version="emulator", deployment_id="d"), True),
        (Filter(status=InvocationStatus.QUEUED, since=5), True),
        (Filter(since=6), False),
        (Filter(status=InvocationStatus.RUNNING), False),
        (Filter(app_name="ap"), False),
        (Filter(action_name=""), False),
        (Filter(version="latest"), False),
        (Filter(query="AcT"), True),
        (Filter(query="i"), True),
        (Filter(query="emulator"), False),
    ],
)
def test_a_filter_takes_what_it_names(wanted, takes):
    assert wanted.takes(record(started=5)) is takes


def test_the_oldest_ended_invocations_are_forgotten_and_no_active_one(monkeypatch):
    monkeypatch.setattr(module, "MAX_ENDED", 2)
    store = Store()
    for name in "abcde":
        store.add(record(name))
        if name != "a":
            store.get(name).end(SUCCEEDED, 1)
        store.forget()

    assert [kept.id for kept in store.list(Filter())] == ["e", "d", "a"]
    assert store.get("b") is None


def test_few_large_invocations_are_forgotten_too_but_the_newest(monkeypatch):
    monkeypatch.setattr(module, "MAX_ENDED_WEIGHT", 10)
    store = Store()
    for name in "abc":
        store.add(record(name, payload="x" * 20))
        store.get(name).end(SUCCEEDED, 1)
        store.forget()

    assert [kept.id for kept in store.list(Filter())] == ["c"]
