"""
The life of invocations: submission, log, time limit, update, end.

Choices where Kernel's behaviour is unknown: the time limit of an asynchronous invocation counts from its acceptance. A
synchronous invocation that reaches its time limit fails, and the response says so. A synchronous invocation whose
client disconnects continues. An ended invocation cannot be updated.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from pathlib import Path

from airflow_provider_kernel.api.models import InvocationStatus
from airflow_provider_kernel.emulator.contract import (
    ApiError,
    InvokeRequest,
    UpdateRequest,
    bad_request,
    not_found,
)
from airflow_provider_kernel.emulator.deployments import Deployments, new_id
from airflow_provider_kernel.emulator.process import Forkserver, Process
from airflow_provider_kernel.emulator.store import InvocationResult, Store, StoredInvocation, failed

#: Maximum seconds to read output after the invocation's processes have ended: an escaped process may hold the pipe.
OUTPUT_DRAIN_SECONDS = 1.0
#: The reason of an invocation that a ``PATCH`` has failed.
ENDED_BY_REQUEST = "The invocation was ended by a request."
#: The reason of an invocation that ends with the emulator.
STOPPED = "The emulator was stopped."


@dataclass(eq=False)
class _ActiveInvocation:
    """
    What an invocation has besides its stored data until it ends.

    :param forkserver: starts its processes.
    :param task: the task that executes it.
    :param process: its processes, once they have started.
    :param result: its result, once it is killed.
    """

    forkserver: Forkserver
    task: asyncio.Task[None] | None = None
    process: Process | None = None
    result: InvocationResult | None = None

    def kill(self, result: InvocationResult) -> None:
        """Kill the invocation's processes. The result of the first call counts."""
        self.result = self.result or result
        if self.process is not None:
            self.process.kill()


class Engine:
    """
    Executes invocations.

    :param deployments: have the apps.
    :param max_concurrency: maximum number of active (queued or running) invocations; None: no limit.
    :param sync_timeout: time limit of a synchronous invocation, in seconds.
    :param reserialize_payloads: whether payloads are stored as JSON that is written anew, instead of byte for byte.
    """

    def __init__(
        self,
        deployments: Deployments,
        *,
        max_concurrency: int | None,
        sync_timeout: float,
        reserialize_payloads: bool = False,
    ) -> None:
        self.deployments = deployments
        self.store = Store()
        self.max_concurrency = max_concurrency
        #: Set once :meth:`stop` is called.
        self.stopping = asyncio.Event()
        self._sync_timeout = sync_timeout
        self._reserialize_payloads = reserialize_payloads
        self._active: dict[str, _ActiveInvocation] = {}

    def submit(self, request: InvokeRequest) -> StoredInvocation:
        """
        Accept an invocation.

        :raises ApiError: 404: the app, version or action is unknown; 429: the limit of active invocations is reached;
            400: the payload cannot be reserialized.
        """
        app = self.deployments.find_app(request.app_name, request.version)
        version_note = self.deployments.version_note(app)
        if request.action_name not in app.actions:
            raise not_found(
                f"Action not found: {request.action_name} of the app {app.name}{version_note}, "
                f"which has {', '.join(sorted(app.actions)) or 'none'}"
            )
        if self.max_concurrency is not None and len(self._active) >= self.max_concurrency:
            raise ApiError(
                429,
                "rate_limit_exceeded",
                f"Limit of {self.max_concurrency} concurrent invocations reached",
                headers={"Retry-After": "1"},
            )
        payload = request.payload
        if payload is not None and self._reserialize_payloads:
            payload = _reserialize(payload)
        invocation = StoredInvocation(
            id=new_id(),
            app_name=app.name,
            action_name=request.action_name,
            version=app.version,
            deployment_id=app.deployment.id,
            payload=payload,
            started=time.time_ns(),
            version_note=version_note,
        )
        self.store.add(invocation)
        active = self._active[invocation.id] = _ActiveInvocation(app.deployment.forkserver)
        time_limit = request.async_timeout if request.is_async else self._sync_timeout
        active.task = asyncio.create_task(self._execute(invocation, active, time_limit))
        return invocation

    def app_folders(self) -> list[Path]:
        """Return the folders of the app files."""
        return [app.deployment.forkserver.path.resolve().parent for app in self.deployments.apps]

    def find(self, invocation_id: str) -> StoredInvocation:
        """
        Return an invocation.

        :raises ApiError: 404: the id is unknown.
        """
        invocation = self.store.get(invocation_id)
        if invocation is None:
            raise not_found(f"Invocation not found: {invocation_id}")
        return invocation

    def check_active(self, invocation_id: str) -> None:
        """
        Check that an invocation is queued or running.

        :raises ApiError: 400: it is unknown, or has ended.
        """
        if self.store.get(invocation_id) is None:
            raise bad_request(f"Invocation not found: {invocation_id}")
        if invocation_id not in self._active:
            raise bad_request(f"The invocation {invocation_id} has already ended")

    async def wait_for_end(self, invocation: StoredInvocation) -> None:
        """Wait until an invocation has ended."""
        active = self._active.get(invocation.id)
        if active is not None and active.task is not None:
            await asyncio.shield(active.task)

    async def update(self, invocation: StoredInvocation, request: UpdateRequest) -> None:
        """
        End an active invocation with the status and output of ``request``. Return when its processes are gone.

        :raises ApiError: 400: the invocation has already ended.
        """
        active = self._active.get(invocation.id)
        if active is None or active.result is not None:
            # A client that is told of the end must not find the invocation running.
            await self.wait_for_end(invocation)
            raise bad_request(f"The invocation {invocation.id} has already ended")
        has_failed = request.status is InvocationStatus.FAILED
        reason = ENDED_BY_REQUEST if has_failed else None
        active.kill(InvocationResult(request.status, request.output, reason))
        await self.wait_for_end(invocation)

    async def wait_until_unused(self, forkserver: Forkserver) -> None:
        """Wait until all invocations have ended whose processes this forkserver starts."""
        for active in list(self._active.values()):
            if active.forkserver is forkserver and active.task is not None:
                await asyncio.wait([active.task])

    async def stop(self) -> None:
        """End every active invocation, and wait for at most a second. The end of the server kills the rest."""
        self.stopping.set()
        active_invocations = list(self._active.values())
        for active in active_invocations:
            active.kill(failed(STOPPED))
        if tasks := [active.task for active in active_invocations if active.task]:
            await asyncio.wait(tasks, timeout=1)

    async def _execute(
        self,
        invocation: StoredInvocation,
        active: _ActiveInvocation,
        time_limit: float,
    ) -> None:
        """Execute an invocation and store its result, whatever happens."""
        timer = asyncio.get_running_loop().call_later(
            time_limit,
            active.kill,
            failed(f"The invocation exceeded its time limit of {time_limit:g} seconds."),
        )
        result = failed("The emulator failed with an internal error; its standard error has the traceback.")
        try:
            result = await self._run_action(invocation, active)
        except OSError as error:
            result = failed(f"The emulator could not start a process: {error}.")
        finally:
            timer.cancel()
            del self._active[invocation.id]
            self.store.finish(invocation, active.result or result, time.time_ns())

    async def _run_action(self, invocation: StoredInvocation, active: _ActiveInvocation) -> InvocationResult:
        """Run the action in processes of its own; return the result of the action."""
        active.process = await Process.start(
            active.forkserver,
            {
                "id": invocation.id,
                "app_name": invocation.app_name,
                "action_name": invocation.action_name,
                "payload": invocation.payload,
            },
        )
        invocation.mark_running()
        if active.result is not None:
            active.process.kill()
        logging = asyncio.create_task(_store_log(active.process, invocation))
        result = await active.process.wait()
        try:
            await asyncio.wait_for(logging, OUTPUT_DRAIN_SECONDS)
        except TimeoutError:
            invocation.add_line(
                "[A process that outlived the invocation still holds its output.]", time.time_ns()
            )
        return result


def _reserialize(payload: str) -> str:
    """
    Return the same JSON value as compact JSON.

    :raises ApiError: 400: the value cannot be written as JSON: a number is out of range, or the nesting is too deep.
    """
    try:
        return json.dumps(json.loads(payload), separators=(",", ":"), allow_nan=False)
    except (ValueError, RecursionError):  # json.loads reads 1e400 as infinity.
        raise bad_request("payload cannot be reserialized") from None


async def _store_log(process: Process, invocation: StoredInvocation) -> None:
    async for lines in process.lines():
        for line in lines:
            invocation.add_line(line, time.time_ns())
