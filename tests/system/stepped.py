"""The operator as it is, but a test sees its steps, and stops it at one of them."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from airflow_provider_kernel.operators.kernel import KernelInvokeOperator

RECORD = "kernel_invocation"
LONGEST_STOP = 300.0


class SteppedInvokeOperator(KernelInvokeOperator):
    """
    Announces the steps of its record, and stops at the one that the Dag run's ``conf`` names.

    A step is ``before:`` or ``after:`` writing the stage ``intent``, ``accepted``, ``deferred`` or ``ended`` to
    the record. The conf has ``folder``, and may have ``step``, and ``map_index`` where the task is mapped. In the
    folder, for each map index: ``trace`` has a line for each step that was reached; while it is stopped there is
    ``stopped``; ``go`` lets it go on; ``killed`` says that its ``on_kill`` was called. It stops only once.
    """

    steps: Steps | None = None

    def execute(self, context: Any) -> Any:
        self._watch(context)
        return super().execute(context)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Any) -> Any:
        self._watch(context)
        return super().resume_execution(next_method, next_kwargs, context)

    def on_kill(self) -> None:
        if self.steps:
            self.steps.path("killed").touch()
        super().on_kill()

    def _watch(self, context: Any) -> None:
        ti = context["ti"]
        self.steps = Steps(context["dag_run"].conf, ti.map_index, ti.try_number)
        context["task_state_store"] = SteppedStore(context["task_state_store"], self.steps)


class Steps:
    """The steps of one try."""

    def __init__(self, conf: dict[str, Any], map_index: int, try_number: int) -> None:
        self.folder = Path(conf["folder"])
        self.map_index = map_index
        self.try_number = try_number
        self.stop_at = conf.get("step") if map_index == conf.get("map_index", -1) else None

    def path(self, name: str) -> Path:
        """Return the file of this name for this map index."""
        return self.folder / f"{name}{self.map_index}"

    def reach(self, step: str) -> None:
        """Write down that the step is reached; stop there, if it is the one."""
        line = {"step": step, "try_number": self.try_number, "pid": os.getpid(), "ppid": os.getppid()}
        with self.path("trace").open("a") as trace:
            trace.write(json.dumps(line) + "\n")
        if step != self.stop_at:
            return
        try:
            self.path("stopped").touch(exist_ok=False)
        except FileExistsError:
            return
        deadline = time.monotonic() + LONGEST_STOP
        while not self.path("go").exists() and time.monotonic() < deadline:
            time.sleep(0.02)


class SteppedStore:
    """A ``task_state_store`` that reaches a step before and after the record is written."""

    def __init__(self, store: Any, steps: Steps) -> None:
        self._store = store
        self._steps = steps

    def set(self, key: str, value: Any, **options: Any) -> None:
        if key != RECORD:
            self._store.set(key, value, **options)
            return
        stage = stage_of(value)
        self._steps.reach(f"before:{stage}")
        self._store.set(key, value, **options)
        self._steps.reach(f"after:{stage}")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def stage_of(record: dict[str, Any]) -> str:
    """Return how far the invocation has come, as the record has it."""
    if record["ended"]:
        return "ended"
    if record["deferred"]:
        return "deferred"
    return "intent" if record["invocation_id"] is None else "accepted"
