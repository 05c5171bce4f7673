"""Retries of requests, and the errors of both HTTP clients as ours."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import urlsplit

from tenacity import RetryCallState, retry_if_exception, stop_after_attempt, wait_exponential, wait_random

from airflow_provider_kernel import __version__
from airflow_provider_kernel.api.endpoints import Request
from airflow_provider_kernel.api.errors import (
    KernelApiError,
    KernelError,
    KernelLostReplyError,
    KernelTransportError,
    is_certainly_not_accepted,
    retry_after,
)
from airflow_provider_kernel.api.models import InvocationRequest
from airflow_provider_kernel.api.settings import KernelSettings, is_loopback
from airflow_provider_kernel.api.text import MAX_NAME, clean, sentence

log = logging.getLogger(__name__)
USER_AGENT = f"airflow-provider-kernel/{__version__}"
#: How often a request is sent at most, if it is safe to repeat.
MAX_ATTEMPTS = 6
#: Maximum Retry-After, in seconds, that a request waits for.
MAX_WAIT = 60.0
_backoff = wait_exponential(multiplier=0.5, max=20) + wait_random(0, 1)


def retrying(request: Request[Any]) -> dict[str, Any]:
    """Return the arguments of tenacity's ``Retrying`` and ``AsyncRetrying`` for a request."""

    def should_retry(error: BaseException) -> bool:
        return isinstance(error, KernelError) and request.may_repeat(error) and retry_after(error) <= MAX_WAIT

    return {
        "retry": retry_if_exception(should_retry),
        "stop": stop_after_attempt(request.max_attempts or MAX_ATTEMPTS),
        "wait": _wait,
        "before_sleep": lambda state: log.warning(
            "%s %s: %s Trying again in %.1f s.",
            request.method,
            request.path,
            sentence(str(_error(state))),
            state.upcoming_sleep,
        ),
        "reraise": True,
    }


def _error(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


def _wait(state: RetryCallState) -> float:
    return max(float(_backoff(state)), retry_after(_error(state)))


def root_causes(error: BaseException) -> Iterator[BaseException]:
    """
    Yield ``error`` and the exceptions that HTTP libraries wrapped in it.

    Not those in ``__context__``: they may be of an earlier attempt.
    """
    yield error
    for inner in (*error.args, getattr(error, "reason", None), error.__cause__):
        if isinstance(inner, BaseException) and inner is not error:
            yield from root_causes(inner)


def transport_error(
    settings: KernelSettings,
    causes: Iterable[BaseException],
    *,
    sent: bool,
    timed_out: bool,
    proxy: str = "",
) -> KernelTransportError:
    """
    Return the exception for a request without a reply. It does not quote the HTTP library, which may quote a password.

    :param settings: how Kernel was to be reached.
    :param causes: the exception and those in it; see :func:`root_causes`.
    :param sent: whether the request, or a part of it, may have reached Kernel.
    :param timed_out: whether a time limit has passed.
    :param proxy: address of the proxy, without a login; "" for none.
    """
    base_url = settings.base_url
    reason = clean(settings.redactor.text(next(filter(None, map(_system_reason, causes)), "")), MAX_NAME)
    because = f" ({reason})" if reason and not timed_out else ""
    if not sent:
        through = f" through the proxy {proxy}" if proxy else ""
        what = f"{base_url} could not be reached{through}{' in time' if timed_out else because}."
        if is_loopback(urlsplit(base_url).hostname):
            what += " Is the emulator running there?"
    elif timed_out:
        what = f"{base_url} did not reply in time."
    else:
        what = f"The connection to {base_url} broke{because}."
    return KernelTransportError(what, sent=sent)


def is_refused_tunnel(cause: BaseException) -> bool:
    """Return whether a proxy refused to connect to Kernel, for example with 407. http.client tells it in words only."""
    return isinstance(cause, OSError) and str(cause).startswith("Tunnel connection failed")


def _system_reason(cause: BaseException) -> str | None:
    if type(cause).__name__ == "ClientHttpProxyError":  # aiohttp's
        return f"Tunnel connection failed: {getattr(cause, 'status', '')} {getattr(cause, 'message', '')}"
    if not isinstance(cause, OSError):
        return None
    if is_refused_tunnel(cause):
        return str(cause)
    # asyncio puts its own words before the system's; errno below 2 belongs to TLS and name look-ups.
    return os.strerror(cause.errno) if cause.errno and cause.errno > 1 else cause.strerror


def lost_reply(request: InvocationRequest, error: KernelError) -> KernelLostReplyError | None:
    """Return the exception for a submission that Kernel may have accepted; None if it did not."""
    if is_certainly_not_accepted(error) or (isinstance(error, KernelApiError) and error.is_refusal):
        return None
    return KernelLostReplyError(
        f"The reply to the submission of {request.app_name}/{request.action_name} was lost, so the invocation may be "
        f"running: {sentence(str(error))}"
    )
