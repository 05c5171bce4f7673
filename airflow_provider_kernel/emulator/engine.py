"""
The life of the invocations: start, log, time limit, update, end.

The stricter side of what is unknown: the time limit of an asynchronous invocation counts from its acceptance;
a synchronous call that is cut ends as a ``failed`` invocation, and the reply says so; one whose client went
away runs on; an invocation that has ended cannot be updated.
"""

from __future__ import annotations

import asyncio
import secrets
import string
import time
from collections.abc import Mapping
from dataclasses import dataclass

from airflow_provider_kernel.api.models import InvocationStatus
from airflow_provider_kernel.emulator.contract import (
    VERSION_LABEL,
    ApiError,
    InvokeRequest,
    UpdateRequest,
    bad_request,
    not_found,
)
from airflow_provider_kernel.emulator.process import Forkserver, Process
from airflow_provider_kernel.emulator.store import Outcome, Record, Store, failed

#: Seconds that output may still come from a process which outlived the others.
LINGER = 1.0


def new_id() -> str:
    """Return an id such as Kernel gives: 24 lower-case letters and digits."""
    return "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(24))


@dataclass(frozen=True)
class App:
    """A served app, and the zygote that runs it."""

    name: str
    actions: tuple[str, ...]
    forkserver: Forkserver
    id: str
    deployment_id: str


@dataclass(eq=False)
class _Run:
    """An active invocation: its processes, once they are started, and the end it is to come to, once decided."""

    task: asyncio.Task[None] | None = None
    process: Process | None = None
    result: Outcome | None = None

    def end(self, result: Outcome) -> None:
        """Kill it. The first verdict stands."""
        self.result = self.result or result
        if self.process is not None:
            self.process.kill()


class Engine:
    """
    Runs invocations of ``apps`` (by name).

    :param max_concurrency: invocations that may be queued or running; None: any number.
    :param sync_timeout: seconds after which a synchronous invocation is cut.
    """

    def __init__(self, apps: Mapping[str, App], *, max_concurrency: int | None, sync_timeout: float) -> None:
        self.apps = apps
        self.store = Store()
        self.max_concurrency = max_concurrency
        self._sync_timeout = sync_timeout
        self._runs: dict[str, _Run] = {}

    def submit(self, request: InvokeRequest) -> Record:
        """
        Accept an invocation.

        :raises ApiError: 404, there is no such app, version or action; 429, the limit is reached.
        """
        app = self.apps.get(request.app_name)
        if app is None:
            raise not_found(f"App not found: {request.app_name}")
        if request.version not in ("latest", VERSION_LABEL):
            raise not_found(f"Version not found: {request.version} of the app {app.name}")
        if request.action_name not in app.actions:
            raise not_found(f"Action not found: {request.action_name} of the app {app.name}")
        if self.max_concurrency is not None and len(self._runs) >= self.max_concurrency:
            raise ApiError(
                429,
                "rate_limit_exceeded",
                f"Limit of {self.max_concurrency} concurrent invocations reached",
                headers={"Retry-After": "1"},
            )
        record = Record(
            id=new_id(),
            app_name=app.name,
            action_name=request.action_name,
            version=VERSION_LABEL,
            deployment_id=app.deployment_id,
            payload=request.payload,
            started=time.time_ns(),
        )
        self.store.add(record)
        run = self._runs[record.id] = _Run()
        seconds = request.async_timeout if request.is_async else self._sync_timeout
        run.task = asyncio.create_task(self._run(record, run, app.forkserver, seconds))
        return record

    async def ended(self, record: Record) -> None:
        """Wait for the end of an invocation."""
        run = self._runs.get(record.id)
        if run is not None and run.task is not None:
            await asyncio.shield(run.task)

    async def update(self, record: Record, request: UpdateRequest) -> None:
        """
        End an active invocation as ``request`` says; kill its processes; return when nothing is left of them.

        :raises ApiError: 400, it has ended already.
        """
        run = self._runs.get(record.id)
        if run is None or run.result is not None:
            await self.ended(record)  # whoever is told that it has ended must not find it running
            raise bad_request(f"The invocation {record.id} has already ended")
        has_failed = request.status is InvocationStatus.FAILED
        reason = "The invocation was ended by a request." if has_failed else None
        run.end(Outcome(request.status, request.output, reason))
        await self.ended(record)

    async def stop(self) -> None:
        """End every active invocation; what takes more than a second is left to the end of the server."""
        runs = list(self._runs.values())
        for run in runs:
            run.end(failed("The emulator was stopped."))
        if tasks := [run.task for run in runs if run.task]:
            await asyncio.wait(tasks, timeout=1)

    async def _run(self, record: Record, run: _Run, forkserver: Forkserver, seconds: float) -> None:
        timer = asyncio.get_running_loop().call_later(
            seconds, run.end, failed(f"The invocation exceeded its time limit of {seconds:g} seconds.")
        )
        outcome = failed("The emulator itself failed; its standard error has the traceback.")
        try:
            outcome = await self._execute(record, run, forkserver)
        except OSError as error:
            outcome = failed(f"The emulator could not start a process: {error}.")
        finally:
            timer.cancel()
            del self._runs[record.id]
            record.end(run.result or outcome, time.time_ns())
            self.store.forget()

    async def _execute(self, record: Record, run: _Run, forkserver: Forkserver) -> Outcome:
        run.process = await Process.start(
            forkserver,
            {
                "id": record.id,
                "app_name": record.app_name,
                "action_name": record.action_name,
                "payload": record.payload,
            },
        )
        record.run()
        if run.result is not None:
            run.process.kill()
        logging = asyncio.create_task(_log(run.process, record))
        outcome = await run.process.wait()
        try:
            await asyncio.wait_for(logging, LINGER)
        except TimeoutError:
            record.log("[A process that outlived the invocation still holds its output.]", time.time_ns())
        return outcome


async def _log(process: Process, record: Record) -> None:
    async for lines in process.lines():
        for line in lines:
            record.log(line, time.time_ns())
