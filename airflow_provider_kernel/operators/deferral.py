"""What Airflow has to be told, and says, of a deferral; for operator and sensor."""

from __future__ import annotations

from datetime import timedelta

#: The method that Airflow resumes where it has ended a deferral, and what 3 and 2 say if that is for its timeout.
#: What it raises then, and where that is to be found, differs from version to version.
FAIL_METHOD, TIMED_OUT = "__fail__", ("Trigger timeout", "Trigger/execution timeout")
#: Seconds by which Airflow's own limit on the deferral lies behind our deadline: it is only the backstop.
PADDING_SECONDS = 300


def backstop(deadline: float, now: float) -> timedelta:
    """Return the limit that Airflow is given for a deferral until ``deadline``; both in seconds since 1970."""
    return timedelta(seconds=max(deadline - now, 0) + PADDING_SECONDS)
