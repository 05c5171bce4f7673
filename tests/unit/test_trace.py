"""The trace context that an action gets."""

from __future__ import annotations

import sys

import pytest

from airflow_provider_kernel.operators.trace import trace_context

pytestmark = pytest.mark.no_airflow

trace = pytest.importorskip("opentelemetry.sdk.trace")


def test_trace_context_is_empty_without_a_span():
    assert trace_context() == {}


def test_trace_context_is_empty_if_the_span_is_not_recorded():
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

    with trace.TracerProvider(sampler=ALWAYS_OFF).get_tracer("t").start_as_current_span("worker.t"):
        assert trace_context() == {}


def test_trace_context_does_not_import_opentelemetry(monkeypatch):
    monkeypatch.delitem(sys.modules, "opentelemetry.trace", raising=False)
    assert trace_context() == {}
    assert "opentelemetry.trace" not in sys.modules


def test_trace_context_has_traceparent_and_tracestate_and_no_baggage():
    from opentelemetry import baggage, context
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState, set_span_in_context

    parent = SpanContext(
        1, 2, is_remote=True, trace_flags=TraceFlags(1), trace_state=TraceState([("a", "b")])
    )
    token = context.attach(baggage.set_baggage("secret", "x", set_span_in_context(NonRecordingSpan(parent))))
    try:
        with trace.TracerProvider().get_tracer("t").start_as_current_span("worker.t") as span:
            found = trace_context()
    finally:
        context.detach(token)
    assert found == {
        "traceparent": f"00-{1:032x}-{span.get_span_context().span_id:016x}-01",
        "tracestate": "a=b",
    }
