"""Does the deeds of a plan to a running Airflow, and writes down what it has done."""

from __future__ import annotations

import heapq
import itertools
import signal
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any

import psutil
import requests

from dev.airflow_api import DagRun
from dev.airflow_stack import AirflowStack
from dev.processes import MARK
from tests.system.chaos.audit import Audit
from tests.system.chaos.history import ENDED, Done
from tests.system.chaos.plan import COMPONENTS, Deed

SIGNALS = {"kill": signal.SIGKILL, "terminate": signal.SIGTERM, "freeze": signal.SIGSTOP}
#: A worker is a task's process and its supervisor.
TASK_KINDS = ("task", "supervisor", "worker")


class Monkey:
    """
    Does what it is told.

    What goes over Airflow's API is done aside: it may wait for a lock of the database that a frozen process holds.

    :param airflow: whom it is done to.
    :param audit: its database.
    """

    def __init__(self, airflow: AirflowStack, audit: Audit) -> None:
        self.airflow = airflow
        self.audit = audit
        #: What was done to tasks, each with its name; to components; and how many deeds found nobody.
        self.to_tasks: dict[int, tuple[str, Done]] = {}
        self.outages: list[Done] = []
        self.skipped = 0
        self._busy: set[str] = set()
        self._frozen: set[int] = set()
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._users = ThreadPoolExecutor(max_workers=32)
        self._calls: list[Future[object]] = []

    def start(self, dag_id: str, conf: Mapping[str, Any]) -> None:
        """Start a Dag run."""
        self._calls.append(self._users.submit(self.airflow.api.trigger, dag_id, **conf))

    def act(self, deed: Deed) -> None:
        """Do it, if there is whom to do it to."""
        verb, _, whom = deed.kind.partition(" ")
        if verb not in SIGNALS:
            done = self._by_user(deed)
        elif whom in TASK_KINDS:
            done = self._to_process(deed, verb, whom)
        else:
            done = self._to_component(deed, verb, whom)
        self.skipped += not done

    def run_due(self) -> None:
        """Thaw, and start again, what is due."""
        while self._later and self._later[0][0] <= time.time():
            heapq.heappop(self._later)[2]()

    def next_due(self) -> float:
        """Return when something is due."""
        return self._later[0][0] if self._later else float("inf")

    def finish(self) -> None:
        """Thaw everything, and have all components run."""
        while self._later:
            heapq.heappop(self._later)[2]()
        for component in list(self.airflow.components.values()):
            if component.process is None or component.process.poll() is not None:
                component.kill()
                self.airflow.start(component.arguments[0], component.name)
        for call in self._calls:
            call.result()
        self._users.shutdown()

    def _after(self, seconds: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._later, (time.time() + seconds, next(self._numbers), do))

    def _to_component(self, deed: Deed, verb: str, whom: str) -> bool:
        names = [name for name in COMPONENTS[whom.split()[0]] if name not in self._busy]
        if not names:
            return False
        name, alone = names[int(deed.pick * len(names))], whom.endswith("alone")
        component = self.airflow.components[name]
        if component.process is None or component.process.poll() is not None:
            return False
        self._busy.add(name)
        takes_workers = name == "scheduler" and verb != "freeze" and not alone
        running = self._running() if takes_workers else []
        begun = time.time()
        if verb == "freeze":
            component.process.send_signal(signal.SIGSTOP)
        elif verb == "terminate":
            component.process.terminate()
        elif alone:
            self.airflow.kill_alone(component)
        else:
            component.kill()
        for task in running:
            self._note(task, Done(begun, time.time(), deed.kind, name, (task.ti_id,)))
        number = len(self.outages)
        self.outages.append(Done(begun, begun + deed.seconds, deed.kind, name))

        def mend() -> None:
            if verb == "freeze":
                assert component.process
                component.process.send_signal(signal.SIGCONT)
            else:
                if verb == "terminate":
                    component.kill()
                self.airflow.start(component.arguments[0], name)
            self._busy.discard(name)
            self.outages[number] = replace(self.outages[number], until=time.time())

        self._after(deed.seconds, mend)
        return True

    def _running(self) -> list[Any]:
        return [task for task in self.audit.tasks() if task.state == "running" and task.pid]

    def _to_process(self, deed: Deed, verb: str, whom: str) -> bool:
        running = self._running()
        if not running:
            return False
        task = running[int(deed.pick * len(running))]
        processes = self._processes(task.pid, whom)
        if not processes or any(process.pid in self._frozen for process in processes):
            return False
        begun = time.time()
        for process in processes:
            with suppress(psutil.Error):
                process.send_signal(SIGNALS[verb])
        where = self._note(task, Done(begun, begun + deed.seconds, deed.kind, None, (task.ti_id,)))
        if verb == "freeze":
            pids = {process.pid for process in processes}
            self._frozen |= pids

            def thaw() -> None:
                for process in processes:
                    with suppress(psutil.Error):
                        process.send_signal(signal.SIGCONT)
                self._frozen.difference_update(pids)
                name, done = self.to_tasks[where]
                self.to_tasks[where] = name, replace(done, until=time.time())

            self._after(deed.seconds, thaw)
        return True

    def _processes(self, pid: int, whom: str) -> list[psutil.Process]:
        """Return the process of a task, its supervisor, or both, the supervisor first; none, if they are not ours."""
        try:
            task = psutil.Process(pid)
            supervisor = [parent for parent in [task.parent()] if parent and _is_supervisor(parent)]
            wanted = {"task": [task], "supervisor": supervisor, "worker": [*supervisor, task]}[whom]
            mark = self.airflow.components["scheduler"].mark
            return [process for process in wanted if process.environ().get(MARK, "").startswith(mark)]
        except psutil.Error:
            return []

    def _by_user(self, deed: Deed) -> bool:
        tasks = [task for task in self.audit.tasks() if (task.state in ENDED) == deed.prefers_ended]
        if deed.kind != "clear":
            tasks = [task for task in tasks if task.state not in ENDED] or tasks
        if not tasks:
            return False
        task = tasks[int(deed.pick * len(tasks))]
        self._calls.append(self._users.submit(self._call, deed.kind, task))
        return True

    def _call(self, kind: str, task: Any) -> None:
        instance = DagRun(self.airflow.api, task.dag_id, task.run_id).task("work", task.map_index)
        begun, note = time.time(), f"in state {task.state}"
        try:
            if kind == "clear":
                instance.clear()
            else:
                instance.set_state(kind.removeprefix("mark "))
        except requests.RequestException as error:
            note += f", refused: {error}"
        self._note(task, Done(begun, time.time(), kind, None, (task.ti_id,), note))

    def _note(self, task: Any, done: Done) -> int:
        number = next(self._numbers)
        self.to_tasks[number] = f"{task.dag_id}/{task.run_id}/{task.map_index}", done
        return number


def _is_supervisor(process: psutil.Process) -> bool:
    """Tell whether it is a worker of the LocalExecutor; a task whose supervisor has died has another parent."""
    return "LocalExecutor" in " ".join(process.cmdline())
