"""What one try leaves for the next, and what the next makes of it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from airflow_provider_kernel.api.models import Invocation
from airflow_provider_kernel.lifecycle.record import Decision, KernelRecordError, Record, decide

pytestmark = pytest.mark.no_airflow

RECORD = Record(
    "ti-1",
    2,
    "abc",
    "shop",
    "price",
    "latest",
    1_700_000_000.5,
    "airflow",
    "k3y",
    "inv1",
    True,
    replaces="inv0",
    payload_digest="d1",
)


def test_a_record_survives_being_stored_as_json():
    assert Record.from_stored(json.loads(json.dumps(RECORD.to_stored()))) == RECORD
    assert Record.from_stored(None) is None


def test_the_stored_form_is_stable():
    stored = {
        "version": 1,
        "ti_id": "ti-1",
        "generation": 2,
        "fingerprint": "abc",
        "app_name": "shop",
        "action_name": "price",
        "app_version": "latest",
        "submitted_at": 1700000000.5,
        "metadata_field": "airflow",
        "key": "k3y",
        "invocation_id": "inv1",
        "deferred": True,
        "ended": False,
        "replaces": "inv0",
        "replaces_cancelled": False,
        "payload_digest": "d1",
    }
    assert RECORD.to_stored() == stored
    assert Record.from_stored(stored) == RECORD


@pytest.mark.parametrize(
    "stored",
    [
        "inv1",
        7,
        [],
        {},
        {"version": 1},
        {**RECORD.to_stored(), "version": 2},
        {**RECORD.to_stored(), "surprise": 1},
        {**RECORD.to_stored(), "generation": "2"},
        {**RECORD.to_stored(), "invocation_id": 7},
    ],
)
def test_an_unreadable_record_is_an_error(stored):
    with pytest.raises(KernelRecordError, match="delete that key"):
        Record.from_stored(stored)


ACTIVE, ENDED, UNKNOWN = ("queued", "running"), ("succeeded", "failed"), ("paused",)


@pytest.mark.parametrize("fingerprint", ["abc", "another"])
@pytest.mark.parametrize("deferred", [True, False])
@pytest.mark.parametrize("ended", [True, False])
@pytest.mark.parametrize("status", [*ACTIVE, *ENDED, *UNKNOWN, None])
def test_a_retry_reattaches_unless_the_invocation_failed(status, ended, deferred, fingerprint):
    record = replace(RECORD, deferred=deferred, ended=ended)
    found = status and Invocation("inv1", status)
    expected = {None: Decision.FAIL, "failed": Decision.SUBMIT}.get(status, Decision.REATTACH)
    assert decide(record, found, generation=2, fingerprint=fingerprint) is expected


@pytest.mark.parametrize(
    ("status", "deferred", "same_request", "decision"),
    [
        ("running", True, True, Decision.CANCEL),
        ("running", True, False, Decision.CANCEL),
        ("running", False, True, Decision.REATTACH),
        ("running", False, False, Decision.CANCEL),
        ("queued", False, True, Decision.REATTACH),
        ("paused", True, True, Decision.CANCEL),
        ("succeeded", True, True, Decision.REATTACH),
        ("succeeded", False, True, Decision.REATTACH),
        ("succeeded", True, False, Decision.SUBMIT),
        ("failed", True, True, Decision.SUBMIT),
        ("failed", False, False, Decision.SUBMIT),
        (None, True, True, Decision.SUBMIT),
    ],
)
def test_a_clear_decides_by_status_request_and_deferral(status, deferred, same_request, decision):
    record = replace(RECORD, deferred=deferred)
    found = status and Invocation("inv1", status)
    fingerprint = "abc" if same_request else "another"
    assert decide(record, found, generation=3, fingerprint=fingerprint) is decision


@pytest.mark.parametrize("status", [*ACTIVE, *ENDED, *UNKNOWN, None])
def test_a_clear_submits_after_an_end_that_was_seen(status):
    record = replace(RECORD, ended=True)
    found = status and Invocation("inv1", status)
    assert decide(record, found, generation=3, fingerprint="abc") is Decision.SUBMIT
