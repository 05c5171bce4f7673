"""The look-up of a submission whose reply was lost."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from airflow_provider_kernel.api.endpoints import Page
from airflow_provider_kernel.api.errors import (
    KernelApiError,
    KernelConfigurationError,
    KernelResponseTooLargeError,
    KernelTransportError,
)
from airflow_provider_kernel.api.models import Invocation
from airflow_provider_kernel.api.payload import payload_digest
from airflow_provider_kernel.api.payload_mark import add_mark
from airflow_provider_kernel.api.timestamps import format_timestamp, parse_timestamp
from airflow_provider_kernel.lifecycle import lookup
from airflow_provider_kernel.lifecycle.lookup import LookupResult, SubmissionLookup
from airflow_provider_kernel.lifecycle.record import Record
from airflow_provider_kernel.lifecycle.wait_machine import Sleep

pytestmark = pytest.mark.no_airflow

SUBMITTED = 1_700_000_000.0
PAYLOAD = '{"sku":1,"tags":["a","b"]}'
KEY, OTHER_KEY = "0123456789abcdef", "fedcba9876543210"
INTENT = Record(
    "ti-1", 0, "abc", "shop", "price", "latest", SUBMITTED, key=KEY, payload_digest=payload_digest(PAYLOAD)
)
WITHOUT_PAYLOAD = replace(INTENT, key=None, payload_digest=None)
WITH_METADATA = replace(INTENT, metadata_field="airflow")


def listed(invocation_id, payload=PAYLOAD, key=None, after=1.0):
    """An invocation as Kernel lists it: started ``after`` seconds after the submission, its payload marked with ``key``."""
    started = format_timestamp(int((SUBMITTED + after) * 1e9))
    payload = add_mark(payload, key) if key else payload
    return Invocation(invocation_id, "running", payload=payload, started_at=started)


MINE, TWIN = listed("mine", key=KEY), listed("twin", key=OTHER_KEY)


def look_up(*answers, intent=INTENT, now=SUBMITTED + 30):
    """Look up with these pages or errors as Kernel's answers, the last one for ever; return result, requests, time."""
    clock, requests, remaining = [now], [], list(answers)
    steps = SubmissionLookup(intent, lambda: clock[0]).steps()
    step = next(steps)
    try:
        while True:
            if isinstance(step, Sleep):
                clock[0] += step.seconds
                step = next(steps)
                continue
            requests.append(step)
            answer = remaining.pop(0) if len(remaining) > 1 else remaining[0]
            if isinstance(answer, Exception):
                step = steps.throw(answer)
            else:
                step = steps.send(answer if isinstance(answer, Page) else Page(answer, None))
    except StopIteration as stop:
        return stop.value, requests, clock[0]


class TestTheMark:
    def test_identifies_the_invocation_in_the_first_scan(self):
        result, requests, now = look_up([listed("other", '{"sku": 2}'), TWIN, MINE])
        assert result.found.id == "mine"
        assert (len(requests), now) == (1, SUBMITTED + 30)
        assert requests[0].params["limit"] == "10"
        assert (requests[0].params["app_name"], requests[0].params["action_name"]) == ("shop", "price")
        assert "version" not in requests[0].params

    @pytest.mark.parametrize("payload", ["{}", "[1, 2]", '"text"', "7", "null", '{"sku": 1}\n'])
    def test_identifies_it_whatever_the_payload(self, payload):
        assert look_up([listed("mine", payload, KEY)])[0].found.id == "mine"

    def test_identifies_one_that_is_listed_late(self):
        result, _, now = look_up([TWIN], [], [], [MINE])
        assert result.found.id == "mine"
        assert SUBMITTED + 30 < now < SUBMITTED + 60

    def test_identifies_it_although_clocks_differ_by_minutes(self):
        result, requests, _ = look_up([listed("mine", key=KEY, after=-500)])
        assert result.found.id == "mine"
        assert parse_timestamp(requests[0].params["since"]) < (SUBMITTED - 500) * 1e9

    def test_ends_the_scan_on_the_page_that_has_it(self):
        _, requests, _ = look_up(Page([TWIN, MINE], 10), Page([listed("old")], None))
        assert len(requests) == 1

    def test_is_read_from_all_pages(self):
        result, requests, _ = look_up(Page([TWIN], 10), Page([MINE], None))
        assert result.found.id == "mine"
        assert [request.params.get("offset") for request in requests] == [None, "10"]

    def test_leaves_payload_and_output_to_get(self):
        found = look_up([replace(MINE, raw_output="x" * 1000)])[0].found
        assert (found.payload, found.raw_output) == (None, None)


class TestNotAccepted:
    def test_is_concluded_after_a_scan_at_the_end_of_the_time(self):
        result, requests, now = look_up([])
        assert result == LookupResult()
        assert now == SUBMITTED + 30 + lookup.LOOKUP_SECONDS
        assert 4 <= len(requests) <= 10

    def test_is_certain_if_other_invocations_carry_marks(self):
        assert look_up([TWIN])[0] == LookupResult(is_certain=True)

    def test_is_certain_although_one_with_an_equal_payload_has_no_mark_if_others_have_marks(self):
        assert look_up([listed("by curl"), TWIN])[0] == LookupResult(is_certain=True)

    def test_is_not_concluded_while_kernel_cannot_be_asked(self):
        away = KernelTransportError("away")
        result, _, _ = look_up([], *[away] * 5, [MINE])
        assert result.found.id == "mine"

    def test_another_payload_without_a_mark_is_another_invocation(self):
        others = [
            '{"sku": 1}',
            '{"sku": true, "tags": ["a", "b"]}',
            '{"sku": 1, "tags": ["b", "a"]}',
            "{",
            "7",
        ]
        assert look_up([listed(payload, payload) for payload in others])[0] == LookupResult()


class TestAmbiguous:
    @pytest.mark.parametrize(
        "payload", [PAYLOAD, '{"tags":["a","b"],"sku":1}', '{ "sku": 1,\n"tags": ["a", "b"] }']
    )
    def test_is_an_equal_payload_without_a_mark_while_none_has_one(self, payload):
        assert look_up([listed("twin", payload)])[0].ambiguous == ("twin",)

    def test_is_an_invocation_without_payload(self):
        assert look_up([listed("bare", None)])[0].ambiguous == ("bare",)
        assert look_up([listed("bare", None), TWIN])[0].ambiguous == ("bare",)

    def test_is_nothing_if_the_mark_is_found(self):
        assert look_up([listed("bare", None), listed("twin"), MINE])[0] == LookupResult(
            found=replace(MINE, payload=None)
        )

    def test_is_not_the_tasks_own_invocation_before_this_one(self):
        intent = replace(INTENT, replaces="before")
        assert look_up([listed("before")], intent=intent)[0] == LookupResult()

    def test_is_every_invocation_without_payload_for_a_task_without_payload(self):
        result, _, _ = look_up([listed("one", None), listed("two", None), TWIN], intent=WITHOUT_PAYLOAD)
        assert result == LookupResult(ambiguous=("one", "two"))


class TestTheMetadataField:
    def rewritten(self, invocation_id, key):
        """As a Kernel lists it that stores JSON anew."""
        return listed(
            invocation_id, json.dumps({**json.loads(PAYLOAD), "airflow": {"key": key, "task_id": "t"}})
        )

    def test_identifies_the_invocation_even_if_kernel_stores_json_anew(self):
        answer = [self.rewritten("twin", OTHER_KEY), self.rewritten("mine", KEY)]
        assert look_up(answer, intent=WITH_METADATA)[0].found.id == "mine"

    def test_makes_it_certain_that_kernel_did_not_accept(self):
        answer = [self.rewritten("twin", OTHER_KEY), listed("by curl")]
        assert look_up(answer, intent=WITH_METADATA)[0] == LookupResult(is_certain=True)

    @pytest.mark.parametrize("payload", ["[]", '"k1"', "7", '{"airflow": "k1"}', '{"airflow": ["k1"]}', "{"])
    def test_is_not_taken_for_what_has_another_shape(self, payload):
        assert look_up([listed("other", payload)], intent=WITH_METADATA)[0].found is None


@pytest.mark.parametrize(
    "error", [KernelApiError("no", status_code=403, code="forbidden"), KernelConfigurationError("no token")]
)
def test_a_refusal_ends_the_look_up(error):
    with pytest.raises(type(error)):
        look_up(error)


def test_an_outage_of_15_minutes_ends_the_look_up():
    with pytest.raises(KernelTransportError):
        look_up(KernelTransportError("away"))


def test_retry_after_is_honoured():
    throttled = KernelApiError("slow down", status_code=429, retry_after=20)
    _, _, now = look_up(throttled, [MINE])
    assert now == SUBMITTED + 50


def test_a_page_that_is_too_large_is_asked_for_again_in_halves():
    too_large = KernelResponseTooLargeError("too large")
    result, requests, now = look_up(too_large, too_large, [MINE])
    assert [request.params["limit"] for request in requests] == ["10", "5", "2"]
    assert (result.found.id, now) == ("mine", SUBMITTED + 30)
    with pytest.raises(KernelResponseTooLargeError):
        look_up(too_large)


def test_a_list_without_an_end_ends_the_look_up():
    pages = [Page([TWIN], offset) for offset in range(10, lookup.MAX_LISTED + 20, 10)]
    with pytest.raises(KernelTransportError, match="does not come to an end"):
        look_up(*pages)
