"""How Airflow ends a deferral, for operator and sensor."""

from __future__ import annotations

from datetime import timedelta

#: The method that Airflow resumes after it has ended a deferral itself, and its reason for a time-out in Airflow 3 and
#: 2. Which exception it raises, and from where it can be imported, differs from version to version.
FAIL_METHOD, TIMED_OUT = "__fail__", ("Trigger timeout", "Trigger/execution timeout")
#: Seconds after the trigger's deadline at which Airflow itself ends the deferral, as a backstop.
PADDING_SECONDS = 300


def backstop(deadline: float, now: float) -> timedelta:
    """
    Return the ``timeout`` of a deferral, as Airflow takes it.

    :param deadline: of the trigger, in seconds since 1970.
    :param now: the time, in seconds since 1970.
    """
    return timedelta(seconds=max(deadline - now, 0) + PADDING_SECONDS)
