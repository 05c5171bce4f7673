"""The action gets the task's trace context in ``metadata_field``."""

from __future__ import annotations

import pytest

from tests.integration.task import Task

trace = pytest.importorskip("opentelemetry.sdk.trace")


@pytest.fixture(autouse=True)
def span(emulator_env):
    """Run each test in a span, as Airflow runs a task that it traces."""
    with trace.TracerProvider().get_tracer("airflow").start_as_current_span("worker.t") as span:
        yield span.get_span_context()


def test_metadata_field_has_the_tasks_traceparent(span):
    mark = Task("echo", {"a": 1}, metadata_field="airflow").run()["airflow"]
    assert mark["traceparent"] == f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"
    assert mark["key"]


def test_payload_is_unchanged_without_metadata_field():
    assert Task("echo", {"a": 1}).run() == {"a": 1}
