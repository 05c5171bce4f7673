"""The shortest deferral that Airflow survives."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any

#: Seconds within which the scheduler has heard of a process that has ended: 1.8 at most, of 900.
MARGIN = 3.0


async def hold(ti: Any, deferred_at: float | None) -> None:
    """
    Wait until the deferral is old enough for its trigger to fire.

    Airflow 3.0 to 3.3 ends the process that deferred a task up to 5 s later (``[workers] min_heartbeat_interval``).
    If the task has been queued again by then, the scheduler may take that end for the end of the task, and fail it
    (apache/airflow#66374). Airflow 2 ends the process at once.

    :param ti: the trigger's task instance; None in ``dag.test()``, which needs no wait.
    :param deferred_at: when the task was deferred, in seconds since 1970; None if it is not known.
    """
    if ti is not None and deferred_at is not None:
        shortest = shortest_deferral()
        await asyncio.sleep(max(0.0, min(deferred_at + shortest - time.time(), shortest)))


def shortest_deferral() -> float:
    """Return how long a deferral lasts at least, in seconds, on this Airflow and with its executors."""
    import airflow
    from airflow.providers.common.compat.sdk import conf
    from packaging.version import Version

    executors = re.split("[;,]", conf.get("core", "executor", fallback=""))
    # Measured, as all of this is, by tests/benchmarks/bench_short_deferrals.py.
    is_safe = all(name.strip().endswith("CeleryExecutor") for name in executors)
    if is_safe or Version(airflow.__version__).release >= (3, 4):
        return 0.0
    interval: float = conf.getfloat("workers", "min_heartbeat_interval", fallback=0.0)
    return interval + MARGIN
