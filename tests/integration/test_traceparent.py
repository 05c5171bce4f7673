"""The trace of a task reaches the action, if the payload has a place for it."""

from __future__ import annotations

import pytest

from tests.integration.task import Task

trace = pytest.importorskip("opentelemetry.sdk.trace")


@pytest.fixture(autouse=True)
def span(emulator_env):
    """As Airflow runs a task that it traces."""
    with trace.TracerProvider().get_tracer("airflow").start_as_current_span("worker.t") as span:
        yield span.get_span_context()


def test_the_key_has_the_trace_beside_it(span):
    mark = Task("echo", {"a": 1}, metadata_field="airflow").run()["airflow"]
    assert mark["traceparent"] == f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"
    assert mark["key"]


def test_without_a_key_nothing_is_added_to_the_payload():
    assert Task("echo", {"a": 1}).run() == {"a": 1}
