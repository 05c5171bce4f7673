"""What both hooks do alike around a request: when it is sent again, and how a failed one reads."""

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
#: A Retry-After beyond this many seconds is not waited for: whoever asked has better to do.
MAX_WAIT = 60.0
_backoff = wait_exponential(multiplier=0.5, max=20) + wait_random(0, 1)


def retrying(call: Request[Any]) -> dict[str, Any]:
    """Return the arguments of tenacity's ``Retrying`` or ``AsyncRetrying`` for ``call``."""

    def should_retry(error: BaseException) -> bool:
        return isinstance(error, KernelError) and call.may_repeat(error) and retry_after(error) <= MAX_WAIT

    return {
        "retry": retry_if_exception(should_retry),
        "stop": stop_after_attempt(call.max_attempts or MAX_ATTEMPTS),
        "wait": _wait,
        "before_sleep": lambda state: log.warning(
            "%s %s: %s Trying again in %.1f s.",
            call.method,
            call.path,
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
    Yield ``error`` and what its libraries wrapped in it.

    Never through ``__context__``: that may be an earlier attempt's exception, which says nothing of this one.
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
    Describe a request without a reply, not in the HTTP library's words: those may quote a proxy's password.

    :param settings: how Kernel was to be reached.
    :param causes: the exception, and what is in it.
    :param sent: whether the request, or a part of it, may have reached Kernel.
    :param timed_out: whether it was the time that ran out.
    :param proxy: the address of the proxy on the way, without a login; "" for none.
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
    """Tell whether a proxy refused to connect to Kernel (407, say): Python's http.client tells it by its words alone."""
    return isinstance(cause, OSError) and str(cause).startswith("Tunnel connection failed")


def _system_reason(cause: BaseException) -> str | None:
    if type(cause).__name__ == "ClientHttpProxyError":  # aiohttp's
        return f"Tunnel connection failed: {getattr(cause, 'status', '')} {getattr(cause, 'message', '')}"
    if not isinstance(cause, OSError):
        return None
    if is_refused_tunnel(cause):
        return str(cause)
    # asyncio puts words of its own before the system's; below 2 are the numbers of TLS and of name look-ups.
    return os.strerror(cause.errno) if cause.errno and cause.errno > 1 else cause.strerror


def lost_reply(request: InvocationRequest, error: KernelError) -> KernelLostReplyError | None:
    """Return the exception for a POST that may have been accepted; None for one that was not."""
    if is_certainly_not_accepted(error) or (isinstance(error, KernelApiError) and error.is_refusal):
        return None
    return KernelLostReplyError(
        f"Whether Kernel accepted the invocation of {request.app_name}/{request.action_name} is unknown, "
        f"so it may be running: {sentence(str(error))} Look for it among the app's invocations before you run this again."
    )
