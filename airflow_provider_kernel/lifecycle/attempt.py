"""
One attempt of a task as a state machine; each process runs a part of it, up to a deferral or the end. No I/O.

:data:`TRANSITIONS` is the whole of it. In each state the runner does one thing; what happens then leads to the next
state, in some cases depending on whether Airflow will retry the task and the retry will find this attempt's record. The
tables of docs/guarantees.md are checked against it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Any

from airflow_provider_kernel.api.models import Invocation
from airflow_provider_kernel.lifecycle.record import Record
from airflow_provider_kernel.lifecycle.wait_result import WaitResult


class AttemptState(StrEnum):
    """What the attempt does. The last five end it."""

    START = "start"
    LOOK_UP = "look up"
    CHECK_PREVIOUS = "check the previous invocation"
    CANCEL_PREVIOUS = "cancel the previous invocation"
    SUBMIT = "submit"
    WAIT_FOR_CAPACITY = "wait for capacity"
    WAIT = "wait"
    CANCEL = "cancel"
    CONCLUDE = "conclude"
    STOP = "stop"
    RETURN_OUTPUT = "return the output"
    RETURN_ID = "return the id"
    FAIL = "fail"
    FAIL_WITHOUT_RETRY = "fail without a retry"
    RAISE = "raise the error as it is"


class AttemptEvent(StrEnum):
    """What happened."""

    NOTHING_RECORDED = "no attempt has left an invocation"
    INTENT_RECORDED = "an earlier attempt ended during its submission"
    INVOCATION_RECORDED = "an earlier attempt has left its invocation"
    RETURNED_BEFORE = "an earlier attempt has returned without waiting"
    FOUND = "the submission of an earlier attempt is found"
    NOT_ACCEPTED = "Kernel lists no invocation of the submission"
    MAY_SUBMIT_AGAIN = (
        "there is no invocation of the submission, or only an outdated one, and it may be repeated"
    )
    AMBIGUOUS = "several invocations may be the submission"
    LOOKUP_FAILED = "Kernel cannot be asked for the submission"
    REATTACHED = "the earlier invocation is the one that this attempt wants"
    ENDED_UNUSABLE = "the earlier invocation has ended, and its result is not usable"
    OUTDATED = "the earlier invocation is running, and the task was cleared"
    GONE = "Kernel does not know the earlier invocation"
    ACCEPTED = "Kernel accepted the submission"
    REPLY_LOST = "the reply to the submission was lost"
    FULL = "the account is full"
    NOT_SENT = "the submission did not reach Kernel"
    NO_CAPACITY = "the account was full for too long"
    TOO_LATE = "execution_timeout had passed before the submission"
    CAPACITY_FREE = "the account may have room"
    NOT_WAITED_FOR = "the task does not wait for the end"
    ENDED = "the invocation has ended"
    END_DENIED = "the event stream has reported the end, and GET denies it"
    DEADLINE = "the deadline has passed"
    UNKNOWN = "the state of the invocation cannot be determined"
    TOO_LARGE = "the reply with the result is larger than max_response_mb"
    CANCELLED = "the invocation was cancelled"
    CANCEL_FAILED = "the invocation could not be cancelled"
    SUCCEEDED = "the invocation succeeded"
    FAILED = "the invocation failed"
    CANCELLED_BY_ANOTHER_ATTEMPT = "another attempt cancelled the invocation"
    KILLED = "a user, or the end of the Dag run, ended the task"
    KILLED_WITHOUT_CANCELLING = "the task was ended, and cancel_on_kill is False"
    TERMINATED = "the worker process was told to end, and no user ended the task"
    EXECUTION_TIMEOUT = "execution_timeout has passed"
    PROCESS_EXIT = "the process exits, and no retry goes on with the invocation"
    PROCESS_EXIT_KEEPS_INVOCATION = (
        "the process exits, and a retry goes on with the invocation, or cancel_on_kill is False"
    )
    STOPPED = "the attempt has tried to cancel what it started"
    SUPERSEDED = "Airflow has given the task to another attempt, which finds the invocation"
    SUPERSEDED_WITHOUT_SUCCESSOR = (
        "Airflow has given the task up, or the other attempt cannot find the invocation"
    )
    REFUSED = "Kernel refused a request, or the connection cannot be used, before there is an invocation"
    REFUSED_WHILE_RUNNING = "Kernel refused a request about the invocation, or the connection cannot be used"
    RECORD_UNREADABLE = "the record of an earlier attempt cannot be read"
    ERROR = "anything else went wrong"


class Fate(Enum):
    """What becomes of the invocation, in the words of docs/guarantees.md."""

    NONE = ""
    NOT_STARTED = "was not started"
    MAY_RUN = "may be running"
    RUNS_ON = "runs on"
    CANCELLED = "is cancelled"
    ENDED = "has ended"


class Hint(StrEnum):
    """The last sentence of the attempt's error: what a retry will do."""

    NONE = ""
    RUNS_AGAIN = "A retry of the task runs the action again."
    REATTACHES = "A retry of the task reattaches to the invocation."
    LOOKS_AGAIN = "A retry of the task looks the invocation up again."
    SUBMITS = "No invocation was started. A retry of the task submits the request again."
    UNCERTAIN = "The task is not retried, because a retry might run the action a second time."
    REFUSED = "The task is not retried, because Kernel would refuse again."
    TOO_LARGE = "Then clear the task: it returns the result, but before Airflow 3.3 it runs the action again."


@dataclass(frozen=True)
class Transition:
    """
    One row of the table.

    :param state: in which ``event`` happened; None for any.
    :param event: what happened.
    :param to: the next state.
    :param fate: what becomes of the invocation.
    :param hint: the last sentence of the error, where the next state is an end with an error.
    :param will_retry: the row applies only if Airflow will retry the task (True), or will not (False). None: always.
    """

    state: AttemptState | None
    event: AttemptEvent
    to: AttemptState
    fate: Fate = Fate.NONE
    hint: Hint = Hint.NONE
    will_retry: bool | None = None


def _unless_retried(
    state: AttemptState | None,
    event: AttemptEvent,
    retried: tuple[AttemptState, Fate, Hint],
    else_: tuple[AttemptState, Fate, Hint],
) -> tuple[Transition, Transition]:
    return (
        Transition(state, event, *retried, will_retry=True),
        Transition(state, event, *else_, will_retry=False),
    )


_LEFT_TO_RETRY = (AttemptState.FAIL, Fate.RUNS_ON, Hint.REATTACHES)
_CANCELLED = (AttemptState.CANCEL, Fate.CANCELLED, Hint.NONE)
_S, _E, _T = AttemptState, AttemptEvent, Transition
TRANSITIONS: tuple[Transition, ...] = (
    _T(_S.START, _E.NOTHING_RECORDED, _S.SUBMIT),
    _T(_S.START, _E.INTENT_RECORDED, _S.LOOK_UP),
    _T(_S.START, _E.INVOCATION_RECORDED, _S.CHECK_PREVIOUS),
    _T(_S.START, _E.RETURNED_BEFORE, _S.RETURN_ID),
    _T(_S.LOOK_UP, _E.FOUND, _S.CHECK_PREVIOUS),
    _T(_S.LOOK_UP, _E.ACCEPTED, _S.WAIT),
    _T(_S.LOOK_UP, _E.MAY_SUBMIT_AGAIN, _S.SUBMIT),
    _T(_S.LOOK_UP, _E.NOT_ACCEPTED, _S.FAIL_WITHOUT_RETRY, Fate.NOT_STARTED),
    _T(_S.LOOK_UP, _E.AMBIGUOUS, _S.FAIL_WITHOUT_RETRY, Fate.MAY_RUN, Hint.UNCERTAIN),
    *_unless_retried(
        _S.LOOK_UP,
        _E.LOOKUP_FAILED,
        (_S.FAIL, Fate.MAY_RUN, Hint.LOOKS_AGAIN),
        (_S.FAIL_WITHOUT_RETRY, Fate.MAY_RUN, Hint.UNCERTAIN),
    ),
    _T(_S.CHECK_PREVIOUS, _E.REATTACHED, _S.WAIT, Fate.RUNS_ON),
    _T(_S.CHECK_PREVIOUS, _E.ENDED_UNUSABLE, _S.SUBMIT, Fate.ENDED),
    _T(_S.CHECK_PREVIOUS, _E.OUTDATED, _S.CANCEL_PREVIOUS, Fate.CANCELLED),
    _T(_S.CHECK_PREVIOUS, _E.GONE, _S.FAIL_WITHOUT_RETRY),
    *_unless_retried(_S.CHECK_PREVIOUS, _E.UNKNOWN, _LEFT_TO_RETRY, _CANCELLED),
    _T(_S.CANCEL_PREVIOUS, _E.CANCELLED, _S.CHECK_PREVIOUS),
    *_unless_retried(_S.CANCEL_PREVIOUS, _E.UNKNOWN, _LEFT_TO_RETRY, _CANCELLED),
    _T(_S.SUBMIT, _E.ACCEPTED, _S.WAIT),
    _T(_S.SUBMIT, _E.REPLY_LOST, _S.LOOK_UP, Fate.MAY_RUN),
    _T(_S.SUBMIT, _E.FULL, _S.WAIT_FOR_CAPACITY, Fate.NOT_STARTED),
    _T(_S.SUBMIT, _E.NOT_SENT, _S.FAIL, Fate.NOT_STARTED, Hint.SUBMITS),
    _T(_S.SUBMIT, _E.TOO_LATE, _S.FAIL, Fate.NOT_STARTED, Hint.SUBMITS),
    _T(_S.WAIT_FOR_CAPACITY, _E.CAPACITY_FREE, _S.SUBMIT),
    _T(_S.WAIT_FOR_CAPACITY, _E.NO_CAPACITY, _S.FAIL, Fate.NOT_STARTED, Hint.SUBMITS),
    _T(_S.WAIT, _E.NOT_WAITED_FOR, _S.RETURN_ID, Fate.RUNS_ON),
    _T(_S.WAIT, _E.ENDED, _S.CONCLUDE, Fate.ENDED),
    _T(_S.WAIT, _E.DEADLINE, _S.CANCEL, Fate.CANCELLED),
    # The trigger has cancelled it, at the deadline.
    _T(_S.WAIT, _E.CANCELLED, _S.FAIL, Fate.CANCELLED, Hint.RUNS_AGAIN),
    *_unless_retried(_S.WAIT, _E.UNKNOWN, _LEFT_TO_RETRY, _CANCELLED),
    _T(_S.CANCEL, _E.CANCELLED, _S.FAIL, Fate.CANCELLED, Hint.RUNS_AGAIN),
    _T(_S.CANCEL, _E.ENDED, _S.CONCLUDE, Fate.ENDED),
    *_unless_retried(
        _S.CANCEL,
        _E.CANCEL_FAILED,
        (_S.FAIL, Fate.MAY_RUN, Hint.REATTACHES),
        (_S.FAIL_WITHOUT_RETRY, Fate.MAY_RUN, Hint.UNCERTAIN),
    ),
    _T(_S.CONCLUDE, _E.SUCCEEDED, _S.RETURN_OUTPUT, Fate.ENDED),
    _T(_S.CONCLUDE, _E.FAILED, _S.FAIL, Fate.ENDED, Hint.RUNS_AGAIN),
    _T(_S.CONCLUDE, _E.CANCELLED_BY_ANOTHER_ATTEMPT, _S.SUBMIT, Fate.ENDED),
    _T(_S.CONCLUDE, _E.END_DENIED, _S.WAIT, Fate.RUNS_ON),
    *_unless_retried(_S.CONCLUDE, _E.UNKNOWN, _LEFT_TO_RETRY, _CANCELLED),
    _T(_S.CONCLUDE, _E.TOO_LARGE, _S.FAIL_WITHOUT_RETRY, Fate.ENDED, Hint.TOO_LARGE),
    # A payload alone may be as large, if max_response_mb is very small.
    *(
        _T(state, _E.TOO_LARGE, _S.FAIL_WITHOUT_RETRY, Fate.MAY_RUN, Hint.TOO_LARGE)
        for state in (_S.CHECK_PREVIOUS, _S.CANCEL_PREVIOUS, _S.WAIT)
    ),
    _T(_S.STOP, _E.STOPPED, _S.RAISE),
    # In any state:
    _T(None, _E.KILLED, _S.STOP, Fate.CANCELLED),
    _T(None, _E.KILLED_WITHOUT_CANCELLING, _S.RAISE, Fate.RUNS_ON),
    *_unless_retried(
        None,
        _E.TERMINATED,
        (_S.RAISE, Fate.RUNS_ON, Hint.NONE),
        (_S.STOP, Fate.CANCELLED, Hint.NONE),
    ),
    _T(None, _E.EXECUTION_TIMEOUT, _S.STOP, Fate.CANCELLED),
    _T(None, _E.PROCESS_EXIT, _S.STOP, Fate.CANCELLED),
    _T(None, _E.PROCESS_EXIT_KEEPS_INVOCATION, _S.RAISE, Fate.RUNS_ON),
    _T(None, _E.SUPERSEDED, _S.RAISE, Fate.RUNS_ON),
    _T(None, _E.SUPERSEDED_WITHOUT_SUCCESSOR, _S.RAISE, Fate.CANCELLED),
    _T(None, _E.REFUSED, _S.FAIL_WITHOUT_RETRY, Fate.NOT_STARTED, Hint.REFUSED),
    _T(None, _E.RECORD_UNREADABLE, _S.FAIL_WITHOUT_RETRY, Fate.MAY_RUN),
    *_unless_retried(
        None,
        _E.REFUSED_WHILE_RUNNING,
        (_S.RAISE, Fate.RUNS_ON, Hint.REATTACHES),
        (_S.FAIL_WITHOUT_RETRY, Fate.MAY_RUN, Hint.REFUSED),
    ),
    _T(None, _E.ERROR, _S.RAISE),
)
_BY_KEY = {
    (row.state, row.event, will_retry): row
    for row in TRANSITIONS
    for will_retry in ((True, False) if row.will_retry is None else (row.will_retry,))
}


def next_transition(state: AttemptState, event: AttemptEvent, *, will_retry: bool) -> Transition:
    """
    Return the row that applies.

    :param state: of the attempt.
    :param event: what happened in it.
    :param will_retry: whether Airflow will retry the task, and the retry will find this attempt's record.
    :raises LookupError: the event cannot happen in this state.
    """
    return _BY_KEY.get((state, event, will_retry)) or _BY_KEY[None, event, will_retry]


@dataclass(frozen=True)
class Progress:
    """
    How far the attempt is. Immutable: the runner replaces it.

    :param state: of the state machine.
    :param intent: the record of a submission of which it is not known whether Kernel accepted it.
    :param is_own: whether this attempt made that submission.
    :param invocation_id: the invocation that the attempt is responsible for.
    :param invocation: the invocation, as Kernel last described it.
    :param reported: the end that a trigger or a reply without output has reported, before ``GET`` confirms it.
    :param error: the reason for which the attempt gives up.
    :param replaces: the task's invocation before the next submission.
    :param replaces_cancelled: whether the next submission replaces an invocation that another attempt cancelled.
    :param has_resubmitted: whether the attempt has repeated a submission whose reply was lost, its own or an earlier one.
    :param refusals: how often in a row the account was full.
    :param capacity_deadline: when the wait for capacity ends, in seconds since 1970.
    """

    state: AttemptState = AttemptState.START
    intent: Record | None = None
    is_own: bool = False
    invocation_id: str | None = None
    invocation: Invocation | None = None
    reported: WaitResult | None = None
    error: BaseException | None = None
    replaces: str | None = None
    replaces_cancelled: bool = False
    has_resubmitted: bool = False
    refusals: int = 0
    capacity_deadline: float | None = None

    def history(self) -> dict[str, Any]:
        """Return what a deferral for capacity keeps: it leaves no record."""
        return {name: getattr(self, name) for name in ("replaces", "replaces_cancelled", "has_resubmitted")}
