"""The rules of the capacity queue, one by one."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_kernel.api.errors import KernelApiError, KernelError, KernelTransportError
from airflow_provider_kernel.capacity import limit as capacity_limit
from airflow_provider_kernel.capacity.limit import MAX_BATCH, PROBE_PAUSE, LimitEstimate
from airflow_provider_kernel.capacity.queue import (
    DEADLINE_GRACE,
    FAILURES_BEFORE_RELEASE,
    MAX_ESTIMATE_AGE,
    MAX_FAILURE_PAUSE,
    MAX_POLL_PAUSE,
    MAX_REFUSAL_AGE,
    MIN_PAUSE,
    MIN_POLL_PAUSE,
    POLL_PAUSE,
    SPREAD,
    CapacityQueue,
    worker_pause,
)

pytestmark = pytest.mark.no_airflow

NOW = 1_800_000_000.0


def answered(status: int, retry_after: float | None = None) -> KernelApiError:
    return KernelApiError("refused", status_code=status, retry_after=retry_after)


def ids(count: int, first: int = 0) -> list[str]:
    return [f"i{number}" for number in range(first, first + count)]


@pytest.fixture
def queue() -> CapacityQueue:
    return CapacityQueue(jitter=lambda: 0.5)


@pytest.fixture
def no_probes(monkeypatch):
    monkeypatch.setattr(capacity_limit, "PROBE_PAUSE", 1e9)


def fill(queue: CapacityQueue, count: int, now: float = NOW) -> list:
    return [queue.join(now, now, deadline=now + 3600 + number) for number in range(count)]


def learn(queue: CapacityQueue, limit: int, now: float = NOW) -> float:
    """Poll with ``limit`` active invocations; return when all waiters may be released and the next poll is due."""
    assert queue.on_listed(ids(limit), now) == []
    assert queue.limit == limit
    return max(now + MIN_PAUSE + SPREAD, queue.next_poll_at())


@given(st.integers(1, 100), st.sampled_from([0.0, 1.0, 30.0, 500.0]), st.floats(0, 1))
def test_worker_pause_is_between_its_minimum_and_maximum(refusals, retry_after, share):
    pause = worker_pause(refusals, retry_after, lambda: share)
    assert pause >= max(MIN_PAUSE, retry_after)
    assert pause <= max(60.0, retry_after + SPREAD)


def test_worker_pause_grows_with_refusals_and_has_jitter():
    assert [worker_pause(n, jitter=lambda: 0.0) for n in (1, 2, 3, 4)] == [10, 20, 30, 30]
    assert [worker_pause(n, jitter=lambda: 1.0) for n in (1, 2, 3, 4)] == [20, 40, 60, 60]
    assert worker_pause(1, 45.0, lambda: 0.5) == 45 + SPREAD / 2


@pytest.mark.parametrize(("retry_after", "seconds"), [(0.0, MIN_PAUSE), (1.0, MIN_PAUSE), (40.0, 40.0)])
def test_waiter_is_not_released_before_its_pause_is_over(queue, retry_after, seconds):
    waiter = queue.join(NOW + 1, NOW, retry_after)
    queue.on_listed(ids(1), NOW + 1)
    assert waiter.not_before >= NOW + seconds
    assert queue.on_listed([], waiter.not_before - 0.01) == []
    assert queue.on_listed([], waiter.not_before) == [waiter]


def test_join_treats_a_refusal_in_the_future_as_now(queue):
    assert queue.join(NOW, NOW + 500).not_before <= NOW + MIN_PAUSE + SPREAD


def test_first_poll_comes_soon_and_sets_the_limit(queue):
    fill(queue, 3)
    assert NOW <= queue.next_poll_at() <= NOW + SPREAD
    learn(queue, 7)


def test_limit_is_at_least_one_when_nothing_is_active(queue):
    fill(queue, 3)
    assert queue.on_listed([], NOW) == []
    assert queue.limit == 1


def test_poll_releases_as_many_waiters_as_places_are_free(queue):
    waiters = fill(queue, 8)
    now = learn(queue, 5)
    assert queue.on_listed(ids(2), now) == waiters[:3]
    assert len(queue) == 5


def test_waiters_are_released_by_deadline_and_without_a_deadline_as_after_a_day(queue):
    never = queue.join(NOW, NOW)
    late = queue.join(NOW, NOW, deadline=NOW + 200)
    early = queue.join(NOW, NOW, deadline=NOW + 100)
    days = queue.join(NOW, NOW, deadline=NOW + 7 * 86_400)
    assert [queue.position(waiter) for waiter in (never, late, early, days)] == [3, 2, 1, 4]
    now = learn(queue, 4)
    assert queue.on_listed([], now) == [early, late, never, days]


def test_waiter_is_not_released_after_it_left(queue):
    first, second = fill(queue, 2)
    now = learn(queue, 2)
    queue.leave(first)
    queue.leave(first)
    assert queue.on_listed([], now) == [second]
    queue.leave(second)
    assert len(queue) == 0


def test_released_waiter_occupies_a_place_until_it_arrives_or_is_late(no_probes, queue):
    waiters = fill(queue, 8)
    now = learn(queue, 4)
    assert queue.on_listed(ids(2), now) == waiters[:2]
    assert queue.on_listed(ids(2), now + 11) == []
    assert (
        queue.on_listed([*ids(1), "new"], now + 15) == waiters[2:3]
    )  # one of two arrived, and another invocation ended
    assert queue.on_listed([*ids(1), "new"], now + 21) == waiters[3:4]  # the other of the two is late


def test_poll_releases_at_most_one_batch(queue):
    waiters = fill(queue, 100)
    now = learn(queue, 90)
    assert queue.on_listed([], now) == waiters[:MAX_BATCH]


def test_limit_rises_to_the_number_of_active_invocations(queue):
    fill(queue, 8)
    now = learn(queue, 2)
    queue.on_listed(ids(6), now)
    assert queue.limit == 6


def test_limit_falls_by_the_refusals_but_not_below_the_active_invocations(queue):
    fill(queue, 20)
    now = learn(queue, 10)
    assert len(queue.on_listed(ids(4), now)) == 6
    fill(queue, 2, now + 5)
    queue.on_listed(ids(4), now + 11)
    assert queue.limit == 8
    fill(queue, 8, now + 15)
    queue.on_listed(ids(5), now + 22)
    assert queue.limit == 5


def listed(limit: int, seconds: float, now: float) -> frozenset[str]:
    """The active invocations of a full account, where one of ``seconds`` begins as another ends."""
    return frozenset(ids(limit, int((now - NOW) * limit / seconds)))


def estimate_of(limit: int, seconds: float) -> LimitEstimate:
    """What is learnt of such an account in 100 seconds."""
    estimate = LimitEstimate()
    for second in range(100):
        estimate.on_listed(listed(limit, seconds, NOW + second), NOW + second)
    return estimate


@pytest.mark.parametrize(("seconds", "count"), [(0.1, 10), (5.0, 8), (16.0, 2), (60.0, 0)])
def test_full_account_has_the_places_that_become_free_until_a_waiter_submits(seconds, count):
    estimate = estimate_of(10, seconds)
    assert estimate.on_listed(listed(10, seconds, NOW + 100), NOW + 100) == count


def test_refusals_of_waiters_that_submit_too_early_do_not_lower_the_limit():
    estimate = estimate_of(10, 5.0)
    active = frozenset(ids(6, 1000))
    released = estimate.on_listed(active, NOW + 100)
    early = released - 4
    assert early > 0
    estimate.on_released(released, NOW + 100)
    for _ in range(early):
        estimate.on_refusal(NOW + 102)
    estimate.on_listed(active, NOW + 103)
    assert estimate.limit == 10
    estimate.on_refusal(NOW + 104)
    estimate.on_listed(active, NOW + 105)
    assert estimate.limit == 9


@pytest.mark.parametrize(("seconds", "pause"), [(5.0, MIN_POLL_PAUSE), (20.0, 5.0), (60.0, POLL_PAUSE)])
def test_polls_come_sooner_while_invocations_are_short(no_probes, queue, seconds, pause):
    fill(queue, 400)
    now = NOW
    for _ in range(40):
        queue.on_listed(listed(10, seconds, now), now)
        now = queue.next_poll_at()
    queue.on_listed(sorted(listed(10, seconds, now))[:9], now)
    assert queue.next_poll_at() - now == pytest.approx(pause + SPREAD / 2, rel=0.15)


def test_old_refusals_do_not_lower_the_limit(queue):
    fill(queue, 2)
    now = learn(queue, 10)
    for _ in range(5):  # another triggerer ended, and its waiters join here
        queue.join(now, now - MAX_REFUSAL_AGE)
    queue.on_listed(ids(3), now)
    assert queue.limit == 10


def test_probes_grow_while_kernel_accepts_them(queue):
    fill(queue, 50)
    now = learn(queue, 5)
    probes = []
    active = ids(5)
    for _ in range(30):
        released = queue.on_listed(active, now)
        active = [*active, *ids(len(released), first=len(active))]  # all are accepted
        probes += [len(released)] if released else []
        now = queue.next_poll_at()
    assert probes == [1, 2, 4, 8, 16, 19]
    assert queue.limit == 55


def test_refused_probes_become_rare_and_do_not_lower_the_limit(queue):
    fill(queue, 50)
    now = learn(queue, 5)
    probed = []
    while now < NOW + 7200:
        for _ in queue.on_listed(ids(5), now):
            probed.append(now)
            queue.join(now + 5, now + 4, deadline=NOW + 3600)
        now = queue.next_poll_at()
    pauses = [later - at for at, later in itertools.pairwise(probed)]
    assert queue.limit == 5
    assert pauses == sorted(pauses)
    assert probed[0] - NOW >= PROBE_PAUSE
    assert 900 <= pauses[-1] <= 900 + MAX_POLL_PAUSE + SPREAD


def test_limit_is_unknown_after_a_long_time_without_polls(queue):
    fill(queue, 1)
    now = learn(queue, 50)
    assert len(queue.on_listed([], now)) == 1
    fill(queue, 30, now + MAX_ESTIMATE_AGE + 1)
    assert queue.limit is None
    learn(queue, 3, now + MAX_ESTIMATE_AGE + 2)


def test_polls_and_probes_restart_after_a_long_time_without_polls(queue):
    fill(queue, 9)
    now = learn(queue, 3)
    while now < NOW + 7200:  # Kernel refuses the probes, and no place becomes free
        for waiter in queue.on_listed(ids(3), now):
            queue.join(now + 5, now + 4, deadline=waiter.deadline)
        now = queue.next_poll_at()
    for waiter in list(queue._waiters):
        queue.leave(waiter)
    now += MAX_ESTIMATE_AGE + 20
    first, *_ = fill(queue, 9, now)
    assert queue.on_listed([], now + 1) == []
    assert queue.next_poll_at() == now + 1 + POLL_PAUSE + SPREAD / 2
    assert queue.on_listed(["i0"], now + PROBE_PAUSE) == [first]


def test_limit_and_poll_pause_are_kept_when_a_waiter_joins_an_empty_queue_again(queue):
    fill(queue, 1)
    now = learn(queue, 3)
    queue.on_listed(ids(2), now)
    fill(queue, 1, now + 5)
    assert queue.limit == 3
    assert queue.next_poll_at() >= now + POLL_PAUSE


def test_poll_pause_grows_while_no_place_becomes_free(no_probes, queue):
    fill(queue, 5)
    pauses, now = [], learn(queue, 3)
    while now < NOW + 600:
        queue.on_listed(ids(3), now)
        pauses.append(queue.next_poll_at() - now)
        now = queue.next_poll_at()
    assert pauses[0] == POLL_PAUSE + SPREAD / 2
    assert pauses == sorted(pauses)
    assert pauses[-1] == MAX_POLL_PAUSE + SPREAD / 2
    queue.on_listed(ids(2), now)
    assert queue.next_poll_at() == now + POLL_PAUSE + SPREAD / 2


def test_poll_pause_grows_with_the_number_of_active_invocations(queue):
    fill(queue, 1)
    queue.on_listed(ids(300), NOW)
    assert queue.next_poll_at() >= NOW + 30


def test_queue_does_not_poll_while_no_waiter_may_be_released(queue):
    queue.join(NOW, NOW, retry_after=600)
    queue.on_listed(ids(3), NOW)
    assert queue.next_poll_at() >= NOW + 600


@pytest.mark.parametrize("status", [401, 403, 404])
def test_refused_poll_releases_one_waiter_and_the_pause_grows_when_it_is_refused(queue, status):
    first, second, third, *_ = fill(queue, 9)
    assert queue.on_failed(answered(status), NOW) == []  # no waiter may be released yet
    now = NOW + 20
    assert queue.on_failed(answered(status), now) == [first]
    assert queue.next_poll_at() == now + POLL_PAUSE + SPREAD / 2
    assert queue.on_failed(answered(status), now + 11) == [second]
    fill(queue, 1, now + 15)
    assert queue.on_failed(answered(status), now + 22) == [third]
    assert queue.next_poll_at() == now + 22 + 2 * POLL_PAUSE + SPREAD / 2


@pytest.mark.parametrize(
    "error", [answered(500), answered(503), answered(429), KernelTransportError("reset")]
)
def test_failed_poll_releases_no_waiter_at_first_while_kernel_may_be_down(queue, error):
    first, *_ = fill(queue, 9)
    now, pauses = NOW + 20, []
    for _ in range(FAILURES_BEFORE_RELEASE - 1):
        assert queue.on_failed(error, now) == []
        pauses.append(queue.next_poll_at() - now)
        now = queue.next_poll_at()
    assert queue.on_failed(error, now) == [first]
    assert pauses == [20 + SPREAD / 2, 40 + SPREAD / 2]
    assert queue.next_poll_at() == now + MAX_FAILURE_PAUSE + SPREAD / 2


def test_poll_pause_honours_retry_after(queue):
    fill(queue, 1)
    queue.on_failed(answered(429, retry_after=300), NOW + 20)
    assert queue.next_poll_at() >= NOW + 320


def test_failures_restart_from_zero_after_a_successful_poll(queue):
    fill(queue, 9)
    now = learn(queue, 3)
    for _ in range(FAILURES_BEFORE_RELEASE - 1):
        queue.on_failed(answered(503), now)
    queue.on_listed(ids(3), now)
    assert queue.on_failed(answered(503), now) == []


def test_waiter_expires_with_the_first_poll_after_its_deadline(no_probes, queue):
    waiter, other = queue.join(NOW, NOW, deadline=NOW + 60), queue.join(NOW, NOW, deadline=NOW + 60)
    queue.on_listed(ids(3), NOW)
    queue.on_listed(ids(3), NOW + 55)
    assert queue.expired(NOW + 60) == []
    assert queue.on_listed(ids(2), NOW + 66) == [waiter]
    assert queue.expired(NOW + 66) == [other]
    assert len(queue) == 0


def test_waiter_expires_after_the_grace_period_without_a_poll(queue):
    waiter = queue.join(NOW, NOW, deadline=NOW + 60)
    queue.on_failed(answered(429, retry_after=3000), NOW)
    assert queue.wake_at() == NOW + 60 + DEADLINE_GRACE
    assert queue.expired(NOW + 60 + DEADLINE_GRACE - 0.1) == []
    assert queue.expired(queue.wake_at()) == [waiter]


@given(st.data())
def test_queue_never_loses_doubles_or_releases_a_waiter_early(data):
    queue, now, waiting = CapacityQueue(), NOW, set()
    for _ in range(data.draw(st.integers(1, 30))):
        now += data.draw(st.floats(0, 60))
        match data.draw(st.sampled_from(["join", "leave", "listed", "failed", "expired"])):
            case "join":
                deadline = data.draw(st.none() | st.floats(now, now + 100))
                waiting.add(queue.join(now, now - data.draw(st.floats(-5, 100)), 0.0, deadline))
                continue
            case "leave":
                gone = {waiting.pop()} if waiting else set()
                for waiter in gone:
                    queue.leave(waiter)
                waiting |= gone
            case "listed":
                gone = queue.on_listed(ids(data.draw(st.integers(0, 12))), now)
                assert all(waiter.not_before <= now for waiter in gone)
            case "failed":
                errors: list[KernelError] = [answered(403), answered(503), KernelTransportError("reset")]
                gone = queue.on_failed(data.draw(st.sampled_from(errors)), now)
                assert all(waiter.not_before <= now for waiter in gone)
                assert len(gone) <= 1
            case "expired":
                gone = queue.expired(now)
                assert all(waiter.deadline is not None and waiter.deadline <= now for waiter in gone)
        assert len(set(gone)) == len(gone)
        assert set(gone) <= waiting
        waiting -= set(gone)
        assert len(queue) == len(waiting)
        if waiting:
            assert queue.wake_at() < float("inf")
