"""Runs of the Dags in ``dags/exactly_once.py``: what a test does to them, and how they are judged."""

from __future__ import annotations

import itertools
import json
import os
import signal
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy

from airflow_provider_kernel.testing import KernelEmulator
from dev.airflow_api import DagRun, TaskInstance
from dev.airflow_stack import AirflowStack
from dev.processes import is_alive
from dev.wait import wait_until
from tests import faults
from tests.faulty import FaultyProxy, Rule
from tests.listed import invocations_of

#: What happens to one run, and how it comes out: it returns, or raises.
Story = Callable[["World"], None]
WAITS = ("deferred", "on_worker")
#: Steps while the invocation is not over, and when it is: in the second leg of the task, if it was deferred.
SUBMITTING = ("before:intent", "after:intent", "before:accepted", "after:accepted")
ENDING = ("before:ended", "after:ended")
#: Seconds within which everything happens: a dead worker is noticed, the invocation of a lost reply is found, and so on.
TIMEOUT = 400
#: Seconds that an invocation may go on after Airflow has given it up.
AT_ONCE = 60


def steps(wait: str) -> tuple[str, ...]:
    """Return all steps of a task that waits so."""
    return (*SUBMITTING, *(["after:deferred"] if wait == "deferred" else []), *ENDING)


class World:
    """
    What all runs have in common: the Airflow, its database, the Kernel, and a folder for their files.

    :param proxy: a faulty way to the Kernel, which is the connection ``kernel_faulty``.
    """

    def __init__(
        self, airflow: AirflowStack, emulator: KernelEmulator, proxy: FaultyProxy, folder: Path
    ) -> None:
        self.airflow = airflow
        self.emulator = emulator
        self.proxy = proxy
        self.folder = folder
        self.numbers = itertools.count(1)
        self.database = sqlalchemy.create_engine(airflow.database_url)

    def start(self, dag_id: str, step: str | None = None, map_index: int = -1) -> OnceRun:
        """Start a run, which stops at the step, if there is one."""
        return OnceRun(self, dag_id, step, map_index)

    def start_held(self, dag_id: str, *, forward: bool) -> tuple[OnceRun, Rule]:
        """Start a run whose first POST is held on its way; with ``forward``, the reply to it is."""
        folder = self.new_folder(dag_id)
        fault = faults.hold(forward=forward)
        where = f"{folder}/end".encode()
        rule = self.proxy.on("POST /invocations", fault, times=1, where=lambda post: where in post.body)
        return OnceRun(self, dag_id, folder=folder, conn_id="kernel_faulty"), rule

    def start_full(self, dag_id: str) -> tuple[OnceRun, Rule]:
        """Start a run for which Kernel has no capacity, until the rule is lifted."""
        folder = self.new_folder(dag_id)
        fault = faults.answer(429, headers={"Retry-After": "10"})
        where = f"{folder}/end".encode()
        rule = self.proxy.on("POST /invocations", fault, where=lambda post: where in post.body)
        conn_id = f"kernel_{folder.name}"  # the tasks of one connection wait for each other
        self.airflow.api.add_kernel_connection(conn_id, self.proxy.base_url, self.emulator.api_key)
        return OnceRun(self, dag_id, folder=folder, conn_id=conn_id), rule

    def new_folder(self, dag_id: str) -> Path:
        """Make a folder for the files of one run."""
        folder = self.folder / f"{next(self.numbers):03}-{dag_id}"
        folder.mkdir(parents=True)
        return folder

    def select(self, query: str, **values: Any) -> list[Any]:
        """Ask the database, which costs Airflow nothing."""
        with self.database.connect() as connection:
            return list(connection.execute(sqlalchemy.text(query), values))

    def invocations(self, since: str) -> list[dict[str, Any]]:
        """Return everything that the Kernel was asked to run since then."""
        return invocations_of(self.emulator, since=since)


@dataclass(frozen=True)
class Worker:
    """The process of a task, and its supervisor, which is its parent and a worker of the LocalExecutor."""

    pid: int
    supervisor: int

    def wait_until_gone(self) -> None:
        """Wait for the end of the task's process."""
        wait_until(lambda: not is_alive(self.pid), TIMEOUT, f"the end of process {self.pid}")

    def freeze(self) -> None:
        """Stop both where they are, as when their machine is suspended."""
        os.kill(self.supervisor, signal.SIGSTOP)
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let both go on."""
        os.kill(self.pid, signal.SIGCONT)
        os.kill(self.supervisor, signal.SIGCONT)


class OnceRun:
    """One run. Its invocations last until :meth:`end`."""

    def __init__(
        self,
        world: World,
        dag_id: str,
        step: str | None = None,
        map_index: int = -1,
        folder: Path | None = None,
        conn_id: str = "kernel_default",
    ) -> None:
        self.world = world
        self.folder = folder or world.new_folder(dag_id)
        self.step = step
        self.map_index = map_index
        conf = {"folder": str(self.folder), "step": step, "map_index": map_index, "conn_id": conn_id}
        self.started_at = datetime.now(UTC).isoformat()
        self.dag_run: DagRun = world.airflow.api.trigger(dag_id, **conf)
        self.run_id = self.dag_run.run_id

    @property
    def task(self) -> TaskInstance:
        """The task that the test is about."""
        return self.dag_run.task("invoke", self.map_index)

    def go(self) -> None:
        """Let the stopped task go on."""
        self._file("go").touch()

    def end(self) -> None:
        """Let the run's invocations succeed, those to come at once."""
        (self.folder / "end").touch()

    @property
    def is_ending(self) -> bool:
        """Whether its step is one at which the invocation is over."""
        return self.step in ENDING

    def stopped(self) -> Worker:
        """Wait until the task is stopped at its step, for which its invocations may have to end; return who runs it."""
        if self.is_ending:
            self.end()
        self._wait(self._file("stopped").exists, "is stopped")
        return self.worker()

    def worker(self) -> Worker:
        """Return who has come to the step before."""
        line = json.loads(self._file("trace").read_text().splitlines()[-1])
        return Worker(line["pid"], line["ppid"])

    def on_kill_called(self) -> None:
        """Wait until the task's ``on_kill`` was called."""
        self._wait(self._file("killed").exists, "has its on_kill called")

    def triggerer(self) -> int | None:
        """Return Airflow's number of the triggerer that waits for the invocation now."""
        found = self.world.select(
            "SELECT triggerer_id FROM trigger JOIN task_instance ON trigger.id = trigger_id"
            " WHERE run_id = :run AND map_index = :map_index",
            run=self.run_id,
            map_index=self.map_index,
        )
        return found[0][0] if found else None

    def state(self) -> tuple[str | None, int]:
        """Return the state and the number of the try, as Airflow has them."""
        ((state, try_number),) = self.world.select(
            "SELECT state, try_number FROM task_instance WHERE run_id = :run AND map_index = :map_index",
            run=self.run_id,
            map_index=self.map_index,
        )
        return state, try_number

    def waits(self, try_number: int = 1) -> None:
        """Wait until this try, or a later one, waits for an invocation that is active, and its log arrives."""

        def waits() -> bool:
            state, now = self.state()
            return (
                now >= try_number
                and state in ("deferred", "running")
                and any(map(_is_active, self.invocations()))
                and "started" in self.task.app_lines(now)
            )

        self._wait(waits, f"waits in try {try_number}", interval=1)

    def waits_for_capacity(self, try_number: int = 1) -> None:
        """Wait until this try, or a later one, has been told that there is no capacity, and waits."""
        words = "The task waits for capacity"

        def waits() -> bool:
            state, now = self.state()
            log = self.task.log(now)
            return (
                now >= try_number and state in ("deferred", "running") and any(words in line for line in log)
            )

        self._wait(waits, f"waits for capacity in try {try_number}", interval=1)

    def is_in_try(self, number: int) -> None:
        """Wait until this try, or a later one, is under way."""
        self._wait(
            lambda: self.state()[0] in ("running", "deferred") and self.state()[1] >= number,
            f"is in try {number}",
        )

    def invocations(self) -> list[dict[str, Any]]:
        """Return the run's invocations; those of all its map indexes."""
        return [
            one for one in self.world.invocations(self.started_at) if self.run_id in one.get("payload", "")
        ]

    def finished(self) -> None:
        """Wait for the end of the Dag run."""
        query = "SELECT state FROM dag_run WHERE run_id = :run"
        self._wait(
            lambda: self.world.select(query, run=self.run_id)[0][0] in ("success", "failed"), "has ended"
        )

    def judge(
        self,
        *,
        succeeded: int,
        accepted: int | None = None,
        tries: int = 1,
        state: str = "success",
        results: int = 1,
    ) -> None:
        """
        Let everything end, and compare.

        :param succeeded: how many invocations succeeded; the others were cancelled, at once.
        :param accepted: how many there were; None: it cannot be said.
        :param tries: how many tries the task has had, at least: a busy Airflow now and then adds one.
        :param state: that of the task.
        :param results: how many tasks of the run succeed by themselves; each has the result of its invocation.
        """
        self.end()
        self.finished()
        wait_until(
            lambda: not any(map(_is_active, self.invocations())), AT_ONCE, f"nothing is left of {self}"
        )
        invocations = self.invocations()
        succeeded_ids = {one["id"] for one in invocations if one["status"] == "succeeded"}
        assert len(succeeded_ids) == succeeded, f"{self}: {self.story()}"
        assert accepted in (None, len(invocations)), f"{self}: {self.story()}"
        assert self.state()[0] == state, f"{self}: {self.story()}"
        assert self.state()[1] >= tries, f"{self}: {self.story()}"
        told = [task for task in self.dag_run.tasks() if task.xcom() is not None]
        assert [task.xcom() for task in told] == [{"run": self.run_id}] * results, f"{self}: {self.story()}"
        ids = {task.xcom("invocation_id") for task in told}
        assert len(ids) == results, f"{self}: {self.story()}"
        assert ids <= succeeded_ids, f"{self}: {self.story()}"

    def story(self) -> str:
        """Return what has happened, for a message."""
        lines = [f"{self.state()}"]
        lines += [f"{name.name}: {name.read_text()}" for name in self.folder.glob("trace*")]
        for one in self.invocations():
            kept = ("id", "status", "started_at", "finished_at", "payload", "output", "status_reason")
            lines.append(str({name: one.get(name) for name in kept}))
        for number in range(1, self.state()[1] + 1):
            lines += [f"--- log of try {number}", *self.task.log(number), self.task.error(number)]
        return "\n".join(lines)

    def __str__(self) -> str:
        return f"{self.dag_run.dag_id} {self.run_id} ({self.folder.name})"

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}{self.map_index}"

    def _wait(self, condition: Callable[[], object], what: str, interval: float = 0.5) -> None:
        try:
            wait_until(condition, TIMEOUT, f"{self} {what}", interval)
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{self.story()}") from None


def named(story: Callable[..., None], *arguments: str) -> tuple[str, Story]:
    """Return a story with its arguments, and a name for both."""
    return "-".join([story.__name__, *arguments]), partial(story, *arguments)


def side_by_side(stories: Mapping[str, Story], world: World) -> dict[str, Future[None]]:
    """Let the stories happen, many at once; each future is the outcome of one."""
    # Most of them wait: for a death to be noticed, or a stopped worker to be given up.
    with ThreadPoolExecutor(max_workers=4 * (os.cpu_count() or 1)) as pool:
        return {name: pool.submit(story, world) for name, story in stories.items()}


def seconds(invocation: Mapping[str, Any]) -> float:
    """Return how long an invocation has lasted."""
    started, finished = (datetime.fromisoformat(invocation[name]) for name in ("started_at", "finished_at"))
    return (finished - started).total_seconds()


def _is_active(invocation: Mapping[str, Any]) -> bool:
    return invocation["status"] in ("queued", "running")
