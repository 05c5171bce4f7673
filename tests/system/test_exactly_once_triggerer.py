"""Exactly once, whatever happens to a triggerer: tasks that are deferred in one are taken over by another."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dev.airflow_stack import Component
from dev.wait import wait_until
from tests.system.dags.exactly_once import TWINS
from tests.system.once import AT_ONCE, TIMEOUT, OnceRun, World

pytestmark = pytest.mark.system


class Triggerers:
    """Two triggerers, of which at first only one runs: the tasks are in that one, ``first``, for sure."""

    def __init__(self, world: World) -> None:
        self.world = world
        components = world.airflow.components
        self.first, self.second = components["triggerer"], components["triggerer-2"]

    def start_first(self) -> None:
        """Have only the first one run."""
        self.second.kill()
        if self.first.process is None:
            self.first.start()

    def start_second(self) -> None:
        """Have both run."""
        before = self.alive()
        self.second.start()
        wait_until(lambda: self.alive() - before, TIMEOUT, "the second triggerer runs")

    def alive(self) -> set[int]:
        """Return Airflow's numbers of those that have shown up in the last seconds."""
        query = (
            "SELECT id FROM job WHERE job_type = 'TriggererJob' AND end_date IS NULL"
            " AND latest_heartbeat > now() - interval '3 seconds'"
        )
        return {row.id for row in self.world.select(query)}


def deferred(world: World) -> list[OnceRun]:
    """Start runs, one of them of a mapped task; wait until their triggers run."""
    runs = [world.start("once_deferred") for _ in range(3)] + [
        world.start("once_mapped_deferred", map_index=1)
    ]
    for run in runs:
        run.waits()
    return runs


def taken_over(runs: list[OnceRun], from_whom: int) -> int:
    """Wait until all runs are with another triggerer; return which."""
    wait_until(
        lambda: all(run.triggerer() not in (None, from_whom) for run in runs), TIMEOUT, "all are taken over"
    )
    (triggerer,) = {run.triggerer() for run in runs}
    assert triggerer
    return triggerer


def judge(runs: list[OnceRun]) -> None:
    for run in runs:
        count = TWINS if run.map_index >= 0 else 1
        run.judge(accepted=count, succeeded=count, results=count)


@pytest.mark.parametrize("end", [Component.kill, Component.stop])
def test_a_wait_continues_in_another_triggerer(world: World, end: Callable[[Component], None]) -> None:
    triggerers = Triggerers(world)
    triggerers.start_first()
    runs = deferred(world)
    in_queue, full = world.start_full("once_deferred")
    in_queue.waits_for_capacity()
    triggerers.start_second()
    (first,) = {run.triggerer() for run in (*runs, in_queue)}
    assert first

    end(triggerers.first)

    taken_over([*runs, in_queue], first)
    full.lift()
    judge([*runs, in_queue])


def test_a_frozen_triggerer_that_wakes_up_cancels_nothing(world: World) -> None:
    """What was taken over is left alone; what a user ended meanwhile is cancelled, though nobody else knew of it."""
    triggerers = Triggerers(world)
    triggerers.start_first()
    runs = deferred(world)
    failed, cleared = world.start("once_deferred"), world.start("once_deferred")
    for run in (failed, cleared):
        run.waits()
    triggerers.start_second()
    (first,) = {run.triggerer() for run in (*runs, failed, cleared)}
    assert first

    triggerers.first.freeze()
    failed.task.set_state("failed")
    cleared.task.clear()
    second = taken_over(runs, first)
    cleared.waits(try_number=2)
    # The second may have known of it all the same: where Airflow gave it the trigger before it looked at the task.
    triggerers.first.thaw()

    wait_until(
        lambda: [one["status"] for one in failed.invocations()] == ["failed"], AT_ONCE, "it is cancelled"
    )
    failed.judge(accepted=1, succeeded=0, state="failed", results=0)
    cleared.judge(accepted=2, succeeded=1, tries=2)
    # It has found out what it lost, and takes that back.
    triggerers.second.kill()
    assert taken_over(runs, second) == first
    judge(runs)
