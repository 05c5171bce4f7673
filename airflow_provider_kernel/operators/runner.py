"""
One attempt of :class:`~airflow_provider_kernel.operators.kernel.KernelInvokeOperator`, in one process.

:mod:`~airflow_provider_kernel.lifecycle.attempt` decides what to do next; :class:`InvocationRunner` does it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal, NoReturn

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
    is_full,
    retry_after,
    was_not_sent,
)
from airflow_provider_kernel.api.models import Invocation, InvocationRequest, InvocationStatus
from airflow_provider_kernel.api.payload import payload_digest
from airflow_provider_kernel.api.payload_mark import new_key
from airflow_provider_kernel.api.text import sentence
from airflow_provider_kernel.capacity.queue import MIN_PAUSE, worker_pause
from airflow_provider_kernel.hooks.connection import is_dag_test
from airflow_provider_kernel.lifecycle.attempt import Event, Hint, State, Transition, next_transition
from airflow_provider_kernel.lifecycle.log_buffer import app_lines
from airflow_provider_kernel.lifecycle.lookup import LOOKUP_SECONDS, LookupResult
from airflow_provider_kernel.lifecycle.record import Decision, KernelRecordError, Record, decide
from airflow_provider_kernel.lifecycle.wait_result import WaitResult
from airflow_provider_kernel.links import kernel as link
from airflow_provider_kernel.operators.attempt import KernelSupersededError, TaskAttempt
from airflow_provider_kernel.operators.deferral import backstop
from airflow_provider_kernel.operators.interruptible import Interrupted, Interruptible
from airflow_provider_kernel.operators.result import (
    ResultOptions,
    record_result_metadata,
    return_without_waiting,
    xcom_value,
)
from airflow_provider_kernel.operators.trace import trace_context
from airflow_provider_kernel.triggers.capacity import KernelCapacityTrigger
from airflow_provider_kernel.triggers.kernel import KernelInvocationTrigger

try:
    from airflow.sdk.exceptions import AirflowTaskTerminated
except ImportError:  # Airflow 2
    from airflow.exceptions import AirflowTaskTerminated  # type: ignore[no-redef]

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_kernel.api.endpoints import Cancellation
    from airflow_provider_kernel.hooks.kernel import KernelHook

log = logging.getLogger(__name__)
OnLostReply = Literal["fail", "resubmit"]
#: Seconds for which the task waits beyond ``async_timeout_seconds``, unless ``timeout`` is given: whether Kernel counts
#: the time in its queue is unknown.
GRACE_SECONDS = 600
#: Seconds for which the reply to a submission is waited for after the process was told to end; Airflow kills it after 5.
KILL_GRACE_SECONDS = 2.0
#: Seconds after which the intent is stored again before the request is sent: another attempt may have the task by then.
INTENT_MAX_AGE = 5.0
#: Seconds for which a cancelled invocation of an earlier attempt is waited for.
CANCEL_WAIT_SECONDS = 60.0


@dataclass(frozen=True)
class InvocationOptions:
    """The operator's arguments, rendered, that the runner needs beside the request; see the operator for their meaning."""

    app_name: str
    action_name: str
    kernel_conn_id: str
    wait_for_completion: bool
    deferrable: bool
    timeout: float | None
    execution_timeout: timedelta | None
    async_timeout_seconds: int | None
    poll_interval: float
    follow_logs: bool
    metadata_field: str | None
    on_lost_reply: OnLostReply
    capacity_timeout: float
    is_deterministic: bool


@dataclass(frozen=True)
class Progress:
    """
    Where the attempt is. Immutable: the runner replaces it.

    :param state: of the state machine.
    :param intent: the record of a submission of which it is not known whether Kernel accepted it.
    :param is_own: whether this attempt made that submission.
    :param invocation_id: the invocation that the attempt is responsible for.
    :param invocation: the invocation, as Kernel last described it.
    :param reported: the end that a trigger or a reply without output has reported, before ``GET`` confirms it.
    :param error: the reason for which the attempt gives up.
    :param replaces_cancelled: whether the next submission replaces an invocation that another attempt cancelled.
    :param has_resubmitted: whether the attempt has repeated a submission whose reply was lost.
    :param refusals: how often in a row the account was full.
    :param capacity_deadline: when the wait for capacity ends, in seconds since 1970.
    """

    state: State = State.START
    intent: Record | None = None
    is_own: bool = False
    invocation_id: str | None = None
    invocation: Invocation | None = None
    reported: WaitResult | None = None
    error: BaseException | None = None
    replaces_cancelled: bool = False
    has_resubmitted: bool = False
    refusals: int = 0
    capacity_deadline: float | None = None


class InvocationRunner:
    """
    Runs an attempt of a task through the state machine.

    :param hook: on the task's connection.
    :param context: Airflow's.
    :param options: the operator's arguments.
    :param result_options: what becomes of the output.
    :param attempt: what Airflow knows of the attempt.
    :param interruptible: by which ``on_kill`` ends the waits.
    :param build_request: returns the request, from the rendered arguments; raises what the task is to fail with.
    :param cancels_on_kill: whether the invocation is cancelled if the task is killed; called when that has happened.
    """

    def __init__(
        self,
        hook: KernelHook,
        context: Context,
        options: InvocationOptions,
        result_options: ResultOptions,
        attempt: TaskAttempt,
        interruptible: Interruptible,
        build_request: Callable[[], InvocationRequest],
        cancels_on_kill: Callable[[], bool],
    ) -> None:
        self._hook = hook
        self._context = context
        self._options = options
        self._result_options = result_options
        self._attempt = attempt
        self._interruptible = interruptible
        self._build_request = build_request
        self._cancels_on_kill = cancels_on_kill
        self._progress = Progress()
        #: Whether the link to the invocation is shown.
        self.has_link = False

    # Entry points: execute, and the three ways in which Airflow resumes a deferred task.

    def start(self) -> Any:
        """Reattach to the invocation of an earlier attempt, or submit one; return the result, or defer."""
        return self._run(self._read_record)

    def resume_after_wait(self, event: Any, ti_id: str | None, submitted_at: float | None) -> Any:
        """
        Continue after the trigger has fired.

        :param event: what the trigger fired.
        :param ti_id: the attempt that was deferred; None if Airflow has dropped that.
        :param submitted_at: when the invocation was submitted, as the deferral kept it.
        """
        self._attempt.deferred_submitted_at = submitted_at
        return self._run(lambda: self._resumed(State.WAIT, ti_id) or self._read_wait_result(event))

    def resume_after_capacity_wait(self, event: dict[str, Any], ti_id: str | None) -> Any:
        """
        Continue after the capacity trigger has fired.

        :param event: what the trigger fired.
        :param ti_id: the attempt that was deferred; None if Airflow has dropped that.
        """
        return self._run(
            lambda: self._resumed(State.WAIT_FOR_CAPACITY, ti_id) or self._read_capacity_result(event)
        )

    def resume_after_ended_deferral(self, error: Exception, *, is_timeout: bool) -> Any:
        """
        Continue after Airflow has ended the deferral.

        :param error: what Airflow raised.
        :param is_timeout: whether the deferral timed out; otherwise its trigger failed.
        """
        return self._run(lambda: self._resumed(State.WAIT) or self._read_ended_deferral(error, is_timeout))

    # The loop.

    def _run(self, first: Callable[[], Event]) -> Any:
        action: Callable[[], Any] = first
        while True:
            try:
                result = action()
                if not isinstance(result, Event):  # an end
                    self._interruptible.check()
                    return result[0]
                event = result
            except BaseException as error:
                if self._progress.state is State.STOP:
                    raise
                event = self._event_of(error)
            row = next_transition(self._progress.state, event, will_retry=self._attempt.will_retry)
            self._change(state=row.to)
            if row.to in (State.FAIL, State.FAIL_WITHOUT_RETRY, State.RAISE):
                self._fail(row)
            action = self._actions[row.to]

    @cached_property
    def _actions(self) -> dict[State, Callable[[], Any]]:
        return {
            State.LOOK_UP: self._look_up,
            State.REATTACH: self._reattach,
            State.CANCEL_PREVIOUS: self._cancel_previous,
            State.SUBMIT: self._submit,
            State.WAIT_FOR_CAPACITY: self._wait_for_capacity,
            State.WAIT: self._wait,
            State.CANCEL: self._cancel,
            State.CONCLUDE: self._conclude,
            State.STOP: self._stop,
            State.RETURN_OUTPUT: self._return_output,
            State.RETURN_ID: self._return_id,
        }

    def _change(self, **changes: Any) -> None:
        self._progress = replace(self._progress, **changes)

    def _event_of(self, error: BaseException) -> Event:
        """Return the event for an exception, and keep what the attempt is to fail with."""
        if isinstance(error, TaskDeferred) and not self._interruptible.is_interrupted:
            raise error
        if isinstance(error, (TaskDeferred, Interrupted, AirflowTaskTerminated)):
            return self._killed()
        self._change(error=error)
        if isinstance(error, AirflowTaskTimeout):
            self._interruptible.is_interrupted = True  # a request that is under way is not sent again
            return Event.EXECUTION_TIMEOUT
        if not isinstance(error, Exception):
            return self._process_exits(error)
        if isinstance(error, KernelSupersededError):
            return Event.SUPERSEDED
        is_refused = isinstance(error, (KernelConfigurationError, KernelRecordError))
        if is_refused or (isinstance(error, KernelApiError) and error.is_refusal):
            return Event.REFUSED_WHILE_RUNNING if self._progress.invocation_id else Event.REFUSED
        return Event.ERROR

    def _fail(self, row: Transition) -> NoReturn:
        """Raise the attempt's error, with what a retry will do."""
        error, invocation, hint = self._progress.error, self._progress.invocation, str(row.hint)
        if error is None:
            assert invocation is not None  # noqa: S101 - it has failed
            raise invocation.failure(hint)
        if row.to is State.RAISE:
            raise error
        if row.hint is Hint.REFUSED and not isinstance(error, KernelApiError):
            hint = ""  # the error says what to write instead
        if row.to is State.FAIL_WITHOUT_RETRY:
            raise AirflowFailException(f"{sentence(str(error))} {hint}".rstrip()) from error
        error.args = (f"{sentence(str(error))} {hint}",)
        raise error

    # The actions, in the order of an invocation's life. Each returns what happened.

    def _read_record(self) -> Event:
        record = self._attempt.record
        is_same_generation = record is not None and record.generation == self._attempt.generation
        if record is None or (record.ended and not is_same_generation):
            return Event.NOTHING_RECORDED
        self._change(invocation_id=record.invocation_id)
        if record.ended and not self._options.wait_for_completion:
            return Event.RETURNED_BEFORE
        if record.invocation_id is None:
            log.info("An earlier attempt of this task ended during its submission to Kernel.")
            self._change(intent=record)
            return Event.INTENT_RECORDED
        return Event.INVOCATION_RECORDED

    def _resumed(self, state: State, ti_id: str | None = None) -> Event | None:
        """Go on in ``state``; or start anew, where Airflow resumes a new attempt after a clear."""
        if self._attempt.is_resumed_in_place_of(ti_id):
            return self._read_record()
        self._change(state=state)
        return None

    def _look_up(self) -> Event:
        """Find the invocation of a submission whose reply was lost, in this attempt or an earlier one."""
        intent, is_own = self._progress.intent, self._progress.is_own
        assert intent is not None  # noqa: S101 - the state is reached with one
        log.info("Looking for the invocation among those of the app, for up to %.0f s.", LOOKUP_SECONDS)
        try:
            result = self._interruptible.run(lambda: self._hook.settle(intent))
        except KernelError as error:
            self._change(
                error=KernelLostReplyError(
                    f"An invocation of {intent.app_name}/{intent.action_name} may be running: whether Kernel accepted "
                    f"it could not be found out. {sentence(str(error))}"
                )
            )
            return Event.LOOKUP_FAILED
        self._change(intent=None)
        if result.found:
            if is_own:
                return self._accept(result.found, intent)
            self._change(invocation_id=result.found.id)
            return Event.FOUND
        was_cleared = intent.generation != self._attempt.generation
        failure = (
            _ambiguous_error(intent, result) if result.ambiguous else _not_accepted_error(intent, result)
        )
        if was_cleared and result.ambiguous:
            log.warning("%s The task was cleared since, so the action runs again.", failure)
        can_repeat = self._options.on_lost_reply == "resubmit" and not self._progress.has_resubmitted
        if was_cleared or (can_repeat and not result.ambiguous):
            log.info("Kernel did not accept the submission. The task submits it again.")
            self._change(has_resubmitted=is_own)
            return Event.MAY_SUBMIT_AGAIN
        self._change(error=failure)
        return Event.AMBIGUOUS if result.ambiguous else Event.NOT_ACCEPTED

    def _reattach(self) -> Event:
        """Decide about the invocation of an earlier attempt."""
        record, invocation_id = self._attempt.record, self._progress.invocation_id
        assert record is not None  # noqa: S101 - the state is reached with both
        assert invocation_id is not None  # noqa: S101
        is_retry = record.generation == self._attempt.generation
        # A function that makes the payload is not called to compare, unless a user wants a new run.
        fingerprint = (
            record.fingerprint if is_retry and not self._options.is_deterministic else self._fingerprint
        )
        try:
            found = self._interruptible.run(lambda: self._hook.find_invocation(invocation_id))
        except KernelInvocationUnknownError as error:
            self._change(error=error)
            return Event.UNKNOWN
        decision = decide(record, found, generation=self._attempt.generation, fingerprint=fingerprint)
        log.info(
            "Kernel invocation %s of an earlier attempt of this task is %s: %s.",
            invocation_id,
            found.status if found else "gone",
            decision.value,
        )
        if decision is Decision.FAIL:
            self._change(
                error=KernelInvocationUnknownError(
                    f"Kernel no longer knows invocation {invocation_id} of an earlier attempt of this task, so its "
                    "result is unknown. To run the action again, clear the task.",
                    invocation_id=invocation_id,
                )
            )
            return Event.GONE
        if decision is Decision.CANCEL:
            return Event.OUTDATED
        if decision is Decision.SUBMIT:
            return Event.OVER
        if record.fingerprint != fingerprint:
            log.warning(
                "The arguments changed since the invocation was submitted. The task reattaches to it anyway."
            )
        self._attempt.update_record(
            ti_id=self._attempt.id,
            generation=self._attempt.generation,
            fingerprint=fingerprint,
            invocation_id=invocation_id,
            deferred=False,
        )
        self._change(invocation=found)
        return Event.REATTACHED

    def _cancel_previous(self) -> Event:
        """Cancel the invocation from before a clear, and wait for its end."""
        invocation_id = self._progress.invocation_id
        assert invocation_id is not None  # noqa: S101 - the state is reached with one
        self._cancel_invocation(invocation_id, "its task was cleared")
        try:
            self._interruptible.run(
                lambda: self._hook.wait_for_invocation(invocation_id, timeout=CANCEL_WAIT_SECONDS)
            )
        except KernelInvocationUnknownError as error:
            self._change(error=error)
            return Event.UNKNOWN
        return Event.CANCELLED

    def _submit(self) -> Event:
        """Send the request, once."""
        if time.time() >= self._execution_deadline():
            self._change(error=_no_capacity_error())
            return Event.NO_CAPACITY
        request = self._request
        if isinstance(request, Exception):
            raise request
        self._change(invocation_id=None, invocation=None)
        self._interruptible.check()
        is_sending: list[bool] = []
        try:
            self._hook.get_conn()  # reads the connection, which is not to happen between the intent and the request
            intent = self._new_intent(request)
            self._change(intent=intent, is_own=True)
            self._attempt.write_intent(intent)
        except KernelError as error:
            return self._not_accepted(error)

        def send() -> Invocation:
            if time.time() - intent.submitted_at > INTENT_MAX_AGE:
                self._attempt.write_intent(
                    intent
                )  # the process was frozen: has another attempt the task now?
            is_sending.append(True)
            return self._hook.submit(self._marked(request, intent), self._may_send_again)

        try:
            return self._accept(self._interruptible.run(send, grace=KILL_GRACE_SECONDS), intent)
        except KernelLostReplyError as error:
            log.warning("%s", error)
            return Event.REPLY_LOST
        except Interrupted:
            if not is_sending:
                self._forget_intent()
            raise  # otherwise the reply may still come, or be lost
        except KernelSupersededError:
            if self._progress.invocation_id is None:
                self._forget_intent()
            raise
        except KernelError as error:
            self._forget_intent()
            return self._not_accepted(error)

    def _not_accepted(self, error: KernelError) -> Event:
        """Return what happened if Kernel certainly did not accept the submission."""
        self._change(error=error)
        if is_full(error):
            return Event.FULL
        if was_not_sent(error):
            return Event.NOT_SENT
        raise error

    def _forget_intent(self) -> None:
        self._change(intent=None)
        self._attempt.delete_record()

    def _accept(self, invocation: Invocation, intent: Record) -> Event:
        """Store the id of the invocation that Kernel has accepted, before anything else happens."""
        self._change(invocation_id=invocation.id, invocation=invocation, intent=None)
        try:
            self._attempt.update_record(invocation_id=invocation.id)
        except KernelSupersededError as error:
            self._change(error=error)
            # A success may be the other attempt's, which does not wait for the end.
            is_killed = self._attempt.is_killed(including_success=self._options.wait_for_completion)
            if intent.key is not None and is_killed is False:
                log.warning(
                    "Kernel invocation %s is left to the attempt that has the task now.", invocation.id
                )
                return Event.SUPERSEDED
            self._cancel_now(invocation.id, "another attempt has taken the place of the one that started it")
            return Event.SUPERSEDED_WITHOUT_SUCCESSOR
        metrics.submitted(intent)
        log.info(
            "Kernel accepted invocation %s of %s/%s, version %s.",
            invocation.id,
            intent.app_name,
            intent.action_name,
            intent.app_version,
        )
        return Event.ACCEPTED

    def _read_capacity_result(self, event: dict[str, Any]) -> Event:
        record = self._attempt.record
        if record and record.invocation_id is None:
            self._attempt.delete_record()  # the intent of the refused submission, which Airflow could not delete then
        self._change(capacity_deadline=event.get("deadline"))
        if event.get("capacity") == "timeout":
            self._change(error=_no_capacity_error())
            return Event.NO_CAPACITY
        if event.get("capacity") != "free":
            raise KernelConfigurationError(str(event.get("message")))
        return Event.CAPACITY_FREE

    def _wait_for_capacity(self) -> Event:
        """Wait until it is time to submit again: deferred, or on the worker."""
        refusal, now = self._progress.error, time.time()
        deadline = self._progress.capacity_deadline
        if deadline is None:
            deadline = min(now + self._options.capacity_timeout, self._execution_deadline())
            self._change(capacity_deadline=deadline)
        if now >= deadline:
            self._change(error=_no_capacity_error())
            return Event.NO_CAPACITY
        if self._options.deferrable:
            log.info("%s The task waits for capacity, deferred.", refusal)
            raise TaskDeferred(
                trigger=KernelCapacityTrigger(
                    self._options.kernel_conn_id,
                    refused_at=now,
                    retry_after=retry_after(refusal),
                    deadline=deadline,
                ),
                method_name="execute_after_capacity",
                kwargs={"ti_id": self._attempt.id},
                timeout=backstop(deadline, now),
            )
        self._change(refusals=self._progress.refusals + 1)
        pause = worker_pause(self._progress.refusals, retry_after(refusal))
        log.info("%s The task waits for capacity, and submits again in %.0f s.", refusal, pause)
        pause = min(pause, max(deadline - now, MIN_PAUSE))
        self._interruptible.run(partial(time.sleep, pause))
        return Event.CAPACITY_FREE

    def _wait(self) -> Event:
        """Wait for the end: deferred, or on the worker."""
        self._interruptible.check()
        invocation = self._progress.invocation
        assert invocation is not None  # noqa: S101 - the state is reached with one
        self.has_link = link.announce(self._context["ti"], self._hook, invocation.id)
        self._attempt.push_invocation_id(invocation.id)
        if not self._options.wait_for_completion:
            self._attempt.update_record(ended=True)
            return Event.NOT_WAITED_FOR
        if invocation.is_ended:
            # The reply to a submission may lack the output; GET has it.
            has_output = invocation.raw_output is not None
            self._change(invocation=invocation if has_output else None, reported=WaitResult.of(invocation))
            return Event.ENDED
        if self._options.deferrable:
            self._defer(invocation.id)
        write = partial(log.info, "%s")
        try:
            found = self._interruptible.run(
                lambda: self._hook.wait_for_invocation(
                    invocation.id,
                    timeout=self._deadline() - time.time(),
                    poll_interval=self._options.poll_interval,
                    on_log=(lambda record: write(app_lines(record))) if self._options.follow_logs else None,
                )
            )
        except KernelInvocationError as error:
            return self._gave_up(error)
        self._change(invocation=found, reported=WaitResult.of(found))
        return Event.ENDED

    def _gave_up(self, error: KernelInvocationError) -> Event:
        self._change(error=error)
        return Event.DEADLINE if isinstance(error, KernelInvocationTimeoutError) else Event.UNKNOWN

    def _defer(self, invocation_id: str) -> NoReturn:
        self._attempt.update_record(deferred=True)
        if self._attempt.is_killed():
            # Nobody will be told: the trigger will not run, and this process may end before a signal.
            self._interruptible.interrupt()
        self._interruptible.check()
        now, deadline = time.time(), self._deadline()
        raise TaskDeferred(
            trigger=KernelInvocationTrigger(
                invocation_id,
                kernel_conn_id=self._options.kernel_conn_id,
                deadline=deadline,
                poll_interval=self._options.poll_interval,
                follow_logs=self._options.follow_logs,
                cancel_on_kill=self._cancels_on_kill(),
                durable=self._attempt.is_durable,
                deferred_at=now,
            ),
            method_name="execute_complete",
            kwargs={"ti_id": self._attempt.id, "submitted_at": self._attempt.submitted_at},
            timeout=backstop(deadline, now),
        )

    def _read_wait_result(self, event: Any) -> Event:
        self._change(invocation_id=self._attempt.invocation_id())
        result = WaitResult.from_event(event)
        self._change(invocation_id=result.invocation_id, reported=result)
        if result.is_end:
            return Event.ENDED
        if result.possibly_running:
            return self._gave_up(result.error())
        self._change(error=result.error())
        self._count_end(succeeded=False)
        return Event.CANCELLED

    def _read_ended_deferral(self, error: Exception, is_timeout: bool) -> Event:
        invocation_id = self._attempt.invocation_id()
        if not invocation_id:
            self._change(state=State.WAIT_FOR_CAPACITY, error=_no_capacity_error(str(error)))
            return Event.NO_CAPACITY
        self._change(invocation_id=invocation_id)
        kind = KernelInvocationTimeoutError if is_timeout else KernelInvocationUnknownError
        reason = f"Airflow ended the wait for Kernel invocation {invocation_id} ({error})."
        return self._gave_up(kind(reason, invocation_id=invocation_id))

    def _cancel(self) -> Event:
        """Cancel the invocation that the attempt gives up."""
        error = self._progress.error
        assert isinstance(error, KernelInvocationError)  # noqa: S101 - the state is reached with one
        try:
            cancellation = self._cancel_invocation(error.invocation_id, str(error))
        except KernelSupersededError:
            raise
        except KernelError as cancel_error:
            self._change(error=WaitResult.of_giving_up(error, cancel_error).error())
            return Event.CANCEL_FAILED
        result = WaitResult.of_giving_up(error, cancellation)
        if result.is_end:
            self._change(invocation_id=error.invocation_id, invocation=None, reported=result)
            return Event.ENDED
        self._change(error=result.error())
        self._count_end(succeeded=False)
        return Event.CANCELLED

    def _conclude(self) -> Event:
        """Ask Kernel how the invocation ended, unless a reply has said so, and tell Airflow."""
        invocation, reported = self._progress.invocation, self._progress.reported
        assert reported is not None  # noqa: S101 - the state is reached with one
        if invocation is None:
            try:
                invocation = self._interruptible.run(
                    lambda: self._hook.find_invocation(reported.invocation_id)
                )
            except KernelInvocationUnknownError as error:
                self._change(error=error)
                return Event.UNKNOWN
            if invocation is None or not invocation.is_ended:
                self._change(error=reported.unconfirmed_error(invocation))
                return Event.UNKNOWN
        self._interruptible.check()
        self._change(invocation=invocation, error=None)
        if self._was_cancelled_by_another_attempt(invocation):
            log.warning(
                "Another attempt of this task cancelled Kernel invocation %s. The task submits another one.",
                invocation.id,
            )
            self._change(replaces_cancelled=True)
            return Event.CANCELLED_BY_ANOTHER_ATTEMPT
        record_result_metadata(self._context, self._hook, invocation, self._result_options)
        self._attempt.update_record(ended=True)
        succeeded = invocation.status == InvocationStatus.SUCCEEDED
        self._count_end(succeeded=succeeded)
        return Event.SUCCEEDED if succeeded else Event.FAILED

    def _return_output(self) -> tuple[Any]:
        invocation = self._progress.invocation
        assert invocation is not None  # noqa: S101 - the state is reached with one
        log.info("Kernel invocation %s succeeded.", invocation.id)
        return (xcom_value(self._context, invocation, self._result_options),)

    def _return_id(self) -> tuple[str | None]:
        invocation_id = self._progress.invocation_id
        return (return_without_waiting(self._context, invocation_id, self._result_options),)

    # What ends the process, or the attempt, in any state.

    def _killed(self) -> Event:
        """
        Return why the process was told to end.

        A user may have ended the task; or a node is drained, or Airflow's API could not be reached.
        """
        by_user = self._attempt.is_killed()
        if not by_user and self._attempt.will_retry:
            self._change(
                error=KernelError(
                    "This attempt was ended from outside. A retry reattaches to its invocation, if there is one."
                )
            )
            return Event.TERMINATED
        self._change(error=KernelError("The task was killed."))
        if not self._cancels_on_kill() and by_user is not False:
            self._change(
                error=KernelError(
                    "The task was killed. Its invocation, if there is one, runs on (cancel_on_kill=False)."
                )
            )
            return Event.KILLED_WITHOUT_CANCELLING
        return Event.KILLED

    def _process_exits(self, error: BaseException) -> Event:
        """See to the invocation where ``error`` ends the process: Ctrl-C, or a library that exits."""
        self._interruptible.is_interrupted = True
        cause = type(error).__name__
        if self._attempt.will_retry and not is_dag_test():
            log.warning(
                "%s ended this attempt. A retry reattaches to its invocation, if there is one.", cause
            )
            return Event.PROCESS_EXIT_LEFT
        if self._cancels_on_kill():
            return Event.PROCESS_EXIT
        if self._progress.invocation_id:
            log.warning(
                "%s ended this attempt. Kernel invocation %s runs on (cancel_on_kill=False), for %d s at most.",
                cause,
                self._progress.invocation_id,
                self._options.async_timeout_seconds or DEFAULT_ASYNC_TIMEOUT_SECONDS,
            )
        elif self._progress.intent:
            log.warning(
                "%s ended this attempt during its submission to Kernel. The invocation may run on "
                "(cancel_on_kill=False).",
                cause,
            )
        return Event.PROCESS_EXIT_LEFT

    def _stop(self) -> Event:
        """Cancel what the attempt has started, because its process or its time ends; the error stays the reason."""
        error = self._progress.error
        if isinstance(error, KernelError):
            reason, sentence_start = "the task was killed", "The task was killed"
        elif isinstance(error, AirflowTaskTimeout):
            reason, sentence_start = "its execution_timeout passed", "execution_timeout passed"
        else:
            cause = type(error).__name__
            reason, sentence_start = f"{cause} ended the task's process", f"{cause} ended this attempt"
        try:
            cancellation = self._cancel_what_was_started(reason)
        except KernelSupersededError as superseded:
            error, said, level = superseded, str(superseded), logging.WARNING
        except KernelError as cancel_error:
            said = f"{sentence_start}, but what the task started may be running: {cancel_error}"
            level = logging.ERROR
        else:
            said = f"{sentence_start}. {cancellation or 'No invocation of it was started.'}"
            level = logging.WARNING
        if isinstance(self._progress.error, KernelError):
            self._change(error=error if isinstance(error, KernelSupersededError) else KernelError(said))
        else:
            log.log(level, "%s", said)
        return Event.STOPPED

    def _cancel_what_was_started(self, reason: str) -> Cancellation | None:
        """
        Cancel the invocation, after a look-up if the reply to the submission is missing.

        :return: None if Kernel has not accepted a submission.
        """
        invocation_id, intent = self._progress.invocation_id, self._progress.intent
        if invocation_id is None and intent is not None:
            result = self._hook.settle(intent)
            if result.ambiguous:
                raise _ambiguous_error(intent, result)
            if result.found is None:
                self._forget_intent()
                return None
            invocation_id = result.found.id
        if invocation_id is None:
            return None
        cancellation = self._cancel_invocation(invocation_id, reason)
        if cancellation.cancelled:
            self._count_end(succeeded=False)
        return cancellation

    def _cancel_invocation(self, invocation_id: str, reason: str) -> Cancellation:
        """
        Cancel the invocation, unless another attempt has the task.

        :raises KernelSupersededError: another attempt has the task, and may wait for the invocation.
        :raises KernelError: the invocation could not be cancelled.
        """
        self._attempt.update_record()
        return self._cancel_now(invocation_id, reason)

    def _cancel_now(self, invocation_id: str, reason: str) -> Cancellation:
        # A session of its own: an interrupted wait may be in the middle of a request.
        with self._hook.clone() as hook:
            try:
                cancellation = hook.cancel_invocation(
                    invocation_id, f"Airflow: {reason}", self._attempt.canceller_identity
                )
            except KernelError as error:
                log.error(
                    "Kernel invocation %s could not be cancelled and may be running: %s", invocation_id, error
                )
                raise
        log.log(logging.WARNING if cancellation.browsers_error else logging.INFO, "%s", cancellation)
        return cancellation

    # Values.

    @cached_property
    def _request(self) -> InvocationRequest | Exception:
        """The request, or what the task is to fail with if it has to submit one."""
        # Not before it is needed: a template that fails by now must not lose a result that waits at Kernel.
        try:
            return self._build_request()
        except Exception as error:  # noqa: BLE001 - it is raised when the request is to be submitted
            return error

    @property
    def _fingerprint(self) -> str:
        return "" if isinstance(self._request, Exception) else self._request.fingerprint()

    def _new_intent(self, request: InvocationRequest) -> Record:
        before = self._attempt.record
        return Record(
            ti_id=self._attempt.id,
            generation=self._attempt.generation,
            fingerprint=request.fingerprint(),
            app_name=request.app_name,
            action_name=request.action_name,
            app_version=request.version,
            submitted_at=time.time(),
            payload_digest=payload_digest(request.payload),
            key=None if request.payload is None else new_key(),
            metadata_field=self._options.metadata_field,
            replaces=before.invocation_id if before else None,
            replaces_cancelled=self._progress.replaces_cancelled,
        )

    def _marked(self, request: InvocationRequest, intent: Record) -> InvocationRequest:
        if intent.metadata_field:
            metadata = {"key": intent.key, **self._attempt.task_identity, **trace_context()}
            request = request.with_metadata(intent.metadata_field, metadata)
        return replace(request, key=intent.key)

    def _may_send_again(self, error: KernelError) -> bool:
        return was_not_sent(error) and not self._interruptible.is_interrupted

    def _was_cancelled_by_another_attempt(self, invocation: Invocation) -> bool:
        """Return whether a worker that was cut off cancelled it late; once, or two attempts would chase each other."""
        by, record = invocation.cancelled_by or {}, self._attempt.record
        is_this_task = (
            by.get("ti_id") not in (None, self._attempt.id)
            and self._attempt.task_identity.items() <= by.items()
        )
        return is_this_task and not (record and record.replaces_cancelled) and time.time() < self._deadline()

    def _deadline(self) -> float:
        """Return when to give up, in seconds since 1970. It counts from the submission, over all attempts."""
        timeout = self._options.timeout
        if timeout is None:
            timeout = (self._options.async_timeout_seconds or DEFAULT_ASYNC_TIMEOUT_SECONDS) + GRACE_SECONDS
        return min((self._attempt.submitted_at or time.time()) + timeout, self._execution_deadline())

    def _execution_deadline(self) -> float:
        return self._attempt.execution_deadline(self._options.execution_timeout)

    def _count_end(self, *, succeeded: bool) -> None:
        metrics.ended(self._options, succeeded=succeeded, seconds=self._attempt.seconds_waited)


def _no_capacity_error(reason: str = "") -> KernelCapacityTimeoutError:
    because = f" Airflow ended the wait ({reason})." if reason else ""
    return KernelCapacityTimeoutError(
        f"Kernel's account was full until capacity_timeout or execution_timeout had passed.{because}"
    )


def _not_accepted_error(intent: Record, result: LookupResult) -> KernelLostReplyError:
    certainty = "Kernel did not accept it" if result.is_certain else "Kernel most likely did not accept it"
    return KernelLostReplyError(
        f"The reply to the submission of {intent.app_name}/{intent.action_name} was lost, and Kernel lists no invocation "
        f"of it, at once or later: {certainty}. The task is not retried. To run the action, clear the task; to have the task "
        'submit again by itself, set on_lost_reply="resubmit".'
    )


def _ambiguous_error(intent: Record, result: LookupResult) -> KernelLostReplyError:
    shown, rest = result.ambiguous[:5], len(result.ambiguous) - 5
    ids = ", ".join(shown) + (f" and {rest} more" if rest > 0 else "")
    return KernelLostReplyError(
        f"The reply to the submission of {intent.app_name}/{intent.action_name} was lost. Kernel may have accepted it as "
        f"one of these invocations: {ids}. Look which of them has this task's payload and belongs to no other task; "
        "cancel that one, or wait for its end. Then clear the task to run the action again. metadata_field makes this "
        "certain."
    )
