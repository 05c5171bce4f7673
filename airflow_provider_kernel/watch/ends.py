"""
Which invocations have ended since it was last looked: what a watcher asks, remembers and reports. No I/O.

Kernel lists invocations by their *start*, newest first, and tells nobody of an end. So a :class:`Sweep` lists all
that started since a moment, and a :class:`Cursor` holds against it what it knows. The rules:

- The list is never asked for one status. So it only ever grows at its front, and what shifts between two pages is
  read twice rather than not at all. What a sweep misses all the same, the next ones see: each goes back to
  :data:`OVERLAP` before the newest start, and to the start of the oldest invocation that has not ended.
- An end is reported once: its id is remembered for as long as a sweep may list it.
- An event has :data:`MAX_ENDS` at most, of the oldest starts. The same sweep brings the others, in further events; and
  so would the next, for it goes back to the first that is left.
- The first sweep of a new cursor reports nothing: what had ended by then is none of its business.
- What one sweep brings is one event, and the next comes :data:`SPACING` later at the earliest. For Airflow starts a
  run for an event and whatever is older; an event that comes before it has done so starts none, and waits for a later.
- Moments are Kernel's. This machine's clock only bounds them, with minutes to spare.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from airflow_provider_kernel.api.arguments import MAX_ASYNC_TIMEOUT_SECONDS, check_name, is_template
from airflow_provider_kernel.api.endpoints import Page
from airflow_provider_kernel.api.errors import KernelApiError
from airflow_provider_kernel.api.models import Invocation, InvocationStatus
from airflow_provider_kernel.api.timestamps import format_timestamp, parse_timestamp

SECOND = 10**9
#: An invocation is waited for so long from its start. It ends 3600 s after it at the latest; whether its time in
#: the queue counts is unknown, and half an hour is allowed for that, and for clocks that differ.
LOOKBACK = (MAX_ASYNC_TIMEOUT_SECONDS + 1800) * SECOND
#: An invocation may be listed so long after its start and is not missed.
OVERLAP = 300 * SECOND
#: What ``status`` may be: one of the two ends, or either.
STATUSES = (InvocationStatus.SUCCEEDED.value, InvocationStatus.FAILED.value, "any")
#: At least so many seconds are between two events: a scheduler looks for them every second or so.
SPACING = 10.0
#: An event has no more than so many ends: it is a row in Airflow's database, with some 220 bytes for each.
MAX_ENDS = 1000
#: So many requests may follow each other at once; in the long run, one in so many seconds.
BURST, SECONDS_PER_REQUEST = 10, 6.0
#: Longest pause after an error, in seconds, unless Kernel asks for a longer one.
MAX_PAUSE = 60.0
#: Maximum number of invocations in one sweep, which keeps them in memory.
MAX_SCANNED = 20_000
#: The size of a page goes up while pages are light, and down while they are heavy (in bytes), for payloads and outputs
#: come with them. Kernel takes 100.
FIRST_PAGE, LARGEST_PAGE = 25, 50
LIGHT, HEAVY = 10**6, 4 * 10**6


@dataclass(frozen=True)
class InvocationFilter:
    """
    The invocations whose end is to be reported.

    :param app_name: their app.
    :param action_name: their action; None for any.
    :param version: their version, as Kernel lists it; None for any.
    :param status: how they ended: one of :data:`STATUSES`.
    :raises ValueError: an argument cannot be right; the sentence says what to write instead.
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
                "version='latest' is no label that an invocation has. Write the version's label as it was deployed "
                "to Kernel, or leave version out, which takes any."
            )
        for name in ("app_name", "action_name", "version"):
            check_no_template(name, getattr(self, name) or "")
        if self.status not in STATUSES:
            raise ValueError(f"status must be 'succeeded', 'failed' or 'any', not {self.status!r}.")

    def is_about(self, invocation: Invocation) -> bool:
        """Tell whether the invocation is of this app, action and version, whatever became of it."""
        return all(
            getattr(self, name) in (None, getattr(invocation, name))
            for name in ("app_name", "action_name", "version")
        )

    def takes(self, invocation: Invocation) -> bool:
        """Tell whether an invocation that it is about has ended as wanted."""
        return invocation.is_ended and self.status in ("any", invocation.status)


def check_no_template(name: str, value: str) -> None:
    """
    Check that an argument is no template.

    :raises ValueError: it is one.
    """
    if is_template(value):
        raise ValueError(f"{name} is a template, and Airflow renders none in a trigger of an AssetWatcher.")


def common_filters(wanted: Iterable[InvocationFilter]) -> dict[str, str]:
    """Return the filters of Kernel's API that leave in what any of them wants."""
    all_of_them = list(wanted)
    values = {name: {getattr(one, name) for one in all_of_them} for name in ("app_name", "action_name")}
    return {name: found.pop() for name, found in values.items() if len(found) == 1 and None not in found}


@dataclass(frozen=True)
class Scan:
    """All invocations that Kernel listed with a start at or after ``since``, in nanoseconds since 1970."""

    since: int
    invocations: tuple[Invocation, ...]


class PagedScan:
    """A sweep while its pages are read; ``limit`` is the size of a page."""

    def __init__(self, since: int, limit: int | None = None) -> None:
        self.since = since
        self.offset: int | None = 0
        self.limit = limit or FIRST_PAGE
        self.is_cut = False
        self._found: dict[str, Invocation] = {}

    def params(self) -> dict[str, Any]:
        """Return what the next page is asked for with, besides the filters."""
        # A second more: whether Kernel lists what started at that very moment is unknown.
        since = format_timestamp(self.since - SECOND)
        return {"since": since, "limit": self.limit, "offset": self.offset}

    def on_error(self, error: Exception) -> None:
        """Take that a page could not be had: it may be too large for Kernel, or for a proxy on the way."""
        if not (isinstance(error, KernelApiError) and error.status_code in (401, 403, 429)):
            self.limit = max(1, self.limit // 2)

    def add(self, page: Page) -> None:
        """
        Take a page. Of what two pages hold, the later one is the newer.

        A list of more than :data:`MAX_SCANNED` ends there: what started before is missed.
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
        """Return what was found on all pages."""
        return Scan(self.since, tuple(self._found.values()))


class Cursor:
    """
    What one watcher knows: up to which start all is settled, and of what started later, what it has reported.

    ``given_up`` holds the ids that the last sweep gave up, since they run for longer than they can.
    """

    def __init__(self) -> None:
        self.since: int | None = None
        self.given_up: list[str] = []
        # The start of each; None where Kernel told neither that nor the end.
        self._seen: dict[str, int | None] = {}
        self._open: dict[str, int] = {}

    def look_from(self, now: float) -> int:
        """Return the start from which the next sweep must list; ``now`` is in seconds since 1970."""
        return self._oldest(now) if self.since is None else self.since

    def count_new(self, scan: Scan, wanted: InvocationFilter) -> int:
        """Return how many ends that were not reported before the sweep may hold."""
        return sum(map(wanted.takes, self._new(scan, wanted)))

    def take(self, scan: Scan, wanted: InvocationFilter, now: float) -> list[Invocation]:
        """
        Return those in the sweep that have ended as wanted and were not reported before, in the order of their ends.

        They are :data:`MAX_ENDS` at most; the same sweep, or any later one, brings the others.
        """
        is_first, oldest = self.since is None, self._oldest(now)
        listed = {one.id: one for one in scan.invocations if wanted.is_about(one)}
        new = self._new(scan, wanted)
        # By their starts, so that little is listed again.
        ended = [] if is_first else sorted(filter(wanted.takes, new), key=lambda one: _start(one) or 0)
        ended, left = ended[:MAX_ENDS], ended[MAX_ENDS:]
        self._seen |= {one.id: _start(one) for one in new}
        for one in left:
            del self._seen[one.id]
        for one in listed.values():
            start = _start(one)
            if one.is_ended:
                self._open.pop(one.id, None)
            elif start is not None and (
                one.id in self._open or (start >= oldest and not self._is_settled(one))
            ):
                self._open[one.id] = start
        overdue = [one for one, start in self._open.items() if start < oldest]
        self.given_up = [one for one in overdue if one in listed]
        for one_id in overdue:
            del self._open[one_id]
        # A start in the future is a clock's, and what starts until then must not be passed over.
        starts = [s for one in scan.invocations if (s := parse_timestamp(one.started_at)) is not None]
        newest = min(max(starts, default=max(scan.since, oldest)), int(now * SECOND))
        unreported = [s for one in left if (s := _start(one)) is not None]
        self._move(min([newest - OVERLAP, *self._open.values(), *unreported]), scan.since)
        # What is placed nowhere is remembered for as long as it is listed.
        self._seen = {one: s for one, s in self._seen.items() if s is not None or one in listed}
        return sorted(ended, key=lambda one: parse_timestamp(one.finished_at) or 0)

    def _new(self, scan: Scan, wanted: InvocationFilter) -> list[Invocation]:
        """Return what has ended since, as wanted or not."""
        return [
            one
            for one in scan.invocations
            if wanted.is_about(one)
            and one.is_ended
            and one.id not in self._seen
            and not self._is_settled(one)
        ]

    def _is_settled(self, invocation: Invocation) -> bool:
        """Tell whether an invocation started before all that is still looked at."""
        start = _start(invocation)
        return start is not None and self.since is not None and start < self.since

    def merge(self, other: Cursor) -> None:
        """Take what another triggerer has learned since: what it has reported is not reported again."""
        if other.since is None:
            return
        self._seen |= other._seen
        self._open = {one: s for one, s in {**other._open, **self._open}.items() if one not in self._seen}
        if self.since is None:
            self.since = other.since
        self._move(other.since, 0)
        self._open = {one: start for one, start in self._open.items() if start >= self.since}

    def state(self) -> dict[str, Any]:
        """Return it as JSON: moments and ids, nothing else."""
        return {"format": 1, "since": self.since, "seen": dict(self._seen), "open": dict(self._open)}

    @classmethod
    def from_state(cls, state: Any) -> Cursor:
        """
        Read what :meth:`state` returned; None is a new one.

        :raises ValueError: it is something else.
        """
        cursor = cls()
        if state is None:
            return cursor
        if not isinstance(state, Mapping) or state.get("format") != 1:
            raise ValueError("no cursor of this version")
        since, seen, open_ = (state.get(name) for name in ("since", "seen", "open"))
        if (
            not (since is None or _is_moment(since))
            or not isinstance(seen, Mapping)
            or not isinstance(open_, Mapping)
        ):
            raise ValueError("no cursor")
        if not all(map(_is_moment, open_.values())) or not all(
            s is None or _is_moment(s) for s in seen.values()
        ):
            raise ValueError("no cursor")
        cursor.since, cursor._seen, cursor._open = since, dict(seen), dict(open_)
        return cursor

    def _move(self, since: int, at_least: int) -> None:
        """Move on to ``since``, never back, and forget what is settled before it."""
        self.since = max(since, at_least if self.since is None else self.since)
        self._seen = {one: start for one, start in self._seen.items() if start is None or start >= self.since}

    @staticmethod
    def _oldest(now: float) -> int:
        return int(now * SECOND) - LOOKBACK


class RateLimiter:
    """How fast requests may follow each other, so that others of the organization are not throttled for them."""

    def __init__(self) -> None:
        self._tokens = float(BURST)
        self._at: float | None = None

    def delay(self, now: float) -> float:
        """Return the seconds to wait before the next request, which is taken for sent then; ``now`` is any clock."""
        if self._at is not None:
            self._tokens = min(float(BURST), self._tokens + max(0.0, now - self._at) / SECONDS_PER_REQUEST)
        self._at = now
        self._tokens -= 1
        return max(0.0, -self._tokens * SECONDS_PER_REQUEST)


def pause_after(errors: int, asked: float, jitter: float) -> float:
    """
    Return the seconds to wait after so many errors in a row.

    :param asked: the seconds that Kernel asked to wait.
    :param jitter: a number from 0 to 1.
    """
    return max(asked, min(MAX_PAUSE, 2.0 ** min(errors, 20)) * (0.5 + jitter / 2))


def is_too_soon(at: float, last: float | None) -> bool:
    """Tell whether an event at a moment would come too soon after the last one, if any; both in seconds of any clock."""
    return last is not None and at < last + SPACING


def report(ended: Iterable[Invocation]) -> dict[str, Any]:
    """Return what an event says of invocations that have ended; never their payload, output or reason."""
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
    """Return by what moment an invocation is placed: its start or, if Kernel does not tell that, its end."""
    start = parse_timestamp(invocation.started_at)
    return parse_timestamp(invocation.finished_at) if start is None else start


def _is_moment(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
