"""
The look-up of a submission whose reply was lost, among the app's invocations. No I/O.

Kernel has no idempotency key, so every payload carries a mark (:mod:`~airflow_provider_kernel.api.payload_mark`). The
rules:

- The invocation with the key of the submission, in its mark or metadata field, is the one that was submitted. An equal
  payload, such as that of another run of the same Dag, proves nothing.
- If none is listed within :data:`LOOKUP_SECONDS`, Kernel has not accepted the submission. That is certain if other
  invocations that were listed carry marks, so that Kernel keeps the white space of payloads.
- An invocation without a mark may be the one, so that the result is ambiguous, if its payload is equal and no listed
  invocation has a mark (Kernel may store JSON anew), or if it has no payload. ``metadata_field`` makes the look-up exact even
  then, because the payload itself has the key.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from airflow_provider_kernel.api import endpoints
from airflow_provider_kernel.api.backoff import exponential
from airflow_provider_kernel.api.endpoints import Page, Request
from airflow_provider_kernel.api.errors import (
    KernelError,
    KernelTransportError,
    is_retryable,
    retry_after,
)
from airflow_provider_kernel.api.listing import PagedList
from airflow_provider_kernel.api.models import Invocation
from airflow_provider_kernel.api.payload import payload_digest
from airflow_provider_kernel.api.timestamps import format_timestamp
from airflow_provider_kernel.lifecycle.conversation import Conversation, Sleep
from airflow_provider_kernel.lifecycle.record import Record
from airflow_provider_kernel.lifecycle.wait_machine import MAX_OUTAGE

#: Seconds for which the invocation is looked for.
LOOKUP_SECONDS = 60.0
#: Seconds before the submission from which invocations are listed: Kernel's clock may be behind Airflow's.
CLOCK_SKEW = 600.0
#: Invocations per page: Kernel lists them with their payloads.
PAGE_SIZE = 10
#: Maximum number of invocations that are listed.
MAX_LISTED = 10_000
#: Longest pause between two scans of the list, in seconds.
MAX_PAUSE = 15.0


@dataclass(frozen=True)
class LookupResult:
    """
    What the look-up found. Neither ``found`` nor ``ambiguous``: Kernel did not accept the submission.

    :param found: the invocation that was submitted.
    :param ambiguous: ids of invocations that may be the one that was submitted.
    :param is_certain: whether other invocations prove that Kernel keeps marks.
    """

    found: Invocation | None = None
    ambiguous: tuple[str, ...] = ()
    is_certain: bool = False


class SubmissionLookup:
    """
    The look-up of one submission, as a conversation: iterate over :meth:`steps`.

    :param intent: the record of the submission.
    :param clock: returns seconds that never go back, such as the monotonic clock's.
    """

    def __init__(self, intent: Record, clock: Callable[[], float]) -> None:
        self._intent = intent
        self._clock = clock
        self._page_size = PAGE_SIZE
        self._last_reply = clock()
        self._pauses = 0
        self._found: Invocation | None = None
        self._is_certain = intent.key is not None and intent.metadata_field is not None
        self._equal: dict[str, None] = {}  # no mark, equal payload
        self._empty: dict[str, None] = {}  # no payload

    def steps(self) -> Conversation[LookupResult]:
        """
        Yield requests and pauses, and be sent the pages.

        :return: what was found.
        :raises KernelError: Kernel refuses to list the invocations, or could not be asked for 15 minutes.
        """
        deadline = self._clock() + LOOKUP_SECONDS
        while True:
            scan_started = self._clock()
            yield from self._scan(deadline)
            if self._found:
                return LookupResult(found=self._found)
            if scan_started >= deadline:
                equal = () if self._is_certain else tuple(self._equal)
                return LookupResult(ambiguous=(*equal, *self._empty), is_certain=self._is_certain)
            yield Sleep(max(0.0, min(self._next_pause(), deadline - self._clock())))

    def _scan(self, deadline: float) -> Conversation[None]:
        """List the invocations once, newest first, until the one is found."""
        pages = PagedList(self._request, self._page_size, max_offset=MAX_LISTED)
        while pages.has_more and not self._found:
            try:
                invocations = yield from pages.next_page()
            except KernelError as error:
                if not is_retryable(error) or self._clock() - self._last_reply >= MAX_OUTAGE:
                    raise
                yield Sleep(max(self._next_pause(), retry_after(error)))
                continue
            self._last_reply = self._clock()
            for invocation in invocations:
                self._judge(invocation)
            if not self._found and (pages.is_cut or self._last_reply - deadline >= MAX_OUTAGE):
                raise KernelTransportError("Kernel's list of the app's invocations does not come to an end.")

    def _request(self, *, limit: int, offset: int | None) -> Request[Page]:
        self._page_size = limit  # a page may have been too large
        return endpoints.list_invocations(
            app_name=self._intent.app_name,
            action_name=self._intent.action_name,
            since=format_timestamp(int((self._intent.submitted_at - CLOCK_SKEW) * 1e9)),
            limit=limit,
            offset=offset,
        ).once()

    def _judge(self, invocation: Invocation) -> None:
        key, intent = self._intent.key, self._intent
        mark = invocation.mark
        metadata = invocation.metadata(intent.metadata_field) if intent.metadata_field else {}
        if key is not None and key in (mark, metadata.get("key")):
            # Without its payload and output, which may be megabytes; GET has them.
            self._found = replace(invocation, payload=None, raw_output=None)
        elif invocation.id == intent.replaces:
            pass  # the task's own invocation before this one
        elif mark is not None:
            self._is_certain = self._is_certain or key is not None
        elif invocation.payload is None:
            self._empty[invocation.id] = None
        elif payload_digest(invocation.payload) == intent.payload_digest:
            self._equal[invocation.id] = None

    def _next_pause(self) -> float:
        self._pauses += 1
        return exponential(self._pauses, MAX_PAUSE)
