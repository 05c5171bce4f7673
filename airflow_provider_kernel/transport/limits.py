"""How long a request may take, for both HTTP clients. No I/O."""

from __future__ import annotations

from typing import Any, NamedTuple

from airflow_provider_kernel.api.endpoints import Request
from airflow_provider_kernel.api.settings import KernelSettings

#: Seconds to connect.
CONNECT_TIMEOUT = 10.0
#: How many times ``timeout`` a whole reply may take: a large output takes longer than the head, but not forever.
TOTAL_FACTOR = 10


class Limits(NamedTuple):
    """
    Time limits of one request, in seconds; None for no limit.

    :param head: from before the connection is made to the end of the reply's head.
    :param total: to the end of the reply.
    :param idle_timeout: without a byte of the reply.
    """

    head: float
    total: float | None
    idle_timeout: float | None


def limits_of(request: Request[Any], settings: KernelSettings) -> Limits:
    """Return the limits of a request whose reply is read as a whole."""
    timeout = max(settings.timeout, request.min_timeout)
    total = TOTAL_FACTOR * timeout
    if request.total_timeout is not None:
        total = min(total, request.total_timeout)
    return Limits(timeout, total, timeout)


def stream_limits(settings: KernelSettings, idle_timeout: float | None, max_lifetime: float | None) -> Limits:
    """Return the limits of an event stream."""
    return Limits(settings.timeout, max_lifetime, idle_timeout)
