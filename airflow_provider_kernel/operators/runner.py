"""One leg of a try: from its start, or from a deferral, to the next deferral or its end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.providers.common.compat.sdk import AirflowFailException, AirflowTaskTimeout, TaskDeferred

from airflow_provider_kernel import metrics
from airflow_provider_kernel.api.arguments import DEFAULT_ASYNC_TIMEOUT_SECONDS
from airflow_provider_kernel.api.errors import (
    KernelApiError,
    KernelCapacityTimeoutError,
    KernelConfigurationError,
    KernelError,
    KernelInvocationError,
    KernelInvocationTimeoutError,
    KernelInvocationUnknownError,
    KernelLostReplyError,
    is_certainly_not_accepted,
    is_full,
)
from airflow_provider_kernel.api.models import Invocation, InvocationStatus
from airflow_provider_kernel.api.text import sentence
from airflow_provider_kernel.hooks.connection import is_dag_test
from airflow_provider_kernel.lifecycle.log_buffer import app_lines
from airflow_provider_kernel.lifecycle.record import KernelRecordError
from airflow_provider_kernel.lifecycle.wait_result import WaitResult
from airflow_provider_kernel.operators.attempt import KernelSupersededError, TaskAttempt
from airflow_provider_kernel.operators.capacity import CapacityWait
from airflow_provider_kernel.operators.deferral import backstop
from airflow_provider_kernel.operators.interruptible import Interrupted, Interruptible
from airflow_provider_kernel.operators.result import (
    record_result_metadata,
    return_without_waiting,
    xcom_value,
)
from airflow_provider_kernel.operators.submission import Submission
from airflow_provider_kernel.triggers.kernel import KernelInvocationTrigger

try:
    from airflow.sdk.exceptions import AirflowTaskTerminated
except ImportError:  # Airflow 2
    from airflow.exceptions import AirflowTaskTerminated  # type: ignore[no-redef]

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_kernel.api.endpoints import Cancellation
    from airflow_provider_kernel.operators.kernel import KernelInvokeOperator

#: Seconds for which an invocation is waited for beyond its own ``async_timeout_seconds``, unless ``timeout`` is
#: given: whether Kernel counts the time in its queue is unknown.
GRACE_SECONDS = 600

RETRY = "A retry of the task runs the action anew."
RETRY_TAKES_UP = "A retry of the task takes the invocation up."
NO_RETRY_UNCERTAIN = "The task is not retried, which might run the action a second time."
NO_RETRY_REFUSED = "The task is not retried, for Kernel would refuse again."


class InvocationRunner:
    """
    What :class:`~airflow_provider_kernel.operators.kernel.KernelInvokeOperator` does in one process.

    :param task: the operator, its templates rendered.
    :param context: Airflow's.
    :param interruptible: by which ``on_kill`` ends the waits.
    """

    def __init__(self, task: KernelInvokeOperator, context: Context, interruptible: Interruptible) -> None:
        self.task = task
        self.context = context
        self.hook = task.hook
        self.log = task.log
        self.attempt = TaskAttempt(
            context, task.durable, retry_may_be_vetoed=getattr(task, "retry_policy", None) is not None
        )
        self._interruptible = interruptible
        self._capacity = CapacityWait(task, self.attempt, interruptible)
        self._submission = Submission(
            self.hook,
            self.attempt,
            partial(task.request, context),
            interruptible,
            task.metadata_field,
            task.on_lost_reply,
            task._request_is_deterministic,
            task.wait_for_completion,
        )

    def is_resumed_by_new_attempt(self, ti_id: str | None = None) -> bool:
        """
        Tell whether Airflow resumes a new try where an earlier one was deferred, as it does after a clear.

        :param ti_id: the try that was deferred; None where Airflow has dropped that.
        """
        record = self.attempt.record
        return any(id not in (None, self.attempt.id) for id in (ti_id, record and record.ti_id))

    @contextmanager
    def running(self) -> Iterator[None]:
        """
        See to the invocation, however the leg ends.

        :raises AirflowFailException: a retry cannot help, or might run the action a second time.
        """
        try:
            with self._handle_exit():
                yield
        except (KernelLostReplyError, KernelConfigurationError, KernelRecordError, KernelApiError) as error:
            if isinstance(error, KernelApiError) and not error.is_refusal:
                raise
            if isinstance(error, KernelLostReplyError):
                hint = f" {NO_RETRY_UNCERTAIN}"
            elif self._submission.invocation_id and self.attempt.will_retry:
                raise  # a retry takes it up, by a connection that was mended meanwhile
            else:
                hint = f" {NO_RETRY_REFUSED}" if isinstance(error, KernelApiError) else ""
            raise AirflowFailException(f"{sentence(str(error))}{hint}") from error

    @contextmanager
    def _handle_exit(self) -> Iterator[None]:
        try:
            yield
            self._interruptible.check()
        except (Interrupted, AirflowTaskTerminated):
            self._end_killed()
        except TaskDeferred:
            if self._interruptible.is_interrupted:
                self._end_killed()
            raise
        except AirflowTaskTimeout:
            self._interruptible.is_interrupted = True  # a request that is under way is not sent again
            try:
                self._stop("its execution_timeout passed")
            except KernelError as error:
                self.log.error("execution_timeout passed, and what the task started may run on: %s", error)
            raise
        except BaseException as error:
            if not isinstance(error, Exception):
                self._end_interrupted(type(error).__name__)
            raise

    def start(self) -> Any:
        """Take up the invocation of an earlier try, or submit one; go on to its result, or into the deferral."""
        record = self.attempt.record
        is_started = record and record.ended and record.generation == self.attempt.generation
        if record and is_started and not self.task.wait_for_completion:
            return return_without_waiting(self.task, self.context, record.invocation_id)
        try:
            invocation = self._submission.reattach()
        except KernelInvocationUnknownError as error:
            return self._conclude(self._given_up(error))
        return self._carry_on(invocation or self._submitted())

    def complete(self, event: Any, submitted_at: float | None = None) -> Any:
        """Go on where the trigger has fired ``event``."""
        self.attempt.deferred_submitted_at = submitted_at
        self._submission.invocation_id = self.attempt.invocation_id()
        outcome = WaitResult.from_event(event)
        return self._conclude(self._given_up(outcome.error()) if outcome.possibly_running else outcome)

    def has_waited_for_capacity(self, event: dict[str, Any]) -> None:
        """
        Go on where the capacity trigger has fired ``event``.

        :raises KernelError: there is no capacity, and no use in waiting.
        """
        record = self.attempt.record
        if record and record.invocation_id is None:
            self.attempt.forget()  # an intent that was refused, and that Airflow could not take back then
        self._capacity.resume(event)

    def end_deferral(self, error: Exception, *, is_timeout: bool) -> Any:
        """Go on where Airflow has ended the deferral for ``error``."""
        invocation_id = self.attempt.invocation_id()
        if not invocation_id:
            raise KernelCapacityTimeoutError(
                f"Airflow ended the wait for capacity ({error}), so no invocation was started. A retry of the task "
                "waits again."
            ) from error
        self._submission.invocation_id = invocation_id
        kind = KernelInvocationTimeoutError if is_timeout else KernelInvocationUnknownError
        reason = f"Airflow ended the wait for Kernel invocation {invocation_id} ({error})."
        return self._conclude(self._given_up(kind(reason, invocation_id=invocation_id)))

    def _submitted(self, *, replaces_cancelled: bool = False) -> Invocation:
        """Submit; wait for capacity, deferred or here, as long as Kernel has none."""
        while True:
            self._capacity.check()
            try:
                return self._announced(self._submission.submit(replaces_cancelled=replaces_cancelled))
            except KernelError as error:
                if not is_certainly_not_accepted(error):
                    raise
                if not is_full(error):
                    self.log.error("No invocation was started. A retry of the task submits it again.")
                    raise
                self._capacity.wait(error)

    def _carry_on(self, invocation: Invocation) -> Any:
        """Go from the acceptance to the result, or into the deferral."""
        self._interruptible.check()
        self.attempt.announce(invocation.id, self.hook)
        if not self.task.wait_for_completion:
            self.attempt.leave(ended=True)
            return return_without_waiting(self.task, self.context, invocation.id)
        if invocation.is_ended:
            # The reply to a request may lack the output.
            whole = invocation if invocation.raw_output is not None else None
            return self._conclude(WaitResult.of(invocation), whole)
        if self.task.deferrable:
            self._defer(invocation.id)
        return self._conclude(*self._wait(invocation.id))

    def _announced(self, invocation: Invocation) -> Invocation:
        task = self.task
        metrics.submitted(task)
        self.log.info(
            "Kernel accepted invocation %s of %s/%s, version %s.",
            invocation.id,
            task.app_name,
            task.action_name,
            task.version,
        )
        return invocation

    def _deadline(self) -> float:
        """Return when to give up, in seconds since 1970: neither a deferral nor a new try puts it off."""
        timeout = self.task.timeout
        if timeout is None:
            timeout = (self.task.async_timeout_seconds or DEFAULT_ASYNC_TIMEOUT_SECONDS) + GRACE_SECONDS
        return min((self.attempt.submitted_at() or time.time()) + timeout, self._execution_deadline())

    def _execution_deadline(self) -> float:
        return self.attempt.execution_deadline(self.task.execution_timeout)

    def _defer(self, invocation_id: str) -> NoReturn:
        self.attempt.leave(deferred=True)
        if self.attempt.is_killed():
            # Nobody may be told any more: the trigger will not run, and this process may end before a signal.
            self._interruptible.interrupt()
        self._interruptible.check()
        now, deadline = time.time(), self._deadline()
        raise TaskDeferred(
            trigger=KernelInvocationTrigger(
                invocation_id,
                kernel_conn_id=self.task.kernel_conn_id,
                deadline=deadline,
                poll_interval=self.task.poll_interval,
                follow_logs=self.task.follow_logs,
                cancel_on_kill=self.task.cancel_on_kill,
                durable=self.attempt.is_durable,
                deferred_at=now,
            ),
            method_name="execute_complete",
            kwargs={"ti_id": self.attempt.id, "submitted_at": self.attempt.submitted_at()},
            timeout=backstop(deadline, now),
        )

    def _wait(self, invocation_id: str) -> tuple[WaitResult, Invocation | None]:
        """Wait on the worker, as the trigger does in the triggerer."""
        try:
            invocation = self._interruptible.run(
                lambda: self.hook.wait_for_invocation(
                    invocation_id,
                    timeout=self._deadline() - time.time(),
                    poll_interval=self.task.poll_interval,
                    on_log=(lambda record: self.log.info("%s", app_lines(record)))
                    if self.task.follow_logs
                    else None,
                )
            )
        except KernelInvocationError as error:
            return self._given_up(error), None
        return WaitResult.of(invocation), invocation

    def _given_up(self, error: KernelInvocationError) -> WaitResult:
        """Cancel what was waited for too long; leave what could not be learned to the next try, if there is one."""
        if not isinstance(error, KernelInvocationTimeoutError) and self.attempt.will_retry:
            return WaitResult.of_open(error)
        try:
            cancellation: Cancellation | KernelError = self._submission.cancel(
                error.invocation_id, str(error)
            )
        except KernelSupersededError:
            raise
        except KernelError as cancel_error:
            cancellation = cancel_error
        return WaitResult.of_giving_up(error, cancellation)

    def _conclude(self, outcome: WaitResult, invocation: Invocation | None = None) -> Any:
        """Return the output, or raise what the outcome comes to."""
        if outcome.status not in (InvocationStatus.SUCCEEDED, InvocationStatus.FAILED):
            if not outcome.possibly_running:
                metrics.ended(self.task, succeeded=False, seconds=self.attempt.waited())
                raise outcome.error(RETRY)
            if self.attempt.will_retry:
                raise outcome.error(RETRY_TAKES_UP)
            raise AirflowFailException(str(outcome.error(NO_RETRY_UNCERTAIN)))
        if invocation is None:
            find = partial(self.hook.find_invocation, outcome.invocation_id)
            try:
                invocation = self._interruptible.run(find)
            except KernelInvocationUnknownError as error:
                return self._conclude(self._given_up(error))
            if invocation is None or not invocation.is_ended:
                return self._conclude(self._given_up(outcome.unconfirmed_error(invocation)))
        self._interruptible.check()
        if self._was_cancelled_by_another_try(invocation):
            self.log.warning(
                "An earlier try of this task cancelled Kernel invocation %s; submitting another.",
                invocation.id,
            )
            return self._carry_on(self._submitted(replaces_cancelled=True))
        record_result_metadata(self.task, self.context, invocation)
        self.attempt.leave(ended=True)
        succeeded = invocation.status == InvocationStatus.SUCCEEDED
        metrics.ended(self.task, succeeded=succeeded, seconds=self.attempt.waited())
        if not succeeded:
            raise invocation.failure(RETRY)
        self.log.info("Kernel invocation %s succeeded.", invocation.id)
        return xcom_value(self.task, self.context, invocation)

    def _was_cancelled_by_another_try(self, invocation: Invocation) -> bool:
        """Tell of the late cancellation of a worker that was cut off; once, lest two tries chase each other."""
        by = invocation.cancelled_by or {}
        is_ours = by.get("ti_id") not in (None, self.attempt.id) and self.attempt.names.items() <= by.items()
        record = self.attempt.record
        return is_ours and not (record and record.replaces_cancelled) and time.time() < self._deadline()

    def _stop(self, reason: str) -> Cancellation | None:
        """Cancel what this try has to do with, and count that."""
        cancellation = self._submission.stop(reason)
        if cancellation and cancellation.cancelled:
            metrics.ended(self.task, succeeded=False, seconds=self.attempt.waited())
        return cancellation

    def _end_interrupted(self, cause: str) -> None:
        """See to the invocation where ``cause`` ends the process: Ctrl-C, or a library that exits."""
        self._interruptible.is_interrupted = True
        if self.attempt.will_retry and not is_dag_test():
            self.log.warning("%s ended this try; a retry takes its invocation up, if there is one.", cause)
        elif self.task.cancel_on_kill:
            try:
                cancellation = self._stop(f"{cause} ended the task's process")
            except KernelError as error:
                self.log.error("%s ended this try, and what it started may run on: %s", cause, error)
            else:
                self.log.warning(
                    "%s ended this try. %s", cause, cancellation or "No invocation of it was started."
                )
        elif self._submission.invocation_id:
            self.log.warning(
                "%s ended this try. Kernel invocation %s runs on (cancel_on_kill=False), for %d s at most.",
                cause,
                self._submission.invocation_id,
                self.task.async_timeout_seconds or DEFAULT_ASYNC_TIMEOUT_SECONDS,
            )
        elif self._submission.pending:
            self.log.warning(
                "%s ended this try while Kernel was asked for an invocation, which may run on (cancel_on_kill=False).",
                cause,
            )

    def _end_killed(self) -> NoReturn:
        """
        See to the invocation once this process was told to end, and fail.

        That may be a user; or a node that is drained, or Airflow because its API could not be reached: then the
        next try goes on with the invocation.
        """
        by_user = self.attempt.is_killed()
        if not by_user and self.attempt.will_retry:
            raise KernelError(
                "This try was ended from outside; a retry takes its invocation up, if there is one."
            )
        if not self.task.cancel_on_kill and by_user is not False:
            raise KernelError(
                "The task was killed; its invocation, if there is one, runs on (cancel_on_kill=False)."
            )
        try:
            cancellation = self._stop("the task was killed")
        except KernelSupersededError:
            raise
        except KernelError as error:
            raise KernelError(f"The task was killed, but what it started may run on: {error}") from error
        raise KernelError(f"The task was killed. {cancellation or 'No invocation of it was started.'}")
