"""Which ends a watcher reports: over every order of starts and ends, pages that shift, restarts and clocks."""

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
# Strategies that are made once: a new one for each draw costs more than what is tested.
START = st.floats(-3600, 7200).map(lambda s: round(s, 3))
STATUS = st.sampled_from(["succeeded", "failed"])
APP = st.sampled_from(["shop", "shop", "other"])


@dataclass
class One:
    """An invocation of the simulated Kernel; times in seconds."""

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
    """Lists invocations as Kernel does; the time passes from page to page."""

    invocations: list[One]
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
def lives(draw: st.DrawFn) -> list[One]:
    """Invocations that start from an hour before the first look to two hours after, and last for up to an hour."""
    count = draw(st.integers(1, 40))
    return [
        One(f"i{number}", T0 + draw(START) + number / 1e6, 0, draw(STATUS), draw(APP))
        for number in range(count)
    ]


def with_ends(ones: list[One], lengths: random.Random) -> list[One]:
    for one in ones:
        one.end = one.start + lengths.choice([0.0, 0.5, 5, 60, 600, 3600]) * lengths.random()
    return ones


def last_end(ones: list[One]) -> float:
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


@given(lives(), CHANCE, st.integers(1, 7), st.floats(0, 30), st.floats(-1200, 1200))
@settings(max_examples=300, deadline=None)
def test_each_end_after_the_first_look_is_reported_once_whatever_starts_between_two_pages(
    ones, chance, page, page_seconds, skew
):
    kernel = Kernel(with_ends(ones, chance), page_seconds=page_seconds, largest_page=page)
    # A sweep that never ends is none: more start than a page holds while it is read.
    first = Kernel(kernel.invocations, page_seconds=page_seconds, largest_page=page)
    first.scan(Cursor().scan_since(T0 + skew))

    reported = Counter(reported_by(kernel, last_end(ones) + 9000, chance, skew))

    assert set(reported.values()) <= {1}
    shop = [one for one in ones if one.app_name == "shop"]
    assert {one.id for one in shop if one.end > first.now} <= set(reported)
    assert set(reported) <= {one.id for one in shop if one.end > T0}


@given(lives(), CHANCE, st.integers(1, 7))
@settings(max_examples=300, deadline=None)
def test_after_a_restart_what_was_kept_decides_nothing_is_missed_and_twice_is_only_what_was_not_kept(
    ones, chance, page
):
    kernel = Kernel(with_ends(ones, chance), page_seconds=0.01, largest_page=page)
    cursor = Cursor()
    cursor.take_new(kernel.scan(cursor.scan_since(kernel.now)), SHOP, kernel.now)
    kept, first_look = json.dumps(cursor.state()), kernel.now
    stored, perhaps_twice = Counter[str](), set[str]()
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
            perhaps_twice |= set(events)
        if fate == "goes on":
            kept = json.dumps(cursor.state())
        cursor = Cursor.from_state(json.loads(kept))
        kernel.now += chance.choice([1, 60, 60, 600, 4000, 90_000])
    stored.update(
        one.id for one in cursor.take_new(kernel.scan(cursor.scan_since(kernel.now)), SHOP, kernel.now)
    )

    assert {one.id for one in ones if one.app_name == "shop" and one.end > first_look} <= set(stored)
    assert {one for one in stored if stored[one] > 1} <= perhaps_twice


@given(lives(), CHANCE)
@settings(max_examples=200, deadline=None)
def test_a_triggerer_that_was_frozen_reports_nothing_again_once_it_has_asked(ones, chance):
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
def test_what_is_there_when_a_sweep_begins_is_in_it_though_every_page_shifts(arrivals, page, there):
    kernel = Kernel([One(f"i{n}", T0 - n - 1, T0) for n in range(there)], page_seconds=0.0, largest_page=page)
    before = {one.id for one in kernel.invocations}
    paged = PagedScan(0)
    coming = iter(arrivals)
    while paged.offset is not None:
        paged.add(Page(*kernel.page(**paged.params())))
        for n in range(next(coming, 0)):
            kernel.now += 1
            kernel.invocations.append(One(f"new{kernel.now}-{n}", kernel.now, kernel.now))
    found = [one.id for one in paged.scan().invocations]

    assert before <= set(found)
    assert len(found) == len(set(found))


def looked(cursor: Cursor, *ones: One, now: float, since: int | None = None) -> list[str]:
    scan = Scan(cursor.scan_since(now) if since is None else since, tuple(one.listed(now) for one in ones))
    return [one.id for one in cursor.take_new(scan, SHOP, now)]


def test_the_first_look_goes_back_over_the_longest_run_and_its_time_in_the_queue():
    assert Cursor().scan_since(T0) == (T0 - 3600 - 1800) * SECOND


def test_a_look_goes_back_to_the_oldest_that_runs_and_five_minutes_at_least():
    cursor = Cursor()
    looked(cursor, One("a", T0 - 1000, T0 + 900), One("b", T0 - 10, T0 - 5), now=T0)
    assert cursor.scan_since(T0) == (T0 - 1000) * SECOND

    looked(cursor, One("a", T0 - 1000, T0 + 900), One("b", T0 - 10, T0 - 5), now=T0 + 1000)
    assert cursor.scan_since(T0) == (T0 - 10) * SECOND - OVERLAP


def test_the_newest_start_of_any_app_counts_so_that_a_quiet_app_costs_no_more():
    cursor = Cursor()
    looked(cursor, One("shop", T0 - 5000, T0 - 4000), One("b", T0, T0, app_name="other"), now=T0 + 1)
    assert cursor.scan_since(T0) == T0 * SECOND - OVERLAP


def test_a_start_in_the_future_makes_it_pass_over_nothing():
    cursor = Cursor()
    looked(cursor, One("a", T0 + 99_999, T0 + 99_999), now=T0)
    assert cursor.scan_since(T0) <= T0 * SECOND - OVERLAP


def test_a_clock_set_back_takes_back_nothing():
    cursor = Cursor()
    ones = [One("a", T0 - 10, T0 + 1), One("b", T0 - 9, T0 + 2)]
    looked(cursor, *ones, now=T0)
    assert looked(cursor, *ones, now=T0 + 10) == ["a", "b"]
    before = cursor.scan_since(T0)
    assert looked(cursor, *ones, now=T0 + 10, since=before) == []
    assert looked(cursor, *ones, now=T0 - 4000 + 4010, since=before) == []
    assert cursor.scan_since(T0 - 4000) == before


def test_what_runs_for_longer_than_it_can_is_overdue_with_a_word_and_then_said_no_more_of():
    cursor = Cursor()
    endless = One("endless", T0 - 60, T0 + 10**6)
    later = T0 + LOOKBACK / SECOND + 1
    looked(cursor, endless, now=T0)
    assert not cursor.overdue

    assert looked(cursor, endless, now=later) == []
    assert cursor.overdue == ["endless"]
    looked(cursor, endless, now=later + 60)
    assert not cursor.overdue


def test_the_oldest_that_runs_is_listed_though_kernel_may_leave_out_what_started_at_since_itself():
    kernel = Kernel([One("a", T0 - 1000, T0 + 30), One("b", T0, T0)], since_is_exclusive=True)
    cursor, reported = Cursor(), []
    for now in (T0, T0 + 60):
        kernel.now = now
        reported += cursor.take_new(kernel.scan(cursor.scan_since(now)), SHOP, now)
    assert [one.id for one in reported] == ["a"]


@given(lives(), CHANCE, st.integers(1, 7))
@settings(max_examples=200, deadline=None)
def test_an_event_has_no_more_than_so_many_ends_and_the_rest_comes_with_the_next_of_the_same_or_a_new_sweep(
    ones, chance, most
):
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


def test_what_is_kept_while_ends_are_left_does_not_grow_with_them():
    cursor = Cursor()
    looked(cursor, now=T0)
    week = [One(f"i{n:05}", T0 + 60 + n, T0 + 61 + n) for n in range(2500)]
    now = T0 + 9000
    sizes, kept = [], []
    for _ in range(4):
        sizes.append(len(looked(cursor, *week, now=now)))
        kept.append(len(cursor.state()["seen"]))
    assert sizes == [1000, 1000, 500, 0]
    assert max(kept) <= OVERLAP // SECOND + 1


def test_what_is_no_longer_listed_holds_up_a_look_for_no_longer_than_it_can_run():
    cursor = Cursor()
    looked(cursor, One("gone", T0 - 60, T0 + 10**6), now=T0)
    looked(cursor, One("new", T0 + 1000, T0 + 1001), now=T0 + 2000)
    assert cursor.scan_since(T0) == (T0 - 60) * SECOND

    later = T0 + LOOKBACK / SECOND
    looked(cursor, One("new", later - 10, later - 5), now=later)
    assert cursor.scan_since(T0) == int(later - 10) * SECOND - OVERLAP
    assert not cursor.overdue


def test_an_unknown_status_is_no_end():
    cursor = Cursor()
    odd = Invocation("odd", "paused", app_name="shop", started_at=format_timestamp(T0 * SECOND))
    for now in (T0 + 1, T0 + 61):
        assert cursor.take_new(Scan(cursor.scan_since(now), (odd,)), SHOP, now) == []
    assert looked(cursor, One("odd", T0, T0 + 70), now=T0 + 80) == ["odd"]


def test_an_invocation_without_times_is_reported_once_too():
    cursor = Cursor()
    bare = Invocation("bare", "succeeded", app_name="shop")
    assert looked(cursor, now=T0) == []
    for now, expected in ((T0 + 60, ["bare"]), (T0 + 120, [])):
        found = cursor.take_new(Scan(cursor.scan_since(now), (bare,)), SHOP, now)
        assert [one.id for one in found] == expected
        cursor = Cursor.from_state(json.loads(json.dumps(cursor.state())))


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (InvocationFilter("shop"), {"good"}),
        (InvocationFilter("shop", status="failed"), {"bad"}),
        (InvocationFilter("shop", status="any"), {"good", "bad"}),
        (InvocationFilter("shop", "price", "v1"), {"good"}),
        (InvocationFilter("shop", "other"), set()),
        (InvocationFilter("shop", version="v2"), set()),
        (InvocationFilter("elsewhere"), set()),
    ],
)
def test_only_what_is_wanted_is_reported(wanted, expected):
    cursor = Cursor()
    cursor.take_new(Scan(T0 * SECOND, ()), wanted, T0)
    ones = [One("good", T0, T0 + 1), One("bad", T0, T0 + 1, "failed"), One("o", T0, T0 + 1, app_name="other")]
    scan = Scan(T0 * SECOND - OVERLAP, tuple(one.listed(T0 + 5) for one in ones))
    assert cursor.count_new(scan, wanted) == len(expected)
    assert {one.id for one in cursor.take_new(scan, wanted, T0 + 5)} == expected


def test_what_is_kept_holds_ids_and_moments_and_an_event_neither_payload_nor_output():
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


def test_what_is_kept_is_bounded_by_what_a_look_may_list():
    cursor = Cursor()
    for minute in range(600):
        now = T0 + 60 * minute
        scan = Scan(
            cursor.scan_since(now), tuple(One(f"{minute}-{n}", now, now).listed(now) for n in range(10))
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
def test_what_is_no_cursor_is_not_taken_for_one(state):
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
def test_kernel_is_asked_for_no_more_than_all_of_them_want(wanted, expected):
    assert common_filters(wanted) == expected


def test_pages_are_as_large_as_what_comes_with_them_allows():
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
def test_a_page_that_failed_is_asked_for_again_smaller_unless_its_size_cannot_be_why(error, sizes):
    paged, asked = PagedScan(0), []
    for _ in range(5):
        paged.on_error(error)
        asked.append(paged.limit)
    assert asked == sizes
    paged.add(Page([], 1))
    assert paged.limit == min(ends.LARGEST_PAGE, 2 * sizes[-1])


def test_the_next_sweep_begins_with_pages_as_large_as_the_last_could_take():
    paged = PagedScan(0)
    paged.add(Page([], None, size=5_000_000))
    assert PagedScan(0, paged.limit).limit == 12


@given(st.lists(st.floats(0, 100), min_size=1, max_size=200))
def test_no_more_than_ten_requests_a_minute_after_the_first_ten(pauses):
    limiter, now, sent = RateLimiter(), 0.0, []
    for pause in pauses:
        now += pause
        now += limiter.delay(now)
        sent.append(now)
    for first in sent:
        assert sum(first <= at <= first + 60 for at in sent) <= 20 + 1
    assert len(sent) <= ends.REQUEST_BURST + 1 + sent[-1] / ends.SECONDS_PER_REQUEST


def test_two_events_are_ten_seconds_apart_and_the_first_waits_for_none():
    assert not is_too_soon(5, None)
    assert is_too_soon(14.999, 5)
    assert not is_too_soon(15, 5)


def test_a_pause_grows_to_a_minute_and_is_never_shorter_than_kernel_asks():
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
def test_what_cannot_be_right_is_refused_with_what_to_write(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        InvocationFilter(**arguments)
