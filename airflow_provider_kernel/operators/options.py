"""The operator's arguments, rendered, as the runner takes them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from airflow_provider_kernel.api.arguments import DEFAULT_ASYNC_TIMEOUT_SECONDS

OnLostReply = Literal["fail", "resubmit"]
#: Seconds for which the task waits beyond ``async_timeout_seconds``, unless ``timeout`` is given: whether Kernel counts
#: the time in its queue is unknown.
GRACE_SECONDS = 600


@dataclass(frozen=True)
class InvocationOptions:
    """The operator's arguments, rendered, that the runner needs beside the request; see the operator for their meaning."""

    app_name: str
    action_name: str
    kernel_conn_id: str
    wait_for_completion: bool
    deferrable: bool
    defer_after: float
    timeout: float | None
    execution_timeout: timedelta | None
    async_timeout_seconds: int | None
    poll_interval: float
    follow_logs: bool
    metadata_field: str | None
    on_lost_reply: OnLostReply
    capacity_timeout: float
    is_deterministic: bool

    @property
    def max_duration(self) -> int:
        """Seconds after which Kernel ends the invocation."""
        return self.async_timeout_seconds or DEFAULT_ASYNC_TIMEOUT_SECONDS

    @property
    def seconds_to_wait(self) -> float:
        """Seconds from the submission after which the task gives up."""
        if self.timeout is not None:
            return self.timeout
        return self.max_duration + GRACE_SECONDS
