"""How a task is deferred, and how Airflow ends the deferral; for operator and sensor."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.providers.common.compat.sdk import TaskDeferred

if TYPE_CHECKING:
    from airflow.triggers.base import BaseTrigger

#: The method that Airflow resumes after it has ended a deferral itself, and its reason for a time-out in Airflow 3 and
#: 2. Which exception it raises, and from where it can be imported, differs from version to version.
FAIL_METHOD, TIMED_OUT = "__fail__", ("Trigger timeout", "Trigger/execution timeout")
#: Seconds after the trigger's deadline at which Airflow itself ends the deferral, as a backstop.
PADDING_SECONDS = 300


def defer(trigger: BaseTrigger, method_name: str, deadline: float, **kwargs: Any) -> NoReturn:
    """
    Defer the task.

    :param trigger: what to wait for.
    :param method_name: the method that Airflow resumes.
    :param deadline: of the trigger, in seconds since 1970. Airflow itself ends the deferral :data:`PADDING_SECONDS` later.
    :param kwargs: further arguments of the method.
    """
    seconds = max(deadline - time.time(), 0) + PADDING_SECONDS
    timeout = timedelta(seconds=seconds)
    raise TaskDeferred(trigger=trigger, method_name=method_name, kwargs=kwargs, timeout=timeout)
