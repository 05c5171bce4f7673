"""
One attempt of :class:`~airflow_provider_kernel.operators.kernel.KernelInvokeOperator`, in one process.

:mod:`~airflow_provider_kernel.lifecycle.attempt` decides what to do next; :class:`InvocationRunner` does it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.providers.common.compat.sdk import AirflowFailException, AirflowTaskTimeout, TaskDeferred

from airflow_provider_kernel import metrics
from airflow_provider_kernel.api.errors import (
    KernelApiError,
    KernelConfigurationError,
    KernelError,
    KernelInvocationError,
    KernelInvocationTimeoutError,
    KernelInvocationUnknownError,
    KernelLostReplyError,
    KernelResultTooLargeError,
    is_full,
    retry_after,
    was_not_sent,
)
from airflow_provider_kernel.api.models import Invocation, InvocationRequest, InvocationStatus
from airflow_provider_kernel.api.text import sentence
from airflow_provider_kernel.capacity.queue import MIN_PAUSE, worker_pause
from airflow_provider_kernel.hooks.kernel import new_wait
from airflow_provider_kernel.lifecycle.attempt import (
    AttemptEvent,
    AttemptState,
    Hint,
    Progress,
    Transition,
    next_transition,
)
from airflow_provider_kernel.lifecycle.attempt_errors import (
    capacity_wait_ended_error,
    gone_error,
    lookup_failed_error,
    lost_reply_error,
    no_capacity_error,
    too_late_error,
)
from airflow_provider_kernel.lifecycle.log_buffer import LogPosition, app_lines
from airflow_provider_kernel.lifecycle.lookup import LOOKUP_SECONDS
from airflow_provider_kernel.lifecycle.record import Decision, KernelRecordError, Record, decide
from airflow_provider_kernel.lifecycle.wait_result import WaitResult
from airflow_provider_kernel.links import kernel as link
from airflow_provider_kernel.operators.attempt import KernelSupersededError, TaskAttempt
from airflow_provider_kernel.operators.canceller import Canceller
from airflow_provider_kernel.operators.deferral import defer
from airflow_provider_kernel.operators.exits import AttemptExit
from airflow_provider_kernel.operators.interruptible import Interrupted, Interruptible
from airflow_provider_kernel.operators.options import InvocationOptions
from airflow_provider_kernel.operators.result import (
    ResultOptions,
    record_result_metadata,
    return_output,
    return_without_waiting,
)
from airflow_provider_kernel.operators.submitter import Submitter
from airflow_provider_kernel.triggers.capacity import KernelCapacityTrigger
from airflow_provider_kernel.triggers.kernel import KernelInvocationTrigger

try:
    from airflow.sdk.exceptions import AirflowTaskTerminated
except ImportError:  # Airflow 2
    from airflow.exceptions import AirflowTaskTerminated  # type: ignore[no-redef]

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_kernel.hooks.kernel import KernelHook

log = logging.getLogger(__name__)
#: Maximum wait in seconds for a cancelled invocation of an earlier attempt to end.
CANCEL_WAIT_SECONDS = 60.0


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
        self._submitter = Submitter(hook, attempt, interruptible, build_request, options.metadata_field)
        self._canceller = Canceller(hook, attempt)
        self._exit = AttemptExit(hook, attempt, self._canceller, options, cancels_on_kill)
        self._cancels_on_kill = cancels_on_kill
        self._progress = Progress()
        #: Whether the link to the invocation is shown.
        self.has_link = False

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
        return self._run(lambda: self._resumed(AttemptState.WAIT, ti_id) or self._read_wait_result(event))

    def resume_after_capacity_wait(self, event: Any, ti_id: str | None, history: dict[str, Any]) -> Any:
        """Continue after the capacity trigger has fired; ``history`` is that of :class:`Progress` before."""
        state = AttemptState.WAIT_FOR_CAPACITY
        return self._run(lambda: self._resumed(state, ti_id) or self._read_capacity_result(event, history))

    def resume_after_failed_deferral(self, error: Exception, *, is_timeout: bool) -> Any:
        """Continue after Airflow ended the deferral with ``error``: it timed out, or its trigger failed."""
        return self._run(
            lambda: self._resumed(AttemptState.WAIT) or self._read_failed_deferral(error, is_timeout)
        )

    def _run(self, first: Callable[[], AttemptEvent]) -> Any:
        action: Callable[[], Any] = first
        while True:
            try:
                result = action()
                if not isinstance(result, AttemptEvent):  # an end
                    self._interruptible.check()
                    return result[0]
                event = result
            except BaseException as error:
                if self._progress.state is AttemptState.STOP:
                    raise
                event = self._event_of(error)
            row = next_transition(self._progress.state, event, will_retry=self._attempt.will_retry)
            self._change(state=row.to)
            if row.to in (AttemptState.FAIL, AttemptState.FAIL_WITHOUT_RETRY, AttemptState.RAISE):
                self._fail(row)
            action = self._actions[row.to]

    @cached_property
    def _actions(self) -> dict[AttemptState, Callable[[], Any]]:
        return {
            AttemptState.LOOK_UP: self._look_up,
            AttemptState.CHECK_PREVIOUS: self._check_previous,
            AttemptState.CANCEL_PREVIOUS: self._cancel_previous,
            AttemptState.SUBMIT: self._submit,
            AttemptState.WAIT_FOR_CAPACITY: self._wait_for_capacity,
            AttemptState.WAIT: self._wait,
            AttemptState.CANCEL: self._cancel,
            AttemptState.CONCLUDE: self._conclude,
            AttemptState.STOP: self._stop,
            AttemptState.RETURN_OUTPUT: self._return_output,
            AttemptState.RETURN_ID: self._return_id,
        }

    def _change(self, **changes: Any) -> None:
        self._progress = replace(self._progress, **changes)

    def _event(self, event: AttemptEvent, **changes: Any) -> AttemptEvent:
        self._change(**changes)
        return event

    def _event_of(self, error: BaseException) -> AttemptEvent:
        """Return the event for an exception, and keep what the attempt is to fail with."""
        if isinstance(error, TaskDeferred) and not self._interruptible.is_interrupted:
            raise error
        if isinstance(error, (TaskDeferred, Interrupted, AirflowTaskTerminated)):
            event, killed = self._exit.on_kill()
            return self._event(event, error=killed)
        self._change(error=error)
        if isinstance(error, AirflowTaskTimeout):
            self._interruptible.is_interrupted = True  # a request that is under way is not sent again
            return AttemptEvent.EXECUTION_TIMEOUT
        if not isinstance(error, Exception):
            self._interruptible.is_interrupted = True
            return self._exit.on_process_exit(type(error).__name__, self._progress)
        if isinstance(error, KernelSupersededError):
            return AttemptEvent.SUPERSEDED
        if isinstance(error, KernelRecordError):
            return AttemptEvent.RECORD_UNREADABLE
        is_refusal = isinstance(error, KernelApiError) and error.is_refusal
        if is_refusal or isinstance(error, KernelConfigurationError):
            return (
                AttemptEvent.REFUSED_WHILE_RUNNING if self._progress.invocation_id else AttemptEvent.REFUSED
            )
        return AttemptEvent.ERROR

    def _fail(self, row: Transition) -> NoReturn:
        """Raise the attempt's error, with what a retry will do."""
        error, invocation, hint = self._progress.error, self._progress.invocation, str(row.hint)
        if error is None and invocation:
            raise invocation.failure(hint)
        assert error  # noqa: S101 - or the invocation has failed
        if row.to is AttemptState.RAISE:
            if hint:
                log.error("%s", hint)
            raise error
        if row.hint is Hint.REFUSED and not isinstance(error, KernelApiError):
            hint = ""  # the error says what to write instead
        if row.to is AttemptState.FAIL_WITHOUT_RETRY:
            raise AirflowFailException(f"{sentence(str(error))} {hint}".rstrip()) from error
        error.args = (f"{sentence(str(error))} {hint}",)
        raise error

    # One method for each state, in the order of an invocation's life; each returns what happened.
    def _read_record(self) -> AttemptEvent:
        record = self._attempt.record
        if record is None or (record.ended and record.generation != self._attempt.generation):
            return AttemptEvent.NOTHING_RECORDED
        self._change(invocation_id=record.invocation_id)
        if record.ended and not self._options.wait_for_completion:
            return AttemptEvent.RETURNED_BEFORE
        if record.invocation_id is None:
            log.info("An earlier attempt of this task ended during its submission to Kernel.")
            return self._event(AttemptEvent.INTENT_RECORDED, intent=record)
        return AttemptEvent.INVOCATION_RECORDED

    def _resumed(self, state: AttemptState, ti_id: str | None = None) -> AttemptEvent | None:
        """Continue in ``state``; or read the record, if Airflow resumes a new attempt after a clear."""
        if self._attempt.is_resumed_in_place_of(ti_id):
            return self._read_record()
        self._change(state=state)
        return None

    def _look_up(self) -> AttemptEvent:
        """Find the invocation of a submission whose reply was lost, in this attempt or an earlier one."""
        intent = self._progress.intent
        assert intent  # noqa: S101 - the state is reached with one
        log.info("Looking for the invocation among those of the app, for %.0f s.", LOOKUP_SECONDS)
        try:
            result = self._interruptible.run(lambda: self._hook._look_up(intent))
        except KernelError as error:
            return self._event(AttemptEvent.LOOKUP_FAILED, error=lookup_failed_error(intent, error))
        if result.found:
            if self._progress.is_own:
                return self._accept(result.found, intent)
            return self._event(AttemptEvent.FOUND, invocation_id=result.found.id, intent=None)
        self._change(intent=None)
        was_cleared = intent.generation != self._attempt.generation
        can_repeat = self._options.on_lost_reply == "resubmit" and not self._progress.has_resubmitted
        if was_cleared or (can_repeat and not result.ambiguous):
            if result.ambiguous:
                ids = ", ".join(result.ambiguous)
                log.warning(
                    "The reply to an earlier submission was lost; one of these may be running: %s.", ids
                )
            else:
                log.info("Kernel lists no invocation of the submission. The task submits it again.")
            return self._event(AttemptEvent.MAY_SUBMIT_AGAIN, has_resubmitted=True)
        event = AttemptEvent.AMBIGUOUS if result.ambiguous else AttemptEvent.NOT_ACCEPTED
        return self._event(event, error=lost_reply_error(intent, result))

    def _check_previous(self) -> AttemptEvent:
        """Decide about the invocation of an earlier attempt."""
        record, invocation_id = self._attempt.record, self._progress.invocation_id
        assert record  # noqa: S101 - the state is reached with both
        assert invocation_id  # noqa: S101
        # On a retry, a function that makes the payload is not called just to compare fingerprints.
        compare = self._options.is_deterministic or record.generation != self._attempt.generation
        fingerprint = self._submitter.fingerprint if compare else record.fingerprint
        try:
            found = self._interruptible.run(lambda: self._hook._find_invocation(invocation_id))
        except KernelInvocationUnknownError as error:
            return self._gave_up(error)
        decision = decide(record, found, generation=self._attempt.generation, fingerprint=fingerprint)
        status = f"{invocation_id} (status: {found.status if found else 'gone'})"
        log.info("An earlier attempt started Kernel invocation %s. %s", status, decision.value)
        if decision is Decision.FAIL:
            return self._event(AttemptEvent.GONE, error=gone_error(invocation_id))
        if decision is Decision.CANCEL:
            return AttemptEvent.OUTDATED
        if decision is Decision.SUBMIT:
            return AttemptEvent.ENDED_UNUSABLE
        if record.fingerprint != fingerprint:
            log.warning(
                "The arguments changed since the invocation was submitted. The task reattaches to it anyway."
            )
        self._attempt.update_record(
            ti_id=self._attempt.id,
            generation=self._attempt.generation,
            invocation_id=invocation_id,
            deferred=False,
        )
        return self._event(AttemptEvent.REATTACHED, invocation=found)

    def _cancel_previous(self) -> AttemptEvent:
        """Cancel the invocation from before a clear, and wait for its end."""
        invocation_id = self._progress.invocation_id
        assert invocation_id  # noqa: S101 - the state is reached with one
        self._canceller.cancel(invocation_id, "its task was cleared")
        try:
            self._interruptible.run(
                lambda: self._hook.wait_for_invocation(invocation_id, timeout=CANCEL_WAIT_SECONDS)
            )
        except KernelInvocationUnknownError as error:
            return self._gave_up(error)
        return AttemptEvent.CANCELLED

    def _submit(self) -> AttemptEvent:
        """Send the request, once."""
        if time.time() >= self._execution_deadline():
            return self._event(AttemptEvent.TOO_LATE, error=too_late_error())
        replaces = self._attempt.recorded_invocation_id or self._progress.replaces
        self._change(invocation_id=None, invocation=None, reported=None, replaces=replaces)
        self._submitter.check()
        self._interruptible.check()
        is_sending: list[bool] = []
        try:
            self._hook.get_conn()  # reads the connection, which is not to happen between the intent and the request
            intent, request = self._submitter.new_submission(self._progress)
            self._change(intent=intent, is_own=True)
            self._attempt.write_intent(intent)
        except KernelError as error:
            return self._not_accepted(error)
        try:
            invocation = self._submitter.send(request, intent, lambda: is_sending.append(True))
        except KernelLostReplyError as error:
            log.warning("%s", error)
            return AttemptEvent.REPLY_LOST
        except KernelError as error:
            self._forget_intent(is_superseded=isinstance(error, KernelSupersededError))
            return self._not_accepted(error)
        except Exception:
            if not is_sending:  # otherwise the reply may still come, or be lost
                self._forget_intent()
            raise
        return self._accept(invocation, intent)

    def _not_accepted(self, error: KernelError) -> AttemptEvent:
        """Return what happened if Kernel certainly did not accept the submission."""
        if not (is_full(error) or was_not_sent(error)):
            raise error
        return self._event(AttemptEvent.FULL if is_full(error) else AttemptEvent.NOT_SENT, error=error)

    def _forget_intent(self, *, is_superseded: bool = False) -> None:
        self._change(intent=None)
        if not is_superseded:  # otherwise the record is the other attempt's
            self._attempt.delete_record()

    def _accept(self, invocation: Invocation, intent: Record) -> AttemptEvent:
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
                return AttemptEvent.SUPERSEDED
            with suppress(KernelError):  # which is logged
                self._canceller.cancel_even_if_superseded(
                    invocation.id, "another attempt has replaced the one that submitted it"
                )
            return AttemptEvent.SUPERSEDED_WITHOUT_SUCCESSOR
        metrics.submitted(intent)
        action = f"{intent.app_name}/{intent.action_name}, version {intent.app_version}"
        # The address comes first: Airflow's UI cuts off long lines.
        address = link.address(self._hook, invocation.id)
        log.info("Kernel accepted invocation %s%s (%s)", invocation.id, address, action)
        return AttemptEvent.ACCEPTED

    def _read_capacity_result(self, event: dict[str, Any], history: dict[str, Any]) -> AttemptEvent:
        record = self._attempt.record
        if record and record.invocation_id is None:
            self._attempt.delete_record()  # the intent of the refused submission, which Airflow could not delete then
        self._change(capacity_deadline=event.get("deadline"), **history)
        if event.get("capacity") == "timeout":
            return self._event(AttemptEvent.NO_CAPACITY, error=no_capacity_error())
        if event.get("capacity") != "free":
            raise KernelConfigurationError(f"The wait for capacity ended: {event.get('message')}")
        return AttemptEvent.CAPACITY_FREE

    def _wait_for_capacity(self) -> AttemptEvent:
        """Wait until it is time to submit again: deferred, or on the worker."""
        refusal, now = self._progress.error, time.time()
        deadline = self._progress.capacity_deadline
        if deadline is None:
            deadline = min(now + self._options.capacity_timeout, self._execution_deadline())
            self._change(capacity_deadline=deadline)
        if now >= deadline:
            error = no_capacity_error(may_wait=self._options.capacity_timeout > 0)
            return self._event(AttemptEvent.NO_CAPACITY, error=error)
        if self._options.deferrable:
            log.info("%s The task waits for capacity, deferred.", refusal)
            trigger = KernelCapacityTrigger(
                self._options.kernel_conn_id,
                refused_at=now,
                retry_after=retry_after(refusal),
                deadline=deadline,
            )
            history = self._progress.history()
            defer(trigger, "execute_after_capacity", deadline, ti_id=self._attempt.id, history=history)
        self._change(refusals=self._progress.refusals + 1)
        pause = worker_pause(self._progress.refusals, retry_after(refusal))
        pause = min(pause, max(deadline - now, MIN_PAUSE))
        log.info("%s The task waits for capacity, and submits again in %.0f s.", refusal, pause)
        self._interruptible.run(partial(time.sleep, pause))
        return AttemptEvent.CAPACITY_FREE

    def _wait(self) -> AttemptEvent:
        """Wait for the end: on the worker, and if that takes longer than ``defer_after``, deferred."""
        self._interruptible.check()
        invocation = self._progress.invocation
        assert invocation  # noqa: S101 - the state is reached with one
        self.has_link = link.announce(self._context["ti"], self._hook, invocation.id)
        self._attempt.push_invocation_id(invocation.id)
        if not self._options.wait_for_completion:
            self._attempt.update_record(ended=True)
            return AttemptEvent.NOT_WAITED_FOR
        if invocation.is_ended:
            # The reply to a submission may lack the output; GET has it.
            whole = invocation if invocation.raw_output is not None else None
            return self._event(AttemptEvent.ENDED, invocation=whole, reported=WaitResult.of(invocation))
        seconds = self._deadline() - time.time()
        if self._options.deferrable:
            if not self._options.defer_after or self._progress.reported:
                self._defer_wait(invocation.id)
            seconds = min(seconds, self._options.defer_after)
        wait = new_wait(
            invocation.id,
            log,
            deadline=time.time() + seconds,
            poll_interval=self._options.poll_interval,
            on_log=(lambda record: log.info("%s", app_lines(record))) if self._options.follow_logs else None,
            poll_at_deadline=not self._options.deferrable,
        )
        try:
            found = self._interruptible.run(lambda: self._hook._wait(wait))
        except KernelInvocationError as error:
            event = self._gave_up(error)
            if event is not AttemptEvent.DEADLINE or not self._options.deferrable:
                return event
            self._defer_wait(invocation.id, wait.log_position)
        return self._event(AttemptEvent.ENDED, invocation=found, reported=WaitResult.of(found))

    def _gave_up(self, error: KernelInvocationError) -> AttemptEvent:
        events = {
            KernelResultTooLargeError: AttemptEvent.TOO_LARGE,
            KernelInvocationTimeoutError: AttemptEvent.DEADLINE,
        }
        return self._event(events.get(type(error), AttemptEvent.UNKNOWN), error=error)

    def _defer_wait(self, invocation_id: str, log_position: LogPosition | None = None) -> NoReturn:
        self._attempt.update_record(deferred=True)
        if self._attempt.is_killed():
            # The trigger will not run, and this process may end before a signal comes.
            self._interruptible.interrupt()
        self._interruptible.check()
        deadline = self._deadline()
        trigger = KernelInvocationTrigger(
            invocation_id,
            kernel_conn_id=self._options.kernel_conn_id,
            deadline=deadline,
            poll_interval=self._options.poll_interval,
            follow_logs=self._options.follow_logs,
            cancel_on_kill=self._cancels_on_kill(),
            durable=self._attempt.is_durable,
            deferred_at=time.time(),
            confirm_end=self._progress.reported is not None,
            log_position=log_position or (),
        )
        submitted_at = self._attempt.submitted_at
        defer(trigger, "execute_complete", deadline, ti_id=self._attempt.id, submitted_at=submitted_at)

    def _read_wait_result(self, event: Any) -> AttemptEvent:
        self._change(invocation_id=self._attempt.invocation_id())
        result = WaitResult.from_event(event)
        self._change(invocation_id=result.invocation_id, reported=result)
        if result.is_end:
            return AttemptEvent.ENDED
        if result.possibly_running:
            return self._gave_up(result.error())
        self._change(error=result.error())
        self._count_end(succeeded=False)
        return AttemptEvent.CANCELLED

    def _read_failed_deferral(self, error: Exception, is_timeout: bool) -> AttemptEvent:
        invocation_id = self._attempt.invocation_id()
        if not invocation_id:
            return self._event(
                AttemptEvent.NO_CAPACITY,
                state=AttemptState.WAIT_FOR_CAPACITY,
                error=capacity_wait_ended_error(str(error)),
            )
        self._change(invocation_id=invocation_id)
        kind = KernelInvocationTimeoutError if is_timeout else KernelInvocationUnknownError
        reason = f"Airflow ended the wait for Kernel invocation {invocation_id} ({error})."
        return self._gave_up(kind(reason, invocation_id=invocation_id))

    def _cancel(self) -> AttemptEvent:
        """Cancel the invocation that the attempt gives up."""
        error = self._progress.error
        assert isinstance(error, KernelInvocationError)  # noqa: S101 - the state is reached with one
        try:
            cancellation = self._canceller.cancel(error.invocation_id, str(error))
        except KernelSupersededError:
            raise
        except KernelError as cancel_error:
            return self._event(
                AttemptEvent.CANCEL_FAILED, error=WaitResult.of_giving_up(error, cancel_error).error()
            )
        result = WaitResult.of_giving_up(error, cancellation)
        if result.is_end:
            return self._event(
                AttemptEvent.ENDED, invocation_id=error.invocation_id, invocation=None, reported=result
            )
        self._change(error=result.error())
        self._count_end(succeeded=False)
        return AttemptEvent.CANCELLED

    def _conclude(self) -> AttemptEvent:
        """Ask Kernel how the invocation ended, unless a reply has said so, and tell Airflow."""
        invocation, reported = self._progress.invocation, self._progress.reported
        assert reported  # noqa: S101 - the state is reached with one
        if invocation is None:
            try:
                invocation = self._interruptible.run(
                    lambda: self._hook._find_invocation(reported.invocation_id)
                )
            except KernelInvocationUnknownError as error:
                return self._gave_up(error)
            if invocation is None or not invocation.is_ended:
                denied = reported.unconfirmed_error(invocation)
                if invocation is None or reported.confirmed:
                    return self._event(AttemptEvent.UNKNOWN, error=denied)
                log.warning("%s The task waits until both agree.", denied)
                return self._event(AttemptEvent.END_DENIED, invocation=invocation)
        self._interruptible.check()
        self._change(invocation=invocation, error=None)
        if self._attempt.must_replace(invocation) and time.time() < self._deadline():
            log.warning(
                "Another attempt cancelled Kernel invocation %s. The task submits another.", invocation.id
            )
            return self._event(AttemptEvent.CANCELLED_BY_ANOTHER_ATTEMPT, replaces_cancelled=True)
        record_result_metadata(self._context, self._hook, invocation, self._result_options)
        self._attempt.update_record(ended=True)
        succeeded = invocation.status == InvocationStatus.SUCCEEDED
        self._count_end(succeeded=succeeded)
        return AttemptEvent.SUCCEEDED if succeeded else AttemptEvent.FAILED

    def _return_output(self) -> tuple[Any]:
        invocation = self._progress.invocation
        assert invocation  # noqa: S101 - the state is reached with one
        return (return_output(invocation, self._result_options),)

    def _return_id(self) -> tuple[Any]:
        return (return_without_waiting(self._context, self._progress.invocation_id, self._result_options),)

    def _stop(self) -> AttemptEvent:
        return self._event(AttemptEvent.STOPPED, error=self._exit.stop(self._progress))

    def _deadline(self) -> float:
        """Return when to give up, in seconds since 1970. It counts from the submission, over all attempts."""
        submitted_at = self._attempt.submitted_at or time.time()
        return min(submitted_at + self._options.seconds_to_wait, self._execution_deadline())

    def _execution_deadline(self) -> float:
        return self._attempt.execution_deadline(self._options.execution_timeout)

    def _count_end(self, *, succeeded: bool) -> None:
        metrics.ended(self._options, succeeded=succeeded, seconds=self._attempt.seconds_waited)
