"""
Measures many tasks at a full account, with a real Airflow and no pool. Run it by hand::

    python tests/benchmarks/bench_capacity.py --tasks 200 --limit 10 [--triggerers 2]

200 tasks with a limit of 10 take half an hour. The benchmark prints how often a task submitted, how much of the limit
was in use, and what failed. A proxy counts the submissions and the polls; the emulator lists when the invocations ran.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections import Counter
from datetime import datetime
from typing import Any

from airflow_provider_kernel.testing import KernelEmulator
from dev.airflow_stack import AirflowStack
from dev.postgres import Postgres
from dev.processes import REPOSITORY, RunFolder
from dev.wait import wait_until
from tests.faulty import Exchange, FaultyProxy
from tests.listed import invocations_of

APP = REPOSITORY / "tests/integration/apps/app.py"
DAG = """
from airflow.providers.common.compat.sdk import DAG

from airflow_provider_kernel.operators.kernel import KernelInvokeOperator

with DAG("crowd", schedule=None, max_active_tasks={tasks}):
    KernelInvokeOperator.partial(task_id="invoke", app_name="tests", action_name="sleep").expand(
        payload=[{{"seconds": {seconds}, "task": task}} for task in range({tasks})]
    )
"""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--tasks", type=int, default=20)
    parser.add_argument(
        "--limit", type=int, default=4, help="number of active invocations that the account allows"
    )
    parser.add_argument("--seconds", type=float, default=60, help="duration of an invocation")
    parser.add_argument("--triggerers", type=int, default=1)
    parser.add_argument(
        "--parallelism", type=int, default=8, help="number of tasks that Airflow runs at a time"
    )
    return parser.parse_args()


def task_of(exchange: Exchange) -> int:
    number: int = json.loads(exchange.json["payload"])["task"]
    return number


def share_in_use(invocations: list[dict[str, Any]], limit: int, begin: float, end: float) -> float:
    """Return the share of the limit that was in use between two times."""

    def within(timestamp: str) -> float:
        return min(max(datetime.fromisoformat(timestamp).timestamp(), begin), end)

    used = sum(within(one["finished_at"]) - within(one["started_at"]) for one in invocations)
    return used / (limit * (end - begin))


def report(
    options: argparse.Namespace, proxy: FaultyProxy, emulator: KernelEmulator, states: Counter[Any]
) -> None:
    submissions = proxy.seen("POST /invocations")
    tries = Counter(map(task_of, submissions))
    accepted = [one for one in submissions if one.answered_status == 202]
    refused = [one for one in submissions if one.answered_status == 429]
    polls = [one.at for one in proxy.seen("GET /invocations") if "status=queued" in one.path]
    pauses = []
    for task in tries:
        own = [one for one in submissions if task_of(one) == task]
        pauses += [later.at - one.at for one, later in itertools.pairwise(own)]
    print(f"states of the tasks:   {dict(states)}")
    print(
        f"submissions per task:  {len(submissions) / options.tasks:.2f} ({len(accepted)} accepted, "
        f"{len(refused)} refused, maximum of one task {max(tries.values())})"
    )
    if refused:
        begin, end = refused[0].at, accepted[-1].at
        share = share_in_use(invocations_of(emulator), options.limit, begin, end)
        print(
            f"of the limit in use:   {share:.0%}, in the {end - begin:.0f} s from the first refusal to the last acceptance"
        )
        print(f"polls of the account:  {60 * len(polls) / (end - begin):.1f} a minute")
    if pauses:
        print(f"minimum time between two submissions of a task: {min(pauses):.1f} s")


def main() -> None:
    options = arguments()
    with RunFolder(REPOSITORY / ".run" / "bench") as folder:
        dags = folder.path / "dags"
        dags.mkdir()
        (dags / "crowd.py").write_text(DAG.format(**vars(options)))
        with (
            KernelEmulator([APP], max_concurrency=options.limit) as emulator,
            FaultyProxy(emulator.base_url) as proxy,
            Postgres(folder.path / "postgres") as postgres,
            AirflowStack(
                folder.path / "airflow",
                [dags],
                env={
                    "AIRFLOW_CONN_KERNEL_DEFAULT": proxy.connection_json(),
                    "AIRFLOW__CORE__PARALLELISM": str(options.parallelism),
                },
                database_url=postgres.url,
                triggerers=options.triggerers,
            ) as airflow,
        ):
            wait_until(lambda: "crowd" in airflow.api.dag_ids(), 90, "the Dag is read")
            run = airflow.api.trigger("crowd")
            began = time.monotonic()
            rounds = options.tasks / options.limit
            try:
                wait_until(run.finished, 600 + rounds * (options.seconds + 60), "the Dag has ended", 5.0)
            finally:
                path = f"{run.path}/taskInstances"
                states: Counter[Any] = Counter()
                for offset in range(0, options.tasks, 100):
                    page = airflow.api.call("GET", path, limit=100, offset=offset)["task_instances"]
                    states.update(task["state"] for task in page)
                print(f"{options.tasks} tasks, a limit of {options.limit}: {time.monotonic() - began:.0f} s")
                report(options, proxy, emulator, states)


if __name__ == "__main__":
    main()
