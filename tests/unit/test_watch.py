"""The decisions of a watcher: which ends it reports, with random starts and ends, shifting pages, restarts and clocks."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_kernel.api.endpoints import Page
from airflow_provider_kernel.api.errors import KernelApiError, KernelTransportError
from airflow_provider_kernel.api.models import Invocation
from airflow_provider_kernel.api.timestamps import format_timestamp
from airflow_provider_kernel.watch import ends
from airflow_provider_kernel.watch.ends import (
    LOOKBACK,
    OVERLAP,
    SECOND,
    Cursor,
    InvocationFilter,
    PagedScan,
    RateLimiter,
    Scan,
    common_filters,
    event_payload,
    is_too_soon,
    retry_pause,
)

pytestmark = pytest.mark.no_airflow

T0 = 1_790_000_000
SHOP = InvocationFilter("shop", status="any")
CHANCE = st.integers(0, 2**32).map(random.Random)
# Built once: building a strategy for each draw takes longer than the tested code.
START = st.floats(-3600, 7200).map(lambda s: round(s, 3))
STATUS = st.sampled_from(["succeeded", "failed"])
APP = st.sampled_from(["shop", "shop", "other"])


@dataclass
class Simulated:
    """An invocation of the simulated Kernel. Times are seconds since 1970."""

    id: str
    start: float
    end: float
    status: str = "succeeded"
    app_name: str = "shop"

    @cached_property
    def started_at(self) -> str:
        return format_timestamp(int(self.start * SECOND))

    def listed(self, now: float) -> Invocation:
        is_over = self.end <= now
        return Invocation(
            self.id,
            self.status if is_over else "running",
            "price",
            self.app_name,
            "v1",
            started_at=self.started_at,
            finished_at=format_timestamp(int(self.end * SECOND)) if is_over else None,
            payload="{}",
            raw_output="{}" if is_over else None,
        )


@dataclass
class Kernel:
    """A simulated Kernel that lists invocations; each page takes time."""

    invocations: list[Simulated]
    now: float = T0
    page_seconds: float = 1.0
    largest_page: int = 100
    pages: int = field(default=0)
    since_is_exclusive: bool = False

    def page(self, since: str, limit: int, offset: int) -> tuple[list[Invocation], int | None]:
        self.now += self.page_seconds
        self.pages += 1
        newest_first = sorted((i for i in self.invocations if i.start <= self.now), key=lambda i: -i.start)
        found = [
            i
            for i in newest_first
            if i.started_at > since or (i.started_at == since and not self.since_is_exclusive)
        ]
        limit = min(limit, self.largest_page)
        following = offset + limit if offset + limit < len(found) else None
        return [i.listed(self.now) for i in found[offset : offset + limit]], following

    def scan(self, since: int) -> Scan:
        paged = PagedScan(since)
        while paged.offset is not None:
            paged.add(Page(*self.page(**paged.params())))
        return paged.scan()


@st.composite
def invocations(draw: st.DrawFn) -> list[Simulated]:
    """Generate invocations that start from an hour before the first scan to two hours after it."""
    count = draw(st.integers(1, 40))
    return [
        Simulated(f"i{number}", T0 + draw(START) + number / 1e6, 0, draw(STATUS), draw(APP))
        for number in range(count)
    ]


def with_ends(ones: list[Simulated], lengths: random.Random) -> list[Simulated]:
    for one in ones:
        one.end = one.start + lengths.choice([0.0, 0.5, 5, 60, 600, 3600]) * lengths.random()
    return ones


def last_end(ones: list[Simulated]) -> float:
    return max(one.end for one in ones)


def reported_by(kernel: Kernel, until: float, pauses: random.Random, skew: float = 0.0) -> list[str]:
    cursor, reported = Cursor(), []
    while kernel.now < until:
        scan = kernel.scan(cursor.scan_since(kernel.now + skew))
        reported += [one.id for one in cursor.take_new(scan, SHOP, kernel.now + skew)]
        assert not cursor.overdue
        cursor = Cursor.from_state(json.loads(json.dumps(cursor.state())))
        kernel.now += pauses.choice([1, 60, 60, 600, 4000])
    return reported


@given(invocations(), CHANCE, st.integers(1, 7), st.floats(0, 30), st.floats(-1200, 1200))
@settings(max_examples=300, deadline=None)
def test_cursor_reports_each_end_once_when_invocations_start_between_two_pages(
    ones, chance, page, page_seconds, skew
):
    kernel = Kernel(with_ends(ones, chance), page_seconds=page_seconds, largest_page=page)
    # A first scan on a copy of Kernel gives the time at which the watcher's first scan ends.
    first = Kernel(kernel.invocations, page_seconds=page_seconds, largest_page=page)
    first.scan(Cursor().scan_since(T0 + skew))

    reported = Counter(reported_by(kernel, last_end(ones) + 9000, chance, skew))

    assert set(reported.values()) <= {1}
    shop = [one for one in ones if one.app_name == "shop"]
    assert {one.id for one in shop if one.end > first.now} <= set(reported)
    assert set(reported) <= {one.id for one in shop if one.end > T0}


@given(invocations(), CHANCE, st.integers(1, 7))
@settings(max_examples=300, deadline=None)
def test_cursor_misses_no_end_and_repeats_only_unsaved_ends_when_the_triggerer_restarts(ones, chance, page):
    kernel = Kernel(with_ends(ones, chance), page_seconds=0.01, largest_page=page)
    cursor = Cursor()
    cursor.take_new(kernel.scan(cursor.scan_since(kernel.now)), SHOP, kernel.now)
    saved, first_scan_at = json.dumps(cursor.state()), kernel.now
    stored, may_repeat = Counter[str](), set[str]()
    end = last_end(ones) + 9000
    while kernel.now < end:
        events = [
            one.id for one in cursor.take_new(kernel.scan(cursor.scan_since(kernel.now)), SHOP, kernel.now)
        ]
        fate = (
            "goes on"
            if kernel.now > end - 8000
            else chance.choice(["goes on", "dies at once", "dies when stored"])
        )
        if fate != "dies at once":
            stored.update(events)
        if fate == "dies when stored":
            may_repeat |= set(events)
        if fate == "goes on":
            saved = json.dumps(cursor.state())
        cursor = Cursor.from_state(json.loads(saved))
        kernel.now += chance.choice([1, 60, 60, 600, 4000, 90_000])
    stored.update(
        one.id for one in cursor.take_new(kernel.scan(cursor.scan_since(kernel.now)), SHOP, kernel.now)
    )

    assert {one.id for one in ones if one.app_name == "shop" and one.end > first_scan_at} <= set(stored)
    assert {one for one in stored if stored[one] > 1} <= may_repeat


@given(invocations(), CHANCE)
@settings(max_examples=200, deadline=None)
def test_cursor_reports_no_end_again_when_it_merges_the_cursor_of_another_triggerer(ones, chance):
    kernel = Kernel(with_ends(ones, chance), page_seconds=0.01)
    awake, frozen = Cursor(), Cursor()
    scan = kernel.scan(awake.scan_since(kernel.now))
    for cursor in (awake, frozen):
        cursor.take_new(scan, SHOP, kernel.now)
    reported = Counter[str]()
    for _ in range(6):
        kernel.now += chance.choice([1, 60, 600, 4000])
        reported.update(
            one.id for one in awake.take_new(kernel.scan(awake.scan_since(kernel.now)), SHOP, kernel.now)
        )

    scan = kernel.scan(frozen.scan_since(kernel.now))
    assert frozen.count_new(scan, SHOP) or not reported
    frozen.merge(Cursor.from_state(json.loads(json.dumps(awake.state()))))
    reported.update(one.id for one in frozen.take_new(scan, SHOP, kernel.now))

    assert set(reported.values()) <= {1}
    kernel.now = last_end(ones) + 9000
    reported.update(
        one.id for one in frozen.take_new(kernel.scan(frozen.scan_since(kernel.now)), SHOP, kernel.now)
    )
    assert set(reported.values()) <= {1}
    assert {o.id for o in ones if o.app_name == "shop" and o.end > T0 + 1} <= set(reported)


@given(st.lists(st.integers(0, 3), max_size=30), st.integers(1, 5), st.integers(0, 20))
def test_scan_contains_every_earlier_invocation_when_pages_shift(arrivals, page, there):
    kernel = Kernel(
        [Simulated(f"i{n}", T0 - n - 1, T0) for n in range(there)], page_seconds=0.0, largest_page=page
    )
    before = {one.id for one in kernel.invocations}
    paged = PagedScan(0)
    coming = iter(arrivals)
    while paged.offset is not None:
        paged.add(Page(*kernel.page(**paged.params())))
        for n in range(next(coming, 0)):
            kernel.now += 1
            kernel.invocations.append(Simulated(f"new{kernel.now}-{n}", kernel.now, kernel.now))
    found = [one.id for one in paged.scan().invocations]

    assert before <= set(found)
    assert len(found) == len(set(found))


def new_ids(cursor: Cursor, *ones: Simulated, now: float, since: int | None = None) -> list[str]:
    scan = Scan(cursor.scan_since(now) if since is None else since, tuple(one.listed(now) for one in ones))
    return [one.id for one in cursor.take_new(scan, SHOP, now)]


def test_first_scan_goes_back_over_the_maximum_duration_and_queue_time():
    assert Cursor().scan_since(T0) == (T0 - 3600 - 1800) * SECOND


def test_scan_goes_back_to_the_oldest_running_invocation_and_at_least_five_minutes():
    cursor = Cursor()
    new_ids(cursor, Simulated("a", T0 - 1000, T0 + 900), Simulated("b", T0 - 10, T0 - 5), now=T0)
    assert cursor.scan_since(T0) == (T0 - 1000) * SECOND

    new_ids(cursor, Simulated("a", T0 - 1000, T0 + 900), Simulated("b", T0 - 10, T0 - 5), now=T0 + 1000)
    assert cursor.scan_since(T0) == (T0 - 10) * SECOND - OVERLAP


def test_scan_moves_forward_when_only_another_app_starts_invocations():
    cursor = Cursor()
    new_ids(
        cursor, Simulated("shop", T0 - 5000, T0 - 4000), Simulated("b", T0, T0, app_name="other"), now=T0 + 1
    )
    assert cursor.scan_since(T0) == T0 * SECOND - OVERLAP


def test_scan_skips_nothing_when_a_start_is_in_the_future():
    cursor = Cursor()
    new_ids(cursor, Simulated("a", T0 + 99_999, T0 + 99_999), now=T0)
    assert cursor.scan_since(T0) <= T0 * SECOND - OVERLAP


def test_cursor_reports_no_end_again_when_the_clock_is_set_back():
    cursor = Cursor()
    ones = [Simulated("a", T0 - 10, T0 + 1), Simulated("b", T0 - 9, T0 + 2)]
    new_ids(cursor, *ones, now=T0)
    assert new_ids(cursor, *ones, now=T0 + 10) == ["a", "b"]
    before = cursor.scan_since(T0)
    assert new_ids(cursor, *ones, now=T0 + 10, since=before) == []
    assert new_ids(cursor, *ones, now=T0 - 4000 + 4010, since=before) == []
    assert cursor.scan_since(T0 - 4000) == before


def test_cursor_names_an_overdue_invocation_once():
    cursor = Cursor()
    endless = Simulated("endless", T0 - 60, T0 + 10**6)
    later = T0 + LOOKBACK / SECOND + 1
    new_ids(cursor, endless, now=T0)
    assert not cursor.overdue

    assert new_ids(cursor, endless, now=later) == []
    assert cursor.overdue == ["endless"]
    new_ids(cursor, endless, now=later + 60)
    assert not cursor.overdue


def test_scan_lists_the_oldest_running_invocation_when_since_is_exclusive():
    kernel = Kernel([Simulated("a", T0 - 1000, T0 + 30), Simulated("b", T0, T0)], since_is_exclusive=True)
    cursor, reported = Cursor(), []
    for now in (T0, T0 + 60):
        kernel.now = now
        reported += cursor.take_new(kernel.scan(cursor.scan_since(now)), SHOP, now)
    assert [one.id for one in reported] == ["a"]


@given(invocations(), CHANCE, st.integers(1, 7))
@settings(max_examples=200, deadline=None)
def test_take_new_returns_at_most_max_ends_and_the_others_with_the_next_calls(ones, chance, most):
    kernel = Kernel(with_ends(ones, chance), page_seconds=0.0)
    cursor, stored = Cursor(), Counter[str]()
    cursor.take_new(kernel.scan(cursor.scan_since(T0)), SHOP, T0)
    kernel.now = last_end(ones) + chance.choice([60, 90_000])
    scan = kernel.scan(cursor.scan_since(kernel.now))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ends, "MAX_ENDS", most)
        while True:
            events = cursor.take_new(scan, SHOP, kernel.now)
            assert len(events) <= most
            assert events == sorted(events, key=lambda one: one.finished_at)
            stored.update(one.id for one in events)
            left = cursor.count_new(scan, SHOP)
            assert not left or len(events) == most
            if not left:
                break
            cursor = Cursor.from_state(json.loads(json.dumps(cursor.state())))
            if chance.random() < 0.5:
                scan = kernel.scan(cursor.scan_since(kernel.now))

    assert stored == {one.id: 1 for one in ones if one.app_name == "shop" and one.end > T0}


def test_state_does_not_grow_when_many_ends_are_unreported():
    cursor = Cursor()
    new_ids(cursor, now=T0)
    week = [Simulated(f"i{n:05}", T0 + 60 + n, T0 + 61 + n) for n in range(2500)]
    now = T0 + 9000
    sizes, seen_counts = [], []
    for _ in range(4):
        sizes.append(len(new_ids(cursor, *week, now=now)))
        seen_counts.append(len(cursor.state()["seen"]))
    assert sizes == [1000, 1000, 500, 0]
    assert max(seen_counts) <= OVERLAP // SECOND + 1


def test_scan_moves_forward_after_the_maximum_duration_when_kernel_no_longer_lists_a_running_invocation():
    cursor = Cursor()
    new_ids(cursor, Simulated("gone", T0 - 60, T0 + 10**6), now=T0)
    new_ids(cursor, Simulated("new", T0 + 1000, T0 + 1001), now=T0 + 2000)
    assert cursor.scan_since(T0) == (T0 - 60) * SECOND

    later = T0 + LOOKBACK / SECOND
    new_ids(cursor, Simulated("new", later - 10, later - 5), now=later)
    assert cursor.scan_since(T0) == int(later - 10) * SECOND - OVERLAP
    assert not cursor.overdue


def test_cursor_does_not_report_an_unknown_status_as_an_end():
    cursor = Cursor()
    odd = Invocation("odd", "paused", app_name="shop", started_at=format_timestamp(T0 * SECOND))
    for now in (T0 + 1, T0 + 61):
        assert cursor.take_new(Scan(cursor.scan_since(now), (odd,)), SHOP, now) == []
    assert new_ids(cursor, Simulated("odd", T0, T0 + 70), now=T0 + 80) == ["odd"]


def test_cursor_reports_an_invocation_without_times_once():
    cursor = Cursor()
    bare = Invocation("bare", "succeeded", app_name="shop")
    assert new_ids(cursor, now=T0) == []
    for now, expected in ((T0 + 60, ["bare"]), (T0 + 120, [])):
        found = cursor.take_new(Scan(cursor.scan_since(now), (bare,)), SHOP, now)
        assert [one.id for one in found] == expected
        cursor = Cursor.from_state(json.loads(json.dumps(cursor.state())))


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (InvocationFilter("shop"), {"succeeded"}),
        (InvocationFilter("shop", status="failed"), {"failed"}),
        (InvocationFilter("shop", status="any"), {"succeeded", "failed"}),
        (InvocationFilter("shop", "price", "v1"), {"succeeded"}),
        (InvocationFilter("shop", "other"), set()),
        (InvocationFilter("shop", version="v2"), set()),
        (InvocationFilter("elsewhere"), set()),
    ],
)
def test_cursor_reports_only_ends_that_match_the_filter(wanted, expected):
    cursor = Cursor()
    cursor.take_new(Scan(T0 * SECOND, ()), wanted, T0)
    ones = [
        Simulated("succeeded", T0, T0 + 1),
        Simulated("failed", T0, T0 + 1, "failed"),
        Simulated("o", T0, T0 + 1, app_name="other"),
    ]
    scan = Scan(T0 * SECOND - OVERLAP, tuple(one.listed(T0 + 5) for one in ones))
    assert cursor.count_new(scan, wanted) == len(expected)
    assert {one.id for one in cursor.take_new(scan, wanted, T0 + 5)} == expected


def test_state_and_event_contain_no_payload_output_or_reason():
    secret = Invocation(
        "i1", "failed", "price", "shop", "v1", "2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z",
        "reason s3cret", payload='"s3cret"', raw_output="s3cret",
    )  # fmt: skip
    paged = PagedScan(0)
    paged.add(Page([secret], None))
    cursor = Cursor()
    cursor.take_new(paged.scan(), SHOP, T0)

    assert "s3cret" not in str(paged.scan()) + json.dumps(cursor.state()) + json.dumps(
        event_payload([secret])
    )
    assert event_payload([secret]) == {
        "invocations": [
            {
                "invocation_id": "i1",
                "app_name": "shop",
                "action_name": "price",
                "version": "v1",
                "status": "failed",
                "started_at": "2026-01-01T00:00:00Z",
                "finished_at": "2026-01-01T00:00:01Z",
            }
        ]
    }


def test_state_holds_no_more_than_a_scan_may_list():
    cursor = Cursor()
    for minute in range(600):
        now = T0 + 60 * minute
        scan = Scan(
            cursor.scan_since(now), tuple(Simulated(f"{minute}-{n}", now, now).listed(now) for n in range(10))
        )
        cursor.take_new(scan, SHOP, now)
    assert len(cursor.state()["seen"]) <= 10 * (OVERLAP // SECOND // 60 + 1)


@pytest.mark.parametrize(
    "state",
    [
        [], "x", {}, {"format": 2, "since": 1, "seen": {}, "open": {}}, {"format": 1, "since": "1", "seen": {}, "open": {}},
        {"format": 1, "since": 1, "seen": [], "open": {}}, {"format": 1, "since": 1, "seen": {}, "open": {"a": None}},
        {"format": 1, "since": 1, "seen": {"a": "b"}, "open": {}}, {"format": 1, "since": True, "seen": {}, "open": {}},
    ],
)  # fmt: skip
def test_from_state_raises_for_anything_but_a_cursor(state):
    with pytest.raises(ValueError, match="The state is not a cursor"):
        Cursor.from_state(state)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ([InvocationFilter("shop")], {"app_name": "shop"}),
        ([InvocationFilter("shop", "price")], {"app_name": "shop", "action_name": "price"}),
        ([InvocationFilter("shop", "price"), InvocationFilter("shop", "stock")], {"app_name": "shop"}),
        ([InvocationFilter("shop", "price"), InvocationFilter("shop")], {"app_name": "shop"}),
        ([InvocationFilter("shop", "price"), InvocationFilter("bank", "price")], {"action_name": "price"}),
        ([InvocationFilter("shop"), InvocationFilter("bank")], {}),
    ],
)
def test_common_filters_keep_only_values_that_all_watchers_share(wanted, expected):
    assert common_filters(wanted) == expected


def test_page_size_follows_the_bytes_of_the_pages():
    paged = PagedScan(0)
    sizes = [paged.limit]
    for size in (0, 0, 0, 3_000_000, 5_000_000, 5_000_000):
        paged.add(Page([Invocation("a", "running")], 1, size=size))
        sizes.append(paged.limit)
    assert sizes == [25, 50, 50, 50, 50, 25, 12]


@pytest.mark.parametrize(
    ("error", "sizes"),
    [
        (KernelApiError("no", status_code=502), [12, 6, 3, 1, 1]),
        (KernelTransportError("timed out"), [12, 6, 3, 1, 1]),
        (ValueError(), [12, 6, 3, 1, 1]),
        *((KernelApiError("no", status_code=status), [25] * 5) for status in (401, 403, 429)),
    ],
    ids=str,
)
def test_page_size_halves_after_an_error_that_the_size_may_have_caused(error, sizes):
    paged, asked = PagedScan(0), []
    for _ in range(5):
        paged.on_error(error)
        asked.append(paged.limit)
    assert asked == sizes
    paged.add(Page([], 1))
    assert paged.limit == min(ends.LARGEST_PAGE, 2 * sizes[-1])


def test_page_size_carries_over_to_the_next_scan():
    paged = PagedScan(0)
    paged.add(Page([], None, size=5_000_000))
    assert PagedScan(0, paged.limit).limit == 12


@given(st.lists(st.floats(0, 100), min_size=1, max_size=200))
def test_rate_limiter_allows_ten_requests_per_minute_after_a_burst(pauses):
    limiter, now, sent = RateLimiter(), 0.0, []
    for pause in pauses:
        now += pause
        now += limiter.delay(now)
        sent.append(now)
    for first in sent:
        assert sum(first <= at <= first + 60 for at in sent) <= 20 + 1
    assert len(sent) <= ends.REQUEST_BURST + 1 + sent[-1] / ends.SECONDS_PER_REQUEST


def test_is_too_soon_within_ten_seconds_after_the_last_event():
    assert not is_too_soon(5, None)
    assert is_too_soon(14.999, 5)
    assert not is_too_soon(15, 5)


def test_retry_pause_grows_to_a_minute_and_is_never_shorter_than_retry_after():
    assert [retry_pause(n, 0, 1) for n in (1, 2, 5, 6, 99)] == [2, 4, 32, 60, 60]
    assert retry_pause(1, 0, 0) == 1
    assert retry_pause(1, 900, 0) == 900


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"app_name": ""}, "app_name is empty"),
        ({"app_name": None}, "app_name must be a string"),
        ({"app_name": "shop", "action_name": " "}, "action_name is empty"),
        ({"app_name": "shop", "version": "latest"}, "leave version out"),
        ({"app_name": "{{ var.value.app }}"}, "app_name is a template"),
        ({"app_name": "shop", "status": "running"}, "'succeeded', 'failed' or 'any'"),
        ({"app_name": "shop", "status": ["failed"]}, "'succeeded', 'failed' or 'any'"),
    ],
)
def test_filter_raises_with_advice_when_an_argument_is_invalid(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        InvocationFilter(**arguments)
