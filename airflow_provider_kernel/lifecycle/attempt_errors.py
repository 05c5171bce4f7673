"""What an attempt fails with where Kernel's own words do not say it. No I/O."""

from __future__ import annotations

from airflow_provider_kernel.api.errors import (
    KernelCapacityTimeoutError,
    KernelError,
    KernelInvocationUnknownError,
    KernelLostReplyError,
)
from airflow_provider_kernel.api.text import sentence
from airflow_provider_kernel.lifecycle.lookup import LookupResult
from airflow_provider_kernel.lifecycle.record import Record

#: Ids that a message names at most.
MAX_IDS = 5


def no_capacity_error(*, may_wait: bool = True) -> KernelCapacityTimeoutError:
    """Return the error for an account that was full for too long; or at all, if the task may not wait."""
    return KernelCapacityTimeoutError(
        "Kernel's account was full until capacity_timeout or execution_timeout had passed."
        if may_wait
        else "Kernel's account is full, and with capacity_timeout=0 the task does not wait. Without it, it waits for up to a day."
    )


def capacity_wait_ended_error(reason: str) -> KernelCapacityTimeoutError:
    """Return the error for a wait for capacity that Airflow ended for ``reason``."""
    return KernelCapacityTimeoutError(f"Airflow ended the wait for capacity ({reason}).")


def too_late_error() -> KernelCapacityTimeoutError:
    """Return the error for an ``execution_timeout`` that passed before the submission."""
    return KernelCapacityTimeoutError("The task's execution_timeout had passed before the submission.")


def gone_error(invocation_id: str) -> KernelInvocationUnknownError:
    """Return the error for an invocation of an earlier attempt that Kernel does not know."""
    return KernelInvocationUnknownError(
        f"Kernel no longer knows invocation {invocation_id} of an earlier attempt of this task, so its result is "
        "unknown. To run the action again, clear the task.",
        invocation_id=invocation_id,
    )


def lookup_failed_error(intent: Record, error: KernelError) -> KernelLostReplyError:
    """Return the error for a lost reply about which Kernel cannot be asked."""
    return KernelLostReplyError(
        f"An invocation of {intent.app_name}/{intent.action_name} may be running: whether Kernel accepted it could not "
        f"be determined. {sentence(str(error))}"
    )


def lost_reply_error(intent: Record, result: LookupResult) -> KernelLostReplyError:
    """Return the error for a lost reply whose invocation was not found."""
    lost = f"The reply to the submission of {intent.app_name}/{intent.action_name} was lost"
    if not result.ambiguous:
        accepted = "Kernel did not accept it" if result.is_certain else "Kernel most likely did not accept it"
        return KernelLostReplyError(
            f"{lost}, and Kernel lists no invocation of it, at once or later: {accepted}. The task is not retried. To "
            "run the action, clear the task; to have the task submit again by itself, set "
            'on_lost_reply="resubmit".'
        )
    rest = len(result.ambiguous) - MAX_IDS
    ids = ", ".join(result.ambiguous[:MAX_IDS]) + (f" and {rest} more" if rest > 0 else "")
    return KernelLostReplyError(
        f"{lost}. Kernel may have accepted it as one of these invocations: {ids}. Look which of them has this task's "
        "payload and belongs to no other task; cancel that one, or wait for its end. Then clear the task to run the "
        "action again. metadata_field makes the look-up exact."
    )
