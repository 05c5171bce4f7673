"""The trace of a task, for the action to continue."""

from __future__ import annotations

import sys


def trace_context() -> dict[str, str]:
    """Return ``traceparent``, and ``tracestate`` if there is one; nothing if this process records no span."""
    trace = sys.modules.get("opentelemetry.trace")  # loaded by Airflow, if it traces
    if trace is None or not trace.get_current_span().is_recording():
        return {}
    # As Airflow does, and not opentelemetry.propagate.inject, which OTEL_PROPAGATORS can set to other formats.
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier
