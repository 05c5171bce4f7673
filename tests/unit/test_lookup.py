"""The search for an invocation whose acceptance is not known."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from airflow_provider_kernel.api.endpoints import Page, Request
from airflow_provider_kernel.api.errors import KernelApiError, KernelConfigurationError, KernelTransportError
from airflow_provider_kernel.api.models import Invocation
from airflow_provider_kernel.api.timestamps import format_timestamp, parse_timestamp
from airflow_provider_kernel.lifecycle import lookup
from airflow_provider_kernel.lifecycle.lookup import LookupResult, SubmissionLookup
from airflow_provider_kernel.lifecycle.record import Record
from airflow_provider_kernel.lifecycle.wait_machine import Sleep

pytestmark = pytest.mark.no_airflow

SINCE = 1_700_000_000.0
PAYLOAD = '{"sku":1,"tags":["a","b"]}'
INTENT = Record("ti-1", 0, "abc", "shop", "price", "latest", SINCE)


def listed(invocation_id, payload=PAYLOAD, after=1.0, **fields):
    """An invocation as Kernel lists it, started ``after`` seconds after the request."""
    started = format_timestamp(int((SINCE + after) * 1e9))
    fields = {"app_name": "shop", "action_name": "price", "version": "1.0", "started_at": started, **fields}
    return Invocation(invocation_id, "running", payload=payload, **fields)


def search(*pages, intent=INTENT, payload=PAYLOAD, now=SINCE + 30, **options):
    """Run a search in which Kernel answers with these pages, the last one for ever; return what it comes to."""
    answers = list(pages)
    asked = []
    looking = SubmissionLookup(intent, payload, now, **options)
    while True:
        step = looking.next(now)
        if isinstance(step, LookupResult):
            return step, asked, now
        if isinstance(step, Sleep):
            now += step.seconds
            continue
        assert isinstance(step, Request)
        asked.append(step)
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            looking.on_error(answer, now)
        else:
            looking.on_page(answer if isinstance(answer, Page) else Page(answer, None), now)


def test_the_one_with_the_same_payload_is_found_at_the_first_look():
    settled, asked, now = search([listed("other", '{"sku": 2}'), listed("mine")])
    assert settled.found.id == "mine"
    assert (len(asked), now) == (1, SINCE + 30)
    assert asked[0].params["limit"] == "10"
    assert (asked[0].params["app_name"], asked[0].params["action_name"]) == ("shop", "price")
    assert "version" not in asked[0].params


@pytest.mark.parametrize("payload", ['{"tags":["a","b"],"sku":1}', '{ "sku": 1,\n"tags": ["a", "b"] }'])
def test_the_same_json_written_otherwise_is_the_same_payload(payload):
    assert search([listed("mine", payload)])[0].found.id == "mine"


@pytest.mark.parametrize(
    "payload",
    ['{"sku": 1}', '{"sku": true, "tags": ["a", "b"]}', '{"sku": 1, "tags": ["b", "a"]}', "null", "no json"],
)
def test_another_payload_is_another_invocation(payload):
    assert search([listed("other", payload)])[0] == LookupResult()


def test_no_payload_is_found_by_none():
    assert search([listed("other"), listed("mine", None)], payload=None)[0].found.id == "mine"


def test_one_that_is_listed_late_is_found_still():
    settled, _, now = search([], [], [], [listed("mine")])
    assert settled.found.id == "mine"
    assert SINCE + 30 < now < SINCE + 60


def test_absence_is_concluded_only_of_a_look_at_the_end_of_the_settling_time():
    settled, asked, now = search([])
    assert settled == LookupResult()
    assert now == SINCE + 30 + lookup.LOOKUP_SECONDS
    assert 4 <= len(asked) <= 10


def test_what_is_listed_while_kernel_cannot_be_asked_is_not_taken_for_absent():
    away = KernelApiError("away", status_code=503)
    settled, _, now = search(*[away] * 12, [listed("mine")])
    assert settled.found.id == "mine"
    assert now > SINCE + 30 + lookup.LOOKUP_SECONDS


def test_what_started_before_the_request_is_not_it():
    assert search([listed("earlier", after=-60)])[0] == LookupResult()


def test_a_clock_that_is_a_little_behind_does_no_harm():
    assert search([listed("mine", after=-3)])[0].found.id == "mine"


def test_one_that_is_listed_without_payload_is_a_doubt_even_beside_a_match():
    assert search([listed("bare", None)])[0].ambiguous == ("bare",)
    assert set(search([listed("bare", None), listed("one")])[0].ambiguous) == {"bare", "one"}


def test_all_pages_are_read_before_a_match_counts_as_the_only_one():
    settled, asked, _ = search(Page([listed("one")], 10), Page([listed("two")], 20), Page([], None))
    assert set(settled.ambiguous) == {"one", "two"}
    assert [call.params.get("offset") for call in asked] == [None, "10", "20"]


def test_a_list_that_goes_in_circles_comes_to_an_end():
    assert search(Page([listed("one")], 10), Page([], 10))[0].found.id == "one"


@pytest.mark.parametrize(
    ("pinned", "listed_version", "is_found"),
    [
        ("latest", "1.0", True),
        ("latest", "latest", True),
        ("1.0", "1.0", True),
        ("1.0", "latest", True),
        ("1.0", None, True),
        ("1.0", "2.0", False),
    ],
)
def test_the_version_tells_something_only_if_it_was_pinned(pinned, listed_version, is_found):
    intent = replace(INTENT, app_version=pinned)
    settled, _, _ = search([listed("mine", version=listed_version)], intent=intent)
    assert bool(settled.found) is is_found


class TestWithAKey:
    @staticmethod
    def keyed(invocation_id, key, **options):
        return listed(invocation_id, json.dumps({"sku": 1, "airflow": {"key": key}}), **options)

    def search(self, *pages, **options):
        return search(*pages, intent=replace(INTENT, metadata_field="airflow", key="k1"), **options)

    def test_no_more_pages_are_read_then(self):
        _, asked, _ = self.search(Page([self.keyed("mine", "k1")], 10), Page([], None))
        assert len(asked) == 1

    def test_the_same_payload_without_the_key_is_another_invocation(self):
        assert self.search([listed("twin")])[0] == LookupResult()

    def test_it_is_found_though_the_clocks_differ_by_minutes(self):
        settled, asked, _ = self.search([self.keyed("mine", "k1", after=-300)])
        assert settled.found.id == "mine"
        assert parse_timestamp(asked[0].params["since"]) < (SINCE - 300) * 1e9

    def test_it_is_found_though_the_request_would_be_another_one_now(self):
        assert self.search([self.keyed("mine", "k1")], is_payload_known=False)[0].found.id == "mine"

    def test_one_listed_without_payload_is_a_doubt_only_if_no_other_is_the_one(self):
        late = self.search([listed("bare", None)], [listed("bare", None), self.keyed("mine", "k1")])
        assert late[0].found.id == "mine"
        assert self.search([listed("bare", None)])[0].ambiguous == ("bare",)
        assert self.search([listed("old", None, after=-60)])[0] == LookupResult()
        assert self.search([listed("bare", None), self.keyed("mine", "k1")])[0].found.id == "mine"

    @pytest.mark.parametrize("payload", ["[]", '"k1"', "7", '{"airflow": "k1"}', '{"airflow": ["k1"]}', "{"])
    def test_other_shapes_of_payload_do_no_harm(self, payload):
        assert self.search([listed("other", payload)])[0] == LookupResult()


def test_the_tasks_own_invocation_before_this_one_is_not_it():
    intent = replace(INTENT, replaces="before")
    assert search([listed("before", after=-2)], intent=intent)[0] == LookupResult()
    assert search([listed("mine"), listed("before", after=-2)], intent=intent)[0].found.id == "mine"


def test_of_another_request_without_a_key_anything_since_may_be_it():
    assert search([listed("any", '{"sku": 2}')], is_payload_known=False)[0].ambiguous == ("any",)
    assert search([], is_payload_known=False)[0] == LookupResult()


@pytest.mark.parametrize(
    "error", [KernelApiError("no", status_code=403), KernelConfigurationError("no connection")]
)
def test_a_refusal_ends_the_search(error):
    with pytest.raises(type(error)):
        search(error)


def test_the_search_is_given_up_when_kernel_stays_away():
    with pytest.raises(KernelTransportError):
        search(KernelTransportError("away"))


def test_a_retry_after_is_honoured():
    settled, _, now = search(KernelApiError("full", status_code=429, retry_after=40.0), [listed("mine")])
    assert settled.found
    assert now >= SINCE + 30 + 40


@pytest.mark.parametrize("intent", [INTENT, replace(INTENT, metadata_field="airflow", key="k1")])
def test_it_is_found_though_kernels_clock_is_far_behind(intent):
    mine = listed("mine", PAYLOAD[:-1] + ',"airflow":{"key":"k1"}}' if intent.key else PAYLOAD, after=-40)
    now = SINCE + 2
    empty, full = Page([], None, now - 41), Page([mine], None, now - 41)
    settled, asked, _ = search(empty, full, intent=intent, now=now)
    assert settled.found.id == "mine"
    since = [parse_timestamp(call.params["since"]) / 1e9 - SINCE for call in asked]
    assert since == ([-600, -600] if intent.key else [-5, -46])


def test_a_clock_that_is_right_changes_nothing_and_one_gone_mad_little():
    assert len(search(Page([listed("mine")], None, SINCE + 28.5))[1]) == 1
    asked = search(Page([listed("mine")], None, 0.0))[1]
    assert parse_timestamp(asked[-1].params["since"]) / 1e9 == SINCE - 605
