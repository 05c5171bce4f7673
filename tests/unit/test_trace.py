"""The trace that an action can go on with."""

from __future__ import annotations

import sys

import pytest

from airflow_provider_kernel.operators.trace import trace_context

pytestmark = pytest.mark.no_airflow

trace = pytest.importorskip("opentelemetry.sdk.trace")


def test_without_a_span_there_is_nothing():
    assert trace_context() == {}


def test_in_a_span_that_nobody_records_there_is_nothing():
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

    with trace.TracerProvider(sampler=ALWAYS_OFF).get_tracer("t").start_as_current_span("worker.t"):
        assert trace_context() == {}


def test_opentelemetry_is_not_loaded_for_it(monkeypatch):
    monkeypatch.delitem(sys.modules, "opentelemetry.trace", raising=False)
    assert trace_context() == {}
    assert "opentelemetry.trace" not in sys.modules
