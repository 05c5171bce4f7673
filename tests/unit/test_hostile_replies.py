"""Whatever a reply or a stream says, nothing is raised but our own errors, and nothing unsafe is shown."""

from __future__ import annotations

import os
import re

import pytest
from requests.structures import CaseInsensitiveDict

from airflow_provider_kernel.api import endpoints
from airflow_provider_kernel.api.arguments import is_invocation_id
from airflow_provider_kernel.api.errors import KernelError, KernelInvocationError
from airflow_provider_kernel.api.events import EventDecoder
from airflow_provider_kernel.api.models import InvocationRequest
from airflow_provider_kernel.api.reply_body import ReplyBody
from airflow_provider_kernel.api.text import Redactor
from airflow_provider_kernel.capacity.queue import CapacityQueue
from airflow_provider_kernel.lifecycle.lookup import LookupResult, SubmissionLookup
from airflow_provider_kernel.lifecycle.record import Record
from airflow_provider_kernel.lifecycle.wait_machine import (
    Ended,
    Follow,
    GaveUp,
    Poll,
    Sleep,
    StatusLookup,
    WaitMachine,
    gave_up,
)
from airflow_provider_kernel.lifecycle.wait_result import WaitResult
from airflow_provider_kernel.watch.ends import Cursor, InvocationFilter, PagedScan, event_payload
from tests.hostile import Fuzzer

pytestmark = pytest.mark.no_airflow

#: How many replies each endpoint gets; the goal of 100,000 is for who has the time.
REPLIES = int(os.environ.get("HOSTILE_REPLIES", "2000"))
REDACTOR = Redactor(["sk_canary_0123456789"])
UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\ud800-\udfff]")
AT = 1_767_225_600.0

WHO = {"organization": {"id": "o"}, "authorization": {"effective_scope": {"project_id": None}}}
LIMITS = {"limits": {"max_concurrent_invocations": 5, "default_max_concurrent_invocations_per_app": 5}}
ENDPOINTS = {
    "POST /invocations": (endpoints.invoke(InvocationRequest("shop", "price", {})), "one"),
    "GET /invocations/{id}": (endpoints.get_invocation("inv1"), "one"),
    "PATCH /invocations/{id}": (endpoints.end_invocation("inv1", '{"cancelled": "x"}'), "one"),
    "DELETE /invocations/{id}/browsers": (endpoints.delete_browsers("inv1"), "one"),
    "GET /invocations": (endpoints.list_invocations(limit=5), "many"),
    "GET /invocations, readable or not": (endpoints.list_invocations(limit=5, skip_unreadable=True), "many"),
    "GET /apps": (endpoints.list_apps(), "many"),
    "GET /auth/context": (endpoints.auth_context(), WHO),
    "GET /org/entitlements": (endpoints.entitlements(), LIMITS),
}


def asked(fuzzer: Fuzzer, call, right):
    """Ask ``call`` of a hostile server; return what its reply is read as, or the error that it raises."""
    if right == "one":
        right = fuzzer.invocation()
    elif right == "many":
        right = [fuzzer.invocation(f"inv{n}") for n in range(3)]
    status, headers = fuzzer.status(), CaseInsensitiveDict(fuzzer.headers())
    try:
        body = ReplyBody(
            headers,
            is_success=call.has_result and endpoints.is_success(status),
            limit=10**6,
            skim=fuzzer.random.random() < 0.5,
        )
        for _ in body.feed(fuzzer.body(right)):
            pass
        return endpoints.read_reply(call, status, headers, body.close(), REDACTOR, body.size)
    except KernelError as error:
        return error


def check_shown(said: str) -> None:
    assert not UNSAFE.search(said), said[:500]
    assert len(said) < 20_000


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_any_reply_gives_a_safe_result_or_a_kernel_error(endpoint):
    fuzzer, (call, right) = Fuzzer(1), ENDPOINTS[endpoint]
    kinds = set()
    for _ in range(REPLIES):
        found = asked(fuzzer, call, right)
        kinds.add(type(found).__name__)
        if isinstance(found, KernelError):
            check_shown(str(found))
        elif isinstance(found, endpoints.Page):
            assert found.next_offset is None or 0 < found.next_offset <= endpoints.MAX_OFFSET
            check_shown(repr([item for item in found.items if not isinstance(item, dict)]))
        elif hasattr(found, "raw_output"):
            assert is_invocation_id(found.id)
            check_shown(repr(found))
            check_shown(str(found.failure()))
            found.output, found.cancelled_by, found.metadata("key"), found.mark
    assert {"KernelApiError", "KernelTransportError"} <= kinds
    assert len(kinds) > 2 or not call.has_result


def waited(fuzzer: Fuzzer, wait: WaitMachine) -> None:
    """Go through a wait, or a look, with a hostile server."""
    now = AT
    for _ in range(200):
        match wait.next(now):
            case Follow(_, max_lifetime, since):
                assert since is None or len(since) < 40
                decoder, error = EventDecoder(redactor=REDACTOR), None
                for event in decoder.feed(fuzzer.stream() + b"\n\n"):
                    if not wait.on_event(event, now):
                        break
                now += fuzzer.random.choice((0.0, 1.0, max_lifetime))
                wait.on_stream_end(now, error)
            case Poll():
                found = asked(fuzzer, *ENDPOINTS["GET /invocations/{id}"])
                now += 0.1
                if isinstance(found, KernelError):
                    wait.on_error(found, now)
                else:
                    wait.on_invocation(found, now)
            case Sleep(seconds):
                assert 0 <= seconds <= 3600 * 2
                now += seconds
            case Ended(invocation):
                WaitResult.from_event(WaitResult.of(invocation).to_event())
                try:
                    invocation.result()
                except KernelInvocationError as error:
                    check_shown(str(error))
                return
            case GaveUp(error):
                check_shown(str(gave_up("inv1", error)))
                return


@pytest.mark.parametrize("deadline", [None, AT + 100], ids=["no deadline", "a deadline"])
def test_wait_ends_with_any_streams_and_replies(deadline):
    fuzzer = Fuzzer(2)
    lines: list[str] = []
    for _ in range(REPLIES // 10):
        waited(fuzzer, WaitMachine("inv1", AT, deadline=deadline, on_log=lines.append, replayed_before=AT))
        waited(fuzzer, StatusLookup("inv1", AT, deadline=deadline))
    for line in lines:
        assert not UNSAFE.search(line), line[:500]
    assert lines


def test_watcher_accepts_any_list():
    fuzzer = Fuzzer(3)
    for _ in range(REPLIES // 10):
        cursor, now = Cursor(), AT
        for _ in range(5):
            now += 100
            paged = PagedScan(cursor.scan_since(now))
            found = asked(fuzzer, *ENDPOINTS["GET /invocations, readable or not"])
            if isinstance(found, KernelError):
                paged.on_error(found)
                continue
            paged.add(found._replace(next_offset=None))
            paged.params()
            check_shown(
                repr(
                    event_payload(cursor.take_new(paged.scan(), InvocationFilter("shop", status="any"), now))
                )
            )
            Cursor.from_state(cursor.state())


def test_capacity_queue_accepts_any_list():
    fuzzer = Fuzzer(4)
    queue, now = CapacityQueue(), AT
    for _ in range(REPLIES // 10):
        now += 60
        queue.join(now, now - 60)
        found = asked(fuzzer, *ENDPOINTS["GET /invocations"])
        if isinstance(found, KernelError):
            queue.on_failed(found, now)
        else:
            queue.on_listed(frozenset(item.id for item in found.items), now)
        assert not len(queue) or queue.next_poll_at() <= now + 7200


def test_submission_lookup_returns_a_result_or_raises_a_kernel_error():
    fuzzer = Fuzzer(5)
    for _ in range(REPLIES // 10):
        intent = Record("ti", 0, "f", "shop", "price", "latest", AT)
        clock = [AT]
        steps = SubmissionLookup(intent, lambda clock=clock: clock[0]).steps()
        step = next(steps)
        try:
            for _ in range(50):
                if isinstance(step, Sleep):
                    clock[0] += step.seconds
                    step = next(steps)
                    continue
                found = asked(fuzzer, step, "many")
                step = steps.throw(found) if isinstance(found, KernelError) else steps.send(found)
        except StopIteration as stop:
            assert isinstance(stop.value, LookupResult)  # noqa: PT017
        except KernelError as error:
            check_shown(str(error))
