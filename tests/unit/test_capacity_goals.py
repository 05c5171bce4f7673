"""The goals of waiting for room in a full account, in simulations of many tasks: few submissions, little idleness."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from airflow_provider_kernel.api.errors import KernelApiError
from airflow_provider_kernel.capacity.queue import DEADLINE_GRACE, MIN_PAUSE, POLL_PAUSE, SPREAD
from tests.unit.account import DEFERRING, RESUMING, Account

pytestmark = pytest.mark.no_airflow

SEEDS = pytest.mark.parametrize("seed", range(4))


def played(seed: int, **world: Any) -> Account:
    """Return an account after all tasks have had their turn; what holds in every world is checked."""
    account = Account(seed, **world).run()
    assert len(account.accepted) + len(account.timed_out) == account.tasks
    assert "timeout" in world or not account.timed_out
    assert account.submissions_per_task <= 3
    assert account.shortest_pause >= MIN_PAUSE
    for looks in account.looks:
        assert all(later - at >= POLL_PAUSE for at, later in itertools.pairwise(looks))
    return account


@SEEDS
@pytest.mark.parametrize("triggerers", [1, 2])
@pytest.mark.parametrize(("tasks", "limit", "tasks_per_second"), [(20, 4, 4), (200, 10, 2), (200, 10, 40)])
def test_all_get_their_turn_with_few_submissions_and_little_idleness(
    seed, triggerers, tasks, limit, tasks_per_second
):
    account = played(seed, tasks=tasks, limit=limit, triggerers=triggerers, tasks_per_second=tasks_per_second)
    assert account.use() >= 0.8 * limit


@SEEDS
def test_nobody_stampedes(seed):
    account = played(seed, tasks=200, limit=10)
    assert account.most_submissions_within(1.0) <= 10


@SEEDS
def test_what_waits_longest_comes_first_even_if_it_was_refused_again(seed):
    account = played(seed, tasks=100, limit=10, outsider=(15, 60))
    # The order of their first refusals is that in which they were accepted, but for those under way meanwhile.
    order = sorted(account.first_refusals, key=account.first_refusals.__getitem__)
    places = {task: place for place, task in enumerate(account.accepted_tasks)}
    first_place = min(places[task] for task in order)
    for place, task in enumerate(order, first_place):
        assert abs(places[task] - place) <= 10, task


@SEEDS
@pytest.mark.parametrize("triggerers", [1, 2])
def test_an_outsider_takes_a_part_and_the_rest_is_used(seed, triggerers):
    account = played(seed, tasks=200, limit=10, triggerers=triggerers, outsider=(15, 60))
    assert account.use() >= 0.8 * 10
    assert account.use("ours") < 9


@SEEDS
def test_a_raised_plan_is_found_out(seed):
    account = played(seed, tasks=400, limit=10, limits=((300, 30),))
    assert account.queues[0].limit in (30, 31)  # 31 while it probes
    assert account.use(since=700) >= 0.8 * 30


@SEEDS
def test_a_lowered_plan_is_respected(seed):
    account = played(seed, tasks=200, limit=30, limits=((150, 6),))
    assert account.queues[0].limit in (6, 7)
    assert account.use(since=300) >= 0.8 * 6


@SEEDS
@pytest.mark.parametrize("requests_per_minute", [30, 60])
def test_a_mere_rate_limit_is_not_taken_for_a_full_account(seed, requests_per_minute):
    account = played(seed, tasks=200, limit=1000, requests_per_minute=requests_per_minute)
    assert account.end <= 3 * 200 * 60 / requests_per_minute


@SEEDS
@pytest.mark.parametrize(("limit", "triggerers"), [(50, 1), (20, 1), (20, 2)])
def test_a_limit_of_the_app_below_the_accounts_is_used(seed, limit, triggerers):
    account = played(seed, tasks=200, limit=limit, triggerers=triggerers, app_limit=10, outsider=(10, 60))
    assert account.use("ours") >= 0.8 * 10


@SEEDS
@pytest.mark.parametrize(("triggerers", "resuming"), [(1, (10, 40)), (2, (5, 20))])
def test_workers_that_start_slowly_do_not_make_it_submit_in_vain(seed, triggerers, resuming):
    played(seed, tasks=200, limit=10, triggerers=triggerers, resuming=resuming)


@SEEDS
def test_long_actions_cost_few_submissions_and_few_looks(seed):
    account = played(seed, tasks=200, limit=10, seconds=1800)
    assert account.use() >= 0.95 * 10
    assert len(account.looks[0]) <= 4 * account.end / 60


@SEEDS
def test_short_actions_do_not_starve(seed):
    account = played(seed, tasks=200, limit=5, seconds=5, tasks_per_second=10)
    assert account.end <= 200 / 5 * 2 * (POLL_PAUSE + SPREAD)


@SEEDS
def test_where_looking_is_not_allowed_all_get_their_turn_one_by_one(seed):
    account = played(seed, tasks=100, limit=10, failing=lambda second: KernelApiError("no", status_code=403))
    assert account.use() >= 0.5 * 10


@SEEDS
def test_an_outage_of_looking_is_survived(seed):
    played(
        seed,
        tasks=100,
        limit=10,
        failing=lambda second: KernelApiError("no", status_code=503) if 100 < second < 400 else None,
    )


@SEEDS
def test_those_whose_time_is_over_are_told_soon_and_only_they(seed):
    account = played(seed, tasks=200, limit=10, timeout=300)
    assert 40 <= len(account.accepted) < 200
    for task, at in account.timed_out:
        # Some had their last chance, and were refused.
        late = at - (account.first_refusals[task] + 300)
        assert 0 <= late <= DEADLINE_GRACE + RESUMING[1] + DEFERRING[1]
