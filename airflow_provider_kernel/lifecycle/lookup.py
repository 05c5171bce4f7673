"""
Whether Kernel accepted a request whose reply was lost: settled by looking among the app's invocations. No I/O.

Kernel has no idempotency key. An invocation counts as the one that was asked for if it carries the key that the
operator put into the payload; without a key, if it started since and has the same payload, which may be a twin's.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

from airflow_provider_kernel.api import endpoints
from airflow_provider_kernel.api.endpoints import Page, Request
from airflow_provider_kernel.api.errors import (
    KernelError,
    KernelResponseTooLargeError,
    KernelTransportError,
    is_retryable,
    retry_after,
)
from airflow_provider_kernel.api.models import Invocation
from airflow_provider_kernel.api.payload import parse_json
from airflow_provider_kernel.api.timestamps import format_timestamp, parse_timestamp
from airflow_provider_kernel.lifecycle.record import Record
from airflow_provider_kernel.lifecycle.wait_machine import MAX_OUTAGE, Sleep

#: Seconds over which it is looked for; one that is not listed by then was not accepted.
LOOKUP_SECONDS = 60.0
#: Seconds by which Kernel's clock may be behind ours unnoticed. With a key more is harmless: only the one can match.
CLOCK_SKEW, CLOCK_SKEW_WITH_KEY = 5.0, 600.0
#: Invocations that one look asks for at once: each is listed with its payload.
PAGE_SIZE = 10
#: Maximum number of invocations that are searched.
MAX_LISTED = 10_000
#: Longest pause between two looks, in seconds.
MAX_PAUSE = 15.0


@dataclass(frozen=True)
class LookupResult:
    """
    What the search came to. Neither ``found`` nor ``doubtful``: Kernel did not accept the request.

    :param found: the one invocation that matches.
    :param doubtful: ids of those that may be it, where none or several match.
    """

    found: Invocation | None = None
    ambiguous: tuple[str, ...] = ()


class SubmissionLookup:
    """
    Looks for the invocation of a lost request. Ask :meth:`next`, do that, and tell what came of it.

    :param intent: the record of the request.
    :param payload: its payload as JSON text, without the key; None if there was none.
    :param is_payload_known: False if the payload is not that of the request, which was another one.
    :param now: the time at the start, in seconds since 1970 (as all times here).
    """

    def __init__(
        self, intent: Record, payload: str | None, now: float, *, is_payload_known: bool = True
    ) -> None:
        self._intent = intent
        self._key = (intent.metadata_field, intent.key) if intent.metadata_field and intent.key else None
        self._payload = _canonical(payload)
        self._is_payload_known = is_payload_known
        self._since = intent.submitted_at - CLOCK_SKEW
        self._listed_since = intent.submitted_at - (CLOCK_SKEW_WITH_KEY if self._key else CLOCK_SKEW)
        self._until = now + LOOKUP_SECONDS
        self._good_at = now
        self._wake = now
        self._pause = 1.0
        self._offset: int | None = 0
        self._page_size = PAGE_SIZE
        self._matches: dict[str, Invocation] = {}
        self._doubtful: dict[str, None] = {}
        self._looked_at = now
        self._is_clock_known = False

    def next(self, now: float) -> Request[Page] | Sleep | LookupResult:
        """Return what to do now."""
        if self._offset is None:  # a whole look is done
            if len(self._matches) == 1 and (self._key or not self._doubtful):
                return LookupResult(found=next(iter(self._matches.values())))
            if len(self._matches) > 1 or self._looked_at >= self._until:
                return LookupResult(ambiguous=(*self._matches, *self._doubtful))
            self._wake = min(now + self._pause, max(self._until, now))
            self._pause = min(2 * self._pause, MAX_PAUSE)
            self._offset = 0
        if now < self._wake:
            return Sleep(self._wake - now)
        if self._offset == 0:
            self._looked_at = now
        return endpoints.list_invocations(
            app_name=self._intent.app_name,
            action_name=self._intent.action_name,
            since=format_timestamp(int(self._listed_since * 1e9)),
            limit=self._page_size,
            offset=self._offset or None,
        )

    def on_page(self, page: Page, now: float) -> None:
        """
        Take the answer to a call.

        :raises KernelTransportError: there is no end to the pages.
        """
        self._good_at = now
        if now - self._until >= MAX_OUTAGE or (page.next_offset or 0) > MAX_LISTED:
            raise KernelTransportError("Kernel's list of the app's invocations does not come to an end.")
        if self._is_started_anew_by(page.served_at, now):
            return
        for invocation in page.items:
            self._judge(invocation)
        following = page.next_offset
        if self._key and self._matches:
            following = None  # there is only one
        self._offset = following if following is None or following > (self._offset or 0) else None

    def _is_started_anew_by(self, served_at: float | None, now: float) -> bool:
        """Look further back, once, where Kernel's clock turns out to be far behind ours."""
        if self._is_clock_known or served_at is None:
            return False
        self._is_clock_known = True
        behind = min(now - served_at, CLOCK_SKEW_WITH_KEY)
        if behind < CLOCK_SKEW / 2:  # a reply's date is in whole seconds, and takes its time
            return False
        self._since -= behind
        self._listed_since = min(self._listed_since, self._since)
        self._offset = 0
        return True

    def on_error(self, error: KernelError, now: float) -> None:
        """
        Take that a call failed.

        :raises KernelError: ``error``, where it is of no use to go on.
        """
        if isinstance(error, KernelResponseTooLargeError) and self._page_size > 1:
            self._page_size = 1
            return
        if not is_retryable(error) or now - self._good_at >= MAX_OUTAGE:
            raise error
        self._wake = now + max(self._pause, retry_after(error))
        self._pause = min(2 * self._pause, MAX_PAUSE)

    def _judge(self, listed: Invocation) -> None:
        invocation = replace(listed, raw_output=None)  # it may be megabytes, and many match
        if self._key and invocation.mark(self._key[0]).get("key") == self._key[1]:
            self._matches[invocation.id] = invocation
            return
        is_other = invocation.id == self._intent.replaces or self._is_older(invocation)
        if is_other or self._is_of_another_version(invocation):
            return
        if self._key:
            is_match, is_doubt = False, invocation.payload is None
        elif not self._is_payload_known:
            is_match, is_doubt = False, True
        else:
            is_match = _canonical(invocation.payload) == self._payload
            is_doubt = invocation.payload is None and not is_match
        if is_match:
            self._matches[invocation.id] = invocation
        elif is_doubt:
            self._doubtful[invocation.id] = None

    def _is_older(self, invocation: Invocation) -> bool:
        started = parse_timestamp(invocation.started_at or "")
        return started is not None and started < self._since * 1e9

    def _is_of_another_version(self, invocation: Invocation) -> bool:
        # Whether an invocation of ``latest`` is listed so, or with the version that it came to, is not known.
        pinned = self._intent.app_version
        return "latest" not in (pinned, invocation.version) and invocation.version not in (None, pinned)


def _canonical(payload: str | None) -> str | None:
    """Return ``payload`` so that equal JSON is equal text: Kernel may have written it anew."""
    try:
        return payload and json.dumps(parse_json(payload), sort_keys=True)
    except (ValueError, RecursionError):
        return payload
