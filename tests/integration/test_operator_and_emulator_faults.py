"""The operator during the emulator's faults: one invocation, its output, and each line of its log once."""

import re

import pytest

from airflow_provider_kernel.lifecycle import lookup, wait_machine
from tests.integration.task import Task, both_waits

FAULTS = {
    "slow": {"latency": 0.1},
    "lost reply": {"method": "POST", "path": "/invocations", "lose_reply": True},
    "errors": {"method": "GET", "path": "/invocations/*", "status": 503, "times": 2},
    "broken stream": {"cut_after": 3, "times": 1},
    "silent stream": {"silent_after": 2, "times": 1},
}


@pytest.fixture
def short_waits(no_backoff, monkeypatch):
    monkeypatch.setattr(lookup, "LOOKUP_SECONDS", 0.5)
    monkeypatch.setattr(wait_machine, "RECONNECT_SPREAD", 0.01)
    monkeypatch.setattr(wait_machine, "STREAM_IDLE_TIMEOUT", 1.0)


@pytest.mark.parametrize("fields", FAULTS.values(), ids=FAULTS)
@both_waits
@pytest.mark.usefixtures("short_waits")
def test_task_succeeds_with_one_invocation_during_a_fault(emulator_env, told, fields, deferrable):
    with emulator_env.isolated(), emulator_env.fault(**fields) as fault:
        assert Task("logs", {"n": 6, "delay": 0.1}, deferrable=deferrable).run() == 6
        assert len(emulator_env.invocations()) == 1

    assert fault.applied, "the fault never came"
    # A line that comes late has its time.
    assert sorted(re.findall(r"\[app\] (?:\S+Z )?line (\d)", told())) == list("012345")
