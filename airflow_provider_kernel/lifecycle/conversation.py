"""
Conversations with Kernel: generators that yield what to do next, and are sent what came of it. No I/O.

A conversation yields a :class:`~airflow_provider_kernel.api.endpoints.Request` and is sent its result, or has the
:class:`~airflow_provider_kernel.api.errors.KernelError` thrown in; it also yields :class:`Follow` and :class:`Sleep`. The
drivers in :mod:`~airflow_provider_kernel.transport.driver` carry it out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from airflow_provider_kernel.api.endpoints import (
    Cancellation,
    Request,
    delete_browsers,
    end_invocation,
    get_invocation,
)
from airflow_provider_kernel.api.errors import KernelApiError, KernelError
from airflow_provider_kernel.api.events import Event
from airflow_provider_kernel.api.models import InvocationStatus

T = TypeVar("T")


@dataclass(frozen=True)
class Follow:
    """
    Follow the event stream of an invocation until it ends.

    :param idle_timeout: seconds without a byte after which the stream counts as dead.
    :param max_lifetime: seconds after which to leave the stream.
    :param since: RFC 3339 time from which to follow; None for the whole log.
    :param invocation_id: whose stream.
    :param on_event: called with each event; False leaves the stream.
    """

    idle_timeout: float
    max_lifetime: float
    since: str | None
    invocation_id: str
    on_event: Callable[[Event], bool] = field(default=lambda event: True, compare=False, repr=False)


@dataclass(frozen=True)
class Sleep:
    """
    Do nothing for a while.

    :param seconds: how long.
    """

    seconds: float


Step: TypeAlias = Request[Any] | Follow | Sleep
Conversation: TypeAlias = Generator[Step, Any, T]


def cancel(
    invocation_id: str, reason: str | None = None, by: Mapping[str, Any] | None = None
) -> Conversation[Cancellation]:
    """
    Cancel an invocation: look, end it unless it has ended, and close its browsers, which would keep accruing charges.

    The browsers of an invocation that succeeded are left alone: they may be its result.

    :param invocation_id: what to cancel.
    :param reason: becomes the invocation's output, for people.
    :param by: who cancels, added to the output; see :attr:`Invocation.cancelled_by`.
    :return: what cancelling came to.
    :raises KernelError: Kernel refused or could not be asked.
    """
    output = reason and json.dumps({"cancelled": reason, **({"by": dict(by)} if by else {})})
    found = yield get_invocation(invocation_id)
    cancelled = False
    if not found.is_ended:
        try:
            found = yield end_invocation(invocation_id, output)
            cancelled = found.status != InvocationStatus.SUCCEEDED
        except KernelError as error:
            # It may have ended in between (whether Kernel refuses that is unknown), or only the reply was lost.
            found = yield get_invocation(invocation_id)
            if not found.is_ended:
                raise error
    if found.status == InvocationStatus.SUCCEEDED:
        return Cancellation(found, cancelled)
    try:
        yield delete_browsers(invocation_id)
    except KernelError as error:
        if not (isinstance(error, KernelApiError) and error.status_code == 404):
            return Cancellation(found, cancelled, error)
    return Cancellation(found, cancelled)
