"""The table of an attempt's transitions, and the tables of "What happens if" that are checked against it."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from airflow_provider_kernel.lifecycle.attempt import (
    TRANSITIONS,
    AttemptEvent,
    AttemptState,
    Fate,
    Hint,
    next_transition,
)

pytestmark = pytest.mark.no_airflow

GUARANTEES = (Path(__file__).parents[2] / "docs/guarantees.md").read_text()
ENDS = {
    AttemptState.RETURN_OUTPUT,
    AttemptState.RETURN_ID,
    AttemptState.FAIL,
    AttemptState.FAIL_WITHOUT_RETRY,
    AttemptState.RAISE,
}


def test_a_row_is_unambiguous():
    keys = Counter(
        (row.state, row.event, will_retry)
        for row in TRANSITIONS
        for will_retry in ((True, False) if row.will_retry is None else (row.will_retry,))
    )
    assert max(keys.values()) == 1


def test_a_row_that_depends_on_a_retry_has_its_counterpart():
    split = [(row.state, row.event, row.will_retry) for row in TRANSITIONS if row.will_retry is not None]
    assert all((state, event, not will_retry) in split for state, event, will_retry in split)


def test_every_event_is_in_the_table_and_every_state_is_reached():
    assert {row.event for row in TRANSITIONS} == set(AttemptEvent)
    assert {row.to for row in TRANSITIONS} == set(AttemptState) - {AttemptState.START}
    assert not {row.state for row in TRANSITIONS} & ENDS


def test_every_state_but_an_end_leads_to_an_end():
    reaches = dict.fromkeys(AttemptState, False) | dict.fromkeys(ENDS, True)
    for _ in AttemptState:
        for row in TRANSITIONS:
            if row.state is not None:
                reaches[row.state] |= reaches[row.to]
    assert all(reaches.values())


@pytest.mark.parametrize("will_retry", [True, False])
def test_an_event_of_any_state_applies_in_each(will_retry):
    for state in set(AttemptState) - ENDS:
        assert next_transition(state, AttemptEvent.KILLED, will_retry=will_retry).to is AttemptState.STOP
    with pytest.raises(LookupError):
        next_transition(AttemptState.START, AttemptEvent.ACCEPTED, will_retry=will_retry)


def test_no_attempt_fails_for_good_while_its_invocation_is_left_to_a_retry():
    for row in TRANSITIONS:
        if row.to is AttemptState.FAIL_WITHOUT_RETRY:
            assert row.hint not in (Hint.REATTACHES, Hint.RUNS_AGAIN, Hint.LOOKS_AGAIN, Hint.SUBMITS)
        if row.fate is Fate.RUNS_ON and row.to is AttemptState.FAIL:
            assert row.hint is Hint.REATTACHES
        if row.fate is Fate.CANCELLED and row.will_retry:
            pytest.fail(f"a retry could reattach: {row}")


def cells(label):
    """The cells "the invocation" and "the task" of the row of that label."""
    rows = [line.split("|")[1:-1] for line in GUARANTEES.splitlines() if line.startswith(f"| {label}")]
    assert len(rows) == 1, (label, rows)
    return [cell.strip() for cell in rows[0][1:]]


#: Words in the second cell for the end that a row leads to.
ENDINGS = {
    AttemptState.FAIL_WITHOUT_RETRY: r"without a retry",
    AttemptState.FAIL: r"fails|retry",
    AttemptState.WAIT_FOR_CAPACITY: r"waits for room",
    AttemptState.LOOK_UP: r"looks for it",
    AttemptState.SUBMIT: r"submits",
    AttemptState.CANCEL: r"fails|retry",
    AttemptState.STOP: r"",
    AttemptState.RAISE: r"",
    AttemptState.CHECK_PREVIOUS: r"reattaches",
}
ROWS = [
    ("the reply to the request is lost", AttemptState.SUBMIT, AttemptEvent.REPLY_LOST),
    ("… and Kernel lists no invocation with its mark", AttemptState.LOOK_UP, AttemptEvent.NOT_ACCEPTED),
    ("… and it is ambiguous", AttemptState.LOOK_UP, AttemptEvent.AMBIGUOUS),
    ("… and Kernel cannot be asked", AttemptState.LOOK_UP, AttemptEvent.LOOKUP_FAILED),
    ("Kernel refuses the request", AttemptState.SUBMIT, AttemptEvent.REFUSED),
    ("Kernel cannot be reached", AttemptState.SUBMIT, AttemptEvent.NOT_SENT),
    ("the account is full", AttemptState.SUBMIT, AttemptEvent.FULL),
    ("the action raises", AttemptState.CONCLUDE, AttemptEvent.FAILED),
    ("the result is larger", AttemptState.CONCLUDE, AttemptEvent.TOO_LARGE),
    ("the task gives up waiting", AttemptState.WAIT, AttemptEvent.UNKNOWN),
    ("`timeout` or `execution_timeout` passes", AttemptState.WAIT, AttemptEvent.DEADLINE),
    ("the invocation could not be cancelled", AttemptState.CANCEL, AttemptEvent.CANCEL_FAILED),
    ("the worker or the scheduler dies", AttemptState.START, AttemptEvent.INVOCATION_RECORDED),
    ("the worker is told to end", AttemptState.WAIT, AttemptEvent.TERMINATED),
    ("a worker freezes", AttemptState.SUBMIT, AttemptEvent.SUPERSEDED),
    ("a worker freezes", AttemptState.SUBMIT, AttemptEvent.SUPERSEDED_WITHOUT_SUCCESSOR),
    ("Ctrl-C in `dag.test()`", AttemptState.WAIT, AttemptEvent.PROCESS_EXIT),
    ("a user marks the task", AttemptState.WAIT, AttemptEvent.KILLED),
]


@pytest.mark.parametrize("will_retry", [True, False])
@pytest.mark.parametrize(("label", "state", "event"), ROWS, ids=[f"{row[0]}-{row[2].name}" for row in ROWS])
def test_the_documentation_says_what_the_table_says(label, state, event, will_retry):
    row = next_transition(state, event, will_retry=will_retry)
    invocation, task = cells(label)
    assert row.fate.value in invocation
    assert re.search(ENDINGS[row.to], task), (row.to, task)
