"""What a task instance of Airflow says of itself."""

from __future__ import annotations

from typing import Any


def attempt_id(ti: Any) -> str:
    """Return the id of the attempt of ``ti``, a task instance; empty on Airflow 2, which has none."""
    return str(getattr(ti, "id", ""))


def task_identity(ti: Any) -> dict[str, Any]:
    """Return the names by which Airflow knows ``ti``, a task instance, over all attempts."""
    return {name: getattr(ti, name, None) for name in ("dag_id", "run_id", "task_id", "map_index")}


def canceller_identity(ti: Any) -> dict[str, Any]:
    """Return what the output of an invocation says about ``ti``, the task instance that cancels it."""
    return {"ti_id": attempt_id(ti), **task_identity(ti)}
