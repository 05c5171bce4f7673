"""Exactly once, whatever happens to the scheduler and to all workers, which are its children: the whole machine."""

from __future__ import annotations

import psutil
import pytest

from dev.airflow_stack import Component
from dev.processes import marked
from dev.wait import wait_until
from tests.system.dags.exactly_once import TWINS
from tests.system.once import TIMEOUT, WAITS, OnceRun, World, steps

pytestmark = pytest.mark.system


def at_every_step(world: World, *but: str) -> list[OnceRun]:
    """Start a run for each step, but some; wait until they are stopped."""
    runs = [world.start(f"once_{wait}", step) for wait in WAITS for step in steps(wait) if step not in but]
    for run in runs:
        run.stopped()
    return runs


def waiting(world: World) -> list[OnceRun]:
    """Start runs; wait until they wait."""
    runs = [world.start(f"once_{wait}") for wait in WAITS]
    runs += [world.start(f"once_mapped_{wait}", map_index=1) for wait in WAITS]
    for run in runs:
        run.waits()
    return runs


def judge(runs: list[OnceRun]) -> None:
    for run in runs:
        run.end()
    for run in runs:
        count = TWINS if "mapped" in run.dag_run.dag_id else 1
        run.judge(accepted=count, succeeded=count, results=count)


@pytest.fixture
def scheduler(world: World) -> Component:
    return world.airflow.components["scheduler"]


def test_a_dying_machine_loses_nothing(world: World, scheduler: Component) -> None:
    # Looking for what was never sent takes a minute, and it is done in the stories of the worker.
    runs = [*at_every_step(world, "after:intent"), *waiting(world)]

    scheduler.kill()
    scheduler.start()

    judge(runs)


def test_a_dying_scheduler_loses_nothing(world: World, scheduler: Component) -> None:
    """The next scheduler starts their tasks anew, and Airflow tells them to end."""
    runs = at_every_step(world)

    world.airflow.kill_alone(scheduler)
    scheduler.start()
    for run in runs:
        run.on_kill_called()
        run.go()

    for run in runs:
        # A superseded try that writes its invocation's id only a minute after the request cancels the invocation.
        is_second = run.step == "before:accepted"
        run.judge(accepted=None if is_second else 1, succeeded=1)
        assert len(run.invocations()) <= 1 + is_second


def test_a_suspended_machine_loses_nothing(world: World, scheduler: Component) -> None:
    """All wake up at once: tries that are given up by then, those that take their place, and who decides that."""
    runs = at_every_step(world)

    scheduler.freeze()
    oldest = "SELECT count(*) FROM task_instance WHERE state = 'running' AND last_heartbeat_at > now() - interval '16 s'"
    wait_until(lambda: world.select(oldest)[0][0] == 0, TIMEOUT, "all heartbeats are too old")
    for run in runs:
        run.go()
    scheduler.thaw()

    for run in runs:
        run.judge(succeeded=1)


def test_a_machine_that_is_shut_down_loses_nothing(world: World, scheduler: Component) -> None:
    """As a service manager does it: SIGTERM to every process, and SIGKILL to what is left."""
    runs = at_every_step(world)

    for process in marked(scheduler.mark):
        try:
            process.terminate()
        except psutil.NoSuchProcess:
            continue
    for run in runs:
        run.on_kill_called()
        run.go()
    scheduler.stop()
    scheduler.start()

    judge(runs)
