"""
200 mapped invocations of 5 s at an account that takes 10: what they cost with a pool and without. Run by hand::

    python -m tests.benchmarks.bench_fan_out
    python -m tests.benchmarks.bench_fan_out --pools 0 10 15 20 --triggerers=2

Airflow has LocalExecutor. Goals: 1.25 x the time that the limit allows with a pool, 1.5 x without one. The first is not reached
on two slow processors (1.46): a slot of a pool is held from the queueing of a task until its result is stored, two seconds
longer than the invocation of 5 s, and the tasks use 170 to 230 s of processor time, of 200 s that there are in the ideal time.
"""

from __future__ import annotations

import argparse
import sys

from airflow_provider_kernel.testing import KernelEmulator
from dev.airflow_stack import AirflowStack
from dev.postgres import Postgres
from dev.processes import REPOSITORY, RunFolder
from tests.benchmarks.fan_out import APP, add_arguments, carry_out, set_pool, table, write_dag


def main() -> int:
    """Run the Dag once for each pool, print what it took, and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    parser.add_argument(
        "--pools", type=int, nargs="+", default=[0, 10, 15, 20], help="sizes of the pool; 0: none"
    )
    parser.add_argument("--triggerers", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--parallelism", type=int, default=16, help="of Airflow; default: %(default)s")
    parser.add_argument(
        "--min-heartbeat-interval", type=float, default=5, help="of Airflow; default: %(default)s"
    )
    options = parser.parse_args()
    rows = {}
    with (
        RunFolder(REPOSITORY / ".run" / "fan-out") as folder,
        KernelEmulator([APP], max_concurrency=options.limit) as emulator,
        Postgres(folder.path / "postgres") as postgres,
        AirflowStack(
            folder.path / "airflow",
            [write_dag(folder.path / "dags", options)],
            env={
                "AIRFLOW_CONN_KERNEL_DEFAULT": emulator.connection_json,
                "AIRFLOW__CORE__PARALLELISM": str(options.parallelism),
                "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": str(options.min_heartbeat_interval),
            },
            database_url=postgres.url,
            triggerers=options.triggerers,
        ) as stack,
    ):
        for slots in options.pools:
            if slots:
                set_pool(stack, slots)
            name = f"pool of {slots}" if slots else "no pool"
            rows[name] = carry_out(stack, emulator, options, "fan_out_in_pool" if slots else "fan_out")
            print(table(rows), end="\n\n", flush=True)
    return 0 if all(row.is_right for row in rows.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
