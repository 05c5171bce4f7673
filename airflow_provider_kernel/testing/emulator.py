"""Kernel on localhost for tests: :class:`KernelEmulator`. Needs no Airflow."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from airflow_provider_kernel.api.errors import KernelError, KernelInvocationTimeoutError
from airflow_provider_kernel.api.models import Invocation, InvocationRequest, InvocationStatus
from airflow_provider_kernel.api.payload import parse_json
from airflow_provider_kernel.api.timestamps import format_timestamp
from airflow_provider_kernel.emulator import API_KEY_VARIABLE, DEFAULT_API_KEY
from airflow_provider_kernel.emulator.connection import airflow_connection
from airflow_provider_kernel.testing.client import EmulatorClient
from airflow_provider_kernel.testing.faults import EmulatorFault

_SETTINGS = "/_emulator/settings"
_INVOCATIONS = "/_emulator/invocations"


@dataclass(frozen=True)
class EmulatedInvocation:
    """
    An invocation, as the emulator knows it at that time.

    :param id: its id.
    :param app_name: the app.
    :param action_name: the action.
    :param version: the app's version.
    :param status: ``queued``, ``running``, ``succeeded`` or ``failed``.
    :param payload: the payload that the action receives; None if there is none.
    :param output: what the action returned; the text of the exception if it raised; None if there is none.
    :param status_reason: why the invocation failed; None if it did not.
    :param log: the lines that the app has printed, with the traceback of an action that raised.
    """

    id: str
    app_name: str
    action_name: str
    version: str
    status: str
    payload: Any = field(default=None, repr=False)
    output: Any = field(default=None, repr=False)
    status_reason: str | None = None
    log: list[str] = field(default_factory=list, repr=False)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> EmulatedInvocation:
        """Read an invocation from a reply of the emulator."""
        payload = data.get("payload")
        return cls(
            id=data["id"],
            app_name=data["app_name"],
            action_name=data["action_name"],
            version=data["version"],
            status=data["status"],
            payload=None if payload is None else parse_json(payload),
            output=Invocation.from_json(data).output,
            status_reason=data.get("status_reason"),
            log=data["log"],
        )

    @property
    def is_active(self) -> bool:
        """Whether the invocation has not ended."""
        return self.status in (InvocationStatus.QUEUED, InvocationStatus.RUNNING)


class KernelEmulatorError(RuntimeError):
    """The emulator is not started, was started before, or failed to start: the message has the emulator's output."""


class KernelEmulator:
    """
    The emulator in a process of its own, as a context manager::

        with KernelEmulator(["apps/shop.py"]) as emulator:
            client = kernel.Kernel(base_url=emulator.base_url, api_key=emulator.api_key)

    The emulator ends with the context, with :meth:`stop`, or with this process, also if this process is killed.

    :param app_files: files that define apps, in Python, TypeScript or JavaScript.
    :param versions: further versions of apps: the file or files of each version, by its label; None: no further versions.
    :param port: port on 127.0.0.1; 0 picks a free port.
    :param api_key: the only accepted API key; None: any key is accepted.
    :param env: environment variables for the apps, as in ``kernel deploy --env``; None: no variables. The emulator's
        process gets them too. Its command line, which other users may read, has only their names.
    :param env_file: file in dotenv format with variables for the apps; ``env`` takes precedence. None: no file.
    :param max_concurrency: number of active invocations from which submissions are answered with 429; None: no limit.
    :param refuse: requests that are refused as Kernel does: ``spending-cap`` (403 for POST),
        ``insufficient-scope`` (403 for POST, PATCH and DELETE), ``other-project`` or ``unknown-project`` (403 or 404
        for requests that name a project); None: no request is refused.
    :param sync_timeout: time limit of a synchronous invocation, in seconds; None: 100, as on Kernel.
    :param heartbeat: seconds without an event after which an event stream sends a heartbeat; None: 15.
    :param reserialize_payloads: whether payloads are stored as compact JSON that is written anew, as Kernel might do;
        False: payloads are stored byte for byte, with white space. Actions receive the same value in both cases.
    :param start_timeout: maximum seconds until the emulator accepts requests; the import of the apps is part of it.
    """

    def __init__(
        self,
        app_files: Sequence[str | Path],
        *,
        versions: Mapping[str, str | Path | Sequence[str | Path]] | None = None,
        port: int = 0,
        api_key: str | None = None,
        env: Mapping[str, str] | None = None,
        env_file: str | Path | None = None,
        max_concurrency: int | None = None,
        refuse: str | None = None,
        sync_timeout: float | None = None,
        heartbeat: float | None = None,
        reserialize_payloads: bool = False,
        start_timeout: float = 60.0,
    ) -> None:
        options = {
            "--port": port,
            "--env-file": env_file,
            "--max-concurrency": max_concurrency,
            "--refuse": refuse,
            "--sync-timeout": sync_timeout,
            "--heartbeat": heartbeat,
        }
        self.api_key = api_key or DEFAULT_API_KEY
        self._arguments = [f"{name}={value}" for name, value in options.items() if value is not None]
        self._arguments += [f"--env={name}" for name in env or {}]
        for label, files in (versions or {}).items():
            several = [files] if isinstance(files, str | Path) else files
            self._arguments += [f"--version={label}={file}" for file in several]
        if reserialize_payloads:
            self._arguments.append("--reserialize-payloads")
        self._env = dict(env or {})
        if api_key is not None:
            self._env[API_KEY_VARIABLE] = api_key
        # Nobody reads what the emulator prints after its first line.
        self._arguments += ["--quiet", "--exit-with-stdin", "--", *map(str, app_files)]
        self._start_timeout = start_timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._base_url: str | None = None
        # What a test changes, and when it began; see isolated().
        self._since: int | None = None
        self._faults: list[EmulatorFault] = []
        self._changed_settings: dict[str, Any] = {}

    @property
    def base_url(self) -> str:
        """The emulator's URL, such as ``http://127.0.0.1:40123``."""
        if self._base_url is None:
            raise KernelEmulatorError("The Kernel emulator is not started.")
        return self._base_url

    @property
    def pid(self) -> int:
        """The process id of the emulator's server."""
        if self._process is None:
            raise KernelEmulatorError("The Kernel emulator is not started.")
        return self._process.pid

    def env(self) -> dict[str, str]:
        """Return the environment variables with which the SDK finds the emulator."""
        return {"KERNEL_BASE_URL": self.base_url, "KERNEL_API_KEY": self.api_key}

    @property
    def connection_json(self) -> str:
        """An Airflow connection to the emulator, as a value for ``AIRFLOW_CONN_KERNEL_DEFAULT``."""
        return airflow_connection(self.base_url, self.api_key)

    def invoke(
        self,
        app_name: str,
        action_name: str,
        payload: Any = None,
        *,
        version: str = "latest",
        timeout: float = 60.0,
    ) -> Any:
        """
        Run an action, wait for its end, and return its output. This tests an app alone, without Airflow.

        :param app_name: the app.
        :param action_name: one of its actions.
        :param payload: the action's input: any JSON value, or a string of JSON text. None sends no payload.
        :param version: the app's version.
        :param timeout: seconds after which the invocation is cancelled.
        :return: the decoded output.
        :raises KernelInvocationFailedError: the invocation failed; with Kernel's reason and what the action raised.
        :raises KernelInvocationTimeoutError: it was cancelled after ``timeout`` seconds.
        :raises KernelApiError: the emulator refused to run it.
        """
        __tracebackhide__ = True
        request = InvocationRequest(app_name, action_name, payload, version)
        deadline = time.monotonic() + timeout
        invocation_id = self._client.request("POST", "/invocations", request.body())["id"]
        while True:
            # A piece at a time, so that Ctrl-C and pytest-timeout need not wait.
            wait = min(max(deadline - time.monotonic(), 0.0), 5.0)
            query = {"wait": f"{wait:.3f}"}
            data = self._client.request("GET", f"{_INVOCATIONS}/{invocation_id}", query=query)
            invocation = Invocation.from_json(data)
            if invocation.status == InvocationStatus.FAILED:
                raise invocation.failure()
            if invocation.is_ended:
                return invocation.output
            if time.monotonic() >= deadline:
                self._cancel(invocation_id)
                raise KernelInvocationTimeoutError(
                    f"Kernel invocation {invocation_id} of {app_name}.{action_name} was cancelled: it had not ended after "
                    f"{timeout:g} seconds. Give invoke() a longer timeout if the action needs it.",
                    invocation_id=invocation_id,
                )

    def invocations(
        self, app_name: str | None = None, action_name: str | None = None
    ) -> list[EmulatedInvocation]:
        """
        Return the invocations that were submitted since the test began, oldest first.

        Outside a test, they are those since the emulator was started. The emulator keeps the newest 1,000 that have ended.

        :param app_name: the app; None: any.
        :param action_name: the action; None: any.
        :return: the invocations.
        """
        query = {} if self._since is None else {"since": format_timestamp(self._since)}
        data = self._client.request("GET", _INVOCATIONS, query=query)["invocations"]
        found = [EmulatedInvocation.from_json(invocation) for invocation in data]
        return [
            invocation
            for invocation in found
            if app_name in (None, invocation.app_name) and action_name in (None, invocation.action_name)
        ]

    def fault(
        self,
        *,
        method: str | None = None,
        path: str | None = None,
        rate: float | None = None,
        times: int | None = None,
        latency: float | None = None,
        status: int | None = None,
        retry_after: int | None = None,
        lose_reply: bool = False,
        cut_after: int | None = None,
        silent_after: int | None = None,
    ) -> EmulatorFault:
        """
        Add a fault to requests, until the end of the ``with`` block; without such a block, until the end of the test.

        A fault that a fixture adds for several tests stays until it is removed.

        Give ``latency``, one of ``status``, ``lose_reply``, ``cut_after`` and ``silent_after``, or both.

        :param method: the method of the requests; None: any.
        :param path: glob for their path without query, such as ``/invocations/*/events``; None: any.
        :param rate: share of these requests that have the fault: with 0.2, each fifth; None: all.
        :param times: number of requests after which the fault has no effect; None: no limit.
        :param latency: seconds before a request is handled.
        :param status: status of the error that is answered in Kernel's place; the request takes no effect.
        :param retry_after: the error's ``Retry-After``, in seconds.
        :param lose_reply: whether the request takes effect, and the connection is closed without a reply.
        :param cut_after: number of events after which the connection of an event stream breaks. Heartbeats do not count.
        :param silent_after: number of events after which an event stream sends nothing more, not even heartbeats.
        :return: the fault. It counts its requests, and :meth:`~airflow_provider_kernel.testing.EmulatorFault.remove` ends it.
        :raises KernelApiError: the emulator refuses the fault; the message says why.
        """
        fields = {
            "method": method,
            "path": path,
            "rate": rate,
            "times": times,
            "latency": latency,
            "status": status,
            "retry_after": retry_after,
            "lose_reply": lose_reply,
            "cut_after": cut_after,
            "silent_after": silent_after,
        }
        fault = EmulatorFault(self._client, fields)
        self._faults.append(fault)
        return fault

    @property
    def max_concurrency(self) -> int | None:
        """
        The number of active invocations from which submissions are answered with 429; None: no limit.

        What a test sets lasts until its end.
        """
        limit: int | None = self._client.request("GET", _SETTINGS)["max_concurrency"]
        return limit

    @max_concurrency.setter
    def max_concurrency(self, limit: int | None) -> None:
        self._set("max_concurrency", limit)

    @property
    def refuse(self) -> str | None:
        """
        The requests that are refused as Kernel does; see the parameter ``refuse``. None: no request is refused.

        What a test sets lasts until its end.
        """
        choice: str | None = self._client.request("GET", _SETTINGS)["refuse"]
        return choice

    @refuse.setter
    def refuse(self, choice: str | None) -> None:
        self._set("refuse", choice)

    @contextlib.contextmanager
    def isolated(self) -> Iterator[KernelEmulator]:
        """
        Separate a test from the tests before and after it. The fixture ``kernel_emulator`` uses it.

        Within the context, :meth:`invocations` returns the invocations that were submitted since its start. At its end, its
        faults are removed, the settings are restored, its active invocations are cancelled, and its open browsers are closed.

        :yield: this object.
        """
        before = self._since, self._faults, self._changed_settings
        self._since, self._faults, self._changed_settings = time.time_ns(), [], {}
        try:
            yield self
            self._reset()
        except BaseException:
            # What the test raised says more than that the emulator is gone.
            with contextlib.suppress(KernelError, KernelEmulatorError):
                self._reset()
            raise
        finally:
            self._since, self._faults, self._changed_settings = before

    def _reset(self) -> None:
        while self._faults:
            self._faults.pop().remove()
        if self._changed_settings:
            self._client.request("PATCH", _SETTINGS, self._changed_settings)
            self._changed_settings = {}
        for invocation in self.invocations():
            if invocation.is_active:
                self._cancel(invocation.id)
        self._close_browsers()

    def _cancel(self, invocation_id: str) -> None:
        # It may have ended meanwhile.
        with contextlib.suppress(KernelError):
            body = {"status": "failed", "output": '"The test has ended."'}
            self._client.request("PATCH", f"/invocations/{invocation_id}", body)

    def _close_browsers(self) -> None:
        """Close the browsers that were opened since the test began: the end of an action closes none."""
        with contextlib.suppress(KernelError):
            for browser in self._client.request("GET", "/browsers", query={"limit": "100"}):
                if browser["created_at"] >= format_timestamp(self._since or 0):
                    self._client.request("DELETE", f"/browsers/{browser['session_id']}")

    def _set(self, name: str, value: Any) -> None:
        before = self._client.request("GET", _SETTINGS)[name]
        self._client.request("PATCH", _SETTINGS, {name: value})
        self._changed_settings.setdefault(name, before)

    @property
    def _client(self) -> EmulatorClient:
        return EmulatorClient(self.base_url, self.api_key)

    def start(self) -> KernelEmulator:
        """
        Start the emulator and wait until it accepts requests.

        :return: this object.
        :raises KernelEmulatorError: the emulator is already started, or failed to start.
        """
        if self._process is not None:
            raise KernelEmulatorError("The Kernel emulator is already started.")
        started = time.monotonic()
        with tempfile.TemporaryFile() as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "airflow_provider_kernel.emulator", *self._arguments],
                env={name: os.environ[name] for name in os.environ if name != API_KEY_VARIABLE} | self._env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                # Ctrl-C is for the tests alone: they cancel what runs, and stop the emulator.
                process_group=0,
            )
            line = self._first_line()
            if not line.startswith("Kernel emulator on "):
                is_late = time.monotonic() - started >= self._start_timeout
                what = f"was not ready after {self._start_timeout:g} seconds" if is_late else "did not start"
                self.stop()
                errors.seek(0)
                output = line + errors.read().decode(errors="replace").strip()
                raise KernelEmulatorError(f"The Kernel emulator {what}. Its output:\n{output}")
        self._base_url = line.split()[-1]
        return self

    def stop(self) -> int | None:
        """Stop the emulator and all its invocations. Return its exit status; None if the emulator was not started."""
        process, self._process, self._base_url = self._process, None, None
        if process is None:
            return None
        process.terminate()
        try:
            process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        return process.returncode

    def __enter__(self) -> KernelEmulator:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def _first_line(self) -> str:
        """Return the first line that the emulator prints; less if the emulator ends or the timeout expires before."""
        assert self._process is not None  # noqa: S101 - set by the caller
        assert self._process.stdout is not None  # noqa: S101 - a pipe
        output = self._process.stdout.fileno()
        deadline = time.monotonic() + self._start_timeout
        printed = b""
        while b"\n" not in printed:
            ready, _, _ = select.select([output], [], [], max(0.0, deadline - time.monotonic()))
            piece = os.read(output, 4096) if ready else b""
            if not piece:
                break
            printed += piece
        return printed.partition(b"\n")[0].decode(errors="replace")
