"""The trace to which a task belongs, for the action to go on with."""

from __future__ import annotations

import sys


def trace_context() -> dict[str, str]:
    """Return ``traceparent`` of the W3C's Trace Context, if this process records a trace; else nothing."""
    tracing = sys.modules.get("opentelemetry.trace")  # Airflow has loaded it, if it traces
    span = tracing and tracing.get_current_span()
    if not span or not span.is_recording():
        return {}
    context = span.get_span_context()
    return {"traceparent": f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"}
