"""The trace of a task, for the action to continue."""

from __future__ import annotations

import sys


def trace_context() -> dict[str, str]:
    """
    Return ``traceparent``, and ``tracestate`` if there is one, of W3C Trace Context.

    Empty if this process records no span, or ``OTEL_PROPAGATORS`` leaves out ``tracecontext``.
    """
    trace = sys.modules.get("opentelemetry.trace")  # loaded by Airflow, if it traces
    if trace is None or not trace.get_current_span().is_recording():
        return {}
    from opentelemetry.propagate import inject

    carrier: dict[str, str] = {}
    inject(carrier)
    return {name: carrier[name] for name in ("traceparent", "tracestate") if name in carrier}
