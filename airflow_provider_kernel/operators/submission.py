"""One accepted request for each try of a task, whatever became of the tries before it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Literal
from uuid import uuid4

from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_kernel.api.errors import KernelError, KernelLostReplyError, was_not_sent
from airflow_provider_kernel.api.models import Invocation, InvocationRequest
from airflow_provider_kernel.lifecycle.lookup import LOOKUP_SECONDS, LookupResult, SubmissionLookup
from airflow_provider_kernel.lifecycle.record import Decision, Record, decide
from airflow_provider_kernel.operators.attempt import KernelSupersededError, TaskAttempt
from airflow_provider_kernel.operators.interruptible import Interrupted, Interruptible
from airflow_provider_kernel.operators.trace import trace_context

if TYPE_CHECKING:
    from airflow_provider_kernel.api.endpoints import Cancellation
    from airflow_provider_kernel.hooks.kernel import KernelHook

log = logging.getLogger(__name__)
OnLostReply = Literal["fail", "resubmit"]
#: Seconds for which the reply to a request is waited for once the process was told to end; Airflow kills it after 5.
GRACE = 2.0
#: Seconds after which an intent is left once more before the request is sent: another try may have begun.
FRESH = 5.0


class Submission:
    """
    Gives a try its invocation, that of an earlier try or a new one, and cancels it.

    :param hook: on the task's connection.
    :param attempt: the try.
    :param render: returns what it asks for, without a key; raises what the task is to fail with if that is nonsense.
    :param interruptible: in which it looks and waits.
    :param metadata_field: name in the payload under which a key is added; None: no key.
    :param on_lost_reply: what to do where Kernel turns out not to have accepted a request.
    :param _request_is_deterministic: whether ``render`` would return the same again; if not, it is called only to submit, and
        to compare where a user wants a new run.
    :param is_waited_for: whether a try that succeeds has seen the end of its invocation.
    """

    def __init__(
        self,
        hook: KernelHook,
        attempt: TaskAttempt,
        render: Callable[[], InvocationRequest],
        interruptible: Interruptible,
        metadata_field: str | None = None,
        on_lost_reply: OnLostReply = "fail",
        _request_is_deterministic: bool = True,
        is_waited_for: bool = True,
    ) -> None:
        self._hook = hook
        self._try = attempt
        self._render = render
        self._interruptible = interruptible
        self._key_field = metadata_field
        self._on_lost_reply = on_lost_reply
        self._asks_the_same = _request_is_deterministic
        self._is_waited_for = is_waited_for
        #: What this try has to do with: an invocation, or the intent of one that Kernel may have accepted.
        self.invocation_id: str | None = None
        self.pending: Record | None = None

    @cached_property
    def _request(self) -> InvocationRequest | None:
        """What this try asks for; None if that cannot be said."""
        # Not before it is needed: a result that waits in Kernel is not lost for a template that fails by now.
        try:
            return self._render()
        except Exception as error:  # noqa: BLE001 - it is raised when the request is to be submitted
            self._render_error = error
            return None

    @cached_property
    def _fingerprint(self) -> str:
        return self._request.fingerprint() if self._request else ""

    def _fingerprint_against(self, record: Record) -> str:
        """Return what to compare with that of ``record``."""
        is_retry = record.generation == self._try.generation
        return record.fingerprint if is_retry and not self._asks_the_same else self._fingerprint

    def reattach(self) -> Invocation | None:
        """
        Return the invocation of an earlier try, if this one is to go on with it.

        :raises KernelInvocationUnknownError: what became of it cannot be learned.
        :raises KernelError: whether there is one cannot be learned, or it cannot be cancelled.
        """
        record = self._try.record
        if record is None or (record.ended and record.generation != self._try.generation):
            return None
        here = record.invocation_id
        if here is None:
            log.info("An earlier try of this task ended in the middle of its request to Kernel.")
            found = self._settle(record)
            if found is None:
                return None
            here = found.id
        self.invocation_id = here
        fingerprint = self._fingerprint_against(record)
        while True:
            now = self._interruptible.run(lambda: self._hook.find_invocation(here))
            decision = decide(record, now, generation=self._try.generation, fingerprint=fingerprint)
            log.info(
                "Kernel invocation %s of an earlier try of this task is %s: %s.",
                here,
                now.status if now else "gone",
                decision.value,
            )
            match decision:
                case Decision.REATTACH if now:
                    if record.fingerprint != fingerprint:
                        log.warning(
                            "It was asked for something else than this try would ask for: the arguments have changed."
                        )
                    self._try.leave(
                        ti_id=self._try.id,
                        generation=self._try.generation,
                        fingerprint=fingerprint,
                        invocation_id=here,
                        deferred=False,
                    )
                    return now
                case Decision.SUBMIT:
                    return None
                case Decision.CANCEL:
                    self.cancel(here, "its task was cleared")
                    self._interruptible.run(lambda: self._hook.wait_for_invocation(here, timeout=60))
                case _:
                    raise AirflowFailException(
                        f"Kernel does not know invocation {here} of an earlier try of this task any more, so what "
                        "became of it cannot be learned. To run the action again, clear the task."
                    )

    def submit(self, *, replaces_cancelled: bool = False) -> Invocation:
        """
        Ask Kernel for an invocation, once; once more only where it certainly did not accept that.

        :raises Exception: what the task fails with, because it cannot be said what it asks for.
        :raises KernelLostReplyError: whether Kernel accepted the request is not known.
        :raises KernelSupersededError: another try has the task; what was accepted is left to it, or cancelled.
        :raises KernelError: Kernel did not accept it.
        """
        if self._request is None:
            raise self._render_error
        before = self._try.record
        self.invocation_id = None
        may_resubmit = self._on_lost_reply == "resubmit"
        while True:
            self._interruptible.check()
            self._hook.get_conn()  # the connection is read before the intent, not between it and the request
            intent = Record(
                ti_id=self._try.id,
                generation=self._try.generation,
                fingerprint=self._fingerprint,
                app_name=self._request.app_name,
                action_name=self._request.action_name,
                app_version=self._request.version,
                submitted_at=time.time(),
                metadata_field=self._key_field,
                key=uuid4().hex if self._key_field else None,
                replaces=before.invocation_id if before else None,
                replaces_cancelled=replaces_cancelled,
            )
            self.pending = intent
            self._try.intend(intent)
            invocation = self._ask(self._request, intent, may_resubmit)
            if invocation:
                return self._accepted(invocation, intent)
            may_resubmit = False

    def _ask(self, request: InvocationRequest, intent: Record, may_resubmit: bool) -> Invocation | None:
        """Send the request; return what came of it, None if it is to be sent again."""
        if intent.metadata_field:
            mark = {"key": intent.key, **self._try.names, **trace_context()}
            request = request.marked(intent.metadata_field, mark)

        def may_repeat(error: KernelError) -> bool:
            return was_not_sent(error) and not self._interruptible.is_interrupted

        begun: list[bool] = []

        def ask() -> Invocation:
            if time.time() - intent.submitted_at > FRESH:
                self._try.intend(intent)  # frozen meanwhile: is this still the try that has the task?
            begun.append(True)
            return self._hook.submit(request, may_repeat)

        try:
            return self._interruptible.run(ask, grace=GRACE)
        except KernelLostReplyError as error:
            log.warning("%s", error)
            return self._settle(intent, may_resubmit=may_resubmit)
        except (KernelError, Interrupted) as error:
            if begun and isinstance(error, Interrupted):
                raise  # its reply may come still, or be lost
            self.pending = None
            self._try.forget()
            raise

    def _accepted(self, invocation: Invocation, intent: Record) -> Invocation:
        self.invocation_id, self.pending = invocation.id, None
        try:
            self._try.leave(invocation_id=invocation.id)
        except KernelSupersededError:
            if self._is_left_to_successor(intent):
                log.warning("Kernel invocation %s is left to the try that has the task now.", invocation.id)
            else:
                self._cancel(invocation.id, "another try has taken the place of the one that started it")
            raise
        return invocation

    def _is_left_to_successor(self, intent: Record) -> bool:
        """
        Tell whether the try that has the task now is certain to find what came of ``intent``.

        It began after the intent was written and looks for its key, and for longer than Kernel's reply took. Without
        a key it may have to fail, for others look the same; and where a user has ended the task, nobody looks.
        """
        if not intent.key or time.time() - intent.submitted_at >= LOOKUP_SECONDS:
            return False
        # A success may be the other try's own, which has left the invocation to itself.
        return self._try.is_killed(by_success=self._is_waited_for) is False

    def stop(self, reason: str) -> Cancellation | None:
        """
        Cancel what this try has to do with, because it has to end; None if Kernel has not accepted anything.

        :raises KernelSupersededError: another try has the task, and decides.
        :raises KernelError: it could not be found out, or not be cancelled.
        """
        if self.invocation_id is None and self.pending is not None:
            settled = self._certain(self.pending, self._hook.settle(self._search(self.pending)))
            if settled.ambiguous:
                raise KernelLostReplyError(self._doubt(self.pending, settled.ambiguous))
            if settled.found is None:
                self._try.forget()
                return None
            self.invocation_id = settled.found.id
        return None if self.invocation_id is None else self.cancel(self.invocation_id, reason)

    def cancel(self, invocation_id: str, reason: str) -> Cancellation:
        """
        Cancel the invocation, and say so.

        :raises KernelSupersededError: another try has the task, and may wait for it.
        :raises KernelError: it could not be cancelled.
        """
        self._try.leave()
        return self._cancel(invocation_id, reason)

    def _cancel(self, invocation_id: str, reason: str) -> Cancellation:
        # A wait that was interrupted may be in the middle of a request on the hook's own session.
        with self._hook.clone() as hook:
            try:
                cancellation = hook.cancel_invocation(
                    invocation_id, f"Airflow: {reason}", self._try.canceller_identity
                )
            except KernelError as error:
                log.error(
                    "Kernel invocation %s could not be cancelled and may still be running: %s",
                    invocation_id,
                    error,
                )
                raise
        log.log(logging.WARNING if cancellation.browsers_error else logging.INFO, "%s", cancellation)
        return cancellation

    def _certain(self, intent: Record, settled: LookupResult) -> LookupResult:
        """Take a match for a doubt where it may well be a twin's: the payloads of a mapped task are often alike."""
        if settled.found and not intent.key and self._try.is_mapped:
            return LookupResult(ambiguous=(settled.found.id,))
        return settled

    def _settle(self, intent: Record, *, may_resubmit: bool | None = None) -> Invocation | None:
        """Return the invocation that came of a request; None if it is to be submitted (again)."""
        self.pending = intent
        log.info("Looking for it among the app's invocations, for up to %.0f s.", LOOKUP_SECONDS)
        search = self._search(intent)
        try:
            settled = self._certain(intent, self._interruptible.run(lambda: self._hook.settle(search)))
        except KernelError as error:
            message = (
                f"Whether Kernel accepted the invocation could not be learned, so it may be running: {error}"
            )
            if self._try.will_retry:
                raise KernelError(f"{message} A retry of the task looks again.") from error
            raise KernelLostReplyError(message) from error
        self.pending = None
        if settled.found:
            if not intent.key:
                log.warning(
                    "Kernel invocation %s has the same payload and is taken for the one that was asked for. "
                    "metadata_field would make that certain.",
                    settled.found.id,
                )
            return settled.found
        cleared = intent.generation != self._try.generation
        if settled.ambiguous:
            unconfirmed_error = self._doubt(intent, settled.ambiguous)
            if not cleared:
                raise KernelLostReplyError(unconfirmed_error)
            log.warning("%s As the task was cleared since, the action is run anew.", unconfirmed_error)
            return None
        if may_resubmit is None:
            may_resubmit = self._on_lost_reply == "resubmit"
        if cleared or may_resubmit:
            log.info("Kernel has not accepted it; submitting it again.")
            return None
        raise KernelLostReplyError(
            f"Kernel lists no invocation of {intent.app_name}/{intent.action_name} for a request of this task that "
            "had no reply, neither at once nor later: it was most likely not accepted. To run the action, clear the "
            'task; to have that done by itself, set on_lost_reply="resubmit".'
        )

    def _search(self, intent: Record) -> SubmissionLookup:
        if intent.key:
            return SubmissionLookup(intent, None, time.time())  # it is known by that
        payload = self._request.payload if self._request else None
        is_known = intent.fingerprint == self._fingerprint
        return SubmissionLookup(intent, payload, time.time(), is_payload_known=is_known)

    def _doubt(self, intent: Record, ambiguous: Sequence[str]) -> str:
        ids = ", ".join(ambiguous[:5]) + (f" and {len(ambiguous) - 5} more" if len(ambiguous) > 5 else "")
        return (
            "Kernel may have accepted a request of this task that had no reply, as one of these invocations of "
            f"{intent.app_name}/{intent.action_name}: {ids}. Which of them is this task's cannot be told; see whether "
            "one has its payload and belongs to no other task, and cancel it or wait for its end. Then clear the "
            "task to run the action again. metadata_field would make it certain."
        )
