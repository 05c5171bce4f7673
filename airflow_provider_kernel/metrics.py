"""
Airflow's metrics of invocations; a metric that cannot be sent is a warning, and never a task's failure.

Each has the tags ``app`` and ``action``, where the metrics go to something that takes tags and they are known.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from airflow_provider_kernel.api.invocation import Invocation

log = logging.getLogger(__name__)


def submitted(app_name: str, action_name: str) -> None:
    """Count an invocation that Kernel has accepted: ``kernel.submitted``."""
    _send("incr", "kernel.submitted", tags={"app": app_name, "action": action_name})


def ended(succeeded: bool, seconds: float | None, app_name: str | None, action_name: str | None) -> None:
    """
    Count an invocation whose end a task has seen, ``kernel.succeeded`` or ``kernel.failed``.

    :param seconds: for which it was waited: the timer ``kernel.waited``; None where that is not known.
    """
    tags = {"app": app_name, "action": action_name}
    _send("incr", "kernel.succeeded" if succeeded else "kernel.failed", tags=tags)
    if seconds is not None:
        _send("timing", "kernel.waited", timedelta(seconds=seconds), tags=tags)


def reconnected(invocation: Invocation, *, in_triggerer: bool = False) -> None:
    """
    Count an event stream that was opened again: ``kernel.reconnects``.

    :param in_triggerer: whether this is a triggerer's process.
    """
    tags = {"app": invocation.app_name, "action": invocation.action_name}
    _send("incr", "kernel.reconnects", tags=tags, in_triggerer=in_triggerer)


def _send(
    kind: str, name: str, *values: Any, tags: Mapping[str, str | None], in_triggerer: bool = False
) -> None:
    try:
        known = {key: value for key, value in tags.items() if value}
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
