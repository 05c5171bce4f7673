"""The chaos run, short and by a fixed seed: exactly once, whatever dies."""

from __future__ import annotations

import pytest

from dev.processes import REPOSITORY
from tests.system.chaos.plan import make_plan
from tests.system.chaos.run import Result, carry_out

pytestmark = pytest.mark.system

SEED = 7
SECONDS = 100


@pytest.fixture(scope="module")
def result() -> Result:
    """What came of it; a run takes a few minutes."""
    result = carry_out(make_plan(SEED, SECONDS), REPOSITORY / ".run" / "test-chaos")
    print(result.text)
    return result


def test_no_invocation_ran_twice_was_orphaned_or_lost(result: Result) -> None:
    assert [f"{finding.kind} of {finding.task.name}" for finding in result.defects] == [], result.text


def test_the_chaos_has_hit_tasks(result: Result) -> None:
    """Else the zeros say nothing."""
    deeds = [done for task in result.history.tasks.values() for done in task.deeds]
    runs = [run for task in result.history.tasks.values() for run in task.runs]
    tries = [
        change for task in result.history.tasks.values() for change in task.changes if change.new == "running"
    ]

    assert len(deeds) + len(result.history.outages) >= 20
    assert len(runs) >= 20
    assert sum(run.succeeded for run in runs) >= 10
    assert len(tries) >= 30
