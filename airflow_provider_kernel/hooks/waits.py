"""A wait for an invocation as both hooks begin it: what goes wrong is logged, and what happens is counted."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from airflow_provider_kernel import metrics
from airflow_provider_kernel.api.errors import KernelError
from airflow_provider_kernel.lifecycle.wait_machine import WaitMachine


def log_transient_error(log: Any, doing: str, invocation_id: str) -> Callable[[KernelError], None]:
    """Return what logs an error that is waited out."""
    return partial(log.warning, "%s for Kernel invocation %s: %s", doing, invocation_id)


def new_wait(
    invocation_id: str,
    log: Any,
    *,
    deadline: float | None,
    poll_interval: float,
    on_log: Callable[[str], None] | None,
    replayed_before: float | None,
    in_triggerer: bool = False,
) -> WaitMachine:
    """Return a wait that begins now; the arguments are those of :class:`Wait` and of :func:`metrics.reconnected`."""
    return WaitMachine(
        invocation_id,
        time.time(),
        deadline=deadline,
        poll_interval=poll_interval,
        on_log=on_log,
        replayed_before=replayed_before,
        on_transient_error=log_transient_error(log, "Waiting", invocation_id),
        on_reconnect=partial(metrics.reconnected, in_triggerer=in_triggerer),
    )
