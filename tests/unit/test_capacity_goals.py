"""The goals of the capacity queue, in simulations of many tasks: few submissions, little idle capacity."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from airflow_provider_kernel.api.errors import KernelApiError
from airflow_provider_kernel.capacity.queue import DEADLINE_GRACE, MIN_PAUSE, MIN_POLL_PAUSE
from tests.unit.account import DEFERRING, RESUMING, Account

pytestmark = pytest.mark.no_airflow

SEEDS = pytest.mark.parametrize("seed", range(4))


def simulated(seed: int, **world: Any) -> Account:
    """Return an account after all tasks have ended, and check the rules that hold in every simulation."""
    account = Account(seed, **world).run()
    assert len(account.accepted) + len(account.timed_out) == account.tasks
    assert "timeout" in world or not account.timed_out
    assert account.submissions_per_task <= 3
    assert account.shortest_pause >= MIN_PAUSE
    for polls in account.polls:
        assert all(later - at >= MIN_POLL_PAUSE for at, later in itertools.pairwise(polls))
    return account


@SEEDS
@pytest.mark.parametrize("triggerers", [1, 2])
@pytest.mark.parametrize(("tasks", "limit", "tasks_per_second"), [(20, 4, 4), (200, 10, 2), (200, 10, 40)])
def test_all_tasks_are_accepted_with_few_submissions_and_little_idle_capacity(
    seed, triggerers, tasks, limit, tasks_per_second
):
    account = simulated(
        seed, tasks=tasks, limit=limit, triggerers=triggerers, tasks_per_second=tasks_per_second
    )
    assert account.use() >= 0.8 * limit


@SEEDS
def test_submissions_within_a_second_stay_below_the_limit(seed):
    account = simulated(seed, tasks=200, limit=10)
    assert account.most_submissions_within(1.0) <= 10


@SEEDS
def test_longest_waiting_task_is_accepted_first_when_it_was_refused_again(seed):
    account = simulated(seed, tasks=100, limit=10, outsider=(15, 60))
    # Tasks are accepted in the order of their first refusals, except for those in flight at the same time.
    order = sorted(account.first_refusals, key=account.first_refusals.__getitem__)
    places = {task: place for place, task in enumerate(account.accepted_tasks)}
    first_place = min(places[task] for task in order)
    for place, task in enumerate(order, first_place):
        assert abs(places[task] - place) <= 10, task


@SEEDS
@pytest.mark.parametrize("triggerers", [1, 2])
def test_tasks_use_the_capacity_that_another_user_leaves(seed, triggerers):
    account = simulated(seed, tasks=200, limit=10, triggerers=triggerers, outsider=(15, 60))
    assert account.use() >= 0.8 * 10
    assert account.use("ours") < 9


@SEEDS
def test_estimate_rises_when_the_plan_is_raised(seed):
    account = simulated(seed, tasks=400, limit=10, limits=((300, 30),))
    assert account.queues[0].limit in (30, 31)  # 31 while it probes
    assert account.use(since=700) >= 0.8 * 30


@SEEDS
def test_estimate_falls_when_the_plan_is_lowered(seed):
    account = simulated(seed, tasks=200, limit=30, limits=((150, 6),))
    assert account.queues[0].limit in (6, 7)
    assert account.use(since=300) >= 0.8 * 6


@SEEDS
@pytest.mark.parametrize("requests_per_minute", [30, 60])
def test_rate_limit_does_not_lower_the_throughput_as_a_full_account_would(seed, requests_per_minute):
    account = simulated(seed, tasks=200, limit=1000, requests_per_minute=requests_per_minute)
    assert account.end <= 3 * 200 * 60 / requests_per_minute


@SEEDS
@pytest.mark.parametrize(("limit", "triggerers"), [(50, 1), (20, 1), (20, 2)])
def test_capacity_of_the_app_is_used_when_its_limit_is_below_the_accounts(seed, limit, triggerers):
    account = simulated(seed, tasks=200, limit=limit, triggerers=triggerers, app_limit=10, outsider=(10, 60))
    assert account.use("ours") >= 0.8 * 10


@SEEDS
@pytest.mark.parametrize(("triggerers", "resuming"), [(1, (10, 40)), (2, (5, 20))])
def test_few_submissions_are_refused_when_workers_start_slowly(seed, triggerers, resuming):
    simulated(seed, tasks=200, limit=10, triggerers=triggerers, resuming=resuming)


@SEEDS
def test_long_actions_need_few_submissions_and_polls(seed):
    account = simulated(seed, tasks=200, limit=10, seconds=1800)
    assert account.use() >= 0.95 * 10
    assert len(account.polls[0]) <= 4 * account.end / 60


@SEEDS
@pytest.mark.parametrize("triggerers", [1, 2])
@pytest.mark.parametrize("tasks_per_second", [2, 4, 40])
def test_short_actions_end_within_little_more_than_the_limit_allows(seed, triggerers, tasks_per_second):
    account = simulated(
        seed, tasks=200, limit=10, seconds=5, triggerers=triggerers, tasks_per_second=tasks_per_second
    )
    assert account.end + 5 <= 1.6 * 200 * 5 / 10
    assert len(account.polls[0]) <= 25 * account.end / 60


@SEEDS
def test_all_tasks_are_accepted_when_kernel_refuses_polls(seed):
    account = simulated(
        seed, tasks=100, limit=10, failing=lambda second: KernelApiError("no", status_code=403)
    )
    assert account.use() >= 0.5 * 10


@SEEDS
def test_all_tasks_are_accepted_when_polls_fail_for_five_minutes(seed):
    simulated(
        seed,
        tasks=100,
        limit=10,
        failing=lambda second: KernelApiError("no", status_code=503) if 100 < second < 400 else None,
    )


@SEEDS
def test_expired_waiters_end_soon_after_their_deadline(seed):
    account = simulated(seed, tasks=200, limit=10, timeout=300)
    assert 40 <= len(account.accepted) < 200
    for task, at in account.timed_out:
        # A waiter released at its deadline may be refused and join once more.
        late = at - (account.first_refusals[task] + 300)
        assert 0 <= late <= DEADLINE_GRACE + RESUMING[1] + DEFERRING[1]
