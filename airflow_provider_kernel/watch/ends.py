"""
Finds the invocations that have ended since the last scan. No I/O.

Kernel lists invocations by their *start*, newest first, and sends no notification of an end. So a :class:`Scan` holds
all invocations that started since a time, and a :class:`Cursor` compares the scan with what it has seen before:

- A scan never filters by status. So the list grows only at its front, and an invocation that moves to the next page
  while the pages are read is read twice, never missed. A later scan finds what a scan misses all the same: every scan
  goes back to the oldest start of a running invocation, and at least :data:`OVERLAP` before the newest start.
- The cursor reports an end once. It remembers the id for as long as a scan may list the invocation.
- An event holds :data:`MAX_ENDS` ends at most, those of the oldest starts first. The other ends come in further events
  from the same scan; a new scan would list them, too, because it goes back to the first unreported one.
- The first scan of a new cursor reports nothing: those invocations ended before the watcher existed.
- A scan makes one event, and the next event follows :data:`EVENT_SPACING` later at the earliest. Airflow starts one Dag
  run for an event and all older ones; an event that comes before that run starts none, and waits for a later event.
- Times are Kernel's. This machine's clock only limits them, with a margin of minutes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from airflow_provider_kernel.api.arguments import MAX_ASYNC_TIMEOUT_SECONDS, check_name, is_template
from airflow_provider_kernel.api.backoff import exponential, with_jitter
from airflow_provider_kernel.api.endpoints import Page
from airflow_provider_kernel.api.errors import KernelApiError
from airflow_provider_kernel.api.models import Invocation, InvocationStatus
from airflow_provider_kernel.api.timestamps import format_timestamp, parse_timestamp

SECOND = 10**9
#: Nanoseconds after its start for which an invocation is watched. It ends 3600 s after its start at the latest, but
#: it is unknown whether the time in Kernel's queue counts. 1800 s are added for that, and for clocks that differ.
LOOKBACK = (MAX_ASYNC_TIMEOUT_SECONDS + 1800) * SECOND
#: Nanoseconds after its start within which Kernel must list an invocation, or the watcher may miss it.
OVERLAP = 300 * SECOND
#: Allowed values of ``status``: one of the two final statuses, or ``any``.
STATUSES = (InvocationStatus.SUCCEEDED.value, InvocationStatus.FAILED.value, "any")
#: Minimum seconds between two events; a scheduler looks for new events about once a second.
EVENT_SPACING = 10.0
#: Maximum number of ends in an event, which is a row in Airflow's database with about 220 bytes for each end.
MAX_ENDS = 1000
#: Maximum number of requests in a burst, and minimum seconds per request in the long run.
REQUEST_BURST, SECONDS_PER_REQUEST = 10, 6.0
#: Maximum pause in seconds after an error, unless Kernel asks for a longer one.
MAX_RETRY_PAUSE = 60.0
#: Maximum number of invocations in a scan, which is kept in memory.
MAX_SCANNED = 20_000
#: Number of invocations on the first and the largest page; Kernel allows 100. A page holds payloads and outputs, so the
#: next page is larger after less than ``LIGHT`` bytes, and smaller after more than ``HEAVY`` bytes.
FIRST_PAGE, LARGEST_PAGE = 25, 50
LIGHT, HEAVY = 10**6, 4 * 10**6


@dataclass(frozen=True)
class InvocationFilter:
    """
    Selects the invocations whose ends a watcher reports.

    :param app_name: the app.
    :param action_name: the action. Default None: any.
    :param version: the label of the version, as Kernel lists it. Default None: any.
    :param status: the final status, one of :data:`STATUSES`. Default ``succeeded``.
    :raises ValueError: an argument is invalid; the message says what to write instead.
    """

    app_name: str
    action_name: str | None = None
    version: str | None = None
    status: str = InvocationStatus.SUCCEEDED.value

    def __post_init__(self) -> None:
        check_name("app_name", self.app_name)
        if self.action_name is not None:
            check_name(
                "action_name", self.action_name, "the name as it was deployed to Kernel, or None for any"
            )
        if self.version is not None:
            check_name(
                "version", self.version, "the version's label as it was deployed to Kernel, or None for any"
            )
        if self.version == "latest":
            raise ValueError(
                "version='latest' matches no invocation: Kernel lists each invocation under its version's label. Write "
                "the label as it was deployed to Kernel, or leave version out for any version."
            )
        for name in ("app_name", "action_name", "version"):
            check_no_template(name, getattr(self, name) or "")
        if self.status not in STATUSES:
            raise ValueError(f"status must be 'succeeded', 'failed' or 'any', not {self.status!r}.")

    def matches(self, invocation: Invocation) -> bool:
        """Return whether the app, action and version match; the status does not matter."""
        return all(
            getattr(self, name) in (None, getattr(invocation, name))
            for name in ("app_name", "action_name", "version")
        )

    def matches_status(self, invocation: Invocation) -> bool:
        """Return whether the invocation has ended with the wanted status."""
        return invocation.is_ended and self.status in ("any", invocation.status)


def check_no_template(name: str, value: str) -> None:
    """
    Check that an argument is no template.

    :param name: the name of the argument.
    :param value: the value of the argument.
    :raises ValueError: the value is a template.
    """
    if is_template(value):
        raise ValueError(
            f"{name} is a template, but Airflow renders no templates in the trigger of an AssetWatcher. "
            "Write the value itself."
        )


def common_filters(filters: Iterable[InvocationFilter]) -> dict[str, str]:
    """Return the narrowest filters of Kernel's API that still list every invocation that any of ``filters`` matches."""
    every = list(filters)
    values = {name: {getattr(one, name) for one in every} for name in ("app_name", "action_name")}
    return {name: found.pop() for name, found in values.items() if len(found) == 1 and None not in found}


@dataclass(frozen=True)
class Scan:
    """All invocations that Kernel listed with a start at or after ``since``, in nanoseconds since 1970."""

    since: int
    invocations: tuple[Invocation, ...]


class PagedScan:
    """
    A scan while its pages are read. ``offset`` is that of the next page; None after the last page.

    :param since: the scan lists all invocations that started at or after this time, in nanoseconds since 1970.
    :param limit: the size of the next page. Default :data:`FIRST_PAGE`.
    """

    def __init__(self, since: int, limit: int | None = None) -> None:
        self.since = since
        self.offset: int | None = 0
        self.limit = limit or FIRST_PAGE
        self.is_cut = False
        self._found: dict[str, Invocation] = {}

    def params(self) -> dict[str, Any]:
        """Return the query parameters of the next page, without the filters."""
        # One second earlier: it is unknown whether Kernel lists an invocation that started exactly at ``since``.
        since = format_timestamp(self.since - SECOND)
        return {"since": since, "limit": self.limit, "offset": self.offset}

    def on_error(self, error: Exception) -> None:
        """Ask for a smaller page after ``error``: the page may be too large for Kernel or for a proxy."""
        if not (isinstance(error, KernelApiError) and error.status_code in (401, 403, 429)):
            self.limit = max(1, self.limit // 2)

    def add(self, page: Page) -> None:
        """
        Add a page. If two pages list an invocation, the later page counts.

        A scan ends after :data:`MAX_SCANNED` invocations. It then misses the invocations that started earlier, and
        ``is_cut`` is True.
        """
        for invocation in filter(None, page.items):
            self._found[invocation.id] = replace(
                invocation, payload=None, raw_output=None, status_reason=None
            )
        if page.size > HEAVY:
            self.limit = max(1, self.limit // 2)
        elif page.size < LIGHT:
            self.limit = min(LARGEST_PAGE, self.limit * 2)
        self.is_cut = page.next_offset is not None and len(self._found) >= MAX_SCANNED
        self.offset = None if self.is_cut else page.next_offset

    def scan(self) -> Scan:
        """Return the invocations of all pages."""
        return Scan(self.since, tuple(self._found.values()))


class Cursor:
    """
    What one watcher has seen: the time from which it scans, and the invocations that started later.

    ``since`` is that time in nanoseconds since 1970, or None before the first scan. ``overdue`` holds the ids of the
    running invocations that the last scan listed and that are too old to be watched any longer.
    """

    def __init__(self) -> None:
        self.since: int | None = None
        self.overdue: list[str] = []
        # The start of each ended invocation; None if Kernel told neither its start nor its end.
        self._seen: dict[str, int | None] = {}
        # The start of each invocation that has not ended.
        self._open: dict[str, int] = {}

    def scan_since(self, now: float) -> int:
        """Return the ``since`` of the next scan in nanoseconds; ``now`` is in seconds since 1970."""
        return self._oldest(now) if self.since is None else self.since

    def count_new(self, scan: Scan, wanted: InvocationFilter) -> int:
        """Return the number of unreported ends in ``scan`` that match ``wanted``."""
        return sum(map(wanted.matches_status, self._new(scan, wanted)))

    def take_new(self, scan: Scan, wanted: InvocationFilter, now: float) -> list[Invocation]:
        """
        Return the unreported ends in ``scan`` that match ``wanted``, and mark them as reported.

        The list is in the order of the ends, and has :data:`MAX_ENDS` invocations at most. Call again with the same
        scan or a later one for the others.

        :param scan: the scan.
        :param wanted: the watcher's filter.
        :param now: the current time in seconds since 1970.
        """
        is_first, oldest = self.since is None, self._oldest(now)
        listed = {one.id: one for one in scan.invocations if wanted.matches(one)}
        new = self._new(scan, wanted)
        # The oldest starts first, so that the next scan need not go back to them.
        ended = (
            [] if is_first else sorted(filter(wanted.matches_status, new), key=lambda one: _start(one) or 0)
        )
        ended, left = ended[:MAX_ENDS], ended[MAX_ENDS:]
        self._seen |= {one.id: _start(one) for one in new}
        for one in left:
            del self._seen[one.id]
        for one in listed.values():
            start = _start(one)
            if one.is_ended:
                self._open.pop(one.id, None)
            elif start is not None and (
                one.id in self._open or (start >= oldest and not self._is_before_since(one))
            ):
                self._open[one.id] = start
        overdue = [one for one, start in self._open.items() if start < oldest]
        self.overdue = [one for one in overdue if one in listed]
        for one_id in overdue:
            del self._open[one_id]
        # A start in the future comes from a wrong clock; moving there would skip the invocations until then.
        starts = [s for one in scan.invocations if (s := parse_timestamp(one.started_at)) is not None]
        newest = min(max(starts, default=max(scan.since, oldest)), int(now * SECOND))
        unreported = [s for one in left if (s := _start(one)) is not None]
        self._move(min([newest - OVERLAP, *self._open.values(), *unreported]), scan.since)
        # Remember an invocation without times for as long as Kernel lists it.
        self._seen = {one: s for one, s in self._seen.items() if s is not None or one in listed}
        return sorted(ended, key=lambda one: parse_timestamp(one.finished_at) or 0)

    def _new(self, scan: Scan, wanted: InvocationFilter) -> list[Invocation]:
        """Return the ended invocations that the cursor has not seen, whatever their status."""
        return [
            one
            for one in scan.invocations
            if wanted.matches(one)
            and one.is_ended
            and one.id not in self._seen
            and not self._is_before_since(one)
        ]

    def _is_before_since(self, invocation: Invocation) -> bool:
        """Return whether the invocation started before ``since``, so that the cursor is done with it."""
        start = _start(invocation)
        return start is not None and self.since is not None and start < self.since

    def merge(self, other: Cursor) -> None:
        """Add what another triggerer's cursor has seen, so that its ends are not reported again."""
        if other.since is None:
            return
        self._seen |= other._seen
        self._open = {one: s for one, s in {**other._open, **self._open}.items() if one not in self._seen}
        if self.since is None:
            self.since = other.since
        self._move(other.since, 0)
        self._open = {one: start for one, start in self._open.items() if start >= self.since}

    def state(self) -> dict[str, Any]:
        """Return the cursor as JSON: times and ids only."""
        return {"format": 1, "since": self.since, "seen": dict(self._seen), "open": dict(self._open)}

    @classmethod
    def from_state(cls, state: Any) -> Cursor:
        """
        Return the cursor for what :meth:`state` returned; None gives a new cursor.

        :raises ValueError: ``state`` is not a cursor of this version.
        """
        cursor = cls()
        if state is None:
            return cursor
        if not isinstance(state, Mapping) or state.get("format") != 1:
            raise ValueError("The state is not a cursor of this version.")
        since, seen, open_ = (state.get(name) for name in ("since", "seen", "open"))
        if (
            not (since is None or _is_timestamp(since))
            or not isinstance(seen, Mapping)
            or not isinstance(open_, Mapping)
            or not all(map(_is_timestamp, open_.values()))
            or not all(s is None or _is_timestamp(s) for s in seen.values())
        ):
            raise ValueError("The state is not a cursor.")
        cursor.since, cursor._seen, cursor._open = since, dict(seen), dict(open_)
        return cursor

    def _move(self, since: int, at_least: int) -> None:
        """Move ``since`` forward, never back, and forget the invocations that started before."""
        self.since = max(since, at_least if self.since is None else self.since)
        self._seen = {one: start for one, start in self._seen.items() if start is None or start >= self.since}

    @staticmethod
    def _oldest(now: float) -> int:
        return int(now * SECOND) - LOOKBACK


class RateLimiter:
    """Limits the rate of requests, so that Kernel does not throttle other users of the organization."""

    def __init__(self) -> None:
        self._tokens = float(REQUEST_BURST)
        self._at: float | None = None

    def delay(self, now: float) -> float:
        """Return the seconds to wait before the next request, and count that request; ``now`` is any clock's time."""
        if self._at is not None:
            self._tokens = min(
                float(REQUEST_BURST), self._tokens + max(0.0, now - self._at) / SECONDS_PER_REQUEST
            )
        self._at = now
        self._tokens -= 1
        return max(0.0, -self._tokens * SECONDS_PER_REQUEST)


def retry_pause(errors: int, asked: float, jitter: float) -> float:
    """
    Return the seconds to wait before a failed request is sent again.

    :param errors: the number of consecutive errors, from 1.
    :param asked: the seconds that Kernel asked to wait; 0 for none.
    :param jitter: a number from 0 to 1.
    """
    return max(asked, with_jitter(exponential(errors, MAX_RETRY_PAUSE, initial=2.0), jitter))


def is_too_soon(at: float, last: float | None) -> bool:
    """
    Return whether an event would follow the last event too soon.

    :param at: the time of the event, in seconds of any clock.
    :param last: the time of the last event, in seconds of the same clock; None if there is none.
    """
    return last is not None and at < last + EVENT_SPACING


def event_payload(ended: Iterable[Invocation]) -> dict[str, Any]:
    """Return the payload of an event: the ended invocations without their payload, output and reason."""
    return {
        "invocations": [
            {
                "invocation_id": invocation.id,
                "app_name": invocation.app_name,
                "action_name": invocation.action_name,
                "version": invocation.version,
                "status": invocation.status,
                "started_at": invocation.started_at,
                "finished_at": invocation.finished_at,
            }
            for invocation in ended
        ]
    }


def _start(invocation: Invocation) -> int | None:
    """Return the start of an invocation in nanoseconds; its end if Kernel does not tell the start, else None."""
    start = parse_timestamp(invocation.started_at)
    return parse_timestamp(invocation.finished_at) if start is None else start


def _is_timestamp(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
