"""
Metrics of invocations, sent as Airflow's own. A metric that cannot be sent is a warning, and does not fail the task.

Each has the tags ``app`` and ``action``, if they are known and the metrics backend supports tags.
"""

from __future__ import annotations

import logging
import re
from typing import Any, Protocol

log = logging.getLogger(__name__)


class Named(Protocol):
    """An object with the names of an app and an action: an invocation, or the operator's options."""

    @property
    def app_name(self) -> str | None:
        """Name of the app."""

    @property
    def action_name(self) -> str | None:
        """Name of the action."""


def submitted(of: Named) -> None:
    """Count an invocation that Kernel has accepted: ``kernel.submitted``."""
    _send("incr", "kernel.submitted", of=of)


def ended(of: Named, *, succeeded: bool, seconds: float | None) -> None:
    """
    Count an invocation whose end a task has seen: ``kernel.succeeded`` or ``kernel.failed``.

    :param of: the invocation.
    :param succeeded: whether it succeeded.
    :param seconds: time that the task waited, in seconds, for the timer ``kernel.waited``; None if it is unknown.
    """
    _send("incr", "kernel.succeeded" if succeeded else "kernel.failed", of=of)
    if seconds is not None:
        # Milliseconds as a number. The unit of a timedelta depends on an option of Airflow 2.
        _send("timing", "kernel.waited", seconds * 1000, of=of)


def reconnected(of: Named, *, in_triggerer: bool = False) -> None:
    """
    Count an event stream that was opened again: ``kernel.reconnects``.

    :param of: the invocation.
    :param in_triggerer: whether this process is a triggerer.
    """
    _send("incr", "kernel.reconnects", of=of, in_triggerer=in_triggerer)


def _send(kind: str, name: str, *values: Any, of: Named, in_triggerer: bool = False) -> None:
    try:
        tags = {"app": of.app_name, "action": of.action_name}
        # These characters have a meaning in StatsD's and other formats.
        known = {key: re.sub(r"[|:,=\s]", "_", value) for key, value in tags.items() if value}
        getattr(_stats(in_triggerer), kind)(name, *values, tags=known)
    except Exception as error:  # noqa: BLE001 - a metrics backend may raise anything
        log.warning("The metric %s could not be sent: %s.", name, type(error).__name__)


def _stats(in_triggerer: bool) -> Any:
    if in_triggerer:
        try:  # from Airflow 3.2 on, a triggerer configures another Stats than a task's process
            from airflow.observability.stats import Stats

            return Stats
        except ImportError:
            pass
    from airflow.providers.common.compat.sdk import Stats as TaskStats

    return TaskStats
