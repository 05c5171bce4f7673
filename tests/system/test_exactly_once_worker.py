"""
Exactly once, whatever happens to a worker: each story stops a task at a step, and does something to it there.

The stories run side by side; each has a Dag run of its own, and the emulator's list judges how often its action ran.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import Future
from itertools import cycle

import pytest

from tests.system.dags.exactly_once import TWINS
from tests.system.once import (
    AT_ONCE,
    SUBMITTING,
    TIMEOUT,
    WAITS,
    OnceRun,
    Story,
    World,
    named,
    seconds,
    steps,
)

pytestmark = pytest.mark.system


def go_on_in_next_try(run: OnceRun) -> None:
    """Have the next try wait for the invocation, unless that is over."""
    if not run.is_ending:
        run.waits(try_number=2)


# --- The process of the task, or its supervisor


def task_is_killed(wait: str, step: str, world: World) -> None:
    run = world.start(f"once_{wait}", step)
    worker = run.stopped()

    os.kill(worker.pid, signal.SIGKILL)

    go_on_in_next_try(run)
    run.judge(accepted=1, succeeded=1, tries=2)


def task_is_terminated(wait: str, step: str, world: World) -> None:
    """As when a pod is evicted: nobody wants the task to end."""
    run = world.start(f"once_{wait}", step)
    worker = run.stopped()

    os.kill(worker.pid, signal.SIGTERM)

    run.on_kill_called()
    run.go()
    worker.wait_until_gone()
    run.judge(accepted=1, succeeded=1, tries=2)


def supervisor_is_terminated(wait: str, step: str, world: World) -> None:
    run = world.start(f"once_{wait}", step)
    worker = run.stopped()

    os.kill(worker.supervisor, signal.SIGTERM)

    run.on_kill_called()
    run.go()
    worker.wait_until_gone()
    run.judge(accepted=1, succeeded=1, tries=2)


def supervisor_is_killed(wait: str, step: str, world: World) -> None:
    """The process of the task goes on, and cannot reach Airflow any more."""
    run = world.start(f"once_{wait}", step)
    worker = run.stopped()

    os.kill(worker.supervisor, signal.SIGKILL)

    run.go()
    go_on_in_next_try(run)
    run.judge(accepted=1, succeeded=1, tries=2)
    worker.wait_until_gone()


def both_are_killed(wait: str, step: str, world: World) -> None:
    run = world.start(f"once_{wait}", step)
    worker = run.stopped()

    os.kill(worker.supervisor, signal.SIGKILL)
    os.kill(worker.pid, signal.SIGKILL)

    go_on_in_next_try(run)
    run.judge(accepted=1, succeeded=1, tries=2)


def last_try_is_terminated(wait: str, world: World) -> None:
    run = world.start(f"once_last_try_{wait}", "after:accepted")
    worker = run.stopped()

    os.kill(worker.pid, signal.SIGTERM)

    run.on_kill_called()
    run.go()
    worker.wait_until_gone()
    run.judge(accepted=1, succeeded=0, state="failed", results=0)


def frozen_worker_wakes_up(wait: str, step: str, world: World) -> None:
    """It was superseded meanwhile; what it still does must not last."""
    run = world.start(f"once_{wait}", step)
    worker = run.stopped()

    worker.freeze()
    if run.is_ending:
        run.finished()
    else:
        run.waits(try_number=2)
    run.go()
    worker.thaw()

    worker.wait_until_gone()
    if not run.is_ending:
        run.waits(try_number=2)
    # Only a POST that was still to come, or whose id was still to be written a minute later, may be a second run: it
    # wakes up in a race with Airflow, which tells it to end.
    may_be_two = step in ("after:intent", "before:accepted")
    run.judge(accepted=None if may_be_two else 1, succeeded=1, tries=2)
    assert len(run.invocations()) <= 2
    for one in run.invocations():
        if step == "after:intent" and one["status"] == "failed":
            assert seconds(one) < AT_ONCE


def cut_off_worker_goes_on_late(wait: str, step: str, world: World) -> None:
    """Its supervisor is dead, so it is never told that another try has taken its place."""
    run = world.start(f"once_{wait}", step)
    worker = run.stopped()

    os.kill(worker.supervisor, signal.SIGKILL)
    run.waits(try_number=2)
    run.go()

    run.judge(accepted=1, succeeded=1, tries=2)
    worker.wait_until_gone()


def supervisor_is_frozen(wait: str, step: str, world: World) -> None:
    """Its task is superseded, and waits for it at its next word to Airflow."""
    run = world.start(f"once_{wait}", step)
    worker = run.stopped()

    os.kill(worker.supervisor, signal.SIGSTOP)
    run.go()
    run.is_in_try(2)
    os.kill(worker.supervisor, signal.SIGCONT)

    worker.wait_until_gone()
    run.waits(try_number=2)
    run.judge(accepted=1, succeeded=1, tries=2)


# --- In the middle of the POST


def killed_in_post(wait: str, what: str, world: World) -> None:
    """The reply, or the request, comes when the next try looks for the invocation already; or it never does."""
    run, rule = world.start_held(f"once_{wait}", forward=what == "reply")
    rule.wait_until_held(TIMEOUT)

    os.kill(run.worker().pid, signal.SIGKILL)
    run.is_in_try(2)
    if what == "nothing":
        rule.lift()
    else:
        rule.release()

    run.waits(try_number=2)
    run.judge(accepted=1, succeeded=1, tries=2)


def terminated_in_post(wait: str, world: World) -> None:
    run, rule = world.start_held(f"once_{wait}", forward=True)
    rule.wait_until_held(TIMEOUT)
    worker = run.worker()

    os.kill(worker.pid, signal.SIGTERM)
    run.on_kill_called()
    rule.release()

    worker.wait_until_gone()
    run.waits(try_number=2)
    run.judge(accepted=1, succeeded=1, tries=2)


def cut_off_in_post(wait: str, world: World) -> None:
    run, rule = world.start_held(f"once_{wait}", forward=True)
    rule.wait_until_held(TIMEOUT)
    worker = run.worker()

    os.kill(worker.supervisor, signal.SIGKILL)
    run.waits(try_number=2)
    rule.release()

    run.judge(accepted=1, succeeded=1, tries=2)
    worker.wait_until_gone()


def frozen_in_post(wait: str, world: World) -> None:
    """When it wakes up, it may cancel what the next try has taken up; that one runs the action again then."""
    run, rule = world.start_held(f"once_{wait}", forward=True)
    rule.wait_until_held(TIMEOUT)
    worker = run.worker()

    worker.freeze()
    run.waits(try_number=2)
    rule.release()
    worker.thaw()

    worker.wait_until_gone()
    run.waits(try_number=2)
    run.judge(succeeded=1, tries=2)
    assert len(run.invocations()) <= 2


# --- With the default on_lost_reply, and one among twins


def id_is_lost(wait: str, world: World) -> None:
    run = world.start(f"once_by_default_{wait}", "before:accepted")
    worker = run.stopped()

    os.kill(worker.pid, signal.SIGKILL)

    run.waits(try_number=2)
    run.judge(accepted=1, succeeded=1, tries=2)


def request_is_lost(wait: str, world: World) -> None:
    run = world.start(f"once_by_default_{wait}", "after:intent")
    worker = run.stopped()

    os.kill(worker.pid, signal.SIGKILL)

    run.judge(accepted=0, succeeded=0, tries=2, state="failed", results=0)


def twin_is_killed(wait: str, step: str, world: World) -> None:
    run = world.start(f"once_mapped_{wait}", step, map_index=1)
    worker = run.stopped()

    os.kill(worker.pid, signal.SIGKILL)

    go_on_in_next_try(run)
    run.judge(accepted=TWINS, succeeded=TWINS, tries=2, results=TWINS)


def stories() -> Iterator[tuple[str, Story]]:
    """Yield all stories by their names. A task submits by the same code for both waits, so they take turns there."""
    deaths = (
        task_is_killed,
        task_is_terminated,
        supervisor_is_killed,
        both_are_killed,
        frozen_worker_wakes_up,
    )
    turns = cycle(WAITS)
    for step in SUBMITTING:
        for story in deaths:
            yield named(story, next(turns), step)
    for story in (supervisor_is_terminated, twin_is_killed):
        for step in ("before:accepted", "after:accepted"):
            yield named(story, next(turns), step)
    for step in ("after:intent", "before:accepted", "after:accepted"):
        yield named(cut_off_worker_goes_on_late, next(turns), step)
    for what in ("request", "reply", "nothing"):
        yield named(killed_in_post, next(turns), what)
    for story in (
        terminated_in_post,
        cut_off_in_post,
        frozen_in_post,
        id_is_lost,
        request_is_lost,
    ):
        yield named(story, next(turns))
    for wait in WAITS:
        for step in steps(wait)[len(SUBMITTING) :]:
            for story in deaths:
                yield named(story, wait, step)
        yield named(supervisor_is_frozen, wait, "after:accepted")
        yield named(last_try_is_terminated, wait)


STORIES = dict(stories())


@pytest.mark.parametrize("story", STORIES)
def test_exactly_once(outcomes: dict[str, Future[None]], story: str) -> None:
    outcomes[story].result()
