"""The judge of the chaos run: every kind of defect is seen in a history made for it, and nothing else is."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import Any

import pytest

from tests.system.chaos.history import Change, Done, History, Holding, Request, Run, Task
from tests.system.chaos.judge import Finding, judge
from tests.system.chaos.plan import make_plan
from tests.system.chaos.report import story, table
from tests.system.chaos.watch import run_of

pytestmark = pytest.mark.no_airflow

NAME = "deferred/r/-1"
TRIGGER = 7


def ran(id: str, started: float, finished: float, status: str = "succeeded") -> Run:
    output = {"name": NAME, "invocation_id": id} if status == "succeeded" else None
    return Run(id, started, finished, status, output)


def cancelled(id: str, started: float, finished: float) -> Run:
    return ran(id, started, finished, "failed")


def changes(*steps: tuple[float, str | None], ti_id: str = "t1", try_number: int = 1) -> list[Change]:
    """The changes of a try, from one state to the next."""
    states = [None, *(state for _, state in steps)]
    return [
        Change(
            at, ti_id, states[number], state, try_number, trigger_id=TRIGGER if state == "deferred" else None
        )
        for number, (at, state) in enumerate(steps)
    ]


def by_user(kind: str, at: float) -> Done:
    return Done(at, at + 0.2, kind, None, ("t1",))


def succeeded_by_itself(**fields: Any) -> Task:
    """A task with one try, deferred from 2 to 10, whose invocation ran from 1 to 10."""
    steps = changes((0, "queued"), (1, "running"), (2, "deferred"), (10, "scheduled"), (11, "running"))
    task = Task(NAME, "success", ran("a", 1, 10).output, [*steps, *success(12)], runs=[ran("a", 1, 10)])
    for name, value in fields.items():
        setattr(task, name, value)
    return task


def success(at: float) -> list[Change]:
    return [Change(at, "t1", "running", "success")]


def failure(at: float, old: str = "running", try_number: int = 1) -> list[Change]:
    return [Change(at, "t1", old, "failed", try_number)]


def begun_anew(at: float) -> list[Change]:
    return [Change(at, "t2", "success", None, 2, 5), Change(at + 1, "t2", None, "running", 2, 5)]


def findings(task: Task, *outages: Done) -> list[Finding]:
    return judge(History({task.name: task}, list(outages)))


def kinds(task: Task, *outages: Done) -> list[tuple[str, bool]]:
    """What is found, and whether it is excused."""
    return [(finding.kind, finding.excuse is not None) for finding in findings(task, *outages)]


def test_a_task_that_ran_once_is_fine():
    assert kinds(succeeded_by_itself()) == []


def test_an_invocation_may_follow_one_that_failed():
    assert kinds(succeeded_by_itself(runs=[cancelled("x", 0, 1), ran("a", 1, 10)])) == []


def test_a_second_success_is_a_duplicate():
    assert kinds(
        succeeded_by_itself(runs=[ran("a", 1, 5), ran("b", 6, 10)], xcom=ran("b", 6, 10).output)
    ) == [("duplicate", False)]


def test_a_clear_is_not_a_mark():
    task = succeeded_by_itself(deeds=[by_user("clear", 19.9)])
    task.changes += begun_anew(20)

    assert not any(task.is_by_hand(change) for change in task.changes)


def test_a_mark_that_waits_for_a_lock_explains_the_last_change_only():
    task = succeeded_by_itself(state="failed", xcom=None, deeds=[Done(10, 15, "mark failed")])
    task.changes = [*task.changes[:-1], *failure(12), Change(14.9, "t1", "success", "failed")]

    assert [task.is_by_hand(change) for change in task.changes[-2:]] == [False, True]


def test_a_mark_ends_the_task_although_a_clear_changes_its_id():
    """Airflow's two calls run at once; no process of the task has run."""
    ended = [Change(5.02, "t1", None, "success"), Change(5.04, "t2", "success", "success", 1, 4)]
    task = Task(NAME, "success", None, [*changes((0, None)), *ended])
    task.deeds = [Done(5, 5.05, "clear", None, ("t1",)), Done(5.01, 5.05, "mark success", None, ("t1",))]

    assert kinds(task) == []
    assert [task.is_by_hand(change) for change in ended] == [True, False]


def test_a_clear_allows_one_more_invocation():
    runs = [ran("a", 1, 10), ran("b", 21, 30), ran("c", 41, 50)]
    fields: dict[str, Any] = {
        "changes": [*succeeded_by_itself().changes, *begun_anew(20), *success(31)],
        "xcom": runs[1].output,
    }
    clear = by_user("clear", 20)

    assert kinds(succeeded_by_itself(runs=runs[:2], deeds=[clear], **fields)) == []
    assert ("duplicate", False) in kinds(succeeded_by_itself(runs=runs, deeds=[clear], **fields))


@pytest.mark.parametrize("at", [-30, 40])
def test_a_clear_allows_no_invocation_before_or_much_after_it(at):
    task = succeeded_by_itself(runs=[ran("a", 1, 5), ran("b", 6, 10)], deeds=[by_user("clear", at)])

    assert kinds(task) == [("duplicate", False)]


@pytest.mark.parametrize("mark", ["mark failed", "mark success"])
def test_a_mark_allows_no_invocation(mark):
    task = succeeded_by_itself(runs=[ran("a", 1, 5), ran("b", 6, 10)], deeds=[by_user(mark, 5.5)])

    assert ("duplicate", False) in kinds(task)


@pytest.mark.parametrize(("at", "is_asking"), [(3, True), (0.5, False)])
def test_a_clear_allows_an_invocation_only_until_the_next_attempt(at, is_asking):
    """The try that it ended may have sent a last request."""
    task = succeeded_by_itself(runs=[ran("a", 4, 5), ran("b", 6, 10)], deeds=[by_user("clear", at)])
    task.xcom = task.runs[1].output

    assert kinds(task) == ([] if is_asking else [("duplicate", False)])


def test_a_cancellation_without_a_user_is_needless_unless_on_the_last_attempt():
    runs = [replace(cancelled("x", 1, 5), cancelled=True), ran("a", 6, 10)]
    xcom = runs[1].output

    assert kinds(succeeded_by_itself(runs=runs, xcom=xcom)) == [("needless cancel", False)]
    assert kinds(succeeded_by_itself(runs=[cancelled("x", 1, 5), runs[1]], xcom=xcom)) == []
    for deed in (by_user("clear", 3), by_user("mark success", -5)):
        assert kinds(succeeded_by_itself(runs=runs, xcom=xcom, deeds=[deed])) == []
    task = succeeded_by_itself(runs=runs, xcom=xcom, deeds=[Done(3, 3, "kill task", None, ("t1",))])
    assert kinds(task) == [("needless cancel", False)]
    task.changes = [replace(change, try_number=4) for change in task.changes]
    assert kinds(task) == []


def test_a_cancellation_by_a_superseded_attempt_is_needless():
    runs = [replace(cancelled("x", 1.5, 5), cancelled=True), ran("a", 6, 10)]
    task = succeeded_by_itself(runs=runs, xcom=runs[1].output)
    task.changes.insert(2, Change(1.8, "t2", "running", "queued", 2))
    assert kinds(task) == [("needless cancel", False)]


def test_two_invocations_overlap_even_if_one_is_cancelled():
    assert kinds(succeeded_by_itself(runs=[ran("a", 1, 10), cancelled("b", 9.5, 11)])) == [("overlap", False)]
    assert kinds(succeeded_by_itself(runs=[ran("a", 1, 10), cancelled("b", 10, 11)])) == []


def marked_failed(old: str, finished: float = 40, **fields: Any) -> Task:
    """A task that was marked failed at 5, after a second of running and three of being deferred, say."""
    steps = {
        "deferred": changes((0, "queued"), (1, "running"), (2, "deferred")),
        "running": changes((0, "queued"), (1, "running")),
        "up_for_retry": changes((0, "queued"), (1, "running"), (3, "up_for_retry")),
    }[old]
    task = Task(NAME, "failed", None, [*steps, *failure(5, old)], [by_user("mark failed", 4.9)])
    task.runs = [cancelled("a", 1.5, finished)]
    task.holdings = [Holding(2, TRIGGER, None), Holding(2.5, TRIGGER, "triggerer")]
    task.requests = {"a": [Request(3, "GET /invocations/…/events", "pass")]}
    for name, value in fields.items():
        setattr(task, name, value)
    return task


@pytest.mark.parametrize("state", ["running", "deferred"])
def test_an_invocation_that_runs_after_its_task_is_an_orphan(state):
    assert kinds(marked_failed(state)) == [("orphan", False)]
    assert kinds(marked_failed(state, finished=inf)) == [("orphan", False)]
    assert kinds(marked_failed(state, finished=9)) == []


def test_an_invocation_that_was_not_stopped_is_an_orphan_although_it_ends_soon():
    task = marked_failed("running", finished=12)
    assert kinds(task) == [("orphan", False)]

    task.requests = {"a": [Request(8, "PATCH /invocations/…", "answer 500")]}
    assert kinds(task) == []


def test_an_invocation_that_starts_after_its_task_is_an_orphan():
    task = marked_failed("running", runs=[cancelled("a", 1.5, 6), cancelled("b", 8, 30)])

    assert kinds(task) == [("orphan", False)]


def test_an_orphan_counts_from_the_first_end_of_its_task():
    task = marked_failed("running")
    task.deeds += [Done(2, 9, "freeze worker", None, ("t1",)), by_user("mark success", 14.9)]
    task.changes.append(Change(15, "t1", "failed", "success"))
    task.state = "success"
    assert kinds(task) == [("orphan", True)]

    del task.deeds[1]
    assert kinds(task) == [("orphan", False)]


def test_an_invocation_that_a_cleared_task_reattaches_to_is_not_an_orphan():
    task = marked_failed("running", finished=40)
    task.changes += [Change(10, "t2", "failed", None, 2, 4), *changes((30, "running"), (41, "success"))]
    task.state = "success"
    task.deeds.append(by_user("clear", 10))
    task.runs = [ran("a", 1.5, 40)]
    task.xcom = task.runs[0].output

    assert kinds(task) == []


@pytest.mark.parametrize(
    ("deed", "is_proof"),
    [
        (Done(2, 2, "kill task", None, ("t1",)), True),
        (Done(7, 7, "kill supervisor", None, ("t1",)), True),
        (Done(2, 9, "freeze worker", None, ("t1",)), True),
        (Done(4, 4, "terminate task", None, ("t1",)), True),
        (Done(2, 2, "kill task", None, ("t0",)), False),
        (Done(2, 4, "freeze worker", None, ("t1",)), False),
        (Done(6, 6, "terminate task", None, ("t1",)), False),
        (Done(25, 25, "kill task", None, ("t1",)), False),
    ],
    ids=lambda value: f"{value.kind} at {value.at} of {value.ti_ids[0]}" if isinstance(value, Done) else "",
)
def test_an_orphan_of_a_running_task_is_excused_if_its_process_was_hit(deed, is_proof):
    task = marked_failed("running")
    task.deeds.append(deed)

    assert kinds(task) == [("orphan", is_proof)]


def test_an_orphan_is_excused_if_its_process_was_still_starting():
    task = marked_failed("running", runs=[cancelled("a", -20, 40)], requests={"a": []})
    assert kinds(task) == [("orphan", True)]

    task.requests = {"a": [Request(4, "GET /invocations/…", "pass")]}
    assert kinds(task) == [("orphan", False)]


def test_an_orphan_is_excused_if_its_task_had_no_process():
    assert kinds(marked_failed("up_for_retry")) == [("orphan", True)]


def test_an_orphan_is_excused_if_no_triggerer_held_its_trigger():
    assert kinds(marked_failed("deferred", holdings=[])) == [("orphan", True)]
    assert kinds(marked_failed("deferred", holdings=[Holding(2, TRIGGER, None)])) == [("orphan", True)]
    assert kinds(
        marked_failed("deferred", holdings=[Holding(2, 99, None), Holding(2, TRIGGER, "triggerer")])
    ) == [("orphan", False)]


def test_an_orphan_is_excused_if_its_trigger_had_not_started():
    assert kinds(marked_failed("deferred", requests={})) == [("orphan", True)]


def test_an_orphan_is_excused_if_the_triggerer_that_held_it_was_hit():
    assert kinds(marked_failed("deferred"), Done(4, 8, "kill triggerer", "triggerer")) == [("orphan", True)]
    assert kinds(marked_failed("deferred"), Done(4, 8, "kill triggerer", "triggerer-2")) == [
        ("orphan", False)
    ]
    assert kinds(marked_failed("deferred"), Done(1, 2, "kill triggerer", "triggerer")) == [("orphan", False)]


@pytest.mark.parametrize(
    ("at", "until", "kind", "is_proof"),
    [
        (4, 8, "terminate triggerer", True),
        (6, 9, "terminate triggerer", False),  # it is given time to end, and had begun to cancel
        (6, 9, "kill triggerer", True),
        (12, 14, "kill triggerer", False),
        (3, 9, "freeze triggerer", True),
        (3, 4, "freeze triggerer", False),  # over before the mark
        (12, 20, "freeze triggerer", False),
    ],
)
def test_an_unrelated_event_is_not_an_excuse(at, until, kind, is_proof):
    assert kinds(marked_failed("deferred"), Done(at, until, kind, "triggerer")) == [("orphan", is_proof)]


def test_a_success_needs_the_output_of_its_own_invocation():
    for wrong in (
        {"xcom": None},
        {"xcom": {"name": NAME, "invocation_id": "other"}},
        {"runs": []},
        {"runs": [cancelled("a", 1, 10)]},
    ):
        assert ("false result", False) in kinds(succeeded_by_itself(**wrong)), wrong


def test_the_output_of_another_task_is_a_false_result():
    output = {"name": "deferred/other/-1", "invocation_id": "a"}
    task = succeeded_by_itself(xcom=output, runs=[replace(ran("a", 1, 10), output=output)])

    assert kinds(task) == [("false result", False)]


def test_a_success_that_airflow_revokes_may_be_repeated_with_the_same_result():
    """The scheduler had taken the task for killed, and wrote that down just after the task had succeeded."""
    task = succeeded_by_itself()
    again = [(14, "queued"), (15, "running"), (16, "success")]
    task.changes.append(Change(13, "t2", "success", "up_for_retry", 1))
    task.changes += [
        replace(one, old=one.old or "up_for_retry") for one in changes(*again, ti_id="t2", try_number=2)
    ]
    assert kinds(task) == []

    task.runs = [cancelled("a", 1, 10)]
    assert ("false result", False) in kinds(task)


def test_a_success_by_hand_needs_no_result_but_must_not_have_a_false_one():
    fields: dict[str, Any] = {"deeds": [by_user("mark success", 11.9)], "runs": [cancelled("a", 1, 10)]}

    assert kinds(succeeded_by_itself(xcom=None, **fields)) == []
    assert kinds(succeeded_by_itself(**fields)) == [("false result", False)]


def test_a_result_from_before_the_clear_is_false():
    task = succeeded_by_itself(deeds=[by_user("clear", 20)])
    task.changes += [*begun_anew(20), *success(22)]

    assert kinds(task) == [("false result", False)]


def test_a_failure_although_the_invocation_succeeded_is_a_lost_result():
    changes = [*succeeded_by_itself().changes[:-1], *failure(12)]

    def failed(**fields: Any) -> list[tuple[str, bool]]:
        return kinds(succeeded_by_itself(state="failed", xcom=None, changes=changes, **fields))

    assert failed() == [("lost result", False)]
    assert failed(deeds=[by_user("mark failed", 11.9)]) == []
    assert failed(runs=[cancelled("a", 1, 10)]) == []


def test_a_lost_result_is_found_although_a_clear_repaired_it():
    task = succeeded_by_itself(runs=[ran("a", 1, 10), ran("b", 21, 30)], deeds=[by_user("clear", 20)])
    task.changes = [*task.changes[:-1], *failure(12), *begun_anew(20), *success(31)]

    assert kinds(task) == [("lost result", False)]


def test_the_success_before_a_clear_is_not_lost_by_a_failure_after_it():
    task = succeeded_by_itself(state="failed", xcom=None, deeds=[by_user("clear", 20)])
    task.changes += [*begun_anew(20), Change(25, "t2", "running", "failed", 2, 5)]

    assert kinds(task) == []


def test_a_lost_result_is_excused_only_if_the_last_attempt_was_hit():
    steps = succeeded_by_itself().changes[:-1]
    hit = Done(11.5, 11.5, "kill task", None, ("t1",))

    def lost(try_number: int, *deeds: Done) -> list[tuple[str, bool]]:
        ended = [*steps, *failure(12, try_number=try_number)]
        return kinds(succeeded_by_itself(state="failed", xcom=None, changes=ended, deeds=list(deeds)))

    assert lost(4, hit) == [("lost result", True)]
    assert lost(3, hit) == [("lost result", False)]
    assert lost(4) == [("lost result", False)]
    assert lost(4, replace(hit, ti_ids=("t0",))) == [("lost result", False)]
    assert lost(4, by_user("clear", 5)) == [("lost result", False)]
    assert lost(4, Done(2, 6, "freeze task", None, ("t1",))) == [("lost result", False)]
    assert lost(4, Done(-8, 6, "freeze task", None, ("t1",))) == [("lost result", True)]


def test_a_task_that_never_ends_is_stuck():
    steps = changes((0, "queued"), (1, "running"))

    assert kinds(Task(NAME, "running", None, steps)) == [("stuck", False)]


def test_an_invocation_without_a_task_is_found():
    assert kinds(Task(NAME, None, runs=[ran("a", 1, 2)])) == [("orphan", False)]


def test_findings_are_counted_and_reported():
    task = succeeded_by_itself(runs=[ran("a", 1, 5), ran("b", 6, 10)], xcom=ran("b", 6, 10).output)
    history = History({NAME: task}, [Done(4, 8, "kill triggerer", "triggerer")])
    found = judge(history)

    printed = table(history, found).splitlines()
    told = story(task, found, history.outages, [(3.0, "Kernel accepted invocation a")])

    assert printed[0].split() == [
        *("Dag", "tasks", "success", "failed", "tries", "invocations", "succeeded", "duplicates", "overlaps"),
        *("orphans", "false", "results", "lost", "results"),
        *("needless", "cancels", "stuck"),
    ]
    assert printed[2].split() == ["all", "1", "1", "0", "1", "2", "2", "1", "0", "0", "0", "0", "0", "0"]
    kinds_of_line = [line.split()[1] for line in told.splitlines()[2:]]
    assert told.splitlines()[1].startswith("!!! duplicate: b succeeded after a")
    assert {"state", "kernel", "log", "deed"} == set(kinds_of_line)
    assert told.index("a started") < told.index("Kernel accepted") < told.index("kill triggerer")


def test_an_invocation_is_read_as_the_emulator_describes_it():
    described = {
        "id": "a",
        "started_at": "2026-11-24T10:00:00.5Z",
        "finished_at": "2026-11-24T10:00:02Z",
        "status": "succeeded",
        "output": '{"name": "n"}',
        "payload": '{"name": "n"}',
    }

    run = run_of(described)
    assert (run.finished - run.started, run.output) == (1.5, {"name": "n"})
    assert not run.cancelled
    assert run_of({**described, "status": "running", "finished_at": None}).finished == inf
    ended = {**described, "status": "failed", "output": '{"cancelled": "Airflow: …", "by": {}}'}
    assert run_of(ended).cancelled


def test_a_plan_comes_from_its_seed_alone():
    assert make_plan(7, 100) == make_plan(7, 100)
    assert make_plan(7, 100) != make_plan(8, 100)
    assert make_plan(7, 100).deeds == make_plan(7, 300).deeds[: len(make_plan(7, 100).deeds)]
    kinds_of_deeds = {deed.kind for deed in make_plan(7, 600).deeds}
    assert {"kill task", "freeze worker", "kill triggerer", "clear", "mark failed"} <= kinds_of_deeds
