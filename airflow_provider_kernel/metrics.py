"""
Airflow's metrics of invocations; a metric that cannot be sent is a warning, and never a task's failure.

Each has the tags ``app`` and ``action``, where the metrics go to something that takes tags and they are known.
"""

from __future__ import annotations

import logging
import re
from typing import Any, Protocol

log = logging.getLogger(__name__)


class Named(Protocol):
    """What knows its app and action: an invocation, or a task."""

    @property
    def app_name(self) -> str | None:
        """Name of the app."""

    @property
    def action_name(self) -> str | None:
        """Name of its action."""


def submitted(of: Named) -> None:
    """Count an invocation that Kernel has accepted: ``kernel.submitted``."""
    _send("incr", "kernel.submitted", of=of)


def ended(of: Named, *, succeeded: bool, seconds: float | None) -> None:
    """
    Count an invocation whose end a task has seen: ``kernel.succeeded`` or ``kernel.failed``.

    :param seconds: for which it was waited: the timer ``kernel.waited``; None where that is not known.
    """
    _send("incr", "kernel.succeeded" if succeeded else "kernel.failed", of=of)
    if seconds is not None:
        # A number is milliseconds to every receiver; what a timedelta is sent as, Airflow 2 decides by an option.
        _send("timing", "kernel.waited", seconds * 1000, of=of)


def reconnected(of: Named, *, in_triggerer: bool = False) -> None:
    """
    Count an event stream that was opened again: ``kernel.reconnects``.

    :param in_triggerer: whether this is a triggerer's process.
    """
    _send("incr", "kernel.reconnects", of=of, in_triggerer=in_triggerer)


def _send(kind: str, name: str, *values: Any, of: Named, in_triggerer: bool = False) -> None:
    try:
        tags = {"app": of.app_name, "action": of.action_name}
        # In a tag, these have a meaning to receivers.
        known = {key: re.sub(r"[|:,=\s]", "_", value) for key, value in tags.items() if value}
        getattr(_stats(in_triggerer), kind)(name, *values, tags=known)
    except Exception as error:  # noqa: BLE001 - whatever a configured backend raises
        log.warning("The metric %s could not be sent: %s", name, type(error).__name__)


def _stats(in_triggerer: bool) -> Any:
    if in_triggerer:
        try:  # from 3.2 on, Airflow's own processes set up another one than those of tasks
            from airflow.observability.stats import Stats

            return Stats
        except ImportError:
            pass
    from airflow.providers.common.compat.sdk import Stats as TaskStats

    return TaskStats
