"""
Exactly once, whatever a user does to a task: clears it, or marks it, while it runs, is deferred, or waits for capacity.

The stories run side by side; each has a Dag run of its own, and the emulator's list judges how often its action ran.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import Future
from itertools import cycle

import pytest

from dev.wait import wait_until
from tests.system.dags.exactly_once import TWINS
from tests.system.once import AT_ONCE, TIMEOUT, WAITS, OnceRun, Story, World, named

pytestmark = pytest.mark.system


def act(run: OnceRun, action: str) -> None:
    """Do what a user does to the task."""
    if action == "clear":
        run.task.clear()
    else:
        run.task.set_state(action)


def cleared(before: int, wait: str) -> int | None:
    """
    Return how many invocations there are after a clear, of ``before``.

    One that a trigger waits for is cancelled, and another follows. Of one that a worker waits for Airflow lets its
    old and its new try decide in a race: it is cancelled, or taken up.
    """
    return before + 1 if wait == "deferred" else None


def user_acts_while_it_waits(action: str, wait: str, world: World) -> None:
    run = world.start(f"once_{wait}")
    run.waits()

    act(run, action)

    if action == "clear":
        run.waits(try_number=2)
        run.judge(accepted=cleared(1, wait), succeeded=1, tries=2)
    else:
        wait_until(
            lambda: [one["status"] for one in run.invocations()] == ["failed"], AT_ONCE, f"{run} is cancelled"
        )
        run.judge(accepted=1, succeeded=0, state=action, results=0)


def user_acts_while_it_submits(action: str, step: str, wait: str, world: World) -> None:
    run = world.start(f"once_{wait}", step)
    worker = run.stopped()

    act(run, action)

    run.on_kill_called()
    run.go()
    worker.wait_until_gone()
    sent = step != "after:intent"
    if action == "clear":
        run.waits(try_number=2)
        run.judge(accepted=None if sent else 1, succeeded=1, tries=2)
        assert len(run.invocations()) <= 1 + sent
    else:
        run.judge(accepted=int(sent), succeeded=0, state=action, results=0)


def user_acts_when_it_is_over(action: str, wait: str, world: World) -> None:
    """The invocation has succeeded, the task has not yet; it is stopped until Airflow kills it."""
    run = world.start(f"once_{wait}", "before:ended")
    worker = run.stopped()

    act(run, action)

    worker.wait_until_gone()
    if action == "clear":
        run.judge(accepted=1, succeeded=1, tries=2)
    else:
        run.judge(accepted=1, succeeded=1, state=action, results=0)


def user_acts_on_one_twin(action: str, wait: str, world: World) -> None:
    run = world.start(f"once_mapped_{wait}", map_index=1)
    run.waits()
    wait_until(lambda: len(run.invocations()) == TWINS, TIMEOUT, f"all of {run} are submitted")

    act(run, action)

    if action == "clear":
        run.waits(try_number=2)
        run.judge(accepted=cleared(TWINS, wait), succeeded=TWINS, tries=2, results=TWINS)
        assert len(run.invocations()) <= TWINS + 1
    else:
        wait_until(
            lambda: sorted(one["status"] for one in run.invocations()) == ["failed", "running", "running"],
            AT_ONCE,
            f"only one of {run} is cancelled",
        )
        run.judge(accepted=TWINS, succeeded=TWINS - 1, state=action, results=TWINS - 1)


def user_acts_in_post(action: str, wait: str, world: World) -> None:
    run, rule = world.start_held(f"once_{wait}", forward=True)
    rule.wait_until_held(TIMEOUT)
    worker = run.worker()

    act(run, action)
    run.on_kill_called()
    rule.release()

    worker.wait_until_gone()
    if action == "clear":
        run.waits(try_number=2)
        run.judge(succeeded=1, tries=2)
        assert len(run.invocations()) <= 2
    else:
        run.judge(accepted=1, succeeded=0, state=action, results=0)


# --- While Kernel has no capacity


def user_acts_while_there_is_no_capacity(action: str, wait: str, world: World) -> None:
    run, full = world.start_full(f"once_{wait}")
    run.waits_for_capacity()

    act(run, action)

    if action == "clear":
        run.waits_for_capacity(try_number=2)
        full.lift()
        run.waits(try_number=2)
        run.judge(accepted=1, succeeded=1, tries=2)
    else:
        run.finished()
        full.lift()
        run.judge(accepted=0, succeeded=0, state=action, results=0)


def killed_while_there_is_no_capacity(world: World) -> None:
    run, full = world.start_full("once_on_worker")
    run.waits_for_capacity()

    os.kill(run.worker().pid, signal.SIGKILL)

    run.waits_for_capacity(try_number=2)
    full.lift()
    run.waits(try_number=2)
    run.judge(accepted=1, succeeded=1, tries=2)


def stories() -> Iterator[tuple[str, Story]]:
    """Yield all stories by their names. A task submits by the same code for both waits, so they take turns there."""
    turns = cycle(WAITS)
    for action in ("clear", "failed", "success"):
        for wait in WAITS:
            for story in (
                user_acts_while_it_waits,
                user_acts_when_it_is_over,
                user_acts_on_one_twin,
                user_acts_while_there_is_no_capacity,
            ):
                yield named(story, action, wait)
        yield named(user_acts_in_post, action, next(turns))
        for step in ("after:intent", "before:accepted", "after:accepted"):
            yield named(user_acts_while_it_submits, action, step, next(turns))
    yield named(killed_while_there_is_no_capacity)


STORIES = dict(stories())


@pytest.mark.parametrize("story", STORIES)
def test_exactly_once(outcomes: dict[str, Future[None]], story: str) -> None:
    outcomes[story].result()
