"""
Kernel on localhost for tests: :class:`KernelEmulator`, and fixtures for pytest. Needs no Airflow.

Put this into the ``conftest.py`` at the root of your tests::

    pytest_plugins = ["airflow_provider_kernel.testing"]


    @pytest.fixture(scope="session")
    def kernel_emulator_apps():
        return ["apps/shop.py"]

The fixture ``kernel_emulator`` sets the environment of a test: the SDK finds the emulator through ``KERNEL_BASE_URL`` and
``KERNEL_API_KEY``, and Airflow through the connection ``kernel_default``. Install
``airflow-provider-kernel[emulator]`` and pytest.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from airflow_provider_kernel.emulator import API_KEY_VARIABLE, DEFAULT_API_KEY
from airflow_provider_kernel.emulator.connection import airflow_connection


class KernelEmulatorError(RuntimeError):
    """The emulator is not started, was started before, or failed to start: the message has the emulator's output."""


class KernelEmulator:
    """
    The emulator in a process of its own, as a context manager::

        with KernelEmulator(["apps/shop.py"]) as emulator:
            client = kernel.Kernel(base_url=emulator.base_url, api_key=emulator.api_key)

    The emulator ends with the context, with :meth:`stop`, or with this process, also if this process is killed.

    :param app_files: files that define apps, in Python, TypeScript or JavaScript.
    :param versions: further files, by the label of the version that they are of their apps; None: no files.
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
            process.communicate(timeout=10)
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


@pytest.fixture(scope="session")
def kernel_emulator_apps() -> Sequence[str | Path]:
    """The app files that the emulator serves. Override this fixture."""
    raise pytest.UsageError(
        "The fixture kernel_emulator_apps is not overridden. Override it in conftest.py, with scope session, and return the "
        "files that define your apps."
    )


@pytest.fixture(scope="session")
def kernel_emulator_env() -> Mapping[str, str]:
    """The environment variables for the apps, see :class:`KernelEmulator`. Override this fixture; default: no variables."""
    return {}


@pytest.fixture(scope="session")
def kernel_emulator_session(
    kernel_emulator_apps: Sequence[str | Path], kernel_emulator_env: Mapping[str, str]
) -> Iterator[KernelEmulator]:
    """The emulator of ``kernel_emulator_apps``, for the whole session. Override this fixture to set options."""
    with KernelEmulator(kernel_emulator_apps, env=kernel_emulator_env) as emulator:
        yield emulator


@pytest.fixture
def kernel_emulator(
    kernel_emulator_session: KernelEmulator, monkeypatch: pytest.MonkeyPatch
) -> KernelEmulator:
    """The session's emulator, to which the test's environment leads the SDK and Airflow."""
    for name, value in kernel_emulator_session.env().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AIRFLOW_CONN_KERNEL_DEFAULT", kernel_emulator_session.connection_json)
    return kernel_emulator_session
