"""The minimum length of a deferral, so that Airflow does not fail the task."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any

#: Seconds in which the scheduler learns that a process has ended: 1.8 s at most in 900 measurements.
MARGIN = 3.0


async def wait_for_min_deferral(ti: Any, deferred_at: float | None) -> None:
    """
    Wait until the deferral is long enough for the trigger to fire.

    Airflow 3.0 to 3.3 ends the process that deferred a task up to 5 s late (``[workers] min_heartbeat_interval``).
    If the task is queued again before that, the scheduler may take the end of the process for the end of the task, and
    fail the task (apache/airflow#66374). Airflow 2 ends the process at once.

    :param ti: the trigger's task instance; None in ``dag.test()``, which needs no wait.
    :param deferred_at: the time at which the task was deferred, in seconds since 1970; None if it is unknown.
    """
    if ti is not None and deferred_at is not None:
        minimum = min_deferral_seconds()
        await asyncio.sleep(max(0.0, min(deferred_at + minimum - time.time(), minimum)))


def min_deferral_seconds() -> float:
    """Return the minimum length of a deferral in seconds; 0 if this Airflow and its executors need none."""
    import airflow
    from airflow.providers.common.compat.sdk import conf
    from packaging.version import Version

    executors = re.split("[;,]", conf.get("core", "executor", fallback=""))
    # tests/benchmarks/bench_short_deferrals.py measures which executors and versions need a minimum.
    is_safe = all(name.strip().endswith("CeleryExecutor") for name in executors)
    if is_safe or Version(airflow.__version__).release >= (3, 4):
        return 0.0
    interval: float = conf.getfloat("workers", "min_heartbeat_interval", fallback=0.0)
    return interval + MARGIN
