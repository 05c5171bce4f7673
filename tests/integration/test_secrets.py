"""Canaries: the token, the payload and the output are nowhere but where they belong, whatever happens."""

from __future__ import annotations

import json
import logging
import traceback
from uuid import uuid4

import pytest

from tests import faults
from tests.documented import REPOSITORY, blocks
from tests.integration.task import Task, both_waits

TOKEN = "sk_canary_token"
POST, GET, EVENTS = "POST /invocations", "GET /invocations/{id}", "GET /invocations/{id}/events"


@pytest.fixture(autouse=True)
def canary(proxy, connect):
    connect(host=proxy.base_url, password=TOKEN)


@pytest.fixture
def witness(capfd, caplog, mocker):
    """Runs a task, and returns all that others get to see of it: its log, errors, deferrals, events and records."""
    caplog.set_level(logging.DEBUG)
    seen = []
    resume = Task.resume

    def resumed(self, deferral):
        seen.append(json.dumps([deferral.trigger.serialize(), deferral.kwargs, str(deferral.timeout)]))
        leg = resume(self, deferral)
        seen.append(json.dumps(self.event))
        return leg

    mocker.patch.object(Task, "resume", resumed)

    def witness(task):
        task.at("after:accepted", lambda: seen.append(json.dumps(task.stored)))
        task.at("after:deferred", lambda: seen.append(json.dumps(task.stored)))
        try:
            task.run()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is looked at
            shown = traceback.TracebackException.from_exception(error, capture_locals=True)
            seen.append("".join(traceback.format_exception(error)))
            # What shows local variables shows the task's own arguments; but never the token.
            assert TOKEN not in "".join(shown.format())
        printed = capfd.readouterr()
        return "\n".join([*seen, json.dumps(task.stored), printed.out, printed.err, caplog.text])

    return witness


def nothing(proxy):
    """All goes well."""


def lost(proxy):
    proxy.on(POST, faults.drop_reply(), times=1)


def lost_and_absent(proxy):
    proxy.on(POST, faults.drop_request())


def lost_and_refused(proxy):
    proxy.on(POST, faults.drop_reply(), times=1)
    proxy.on("GET /invocations", faults.answer(403))


def refused(proxy):
    proxy.on(POST, faults.answer(400))


def unauthorized(proxy):
    proxy.on(GET, faults.answer(401))
    proxy.on(EVENTS, faults.answer(401))


def full(proxy):
    proxy.on(POST, faults.answer(429))


def away(proxy):
    proxy.on(GET, faults.html(502), times=3)
    proxy.on(EVENTS, faults.cut_after(events=1), times=1)


def garbled(proxy):
    proxy.on(EVENTS, faults.garble())


def echoed(proxy):
    """A proxy on the way that quotes the request in its error."""
    proxy.on(POST, faults.answer(400, {"code": "bad", "message": "bad"}))
    proxy.on(GET, faults.answer(500, b"<pre>payload: canary_payload</pre>"), times=2)


TROUBLES = [
    nothing,
    lost,
    lost_and_absent,
    lost_and_refused,
    refused,
    unauthorized,
    full,
    away,
    garbled,
    echoed,
]


@both_waits
@pytest.mark.parametrize("trouble", TROUBLES, ids=lambda trouble: trouble.__name__)
def test_token_payload_and_output_are_in_no_log_error_trigger_event_or_record(
    proxy, witness, trouble, deferrable
):
    trouble(proxy)
    payload = {"test": uuid4().hex, "secret": "canary_payload"}
    said = witness(Task("echo", payload, deferrable=deferrable, capacity_timeout=0, metadata_field="airflow"))
    assert "Kernel" in said
    for canary in (TOKEN, "canary_payload", payload["test"]):
        assert canary not in said


@both_waits
def test_a_failure_shows_the_output_and_nothing_else(witness, deferrable):
    said = witness(
        Task("fail", {"message": "out of stock", "secret": "canary_payload"}, deferrable=deferrable)
    )
    assert "out of stock" in said
    assert TOKEN not in said
    assert "canary_payload" not in said


@both_waits
def test_a_deadline_and_a_cancellation_show_no_payload_and_output(witness, deferrable):
    payload = {"seconds": 60, "secret": "canary_payload"}
    said = witness(Task("sleep", payload, deferrable=deferrable, timeout=0.5))
    assert "It was cancelled" in said
    assert TOKEN not in said
    assert "canary_payload" not in said


def recipe(page, name):
    """Return a function that a page of the documentation defines, for the app of these tests."""
    [code] = [code for _, code in blocks((REPOSITORY / page).read_text()) if f"def {name}(" in code]
    # As the page about Airflow 2 says.
    code = code.replace("from airflow.sdk import", "from airflow.providers.common.compat.sdk import")
    namespace = {}
    exec(code.replace('"shop"', '"tests"'), namespace)
    return namespace[name]


def test_the_documented_recipe_with_a_hook_lists_failures(submit):
    failures = recipe("docs/hook.md", "failures_of_the_last_day").function
    before = set(failures())
    submit("echo", 7, wait_for="succeeded")
    bad = submit("fail", {"message": "sold out"}, wait_for="failed")
    assert set(failures()) - before == {bad}


def test_the_documented_recipe_cancels_left_over_invocations_only(submit, client, monkeypatch):
    cancel_what_is_left_of = recipe("docs/guarantees.md", "cancel_what_is_left_of")
    mark = {"airflow": {"key": "k", "run_id": "manual__1"}}
    ours = [submit("sleep", {"seconds": 60, **mark}) for _ in range(2)]
    others = [
        submit("sleep", {"seconds": 60}),
        submit("sleep", {"seconds": 60, "airflow": {"run_id": "other"}}),
    ]
    assert sorted(cancel_what_is_left_of("manual__1")) == sorted(ours)
    assert {client.invocations.retrieve(i).status for i in ours} == {"failed"}
    assert {client.invocations.retrieve(i).status for i in others} <= {"queued", "running"}
    for left in others:
        client.invocations.update(left, status="failed")
