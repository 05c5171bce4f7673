"""The emulator's invocations in memory: log, status, list filters, limits."""

import gc
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_kernel.api.models import InvocationStatus
from airflow_provider_kernel.emulator import store as module
from airflow_provider_kernel.emulator.store import InvocationResult, ListFilter, Store, StoredInvocation

pytestmark = pytest.mark.no_airflow

SUCCEEDED = InvocationResult(InvocationStatus.SUCCEEDED, "1", None)


def invocation(name="id", **fields):
    defaults = {"app_name": "app", "action_name": "action", "version": "emulator", "deployment_id": "d"}
    return StoredInvocation(id=name, **{"payload": None, "started": 0} | defaults | fields)


@given(st.lists(st.integers(0, 5)), st.integers(0, 10))
def test_times_of_lines_increase_so_that_since_names_one_line(times, since):
    kept = invocation()
    for time in times:
        kept.add_line("x", time)
    timestamps = [timestamp for timestamp, _ in kept.logs]

    assert timestamps == sorted(set(timestamps))
    assert kept.lines(kept.line_number(since), 100) == [line for line in kept.logs if line[0] >= since]


def test_endless_log_keeps_its_newest_lines_within_the_limit(monkeypatch):
    monkeypatch.setattr(module, "MAX_LOG_SIZE", 100 * (module.LINE_OVERHEAD + 1))
    kept = invocation()
    for number in range(1000):
        kept.add_line("x", number)
        assert kept.log_size <= module.MAX_LOG_SIZE
        assert kept.log_size == len(kept.logs) * (module.LINE_OVERHEAD + 1)

    assert kept.dropped + len(kept.logs) == 1000
    assert [timestamp for timestamp, _ in kept.logs] == list(range(kept.dropped, 1000))
    assert kept.line_number(None) == 0


def test_listeners_are_called_after_every_change():
    calls = []
    kept = invocation()
    kept.listeners.append(lambda: calls.append((kept.status.value, len(kept.logs))))

    kept.mark_running()
    kept.add_line("x", 1)
    kept.finish(SUCCEEDED, 2)

    assert calls == [("running", 0), ("running", 1), ("succeeded", 1)]


def test_forgotten_invocation_is_freed_without_garbage_collection():
    store, kept = Store(), invocation()
    kept.listeners.append(lambda kept=kept: None)
    store.add(kept)
    store.finish(kept, SUCCEEDED, 1)
    freed = weakref.ref(kept)

    gc.disable()
    try:
        del store, kept
        assert freed() is None
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (ListFilter(), True),
        (ListFilter(app_name="app", action_name="action", version="emulator", deployment_id="d"), True),
        (ListFilter(status=InvocationStatus.QUEUED, since=5), True),
        (ListFilter(since=6), False),
        (ListFilter(status=InvocationStatus.RUNNING), False),
        (ListFilter(app_name="ap"), False),
        (ListFilter(action_name=""), False),
        (ListFilter(version="latest"), False),
        (ListFilter(query="AcT"), True),
        (ListFilter(query="i"), True),
        (ListFilter(query="emulator"), False),
    ],
)
def test_filter_matches_its_fields(wanted, expected):
    assert wanted.matches(invocation(started=5)) is expected


def test_invocations_that_ended_first_are_forgotten_but_no_active_one(monkeypatch):
    monkeypatch.setattr(module, "MAX_ENDED", 2)
    store = Store()
    for name in "abcdef":
        store.add(invocation(name))
    for name in "cdeb":
        store.finish(store.get(name), SUCCEEDED, 1)

    assert [kept.id for kept in store.list(ListFilter())] == ["f", "e", "b", "a"]
    assert store.get("c") is None


def test_large_invocations_are_forgotten_but_the_newest(monkeypatch):
    monkeypatch.setattr(module, "MAX_ENDED_SIZE", 10)
    store = Store()
    for name in "abc":
        store.add(invocation(name, payload="x" * 20))
        store.finish(store.get(name), SUCCEEDED, 1)

    assert [kept.id for kept in store.list(ListFilter())] == ["c"]
