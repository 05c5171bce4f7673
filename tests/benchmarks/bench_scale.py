"""
200 mapped invocations on CeleryExecutor, with a worker and a triggerer killed in the middle: ``make scale``.

Airflow has two workers, two schedulers and two triggerers; those that are killed stay dead. The benchmark fails unless each
action ran once, and each task has its output. Run by hand::

    python -m tests.benchmarks.bench_scale
    python -m tests.benchmarks.bench_scale --pool=20 --runs undisturbed killed

The provider ``celery`` needs an environment of its own, in which the benchmark runs itself again.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from importlib.metadata import version

from airflow_provider_kernel.testing import KernelEmulator
from dev.airflow_stack import NOTICE_DEATHS_SOON, AirflowStack
from dev.celery import Redis, celery_settings, check_redis, start_worker
from dev.postgres import Postgres
from dev.processes import REPOSITORY, RunFolder
from dev.versions import Release, environment
from tests.benchmarks.fan_out import APP, add_arguments, carry_out, set_pool, table, write_dag

#: The provider 3.26.0 does not import with celery 5.7.
CELERY = Release(
    "2026-11-27",
    (f"{sys.version_info[0]}.{sys.version_info[1]}",),
    ("apache-airflow-providers-celery==3.26.0", "celery>=5.6,<5.7"),
    suffix="-celery",
)
NOTICE_DEAD_WORKERS_SOON = {
    # What a dead worker had taken and not begun goes to another one.
    "AIRFLOW__CELERY_BROKER_TRANSPORT_OPTIONS__VISIBILITY_TIMEOUT": "60",
}
VICTIMS = ("worker-2", "triggerer-2")


def main() -> int:
    """Run the Dag once for each kind of run, print what it took, and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    parser.add_argument("--pool", type=int, default=0, help="size of the pool; default: none")
    parser.add_argument("--concurrency", type=int, default=12, help="of each worker; default: %(default)s")
    parser.add_argument(
        "--kill-at", type=float, default=0.4, help="share of the invocations; default: %(default)s"
    )
    parser.add_argument("--runs", nargs="+", choices=("undisturbed", "killed"), default=["killed"])
    options = parser.parse_args()
    check_redis()
    target = environment(version("apache-airflow"), CELERY)
    target.make()
    if sys.prefix != str(target.bin.parent):
        program = target.bin / "python"
        os.execv(program, [program, "-m", "tests.benchmarks.bench_scale", *sys.argv[1:]])
    rows = {}
    for kind in options.runs:
        with (
            RunFolder(REPOSITORY / ".run" / "scale") as folder,
            KernelEmulator([APP], max_concurrency=options.limit) as emulator,
            Postgres(folder.path / "postgres") as postgres,
            Redis(folder.path / "redis") as redis,
            AirflowStack(
                folder.path / "airflow",
                [write_dag(folder.path / "dags", options)],
                env={
                    "AIRFLOW_CONN_KERNEL_DEFAULT": emulator.connection_json,
                    **celery_settings(redis, postgres.url),
                    **NOTICE_DEATHS_SOON,
                    **NOTICE_DEAD_WORKERS_SOON,
                },
                database_url=postgres.url,
                triggerers=2,
            ) as stack,
        ):
            stack.start("scheduler", "scheduler-2")
            for name in ("worker-1", "worker-2"):
                start_worker(stack, name, options.concurrency)
            if options.pool:
                set_pool(stack, options.pool)
            dag_id = "fan_out_in_pool" if options.pool else "fan_out"
            look = killer(stack, options.kill_at * options.tasks) if kind == "killed" else lambda ended: None
            rows[kind] = carry_out(stack, emulator, options, dag_id, look)
        print(table(rows), end="\n\n", flush=True)
    return 0 if all(row.is_right for row in rows.values()) else 1


def killer(stack: AirflowStack, at: float) -> Callable[[int], None]:
    """Return a function that kills a worker and a triggerer when ``at`` invocations have ended."""
    alive = list(VICTIMS)
    began = time.monotonic()

    def look(ended: int) -> None:
        while alive and ended >= at:
            name = alive.pop()
            stack.components[name].kill()
            print(
                f"{time.monotonic() - began:.0f} s: {ended} invocations have ended; {name} is killed",
                flush=True,
            )

    return look


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
