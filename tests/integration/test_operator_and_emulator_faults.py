"""The operator during the emulator's faults: one invocation, its output, and each line of its log once."""

import re
from dataclasses import asdict

import pytest

from airflow_provider_kernel.emulator.faults import parse_fault
from airflow_provider_kernel.lifecycle import lookup, wait_machine
from tests.integration.task import Task, both_waits


@pytest.fixture
def faults(http, emulator_env, no_backoff, monkeypatch):
    """``faults(text)`` adds a fault; what must not be waited for is short."""
    monkeypatch.setattr(lookup, "LOOKUP_SECONDS", 0.5)
    monkeypatch.setattr(wait_machine, "RECONNECT_SPREAD", 0.01)
    monkeypatch.setattr(wait_machine, "STREAM_IDLE_TIMEOUT", 1.0)

    def add(text):
        http.post("/_emulator/faults", json=asdict(parse_fault(text))).raise_for_status()

    yield add
    assert all(fault["applied"] for fault in http.get("/_emulator/faults").json()["faults"]), (
        "a fault never came"
    )
    http.delete("/_emulator/faults").raise_for_status()


@pytest.mark.parametrize(
    "text",
    [
        "latency=0.1",
        "POST /invocations lose_reply",
        "GET /invocations/* status=503 times=2",
        "cut_after=3 times=1",
        "silent_after=2 times=1",
    ],
)
@both_waits
def test_task_succeeds_with_one_invocation_during_a_fault(faults, http, told, text, deferrable):
    before = http.get("/page/invocations").json()["total"]
    faults(text)

    assert Task("logs", {"n": 6, "delay": 0.1}, deferrable=deferrable).run() == 6

    assert http.get("/page/invocations").json()["total"] == before + 1
    # A line that comes late has its time.
    assert sorted(re.findall(r"\[app\] (?:\S+Z )?line (\d)", told())) == list("012345")
