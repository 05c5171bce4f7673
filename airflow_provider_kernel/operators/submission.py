"""One accepted request for each try of a task, whatever became of the tries before it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal
from uuid import uuid4

from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_kernel.api.errors import (
    KernelError,
    KernelLostReplyError,
    was_not_sent,
)
from airflow_provider_kernel.api.invocation import Invocation, InvocationRequest
from airflow_provider_kernel.api.record import Decision, Record, decide
from airflow_provider_kernel.api.settling import SETTLING_SECONDS, Search, Settled
from airflow_provider_kernel.operators.interruptible import Interruptible
from airflow_provider_kernel.operators.this_try import KernelSupersededError, ThisTry

if TYPE_CHECKING:
    from airflow_provider_kernel.hooks.kernel import KernelHook

log = logging.getLogger(__name__)
OnLostReply = Literal["fail", "resubmit"]


class Submission:
    """
    Gives a try its invocation: that of an earlier try, or a new one.

    :param hook: on the task's connection.
    :param this_try: the try.
    :param request: what it asks for, without a key.
    :param interruptible: in which it looks and waits.
    :param cancel: cancels an invocation for a reason; raises KernelError if that is not possible.
    :param key_field: name in the payload under which a key is added; None: no key.
    :param on_lost_reply: what to do where Kernel turns out not to have accepted a request.
    """

    def __init__(
        self,
        hook: KernelHook,
        this_try: ThisTry,
        request: InvocationRequest,
        interruptible: Interruptible,
        cancel: Callable[[str, str], object],
        key_field: str | None = None,
        on_lost_reply: OnLostReply = "fail",
    ) -> None:
        self._hook = hook
        self._try = this_try
        self._request = request
        self._fingerprint = request.fingerprint()
        self._interruptible = interruptible
        self._cancel = cancel
        self._key_field = key_field
        self._on_lost_reply = on_lost_reply
        #: What this try has to do with: an invocation, or the intent of one that Kernel may have accepted.
        self.invocation_id: str | None = None
        self.pending: Record | None = None

    def take_up(self) -> Invocation | None:
        """
        Return the invocation of an earlier try, if this one is to go on with it.

        :raises KernelError: what became of it is not known, or it could not be cancelled.
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
        while True:
            now = self._interruptible.run(lambda: self._hook.find_invocation(here))
            decision = decide(record, now, generation=self._try.generation, fingerprint=self._fingerprint)
            log.info(
                "Kernel invocation %s of an earlier try of this task is %s: %s.",
                here,
                now.status if now else "gone",
                decision.value,
            )
            match decision:
                case Decision.TAKE_UP if now:
                    self._try.leave(
                        ti_id=self._try.id,
                        generation=self._try.generation,
                        fingerprint=self._fingerprint,
                        invocation_id=here,
                        handed_over=False,
                    )
                    return now
                case Decision.SUBMIT:
                    self.invocation_id = None
                    return None
                case Decision.CANCEL:
                    self._cancel(here, "its task was cleared")
                    self._interruptible.run(lambda: self._hook.wait_for_invocation(here, timeout=60))
                case _:
                    raise AirflowFailException(
                        f"Kernel does not know invocation {here} of an earlier try of this task any more, so what "
                        "became of it cannot be learned. To run the action again, clear the task."
                    )

    def submit(self, *, replaces_cancelled: bool = False) -> Invocation:
        """
        Ask Kernel for an invocation, once; once more only where it certainly did not accept that.

        :raises KernelLostReplyError: whether Kernel accepted the request is not known.
        :raises KernelSupersededError: another try has the task; what was accepted is cancelled.
        :raises KernelError: Kernel did not accept it.
        """
        for is_last in (False, True):
            self._interruptible.check()
            key = uuid4().hex if self._key_field else None
            request = self._request
            if self._key_field:
                request = request.marked(self._key_field, {"key": key, **self._try.names})
            intent = Record(
                ti_id=self._try.id,
                generation=self._try.generation,
                fingerprint=self._fingerprint,
                submitted_at=time.time(),
                key_field=self._key_field,
                key=key,
                replaces_cancelled=replaces_cancelled,
            )
            self._try.intend(intent)
            self.pending = intent
            try:
                invocation: Invocation | None = self._hook.submit(request, was_not_sent)
            except KernelLostReplyError as error:
                log.warning("%s", error)
                invocation = self._settle(intent, may_resubmit=not is_last)
            except KernelError:
                self.pending = None
                self._try.forget()
                raise
            if invocation:
                return self._accepted(invocation)
        raise AssertionError("the last attempt is settled, or raises")

    def _accepted(self, invocation: Invocation) -> Invocation:
        self.invocation_id, self.pending = invocation.id, None
        try:
            self._try.leave(invocation_id=invocation.id)
        except KernelSupersededError:
            self._cancel(invocation.id, "another try has taken the place of the one that started it")
            raise
        return invocation

    def stop(self, reason: str) -> str | None:
        """
        Cancel what this try has to do with, because it has to end; return its id, None if there is nothing.

        :raises KernelError: it could not be found out, or not be cancelled.
        """
        if self.invocation_id is None and self.pending is not None:
            settled = self._certain(self.pending, self._hook.settle(self._search(self.pending)))
            if settled.doubtful:
                raise KernelLostReplyError(self._doubt(settled.doubtful))
            self.invocation_id = settled.found.id if settled.found else None
        if self.invocation_id is not None:
            self._cancel(self.invocation_id, reason)
        return self.invocation_id

    def _certain(self, record: Record, settled: Settled) -> Settled:
        """Take a match for a doubt where it may well be a twin's: the payloads of a mapped task are often alike."""
        if settled.found and not record.key and self._try.is_mapped:
            return Settled(doubtful=(settled.found.id,))
        return settled

    def _settle(self, record: Record, *, may_resubmit: bool = True) -> Invocation | None:
        """Return the invocation that came of a request; None if it is to be submitted (again)."""
        self.pending = record
        log.info("Looking for it among the app's invocations, for up to %.0f s.", SETTLING_SECONDS)
        search = self._search(record)
        try:
            settled = self._certain(record, self._interruptible.run(lambda: self._hook.settle(search)))
        except KernelError as error:
            message = (
                f"Whether Kernel accepted the invocation could not be learned, so it may be running: {error}"
            )
            if self._try.has_successor:
                raise KernelError(f"{message} A retry of the task looks again.") from error
            raise KernelLostReplyError(message) from error
        self.pending = None
        if settled.found:
            if not record.key:
                log.warning(
                    "Kernel invocation %s has the same payload and is taken for the one that was asked for. "
                    "payload_key_field would make that certain.",
                    settled.found.id,
                )
            return settled.found
        cleared = record.generation != self._try.generation
        if settled.doubtful:
            if not cleared:
                raise KernelLostReplyError(self._doubt(settled.doubtful))
            log.warning(
                "%s As the task was cleared since, the action is run anew.", self._doubt(settled.doubtful)
            )
            return None
        if cleared or (self._on_lost_reply == "resubmit" and may_resubmit):
            log.info("Kernel has not accepted it; submitting it again.")
            return None
        raise KernelLostReplyError(
            f"Kernel does not list an invocation of {self._request.app_name}/{self._request.action_name} for the "
            f"request whose reply was lost, {SETTLING_SECONDS:.0f} s after it: it was most likely not accepted. To "
            'run it, clear the task; to have that done by itself, set on_lost_reply="resubmit".'
        )

    def _search(self, record: Record) -> Search:
        return Search(
            self._request,
            since=record.submitted_at,
            now=time.time(),
            key_field=record.key_field,
            key=record.key,
            same_request=record.fingerprint == self._fingerprint,
        )

    def _doubt(self, doubtful: Sequence[str]) -> str:
        ids = ", ".join(doubtful[:5]) + (f" and {len(doubtful) - 5} more" if len(doubtful) > 5 else "")
        return (
            f"Kernel may have accepted the request whose reply was lost, as one of these invocations of "
            f"{self._request.app_name}/{self._request.action_name}: {ids}. Which of them is this task's cannot be "
            "told; see whether one has its payload and belongs to no other task, and cancel it or wait for its end. "
            "Then clear the task to run the action again. payload_key_field would make it certain."
        )
