"""
A Kernel on localhost for tests, without Airflow: :class:`KernelEmulator`, and fixtures for pytest.

In the ``conftest.py`` at the root of your tests::

    pytest_plugins = ["airflow_provider_kernel.testing"]


    @pytest.fixture(scope="session")
    def kernel_emulator_apps():
        return ["apps/shop.py"]

A test that takes the fixture ``kernel_emulator`` then finds the emulator in its environment: the SDK through
``KERNEL_BASE_URL`` and ``KERNEL_API_KEY``, Airflow as the connection ``kernel_default``. Needs
``pip install 'airflow-provider-kernel[emulator]'`` and pytest.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from airflow_provider_kernel.emulator import API_KEY_VARIABLE


class KernelEmulatorError(RuntimeError):
    """The emulator did not start; the message has what it said."""


class KernelEmulator:
    """
    An emulator in a process of its own, as a context manager::

        with KernelEmulator(["apps/shop.py"]) as emulator:
            client = kernel.Kernel(base_url=emulator.base_url, api_key=emulator.api_key)

    It ends with the context, with :meth:`stop`, or with this process, however that ends.

    :param app_files: files that define ``kernel.App``.
    :param port: port on 127.0.0.1; 0 picks a free one.
    :param api_key: the only key that is taken; None: any.
    :param env: environment variables for the apps, as ``kernel deploy --env`` has them. The emulator's process has
        them too; its command line, which other users may read, has the names alone. None: none.
    :param env_file: a ``.env`` file with variables for the apps; ``env`` wins. None: no file.
    :param max_concurrency: invocations that may be active before 429 is answered; None: any number.
    :param refuse: what is refused as Kernel does: ``spending-cap``, ``insufficient-scope``, or where a request names a
        project ``other-project`` or ``unknown-project``; None: nothing.
    :param sync_timeout: seconds after which a synchronous invocation is cut; None: 100, as Kernel does.
    :param heartbeat: seconds of silence after which an event stream sends a heartbeat; None: 15.
    :param start_timeout: seconds that importing the apps may take.
    """

    def __init__(
        self,
        app_files: Sequence[str | Path],
        *,
        port: int = 0,
        api_key: str | None = None,
        env: Mapping[str, str] | None = None,
        env_file: str | Path | None = None,
        max_concurrency: int | None = None,
        refuse: str | None = None,
        sync_timeout: float | None = None,
        heartbeat: float | None = None,
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
        self.api_key = api_key or "sk_emulator"
        self._arguments = [f"{name}={value}" for name, value in options.items() if value is not None]
        self._arguments += [f"--env={name}" for name in env or {}]
        self._env = dict(env or {})
        if api_key is not None:
            self._env[API_KEY_VARIABLE] = api_key
        self._arguments += ["--exit-with-stdin", "--", *map(str, app_files)]
        self._start_timeout = start_timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._base_url: str | None = None

    @property
    def base_url(self) -> str:
        """The emulator's address, such as ``http://127.0.0.1:40123``."""
        if self._base_url is None:
            raise KernelEmulatorError("The Kernel emulator is not started.")
        return self._base_url

    @property
    def pid(self) -> int:
        """The id of the server's process."""
        if self._process is None:
            raise KernelEmulatorError("The Kernel emulator is not started.")
        return self._process.pid

    def env(self) -> dict[str, str]:
        """Return the environment variables by which the SDK finds the emulator."""
        return {"KERNEL_BASE_URL": self.base_url, "KERNEL_API_KEY": self.api_key}

    @property
    def connection_json(self) -> str:
        """An Airflow connection to the emulator, as the value of ``AIRFLOW_CONN_KERNEL_DEFAULT``."""
        return json.dumps({"conn_type": "kernel", "host": self.base_url, "password": self.api_key})

    def start(self) -> KernelEmulator:
        """
        Start the emulator and wait until it answers.

        :return: the emulator itself.
        :raises KernelEmulatorError: it did not start.
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
                why = f"was not ready after {self._start_timeout:g} seconds" if is_late else "did not start"
                self.stop()
                errors.seek(0)
                said = errors.read().decode(errors="replace").strip()
                raise KernelEmulatorError(f"The Kernel emulator {why}. It said:\n{line}{said}")
        self._base_url = line.split()[-1]
        return self

    def stop(self) -> int | None:
        """Stop the emulator and all that it runs; return its exit status (None: it was not started)."""
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
        """Return what the emulator printed, up to the end of a line, its own end, or the time-out."""
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
    """The app files that the emulator serves. Override it."""
    raise pytest.UsageError(
        "Override the session fixture kernel_emulator_apps: let it return the files that define your kernel.App"
    )


@pytest.fixture(scope="session")
def kernel_emulator_env() -> Mapping[str, str]:
    """The environment variables that the apps get, see :class:`KernelEmulator`; none, unless it is overridden."""
    return {}


@pytest.fixture(scope="session")
def kernel_emulator_session(
    kernel_emulator_apps: Sequence[str | Path], kernel_emulator_env: Mapping[str, str]
) -> Iterator[KernelEmulator]:
    """An emulator that serves ``kernel_emulator_apps`` through the whole session. Override it for options."""
    with KernelEmulator(kernel_emulator_apps, env=kernel_emulator_env) as emulator:
        yield emulator


@pytest.fixture
def kernel_emulator(
    kernel_emulator_session: KernelEmulator, monkeypatch: pytest.MonkeyPatch
) -> KernelEmulator:
    """The session's emulator, set in the environment of this test for the SDK and for Airflow."""
    for name, value in kernel_emulator_session.env().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AIRFLOW_CONN_KERNEL_DEFAULT", kernel_emulator_session.connection_json)
    return kernel_emulator_session
