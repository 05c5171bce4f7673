"""A full account: all tasks wait deferred and succeed, with few refused submissions."""

from __future__ import annotations

import json
from collections import defaultdict
from itertools import pairwise

import pytest

from airflow_provider_kernel.testing import KernelEmulator
from dev.airflow_stack import AirflowStack
from dev.wait import wait_until
from tests.faulty import FaultyProxy
from tests.system.conftest import APPS
from tests.system.dags.full_account import TASKS

pytestmark = pytest.mark.system

LIMIT = 4


def test_twenty_tasks_succeed_with_a_limit_of_four(airflow: AirflowStack) -> None:
    with KernelEmulator(APPS, max_concurrency=LIMIT) as emulator, FaultyProxy(emulator.base_url) as proxy:
        airflow.api.add_kernel_connection("kernel_full", proxy.base_url, emulator.api_key)
        wait_until(lambda: "once_full_account" in airflow.api.dag_ids(), 400, "the Dag is read")
        run = airflow.api.trigger("once_full_account")
        wait_until(run.finished, 900, "all tasks have ended")

    assert run.state() == "success"
    tasks = [run.task("invoke", map_index) for map_index in range(TASKS)]
    assert [task.xcom()["task"] for task in tasks] == list(range(TASKS))
    errors = [task.error(number + 1) for task in tasks for number in range(task.details()["try_number"])]
    assert [error for error in errors if error] == []  # an attempt that Airflow itself fails has no error
    assert len(proxy.accepted) == TASKS
    requests = proxy.seen("POST /invocations")
    assert len(requests) > TASKS, "the account was never full"
    assert len(requests) <= 3 * TASKS
    sent_at = defaultdict(list)
    for exchange in requests:
        sent_at[json.loads(json.loads(exchange.body)["payload"])["task"]].append(exchange.at)
    assert len(sent_at) == TASKS
    for asked in sent_at.values():
        assert all(later - earlier >= 9.9 for earlier, later in pairwise(asked))
